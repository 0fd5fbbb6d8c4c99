//! The timer wheel and the thread that turns it.
//!
//! Everything that waits for a time is here: retries, delayed publishes, deadlines of leases,
//! lingers, and the first expiry in each place. The thread sleeps exactly to the next deadline, and
//! forever if there is none. No user code runs on it.

use std::io;

use crate::engine::base::clock::Clock;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::wait::fire::{Fire, Tag};
use crate::pure::wheel::{Due, TimerKey, Wheel};
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, Thread, is_current, mutant, spawn};

struct State {
    wheel: Wheel<Arc<dyn Fire>>,
    /// When to look after the loans of workers; the end of time, if there are none. It is no
    /// deadline on the wheel, where it would count as something that is still to come.
    watch_ns: u64,
    /// When the thread will look by itself.
    sleeps_until_ns: u64,
    /// Retries and delayed messages among the deadlines. Each has a tag of its own.
    parked: u64,
    stopping: bool,
}

impl State {
    fn advance(&mut self, clock: &Clock, due: &mut Vec<Due<Arc<dyn Fire>>>) {
        self.wheel.advance(clock.timer_ns(), due);
        let is_parked = |due: &&Due<_>| Tag::unpack(due.tag).is_parked();
        let parked = due.iter().filter(is_parked).count();
        self.parked -= parked as u64;
    }
}

/// The timer of a broker. It is bounded by the places that lanes and topics reserve for waiting
/// deliveries and messages. Each lane and topic adds one linger, one expiry, one call by a rate and
/// one deadline of leases. Each buffer and each subscriber to dead letters adds a linger.
pub(crate) struct Timer {
    state: Mutex<State>,
    earlier: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Timer {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            state: Mutex::new(State {
                wheel: Wheel::new(clock.timer_ns()),
                watch_ns: u64::MAX,
                sleeps_until_ns: 0,
                parked: 0,
                stopping: false,
            }),
            earlier: Condvar::new(),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread.
    pub(crate) fn start(engine: &Arc<Engine>) -> io::Result<()> {
        let thread = Thread {
            name: format!("{}-timer", engine.thread_name),
            stack_size: None,
        };
        let for_timer = Arc::clone(engine);
        let handle = spawn(thread, move || {
            let _inside = Inside::enter(&for_timer);
            for_timer.timer.turn_until_stopped(&for_timer);
        })?;
        *engine.timer.thread.lock() = Some(handle);
        Ok(())
    }

    /// Sets a deadline, by [`Clock::timer_ns`]. After [`stop`](Self::stop) it sets none.
    pub(crate) fn insert(&self, due_ns: u64, tag: Tag, target: Arc<dyn Fire>) -> TimerKey {
        let mut state = self.state.lock();
        if state.stopping {
            return TimerKey::NONE;
        }
        state.parked += u64::from(tag.is_parked());
        let key = state.wheel.insert(due_ns, tag.pack(), target);
        self.bring_forward(&state, due_ns);
        key
    }

    /// Takes back a deadline for looking or cancelling, or of leases, if it has not come.
    pub(crate) fn cancel(&self, key: TimerKey) {
        let cancelled = self.state.lock().wheel.cancel(key);
        drop(cancelled);
    }

    /// Takes back the deadline of a retry or of a delayed message. Returns `false` if it has come,
    /// and then its target is fired once, or if it was taken back before.
    pub(crate) fn cancel_parked(&self, key: TimerKey) -> bool {
        let mut state = self.state.lock();
        let cancelled = state.wheel.cancel(key);
        state.parked -= u64::from(cancelled.is_some());
        drop(state);
        cancelled.is_some()
    }

    /// Returns the number of retries and delayed messages whose time has not come, and the next
    /// deadline. Both are as they were at one moment.
    pub(crate) fn outlook(&self) -> (u64, Option<u64>) {
        let state = self.state.lock();
        let parked = state.parked;
        let state = mutant!(state, "timer.one-look", {
            drop(state);
            self.state.lock()
        });
        (parked, state.wheel.next_deadline_ns())
    }

    /// Returns what [`outlook`](Self::outlook) does, for the retries and delayed messages of these
    /// targets alone. It looks at every deadline.
    pub(crate) fn outlook_of(&self, targets: &[usize]) -> (u64, Option<u64>) {
        let state = self.state.lock();
        let ours = state.wheel.pending().filter(|(_, tag, target)| {
            let address = Arc::as_ptr(target).addr();
            Tag::unpack(*tag).is_parked() && targets.contains(&address)
        });
        ours.fold((0, None), |(parked, next_ns), (due_ns, ..)| {
            let next_ns = next_ns.map_or(due_ns, |next_ns: u64| next_ns.min(due_ns));
            (parked + 1, Some(next_ns))
        })
    }

    /// Returns the next deadline, if there is any.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.state.lock().wheel.next_deadline_ns()
    }

    /// Returns whether any deadline is due.
    pub(crate) fn is_due(&self, clock: &Clock) -> bool {
        self.state.lock().wheel.is_due(clock.timer_ns())
    }

    /// Fires all deadlines that are due. It is for engines without a timer thread.
    pub(crate) fn fire_due(&self, clock: &Clock) -> usize {
        let mut due = Vec::new();
        self.state.lock().advance(clock, &mut due);
        let fired = due.len();
        if fired > 0 {
            due.into_iter().for_each(fire);
        }
        fired
    }

    /// Has the thread look after the loans of workers, `delay_ns` from now.
    pub(crate) fn watch(&self, clock: &Clock, delay_ns: u64) {
        let mut state = self.state.lock();
        state.watch_ns = clock.timer_ns().saturating_add(delay_ns);
        self.bring_forward(&state, state.watch_ns);
    }

    fn bring_forward(&self, state: &State, due_ns: u64) {
        if due_ns < state.sleeps_until_ns {
            mutant!(self.earlier.notify_one(), "timer.wake");
        }
    }

    fn turn_until_stopped(&self, engine: &Engine) {
        let clock = &engine.clock;
        let mut due = Vec::new();
        let mut state = self.state.lock();
        while !state.stopping {
            state.advance(clock, &mut due);
            if !due.is_empty() {
                drop(state);
                due.drain(..).for_each(fire);
                state = self.state.lock();
                continue;
            }
            if state.watch_ns != u64::MAX && clock.timer_ns() >= state.watch_ns {
                state.watch_ns = u64::MAX;
                drop(state);
                engine.pool.watch(engine);
                state = self.state.lock();
                continue;
            }
            let next_ns = state.wheel.next_deadline_ns().unwrap_or(u64::MAX);
            state.sleeps_until_ns = next_ns.min(state.watch_ns);
            let until_ns = Some(state.sleeps_until_ns).filter(|at_ns| *at_ns != u64::MAX);
            self.earlier
                .wait(&mut state, until_ns.and_then(|at_ns| clock.instant(at_ns)));
            state.sleeps_until_ns = 0;
        }
    }

    /// Ends the thread; deadlines no longer come. Deadlines that were set are dropped: their
    /// targets hold the engine, which holds this.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.parked = 0;
        let wheel = std::mem::replace(&mut state.wheel, Wheel::new(0));
        drop(state);
        drop(wheel);
        self.earlier.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|thread| !is_current(thread)) {
            // The thread runs no user code, so it neither panics nor hangs.
            let _ = thread.join();
        }
    }
}

fn fire(due: Due<Arc<dyn Fire>>) {
    due.value.fire(Tag::unpack(due.tag));
}
