//! The engine that a broker's threads, handles and user code share, and the threads themselves.

pub(crate) mod bus;
pub(crate) mod context;
pub(crate) mod directory;
pub(crate) mod expiry;
pub(crate) mod linger;
#[cfg(feature = "async")]
pub(crate) mod poll_hook;
pub(crate) mod pool;
pub(crate) mod timer;

use crate::engine::base::cell::Cell;
use crate::engine::base::clock::Clock;
use crate::engine::base::contain::{SharedPolicy, StrategyInUse};
use crate::engine::wait::fire::{Fire, Tag};
use crate::engine::wait::holds::Holds;
use crate::engine::wait::quiescence::Quiescence;
use crate::observe::metrics::TopicMetrics;
use crate::pure::wheel::TimerKey;
use crate::pure::words::ending::Ending;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, Instant, Map, Mutex, Slot, Weak};
use crate::types::config::Histograms;
use directory::{AnyTopic, PatternSubs};

/// The state that a broker, its handles and its threads share.
pub(crate) struct Engine {
    pub(crate) clock: Clock,
    pub(crate) timer: timer::Timer,
    pub(crate) pool: pool::Pool,
    /// The pools beside it, for the handlers of some subscriptions.
    pub(crate) pools: Vec<pool::NamedPool>,
    pub(crate) bus: bus::Bus,
    pub(crate) quiescence: Quiescence,
    pub(crate) topics: Map<Arc<dyn AnyTopic>>,
    pub(crate) pattern_subs: PatternSubs,
    /// Topics that were removed while a lane by a pattern was still ending. The end of the broker
    /// must find them.
    pub(crate) retired_topics: Mutex<Vec<Arc<dyn AnyTopic>>>,
    /// The pause that all topics have, if the broker is paused. It changes under the lock of
    /// `pattern_subs`.
    pub(crate) pauses: Holds,
    /// The last metrics of topics that were removed.
    pub(crate) removed: Mutex<Option<TopicMetrics>>,
    pub(crate) strategy: Slot<StrategyInUse>,
    pub(crate) retry: SharedPolicy,
    /// The seed of jitter, which also depends on who failed and how often.
    pub(crate) seed: u64,
    /// Without workers: deadlines that are put off to the next run.
    pub(crate) next_run: Mutex<Vec<(Weak<dyn Fire>, Tag)>>,
    pub(crate) ending: Cell<Ending>,
    /// Deliveries cancelled because a publish of their handler was refused.
    pub(crate) cancelled_by_end: AtomicU64,
    /// The process that has its threads, and not one that was forked from it.
    pub(crate) process: u32,
    pub(crate) workers: usize,
    pub(crate) histograms: Histograms,
    pub(crate) thread_name: String,
    #[cfg(feature = "async")]
    pub(crate) poll_hook: Option<poll_hook::PollHook>,
    #[cfg(feature = "log")]
    pub(crate) store: Option<crate::log::store::Store>,
}

impl Engine {
    /// Returns whether it is on its way out. It opens no more topics, and closes those it has, or
    /// has done so.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load() > Ending::Running
    }

    /// Returns whether all its topics are closed, at least to publishers outside of handlers.
    pub(crate) fn is_closed(&self) -> bool {
        self.ending.load() >= Ending::Draining
    }

    /// Returns whether it cancels what it has.
    pub(crate) fn has_stopped(&self) -> bool {
        self.ending.load() >= Ending::Stopped
    }

    /// Returns whether this process was forked off, and the threads have stayed behind. Then there
    /// is nobody to wait for, and locks that they held stay locked.
    pub(crate) fn has_lost_its_threads(&self) -> bool {
        self.workers > 0 && self.process != std::process::id()
    }

    /// Returns whether the caller's thread runs everything.
    pub(crate) fn is_manual(&self) -> bool {
        self.workers == 0
    }

    /// Sets a deadline for `target`, `delay_ns` from now.
    pub(crate) fn set_timer(&self, delay_ns: u64, tag: Tag, target: Arc<dyn Fire>) -> TimerKey {
        let due_ns = self.clock.timer_ns().saturating_add(delay_ns);
        self.timer.insert(due_ns, tag, target)
    }

    /// Fires this tag at `target` at the beginning of the next run, if the target is still there.
    pub(crate) fn fire_in_next_run(&self, target: Arc<dyn Fire>, tag: Tag) {
        self.next_run.lock().push((Arc::downgrade(&target), tag));
    }

    /// Runs turns that are ready and deadlines that are due, on the calling thread, until there is
    /// nothing left to do now. Returns how many turns that took. Does nothing on an engine with
    /// workers, or from inside a handler.
    pub(crate) fn run_until_idle(&self) -> usize {
        self.run_until(None)
    }

    /// Returns whether nothing is put off, due or ready, and no observer was ever added.
    fn is_idle(&self) -> bool {
        self.pool.is_idle()
            && !self.bus.was_observed()
            && self.next_run.lock().is_empty()
            && !self.timer.is_due(&self.clock)
    }

    /// Runs as [`run_until_idle`](Self::run_until_idle) does, but begins no turn after `until`.
    pub(crate) fn run_until(&self, until: Option<Instant>) -> usize {
        if !self.is_manual() || context::is_inside(self) {
            return 0;
        }
        if self.is_idle() {
            return 0;
        }
        let _inside = context::Inside::enter(self);
        let _at_work = self.pool.enter(self);
        let put_off = std::mem::take(&mut *self.next_run.lock());
        for (target, tag) in put_off {
            if let Some(target) = target.upgrade() {
                target.fire(tag);
            }
        }
        let mut turns = 0;
        loop {
            let fired = self.timer.fire_due(&self.clock);
            let is_late = || until.is_some_and(|until| Instant::now() >= until);
            let ran = self.pool.run_ready(self, || {
                self.bus.pump();
                !is_late()
            });
            turns += ran;
            if fired + ran == 0 || is_late() {
                return turns;
            }
        }
    }
}
