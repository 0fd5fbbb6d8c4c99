//! A schedule at work: a deadline on the timer wheel, and a task.
//!
//! Steps. The timer fires the deadline, and puts the ticker onto the ready queue. A worker takes the
//! ticks that are due, and the closure. It calls the closure and publishes without any lock. Then it
//! puts the closure back and sets the next deadline under the lock, unless the schedule has ended
//! meanwhile.
//!
//! The feared interleavings. Two workers call the closure at once: there is one deadline, and the
//! next is set after the calls. A schedule is cancelled while its closure is out. The worker finds that
//! before each call and each publish. Then it sets no deadline, and drops the closure. A closure that
//! owns the handle of its own schedule drops it: no lock is held then.

use crate::engine::base::contain::{Contained, contain, discard};
use crate::engine::publish::ask::Wait;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::wait::fire::{Fire, Tag};
use crate::message::outgoing::Message;
use crate::observe::event::{EventKind, Hook, SkipCause};
use crate::pure::policy::ticks::{MissedTicks, Ticks};
use crate::pure::wheel::TimerKey;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, mutant};
use crate::topic::Topic;

/// The closure that makes the messages.
pub(super) type Make<T> = Box<dyn FnMut() -> Message<T> + Send>;

/// A ticker whatever its messages are, for its handle.
pub(super) trait AnyTicker: Send + Sync {
    fn leave(&self);
    fn detach(&self);
    fn has_ended(&self) -> bool;
    fn published(&self) -> u64;
    fn skipped(&self) -> u64;
}

/// A schedule.
pub(crate) struct Ticker<T: Send + Sync + 'static> {
    topic: Topic<T>,
    state: Mutex<State<T>>,
    is_over: AtomicBool,
    is_detached: AtomicBool,
    published: AtomicU64,
    skipped: AtomicU64,
}

struct State<T> {
    ticks: Ticks,
    /// It is out while a worker calls it.
    make: Option<Contained<Make<T>>>,
    timer: TimerKey,
}

impl<T: Send + Sync + 'static> Ticker<T> {
    /// Starts a schedule now.
    pub(super) fn start(
        topic: Topic<T>,
        period_ns: u64,
        missed: MissedTicks,
        make: Make<T>,
    ) -> Arc<Self> {
        let now_ns = topic.core.engine.clock.timer_ns();
        let ticker = Arc::new(Self {
            topic,
            state: Mutex::new(State {
                ticks: Ticks::new(period_ns, missed, now_ns),
                make: Some(Contained::new(make)),
                timer: TimerKey::NONE,
            }),
            is_over: AtomicBool::new(false),
            is_detached: AtomicBool::new(false),
            published: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        });
        ticker.set_timer(&mut ticker.state.lock());
        ticker
    }

    fn set_timer(self: &Arc<Self>, state: &mut State<T>) {
        let target = Arc::clone(self) as _;
        let timer = &self.topic.core.engine.timer;
        state.timer = timer.insert(state.ticks.next_ns(), Tag::Look, target);
    }

    fn is_over(&self) -> bool {
        // ORDERING: relaxed. The lock orders what matters; a worker between two looks may publish
        // once more.
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends the schedule. The closure is dropped here, or else by the worker that has it.
    fn end(&self) {
        let mut state = self.state.lock();
        self.is_over.store(true, Ordering::Relaxed);
        let make = state.make.take();
        let timer = state.timer;
        drop(state);
        self.topic.core.engine.timer.cancel(timer);
        drop(make);
    }

    /// Publishes one message. Returns `false` if the schedule is over.
    fn tick(&self, make: &mut Make<T>) -> bool {
        let core = &self.topic.core;
        if self.is_over() || core.is_closed_to_caller() {
            return false;
        }
        let Ok(message) = contain(make) else {
            let hook = Hook::Schedule;
            core.tell(EventKind::HookPanicked { hook });
            self.skip(1, SkipCause::Panicked);
            return true;
        };
        if self.is_over() {
            discard(message);
            return false;
        }
        match core.publish_message(message, Wait::Never) {
            Ok(_) => {
                self.published.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(refused) => {
                let is_closed = refused.is_closed();
                discard(refused);
                if !is_closed {
                    self.skip(1, SkipCause::Refused);
                }
                !is_closed
            }
        }
    }

    fn skip(&self, count: u64, cause: SkipCause) {
        self.skipped.fetch_add(count, Ordering::Relaxed);
        let core = &self.topic.core;
        core.books.ticks_skipped.add(count);
        core.tell(EventKind::TicksSkipped { count, cause });
    }
}

impl<T: Send + Sync + 'static> Fire for Ticker<T> {
    /// The closure is the user's, and must not run on the timer thread.
    fn fire(self: Arc<Self>, _tag: Tag) {
        let topic = self.topic.core.clone();
        topic.engine.pool.submit(self);
    }
}

impl<T: Send + Sync + 'static> Task for Ticker<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        let mut state = self.state.lock();
        let Some(mut make) = state.make.take() else {
            return;
        };
        let due = state.ticks.take_due(worker.engine.clock.timer_ns());
        drop(state);
        if due.skipped > 0 {
            self.skip(due.skipped, SkipCause::Missed);
        }
        let goes_on = (0..due.publish).all(|_| self.tick(&mut make));
        let mut state = self.state.lock();
        if mutant!(goes_on && !self.is_over(), "schedule.cancelled", true) {
            state.make = Some(make);
            self.set_timer(&mut state);
            return;
        }
        self.is_over.store(true, Ordering::Relaxed);
        drop(state);
        drop(make);
    }
}

impl<T: Send + Sync + 'static> AnyTicker for Ticker<T> {
    fn leave(&self) {
        if !self.is_detached.load(Ordering::Relaxed) {
            self.end();
        }
    }

    fn detach(&self) {
        self.is_detached.store(true, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.is_over() || self.topic.core.has_stopped()
    }

    fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}
