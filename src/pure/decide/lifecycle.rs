//! The legal life of one delivery, which is one message for one subscription.
//!
//! ```text
//! CREATED ─▶ QUEUED ─▶ DELIVERING ─▶ DELIVERED
//!              ▲  ◀─ requeue ┼──────▶ FAILED ─▶ RETRY_SCHEDULED ─▶ QUEUED
//!              │             └─ snooze ──│──────▶ RETRY_SCHEDULED
//!              │                         └─▶ DEAD_LETTER
//!              └──── redrive, as a new generation ────┘
//! ```
//!
//! Four more statuses are final. They are FILTERED (refused by the subscription's filter), DROPPED
//! (overflow, or discarded by a policy), EXPIRED (time to live) and CANCELLED (unsubscribe,
//! shutdown). A delivery that is leased when its subscription ends goes from DELIVERING to
//! CANCELLED or DEAD_LETTER. Every step not in [`Status::step`] is refused. The books of a lane
//! call nothing else.

use std::fmt;

/// The status of a message or a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// The delivery is not accepted yet.
    Created,
    /// The delivery is accepted and waits for its handler.
    Queued,
    /// The handler has the delivery, or it is leased.
    Delivering,
    /// The handler returned `Ok`, or the lease was acked. Final.
    Delivered,
    /// The handler returned an error or panicked, or the lease was nacked, dropped or outlived its
    /// deadline. The next status is being decided.
    Failed,
    /// The delivery waits on the timer wheel for its next attempt, after a failure or a snooze.
    RetryScheduled,
    /// The delivery is in the dead-letter store. Only a redrive takes it out as a delivery again.
    DeadLetter,
    /// The subscription's filter refused the message, so the delivery never entered its lane. Final.
    Filtered,
    /// The delivery overflowed, or was discarded by a policy or a nack. Final.
    Dropped,
    /// The time to live ran out before the delivery was handled. Final.
    Expired,
    /// The subscription or the broker ended first. Final.
    Cancelled,
}

/// The steps of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The delivery enters a lane.
    Accept,
    /// The subscription's filter refuses the message.
    Filter,
    /// The handler is entered, or the delivery is leased. This counts as an attempt, unless a
    /// requeue or a snooze follows.
    Start,
    /// The handler returned `Ok`, or the lease was acked.
    Ack,
    /// The handler returned an error or panicked, or the lease was nacked, dropped or outlived
    /// its deadline.
    Fail,
    /// A policy grants another attempt.
    Retry,
    /// The retry or the snooze is due, or the handler has requeued the delivery without failing.
    Requeue,
    /// The handler puts the delivery off without failing.
    Snooze,
    /// The delivery goes to the dead-letter store.
    Bury,
    /// The delivery is dropped.
    Drop,
    /// The delivery outlived its time to live.
    Expire,
    /// The subscription or the broker ends.
    Cancel,
    /// A redrive takes the delivery from the dead-letter store.
    Redrive,
}

/// A step that the life of a delivery does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalStep {
    /// The status of the delivery before the step.
    pub from: Status,
    /// The step that was tried.
    pub step: Step,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Created,
        Self::Queued,
        Self::Delivering,
        Self::Delivered,
        Self::Failed,
        Self::RetryScheduled,
        Self::DeadLetter,
        Self::Filtered,
        Self::Dropped,
        Self::Expired,
        Self::Cancelled,
    ];

    /// Takes `step` from this status, and returns the next one.
    ///
    /// # Errors
    ///
    /// Returns [`IllegalStep`] if no delivery may go this way. Nothing has changed then.
    pub(crate) fn step(self, step: Step) -> Result<Self, IllegalStep> {
        use Status::{
            Cancelled, Created, DeadLetter, Delivered, Delivering, Dropped, Expired, Failed,
            Filtered, Queued, RetryScheduled,
        };
        Ok(match (self, step) {
            (Created, Step::Accept) => Queued,
            (Created, Step::Filter) => Filtered,
            (Queued, Step::Start) => Delivering,
            (Delivering, Step::Ack) => Delivered,
            (Delivering, Step::Fail) => Failed,
            (Failed, Step::Retry) => RetryScheduled,
            (Delivering | RetryScheduled, Step::Requeue) => Queued,
            (Delivering, Step::Snooze) => RetryScheduled,
            (Queued | Delivering | Failed | RetryScheduled, Step::Bury) => DeadLetter,
            (Created | Queued | Failed, Step::Drop) => Dropped,
            (Queued | Delivering | Failed, Step::Expire) => Expired,
            (Queued | Delivering | RetryScheduled, Step::Cancel) => Cancelled,
            (DeadLetter, Step::Redrive) => Queued,
            (from, step) => return Err(IllegalStep { from, step }),
        })
    }

    /// Returns whether only a redrive can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Delivered
                | Self::DeadLetter
                | Self::Filtered
                | Self::Dropped
                | Self::Expired
                | Self::Cancelled
        )
    }

    /// Returns the label that events print, in capitals. It doesn't change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Queued => "QUEUED",
            Self::Delivering => "DELIVERING",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
            Self::RetryScheduled => "RETRY_SCHEDULED",
            Self::DeadLetter => "DEAD_LETTER",
            Self::Filtered => "FILTERED",
            Self::Dropped => "DROPPED",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEPS: [Step; 13] = [
        Step::Accept,
        Step::Filter,
        Step::Start,
        Step::Ack,
        Step::Fail,
        Step::Retry,
        Step::Requeue,
        Step::Snooze,
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
                "CREATED -Filter-> FILTERED",
                "CREATED -Drop-> DROPPED",
                "QUEUED -Start-> DELIVERING",
                "QUEUED -Bury-> DEAD_LETTER",
                "QUEUED -Drop-> DROPPED",
                "QUEUED -Expire-> EXPIRED",
                "QUEUED -Cancel-> CANCELLED",
                "DELIVERING -Ack-> DELIVERED",
                "DELIVERING -Fail-> FAILED",
                "DELIVERING -Requeue-> QUEUED",
                "DELIVERING -Snooze-> RETRY_SCHEDULED",
                "DELIVERING -Bury-> DEAD_LETTER",
                "DELIVERING -Expire-> EXPIRED",
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
