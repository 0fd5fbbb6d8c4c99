//! Who runs a topic, a partition of one, a lane or a seat: at most one worker at a time, and
//! always one as long as there is something to do.
//!
//! Steps. A *producer* pushes, fences, reads the schedule, and moves it only if
//! it is idle or running. A *runner* moves it to running, fences, works until it
//! finds nothing, and rests.
//!
//! The feared interleaving: the producer reads *scheduled* (or *notified*) and
//! leaves it at that, while the runner has already started, found nothing and
//! gone to rest. If the producer read a state older than the runner's start, then
//! its fence came before the runner's fence in the single order of sequentially
//! consistent fences, so the runner, which looks after its own fence, sees the
//! push. Model: `loom-tests/tests/models/schedule.rs`.

use super::cell::Cell;
use crate::pure::schedule::{Schedule, Then};
use crate::sync::atomic::Ordering;
use crate::sync::{breakable, fence};

/// The schedule of one of them.
#[derive(Debug)]
pub struct Baton {
    schedule: Cell<Schedule>,
}

impl Baton {
    /// At rest.
    pub fn new() -> Self {
        Self {
            schedule: Cell::new(Schedule::Idle),
        }
    }

    /// There is news, which the caller has pushed where the runner will look.
    pub fn notify(&self) -> Then {
        // ORDERING: pairs with the fence in `started`; see the module's text.
        breakable!("baton: notify without a fence", fence(Ordering::SeqCst));
        breakable!(
            "baton: a runner is not told of news",
            self.schedule.update(Schedule::notify),
            match self.schedule.load() {
                Schedule::Running => Then::Nothing,
                _ => self.schedule.update(Schedule::notify),
            }
        )
    }

    /// Whether nobody holds it or is about to.
    pub fn is_idle(&self) -> bool {
        self.schedule.load() == Schedule::Idle
    }

    /// Takes the baton from the ready queue. `false`: the entry was stale.
    pub fn start(&self) -> bool {
        self.started(Schedule::start)
    }

    /// Takes the baton past the ready queue. `false`: somebody runs.
    pub fn claim(&self) -> bool {
        self.started(Schedule::claim)
    }

    fn started(&self, step: fn(Schedule) -> (Schedule, bool)) -> bool {
        let started = self.schedule.update(step);
        // ORDERING: pairs with the fence in `notify`; see the module's text.
        fence(Ordering::SeqCst);
        started
    }

    /// Puts the baton down; `more` says that work is known to be left.
    pub fn rest(&self, more: bool) -> Then {
        self.schedule.update(|schedule| {
            breakable!(
                "baton: rest without a look for news",
                schedule,
                Schedule::Running
            )
            .rest(more)
        })
    }
}
