//! When a task belongs on the ready queue.
//!
//! States:
//!
//! - *idle*: nobody looks at it.
//! - *scheduled*: it is on the ready queue once.
//! - *running*: one worker has it.
//! - *notified*: one worker has it and something arrived meanwhile, so it must be looked at again.
//! - *lent*: a worker found nothing more, is elsewhere, and will look again before it rests. A
//!   thread that needs it sooner may take it.
//!
//! The feared interleaving: a publisher pushes, sees that a worker is running and does nothing.
//! Meanwhile that worker has found the queue empty and goes to rest; the message is stranded. It
//! cannot happen, because the publisher turns *running* into *notified*. A worker that rests from
//! *notified* puts its task back on the ready queue. And a task on loan starts once more before it
//! rests, whichever thread starts it. The orderings live in [`crate::engine::base::task_state`];
//! the model is `loom-tests/tests/models/schedule.rs`.

/// The state of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Schedule {
    /// The task is on no queue, and nobody runs it.
    Idle = 0,
    /// The task is on the ready queue, exactly once.
    Scheduled = 1,
    /// One worker runs the task.
    Running = 2,
    /// One worker runs the task, with news it may have missed.
    Notified = 3,
    /// Nobody runs the task now, but it is bound to be run. Its lender does that, or the thread
    /// that takes it first.
    Lent = 4,
}

/// The step that the mover of the schedule must take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Then {
    /// Put the task on the ready queue.
    Enqueue,
    /// Do nothing: somebody else is bound to look.
    Nothing,
}

impl Schedule {
    /// Notifies the task of something to look at, for which somebody waits.
    pub fn notify(self) -> (Self, Then) {
        match self {
            Self::Idle | Self::Lent => (Self::Scheduled, Then::Enqueue),
            Self::Running => (Self::Notified, Then::Nothing),
            Self::Scheduled | Self::Notified => (self, Then::Nothing),
        }
    }

    /// Notifies the task of something that can wait until its lender looks.
    pub fn nudge(self) -> (Self, Then) {
        match self {
            Self::Lent => (self, Then::Nothing),
            Self::Idle | Self::Scheduled | Self::Running | Self::Notified => self.notify(),
        }
    }

    /// Lends the task: its runner turns to something else, and will look again. Returns `true` if
    /// it has news already.
    pub fn lend(self) -> (Self, bool) {
        match self {
            Self::Running => (Self::Lent, false),
            Self::Notified => (Self::Lent, true),
            Self::Idle | Self::Scheduled | Self::Lent => {
                unreachable!("only its runner lends it, but it is {self:?}")
            }
        }
    }

    /// Starts a task that came off the ready queue, or was lent. Returns `false` if the entry was
    /// stale, or the loan has been taken, because somebody ran it in the meantime.
    pub fn start(self) -> (Self, bool) {
        match self {
            Self::Scheduled | Self::Lent => (Self::Running, true),
            Self::Idle | Self::Running | Self::Notified => (self, false),
        }
    }

    /// Starts a task now, outside the pool: for an unsubscribe or a shutdown that must not wait for
    /// a free worker. Returns `false` if it is running.
    pub fn claim(self) -> (Self, bool) {
        match self {
            Self::Idle | Self::Scheduled | Self::Lent => (Self::Running, true),
            Self::Running | Self::Notified => (self, false),
        }
    }

    /// Puts the task down; `more` says that work is known to be left.
    pub fn rest(self, more: bool) -> (Self, Then) {
        match self {
            Self::Running if !more => (Self::Idle, Then::Nothing),
            Self::Running | Self::Notified => (Self::Scheduled, Then::Enqueue),
            Self::Idle | Self::Scheduled | Self::Lent => {
                unreachable!("only its runner rests it, but it is {self:?}")
            }
        }
    }
}

impl crate::pure::words::Packed for Schedule {
    fn pack(self) -> u64 {
        self as u64
    }

    fn unpack(word: u64) -> Self {
        match word {
            0 => Self::Idle,
            1 => Self::Scheduled,
            2 => Self::Running,
            3 => Self::Notified,
            _ => Self::Lent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule::{self, Idle, Lent, Notified, Running, Scheduled};
    use super::Then::{Enqueue, Nothing};
    use crate::pure::words::Packed;

    const ALL: [Schedule; 5] = [Idle, Scheduled, Running, Notified, Lent];

    #[test]
    fn every_state_survives_packing() {
        for state in ALL {
            assert_eq!(Schedule::unpack(state.pack()), state);
        }
    }

    #[test]
    fn notify_enqueues_what_is_idle_or_lent_and_marks_what_runs() {
        let expected = [
            (Scheduled, Enqueue),
            (Scheduled, Nothing),
            (Notified, Nothing),
            (Notified, Nothing),
            (Scheduled, Enqueue),
        ];
        for (state, expected) in ALL.into_iter().zip(expected) {
            assert_eq!(state.notify(), expected, "from {state:?}");
        }
    }

    #[test]
    fn a_nudge_leaves_what_is_lent_and_is_a_notice_otherwise() {
        assert_eq!(Lent.nudge(), (Lent, Nothing));
        for state in ALL.into_iter().filter(|state| *state != Lent) {
            assert_eq!(state.nudge(), state.notify(), "from {state:?}");
        }
    }

    #[test]
    fn what_is_lent_remembers_no_news_so_its_lender_is_told() {
        assert_eq!(Running.lend(), (Lent, false));
        assert_eq!(Notified.lend(), (Lent, true));
    }

    #[test]
    #[should_panic = "only its runner lends it, but it is Scheduled"]
    fn who_lends_what_nobody_runs_is_told_the_state() {
        let _ = Scheduled.lend();
    }

    #[test]
    fn only_what_is_scheduled_or_lent_starts() {
        assert_eq!(Scheduled.start(), (Running, true));
        assert_eq!(Lent.start(), (Running, true));
        for stale in [Idle, Running, Notified] {
            assert_eq!(stale.start(), (stale, false));
        }
    }

    #[test]
    fn a_claim_takes_whatever_nobody_runs() {
        assert_eq!(Idle.claim(), (Running, true));
        assert_eq!(Scheduled.claim(), (Running, true));
        assert_eq!(Lent.claim(), (Running, true));
        assert_eq!(Running.claim(), (Running, false));
        assert_eq!(Notified.claim(), (Notified, false));
    }

    #[test]
    #[should_panic = "only its runner rests it, but it is Idle"]
    fn who_rests_what_nobody_runs_is_told_the_state() {
        let _ = Idle.rest(false);
    }

    #[test]
    fn resting_with_news_or_work_left_enqueues_again() {
        assert_eq!(Running.rest(false), (Idle, Nothing));
        assert_eq!(Running.rest(true), (Scheduled, Enqueue));
        assert_eq!(Notified.rest(false), (Scheduled, Enqueue));
        assert_eq!(Notified.rest(true), (Scheduled, Enqueue));
    }
}
