//! Task states: a topic, a partition of one, a lane or a slot is run by at most one worker at a
//! time. As long as there is something to do, a worker is bound to run it.
//!
//! Steps. A *producer* pushes, fences, reads the schedule, and moves it only if it is idle or
//! running. If its push can't wait for a lender, it moves it from lent, too. A *runner* moves it to
//! running, fences, works until it finds nothing, and rests. Or it *lends* the task, works at
//! something else, and starts it once more. If somebody took the loan before, that thread starts
//! it, and the lender finds it taken. So a task on loan always starts once more.
//!
//! The feared interleaving: the producer reads *scheduled* (or *notified*, or *lent*) and leaves it
//! at that. Meanwhile the runner has already started, found nothing and gone to rest. Say the
//! producer read a state older than the runner's start. Then its fence came before the runner's in
//! the single order of sequentially consistent fences. The runner looks after its own fence, so it
//! sees the push. Model: `loom-tests/tests/models/schedule.rs`.

use crate::engine::base::cell::Cell;
use crate::pure::words::schedule::{Schedule, Then};
use crate::sync::atomic::Ordering;
use crate::sync::{fence, mutant};

/// The schedule of one task.
#[derive(Debug)]
pub struct TaskState {
    schedule: Cell<Schedule>,
}

impl TaskState {
    /// Makes the state of a task at rest.
    pub fn new() -> Self {
        Self {
            schedule: Cell::new(Schedule::Idle),
        }
    }

    /// Notifies the task of news that the caller has pushed where the runner will look. The news
    /// waits for no loan to end.
    pub fn notify(&self) -> Then {
        // ORDERING: pairs with the fence in `start`; see the module's text.
        mutant!(fence(Ordering::SeqCst), "task.notify-fence");
        self.tell(mutant!(
            Schedule::notify,
            "task.notify-lent",
            Schedule::nudge
        ))
    }

    /// Notifies the task, as [`notify`](Self::notify) does, of news that can wait for a lender.
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

    /// Returns whether nobody runs the task, and it is not scheduled. A task on loan counts as
    /// idle.
    pub fn is_idle(&self) -> bool {
        matches!(self.schedule.load(), Schedule::Idle | Schedule::Lent)
    }

    /// Lends the task, for a caller that will [`start`](Self::start) it again. Returns `true` if
    /// there is news already.
    pub fn lend(&self) -> bool {
        self.schedule.update(Schedule::lend)
    }

    /// Takes the task from the ready queue, or back from a loan. Returns `false` if somebody else
    /// has taken it since.
    pub fn start(&self) -> bool {
        mutant!(
            self.started(Schedule::start),
            "task.loan",
            self.schedule.load() == Schedule::Lent || self.started(Schedule::start)
        )
    }

    /// Takes the task past the ready queue. Returns `false` if somebody runs it.
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
