//! A subscriber to the dead letters of a topic.
//!
//! It is a task of its own, with a handler for one call at a time. A turn claims the next letter,
//! calls the handler outside of any lock, and carries out its decision. Nobody else can take the
//! letter meanwhile, and a full store evicts others.
//!
//! Two interleavings are feared. A letter arrives, or somebody puts one back, while a turn that has
//! found none comes to rest. The store notifies the task under its lock, so the turn either finds
//! the letter or goes on. And the subscriber is told to end while its handler runs. The turn looks
//! for that mark when it puts the handler down, and the task is notified of the mark. So the turn
//! or the next one drops the handler. Scenario: `tests/shuttle/letters.rs`.

use crate::engine::base::contain::{Contained, contain};
use crate::engine::base::task_state::TaskState;
use crate::engine::letters::subscribers::AnyLetterReader;
use crate::engine::runtime::context::{Inside, calling};
use crate::engine::runtime::linger::Linger;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::dead_letter_store::{Claim, Found, Letter};
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::fire::{Fire, Tag};
use crate::observe::event::{EventKind, Subject};
use crate::observe::letters::LetterSubscriptionMetrics;
use crate::pure::decide::lifecycle::Status;
use crate::pure::order::reading::pause_after;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};
use crate::types::duration::nanos;
use crate::types::reason::LetterAction;

/// A handler of letters. An error comes as its text.
pub(crate) type LetterHandler<T> =
    Box<dyn FnMut(&TopicCore<T>, &Arc<Letter<T>>) -> Result<LetterAction, String> + Send>;

/// One subscriber, in one topic.
pub(crate) struct LetterReader<T> {
    pub(crate) name: Arc<str>,
    pub(crate) topic: Arc<TopicCore<T>>,
    is_by_pattern: bool,
    task: TaskState,
    is_closing: AtomicBool,
    has_ended: AtomicBool,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// It is `None` while it runs, and after the end.
    handler: Option<Contained<LetterHandler<T>>>,
    linger: Linger,
    counts: LetterSubscriptionMetrics,
}

