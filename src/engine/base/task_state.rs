//! Who runs a topic, a partition of one, a lane or a slot: at most one worker at a time, and
//! always one as long as there is something to do.
//!
//! Steps. A *producer* pushes, fences, reads the schedule, and moves it only if
//! it is idle or running; or lent, if what it pushed can't wait for the lender. A
//! *runner* moves it to running, fences, works until it finds nothing, and rests. Or it
//! *lends* it, works at something else, and starts once more: it alone, or whoever took
//! the loan before, which it then finds taken. So what is lent always starts once more.
//!
//! The feared interleaving: the producer reads *scheduled* (or *notified*, or *lent*) and
//! leaves it at that, while the runner has already started, found nothing and
//! gone to rest. If the producer read a state older than the runner's start, then
//! its fence came before the runner's fence in the single order of sequentially
//! consistent fences, so the runner, which looks after its own fence, sees the
//! push. Model: `loom-tests/tests/models/schedule.rs`.

use crate::engine::base::cell::Cell;
use crate::pure::words::schedule::{Schedule, Then};
use crate::sync::atomic::Ordering;
use crate::sync::{fence, mutant};

/// The schedule of one of them.
#[derive(Debug)]
pub struct TaskState {
    schedule: Cell<Schedule>,
}

impl TaskState {
    /// At rest.
    pub fn new() -> Self {
        Self {
            schedule: Cell::new(Schedule::Idle),
        }
    }

    /// There is news, which the caller has pushed where the runner will look, and which
    /// waits for no loan to end.
    pub fn notify(&self) -> Then {
        // ORDERING: pairs with the fence in `started`; see the module's text.
        mutant!(fence(Ordering::SeqCst), "task.notify-fence");
        self.tell(mutant!(
            Schedule::notify,
            "task.notify-lent",
            Schedule::nudge
        ))
    }

    /// As [`notify`](Self::notify), for news that a lender is soon enough for.
    pub fn nudge(&self) -> Then {
        // ORDERING: as in `notify`.
        mutant!(fence(Ordering::SeqCst), "task.notify-fence");
        self.tell(Schedule::nudge)
    }

    #[inline]
    fn tell(&self, step: fn(Schedule) -> (Schedule, Then)) -> Then {
        mutant!(
            self.schedule.update(step),
            "task.notify-running",
            match self.schedule.load() {
                Schedule::Running => Then::Nothing,
                _ => self.schedule.update(step),
            }
        )
    }

    /// Whether nobody has anything to do with it, or is about to.
    pub fn is_idle(&self) -> bool {
        matches!(self.schedule.load(), Schedule::Idle | Schedule::Lent)
    }

    /// Lets it out of hand, for a caller that will [`start`](Self::start) it again.
    /// `true`: because there is news already.
    pub fn lend(&self) -> bool {
        self.schedule.update(Schedule::lend)
    }

    /// Takes the task from the ready queue, or back from a loan. `false`: somebody
    /// else has taken it since.
    pub fn start(&self) -> bool {
        mutant!(
            self.started(Schedule::start),
            "task.loan",
            self.schedule.load() == Schedule::Lent || self.started(Schedule::start)
        )
    }

    /// Takes the task past the ready queue. `false`: somebody runs.
    pub fn claim(&self) -> bool {
        self.started(Schedule::claim)
    }

    fn started(&self, step: fn(Schedule) -> (Schedule, bool)) -> bool {
        let started = self.schedule.update(step);
        // ORDERING: pairs with the fence in `notify`; see the module's text.
        fence(Ordering::SeqCst);
        started
    }

    /// Puts the task down; `more` says that work is known to be left.
    pub fn rest(&self, more: bool) -> Then {
        self.schedule
            .update(|schedule| mutant!(schedule, "task.rest-look", Schedule::Running).rest(more))
    }
}
