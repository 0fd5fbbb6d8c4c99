//! The legal life of one delivery: one message for one subscription.
//!
//! ```text
//! CREATED ─▶ QUEUED ─▶ DELIVERING ─▶ DELIVERED
//!              ▲  ◀─ requeue ┴──────▶ FAILED ─▶ RETRY_SCHEDULED ─▶ QUEUED
//!              │                        └────▶ DEAD_LETTER
//!              └──── redrive, as a new generation ────┘
//! ```
//!
//! besides the finals DROPPED (overflow, or discarded by a policy), EXPIRED (time
//! to live) and CANCELLED (unsubscribe, shutdown); what is leased when its subscription
//! ends goes from DELIVERING to CANCELLED or DEAD_LETTER. Every step not in
//! [`Status::step`] is refused; the books of a lane call nothing else.

use std::fmt;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Not accepted yet.
    Created,
    /// Accepted and waiting for its handler.
    Queued,
    /// Its handler has it, or it is leased.
    Delivering,
    /// The handler returned `Ok`, or the lease was acked. Final.
    Delivered,
    /// The handler returned an error or panicked, or the lease was nacked, dropped or outlived
    /// its deadline. What follows is being decided.
    Failed,
    /// Waiting on the timer wheel for its next attempt.
    RetryScheduled,
    /// In the dead-letter store. Left only by a redrive.
    DeadLetter,
    /// Overflowed, or discarded because a policy said so. Final.
    Dropped,
    /// Its time to live ran out before it was handled. Final.
    Expired,
    /// Its subscription or its broker ended first. Final.
    Cancelled,
}

/// What can happen to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It enters a lane.
    Accept,
    /// Its handler is entered, or it is leased. This counts as an attempt, unless a requeue
    /// follows.
    Start,
    /// The handler returned `Ok`, or the lease was acked.
    Ack,
    /// The handler returned an error or panicked, or the lease was nacked, dropped or outlived
    /// its deadline.
    Fail,
    /// A policy grants another attempt.
    Retry,
    /// Its retry is due; or its handler has put it back without a word on failure.
    Requeue,
    /// It goes to the dead-letter store.
    Bury,
    /// It is dropped.
    Drop,
    /// It outlived its time to live.
    Expire,
    /// Its subscription or broker ends.
    Cancel,
    /// Somebody redrives it from the dead-letter store.
    Redrive,
}

/// A step that the life of a delivery does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalStep {
    /// Where the delivery stood.
    pub from: Status,
    /// What was tried.
    pub step: Step,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Queued,
        Self::Delivering,
        Self::Delivered,
        Self::Failed,
        Self::RetryScheduled,
        Self::DeadLetter,
        Self::Dropped,
        Self::Expired,
        Self::Cancelled,
    ];

    /// Takes `step` from here.
    ///
    /// # Errors
    ///
    /// [`IllegalStep`] if no delivery may go this way; nothing has changed then.
    pub(crate) fn step(self, step: Step) -> Result<Self, IllegalStep> {
        use Status::{
            Cancelled, Created, DeadLetter, Delivered, Delivering, Dropped, Expired, Failed,
            Queued, RetryScheduled,
        };
        Ok(match (self, step) {
            (Created, Step::Accept) => Queued,
            (Queued, Step::Start) => Delivering,
            (Delivering, Step::Ack) => Delivered,
            (Delivering, Step::Fail) => Failed,
            (Failed, Step::Retry) => RetryScheduled,
            (Delivering | RetryScheduled, Step::Requeue) => Queued,
            (Queued | Delivering | Failed | RetryScheduled, Step::Bury) => DeadLetter,
            (Created | Queued | Failed, Step::Drop) => Dropped,
            (Queued | Failed, Step::Expire) => Expired,
            (Queued | Delivering | RetryScheduled, Step::Cancel) => Cancelled,
            (DeadLetter, Step::Redrive) => Queued,
            (from, step) => return Err(IllegalStep { from, step }),
        })
    }

    /// Whether nothing but a redrive can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Delivered | Self::DeadLetter | Self::Dropped | Self::Expired | Self::Cancelled
        )
    }

    /// The name as the events print it, in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Queued => "QUEUED",
            Self::Delivering => "DELIVERING",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
            Self::RetryScheduled => "RETRY_SCHEDULED",
            Self::DeadLetter => "DEAD_LETTER",
            Self::Dropped => "DROPPED",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEPS: [Step; 11] = [
        Step::Accept,
        Step::Start,
        Step::Ack,
        Step::Fail,
        Step::Retry,
        Step::Requeue,
        Step::Bury,
        Step::Drop,
        Step::Expire,
        Step::Cancel,
        Step::Redrive,
    ];

    #[test]
    fn the_table_of_legal_steps_is_exactly_this() {
        let mut legal = Vec::new();
        for from in Status::ALL {
            for step in STEPS {
                if let Ok(to) = from.step(step) {
                    legal.push(format!("{from} -{step:?}-> {to}"));
                }
            }
        }
        assert_eq!(
            legal,
            [
                "CREATED -Accept-> QUEUED",
                "CREATED -Drop-> DROPPED",
                "QUEUED -Start-> DELIVERING",
                "QUEUED -Bury-> DEAD_LETTER",
                "QUEUED -Drop-> DROPPED",
                "QUEUED -Expire-> EXPIRED",
                "QUEUED -Cancel-> CANCELLED",
                "DELIVERING -Ack-> DELIVERED",
                "DELIVERING -Fail-> FAILED",
                "DELIVERING -Requeue-> QUEUED",
                "DELIVERING -Bury-> DEAD_LETTER",
                "DELIVERING -Cancel-> CANCELLED",
                "FAILED -Retry-> RETRY_SCHEDULED",
                "FAILED -Bury-> DEAD_LETTER",
                "FAILED -Drop-> DROPPED",
                "FAILED -Expire-> EXPIRED",
                "RETRY_SCHEDULED -Requeue-> QUEUED",
                "RETRY_SCHEDULED -Bury-> DEAD_LETTER",
                "RETRY_SCHEDULED -Cancel-> CANCELLED",
                "DEAD_LETTER -Redrive-> QUEUED",
            ]
        );
    }

    #[test]
    fn a_status_is_final_if_nothing_but_a_redrive_can_follow() {
        for status in Status::ALL {
            let mut others = STEPS.iter().filter(|step| **step != Step::Redrive);
            let goes_on = others.any(|step| status.step(*step).is_ok());
            assert_eq!(status.is_final(), !goes_on, "{status}");
        }
    }

    #[test]
    fn an_illegal_step_says_where_it_was_tried() {
        let refused = Status::Delivered.step(Step::Ack);
        assert_eq!(
            refused,
            Err(IllegalStep {
                from: Status::Delivered,
                step: Step::Ack
            })
        );
    }

    proptest! {
        #[test]
        fn from_a_final_status_only_a_redrive_leads_on(
            steps in proptest::collection::vec(0..STEPS.len(), 0..40),
        ) {
            let mut status = Status::Created;
            for step in steps.into_iter().map(|i| STEPS[i]) {
                if let Ok(next) = status.step(step) {
                    prop_assert!(!status.is_final() || step == Step::Redrive);
                    status = next;
                }
            }
        }
    }
}