impl<T: Send + Sync + 'static> LetterReader<T> {
    pub(crate) fn new(
        name: Arc<str>,
        topic: Arc<TopicCore<T>>,
        is_by_pattern: bool,
        handler: LetterHandler<T>,
    ) -> Arc<Self> {
        let counts = LetterSubscriptionMetrics {
            name: name.to_string(),
            ..LetterSubscriptionMetrics::default()
        };
        Arc::new(Self {
            name,
            topic,
            is_by_pattern,
            task: TaskState::new(),
            is_closing: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            state: Mutex::new(State {
                handler: Some(Contained::new(handler)),
                linger: Linger::default(),
                counts,
            }),
        })
    }

    /// Subscribes to the letters, those that are there included. Returns `false` if the name is
    /// taken.
    pub(crate) fn join(self: &Arc<Self>) -> bool {
        let mut letters = self.topic.letters().lock();
        let has_joined = letters.subscribers.add(Arc::clone(self) as _);
        drop(letters);
        if has_joined {
            Arc::clone(self).look();
        }
        has_joined
    }

    /// Begins the end: no more calls start, and a worker drops the handler.
    pub(crate) fn close(self: &Arc<Self>) {
        // ORDERING: the notification below brings a turn to look.
        self.is_closing.store(true, Ordering::Release);
        Arc::clone(self).look();
    }

    /// Returns whether no call runs or will start, and the handler is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Hands out one letter. Returns whether there may be another.
    fn turn(self: &Arc<Self>) -> bool {
        let engine = &self.topic.engine;
        if self.is_closing.load(Ordering::Acquire) || self.topic.has_stopped() {
            self.retire();
            return false;
        }
        let now_ns = engine.clock.timer_ns();
        match self.topic.claim_next(&**self, now_ns) {
            Found::Letter(claim, failures) => {
                self.hand_out(claim, failures);
                true
            }
            Found::Nothing(next_ns) => {
                let delay_ns = next_ns.map(|next_ns| next_ns - now_ns);
                let target = Arc::clone(self) as _;
                self.state.lock().linger.set(engine, delay_ns, target);
                false
            }
        }
    }

    fn hand_out(&self, claim: Claim<'_, T>, failures: u32) {
        let mut state = self.state.lock();
        let Some(mut handler) = state.handler.take() else {
            return;
        };
        state.counts.calls += 1;
        state.counts.running = 1;
        drop(state);
        let letter = Arc::clone(claim.letter());
        let called = calling(self.topic.engine.id(), |_| {
            contain(|| handler(&self.topic, &letter))
        });
        self.state.lock().handler = Some(handler);
        let done = match called.unwrap_or_else(Err) {
            Ok(action) => self.carry_out(action, claim, failures),
            Err(error) => {
                self.put_off_failed(&letter, failures);
                drop(claim);
                Err(error)
            }
        };
        if let Err(error) = &done {
            let (by, error) = (Arc::clone(&self.name), Arc::from(&**error));
            self.tell(&letter, EventKind::LetterFailed { by, error });
        }
        let counts = &mut self.state.lock().counts;
        counts.running = 0;
        *match done {
            Ok(LetterAction::Keep) => &mut counts.kept,
            Ok(LetterAction::Purge) => &mut counts.purged,
            Ok(LetterAction::Redrive) => &mut counts.redriven,
            Ok(LetterAction::Snooze(_)) => &mut counts.snoozed,
            Err(_) => &mut counts.failed,
        } += 1;
    }

    fn carry_out(
        &self,
        action: LetterAction,
        claim: Claim<'_, T>,
        failures: u32,
    ) -> Result<LetterAction, String> {
        let letter = Arc::clone(claim.letter());
        let by = Arc::clone(&self.name);
        self.tell(&letter, EventKind::LetterHandled { by, action });
        match action {
            LetterAction::Keep => drop(claim),
            LetterAction::Purge => claim.end(),
            LetterAction::Snooze(delay) => {
                self.put_off(&letter, nanos(delay).max(1), 0);
                drop(claim);
            }
            LetterAction::Redrive => {
                // Forgotten if it goes.
                self.put_off_failed(&letter, failures);
                claim.redrive().map_err(|stays| stays.text().to_owned())?;
            }
        }
        Ok(action)
    }

    fn put_off_failed(&self, letter: &Letter<T>, failures: u32) {
        let failures = failures.saturating_add(1);
        self.put_off(letter, nanos(pause_after(failures)), failures);
    }

    /// Has a letter come again. It is claimed, so that it is still there.
    fn put_off(&self, letter: &Letter<T>, delay_ns: u64, failures: u32) {
        let due_ns = self.topic.engine.clock.timer_ns().saturating_add(delay_ns);
        if let Some(reading) = self.topic.letters().lock().subscribers.reading(self) {
            reading.put_off(letter.arrival, due_ns, failures);
        }
    }

    fn tell(&self, letter: &Letter<T>, kind: EventKind) {
        let subject = Subject::of(&letter.subscription).message(letter.id());
        self.topic.tell_of(subject.status(Status::DeadLetter), kind);
    }

    /// Drops the handler, and leaves the store.
    fn retire(&self) {
        self.is_closing.store(true, Ordering::Release);
        let engine = &self.topic.engine;
        let mut state = self.state.lock();
        let handler = state.handler.take();
        state.linger.cancel(engine);
        drop(state);
        drop(handler);
        let removed = self.topic.letters().lock().subscribers.remove(self);
        drop(removed);
        // ORDERING: a thread that sees the flag sees that the handler is gone.
        self.has_ended.store(true, Ordering::Release);
        engine.quiescence.notify();
    }

    /// Runs a turn of a task that has been started.
    fn run_claimed(self: Arc<Self>) {
        let may_go_on = self.turn();
        if self.task.rest(may_go_on) == Then::Enqueue {
            // Behind all others, for fairness.
            let topic = Arc::clone(&self.topic);
            topic.engine.pool.submit(self);
        }
    }
}

impl<T: Send + Sync + 'static> Task for LetterReader<T> {
    fn run(self: Arc<Self>, _: &mut Worker<'_>) {
        if self.task.start() {
            self.run_claimed();
        }
    }
}

impl<T: Send + Sync + 'static> Fire for LetterReader<T> {
    fn fire(self: Arc<Self>, _: Tag) {
        self.look();
    }
}

impl<T: Send + Sync + 'static> AnyLetterReader for LetterReader<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_by_pattern(&self) -> bool {
        self.is_by_pattern
    }

    fn is_open(&self) -> bool {
        !self.is_closing.load(Ordering::Acquire)
    }

    fn is_idle(&self) -> bool {
        self.task.is_idle()
    }

    fn look(self: Arc<Self>) {
        if self.task.notify() == Then::Enqueue {
            let topic = Arc::clone(&self.topic);
            topic.engine.pool.submit(self);
        }
    }

    fn end(self: Arc<Self>) {
        self.is_closing.store(true, Ordering::Release);
        let topic = Arc::clone(&self.topic);
        let _inside = Inside::enter(&topic.engine);
        match self.task.claim() {
            true => self.run_claimed(),
            false => self.look(),
        }
    }

    fn metrics(&self) -> LetterSubscriptionMetrics {
        let mut letters = self.topic.letters().lock();
        let reading = letters.subscribers.reading(self);
        let put_off = reading.map_or(0, |reading| reading.put_off_count() as u64);
        drop(letters);
        LetterSubscriptionMetrics {
            put_off,
            ..self.state.lock().counts.clone()
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Returns the subscribers to its dead letters.
    pub(crate) fn letter_readers(&self) -> Vec<Arc<dyn AnyLetterReader>> {
        let letters = self.letters.get();
        letters.map_or(Vec::new(), |letters| {
            letters.store.lock().subscribers.list()
        })
    }
}
