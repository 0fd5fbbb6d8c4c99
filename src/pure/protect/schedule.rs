//! Schedules: the ticks of a period, and what becomes of those that were missed.
//!
//! Ticks are due at multiples of the period from the first one on, and so they don't drift. A tick
//! is *missed* if the next one is due before it was published. The last tick that is due is not
//! missed, however late it is. So a schedule whose timer is always late still publishes.

use std::time::Duration;

use crate::types::duration::nanos;
use crate::types::error::SettingError;

/// The policy for ticks of a schedule that were missed, because the program was suspended or busy.
///
/// A tick is missed if the next one is due before it was published. The tick that is due last is
/// published under every policy, though it may be late by less than a period. After that, ticks are
/// due when they would have been anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissedTicks {
    /// Missed ticks are not made up for. This is the default, because most schedules ask for the
    /// present state.
    #[default]
    Skip,
    /// One message stands for all missed ticks, besides that of the tick that is due.
    Once,
    /// Each missed tick has a message, up to this number. The others are skipped.
    All(u32),
}

/// A schedule that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    period_ns: u64,
    missed: MissedTicks,
    due_ns: u64,
}

/// The ticks that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Due {
    /// The messages to publish now.
    pub(crate) publish: u32,
    /// The missed ticks that have no message.
    pub(crate) skipped: u64,
    /// When the next tick is due.
    pub(crate) next_ns: u64,
}

impl Ticks {
    /// Begins a schedule with its first tick at `first_ns`. It refuses a period of zero.
    pub(crate) fn every(
        period: Duration,
        missed: MissedTicks,
        first_ns: u64,
    ) -> Result<Self, SettingError> {
        if period.is_zero() {
            let rule = "must be longer, or all ticks would be due at once";
            return Err(SettingError::new("period", "zero", rule));
        }
        Ok(Self {
            period_ns: nanos(period),
            missed,
            due_ns: first_ns,
        })
    }

    /// Returns the schedule after its ticks up to now, and what they ask for.
    pub(crate) fn next(self, now_ns: u64) -> (Self, Due) {
        let Some(late_ns) = now_ns.checked_sub(self.due_ns) else {
            let due = Due {
                publish: 0,
                skipped: 0,
                next_ns: self.due_ns,
            };
            return (self, due);
        };
        let missed = late_ns / self.period_ns;
        let most = match self.missed {
            MissedTicks::Skip => 0,
            MissedTicks::Once => 1,
            // The tick that is due has a message, too.
            MissedTicks::All(most) => most.min(u32::MAX - 1),
        };
        let made_up = u32::try_from(missed).unwrap_or(u32::MAX).min(most);
        // The last tick that is due is not later than now.
        let last_ns = self.due_ns + missed * self.period_ns;
        let next = Self {
            due_ns: last_ns.saturating_add(self.period_ns),
            ..self
        };
        let due = Due {
            publish: made_up + 1,
            skipped: missed - u64::from(made_up),
            next_ns: next.due_ns,
        };
        (next, due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticks(period_ns: u64, missed: MissedTicks, first_ns: u64) -> Ticks {
        let period = Duration::from_nanos(period_ns);
        Ticks::every(period, missed, first_ns).expect("a period")
    }

    #[test]
    fn ticks_are_due_at_multiples_of_the_period_and_missed_ones_go_by_the_policy() {
        use MissedTicks::{All, Once, Skip};
        // The first tick is due at 100, and the others at 110, 120 and so on.
        let table = [
            (Skip, 99, (0, 0, 100)),
            (Skip, 100, (1, 0, 110)),
            (Skip, 109, (1, 0, 110)),
            (Skip, 110, (1, 1, 120)),
            (Skip, 155, (1, 5, 160)),
            (Once, 109, (1, 0, 110)),
            (Once, 110, (2, 0, 120)),
            (Once, 155, (2, 4, 160)),
            (All(3), 99, (0, 0, 100)),
            (All(3), 125, (3, 0, 130)),
            (All(3), 135, (4, 0, 140)),
            (All(3), 155, (4, 2, 160)),
            (All(0), 155, (1, 5, 160)),
        ];
        for (missed, now, (publish, skipped, next_ns)) in table {
            let expected = Due {
                publish,
                skipped,
                next_ns,
            };
            let (next, due) = ticks(10, missed, 100).next(now);
            assert_eq!(due, expected, "{missed:?} at {now}");
            let nothing = next.next(now).1;
            assert_eq!((nothing.publish, nothing.next_ns), (0, next_ns), "once");
        }
    }

    #[test]
    fn neither_the_end_of_time_nor_endless_ticks_overflow() {
        for missed in [MissedTicks::Skip, MissedTicks::All(u32::MAX)] {
            for period in [1, u64::MAX] {
                for first in [0, u64::MAX] {
                    let (next, due) = ticks(period, missed, first).next(u64::MAX);
                    assert!(due.publish >= 1);
                    assert_eq!(due.next_ns, u64::MAX);
                    let _ = next.next(u64::MAX);
                }
            }
        }
    }

    #[test]
    fn a_period_of_zero_is_refused() {
        let refused = Ticks::every(Duration::ZERO, MissedTicks::Skip, 0);
        let error = refused.expect_err("it has no ticks");
        assert_eq!(error.setting(), "period");
    }

    proptest! {
        /// The model goes through the ticks one by one.
        #[test]
        fn no_tick_is_lost_or_made_twice_and_none_drifts(
            period in 1_u64..40,
            first in 0_u64..100,
            most in 0_u32..6,
            waits in prop::collection::vec(0_u64..300, 0..60),
        ) {
            let mut state = ticks(period, MissedTicks::All(most), first);
            let mut model = first;
            let mut now = 0;
            for wait in waits {
                now += wait;
                let mut count = 0;
                while model <= now {
                    model += period;
                    count += 1;
                }
                let (next, due) = state.next(now);
                state = next;
                prop_assert_eq!(u64::from(due.publish) + due.skipped, count);
                prop_assert_eq!(u64::from(due.publish), count.min(u64::from(most) + 1));
                prop_assert_eq!(due.next_ns, model);
                prop_assert!(due.next_ns > now);
            }
        }
    }
}
