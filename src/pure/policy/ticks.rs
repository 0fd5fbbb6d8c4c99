//! The ticks of a schedule: when each is due, and what follows if some were missed.
//!
//! Ticks lie on a grid that the start fixes, so a late one doesn't delay those after it. A tick is
//! *missed* if the next one is due before anything was published for it.

/// The policy of a [schedule](crate::Topic::every) for ticks that were missed.
///
/// A tick is missed if the next one is due before its message was published. The workers were busy,
/// the process was suspended, or a manual clock has jumped. The tick after the missed ones is
/// published in any case. Missed ticks for which nothing is published are counted
/// ([`ticks_skipped`](crate::metrics::TopicMetrics::ticks_skipped)), and observers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissedTicks {
    /// Nothing is published for missed ticks. This is the default.
    #[default]
    Skip,
    /// One message is published for all missed ticks together.
    Once,
    /// A message is published for each missed tick, but for no more than this many at once. It is at
    /// most 1,024.
    All(u32),
}

impl MissedTicks {
    /// The most messages for missed ticks that one look publishes.
    pub(crate) const MOST: u32 = 1_024;

    fn most(self) -> u64 {
        match self {
            Self::Skip => 0,
            Self::Once => 1,
            Self::All(most) => u64::from(most),
        }
    }
}

/// The grid of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    next_ns: u64,
    period_ns: u64,
    missed: MissedTicks,
}

/// The ticks that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueTicks {
    /// Messages to publish.
    pub(crate) publish: u64,
    /// Ticks for which nothing is published.
    pub(crate) skipped: u64,
}

impl Ticks {
    /// Makes the ticks of a schedule that starts now. The first is due after one period, which is not
    /// zero.
    pub(crate) fn new(period_ns: u64, missed: MissedTicks, now_ns: u64) -> Self {
        Self {
            next_ns: now_ns.saturating_add(period_ns),
            period_ns,
            missed,
        }
    }

    /// Returns the time of the next tick.
    pub(crate) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes the ticks that are due.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> DueTicks {
        let Some(late_ns) = now_ns.checked_sub(self.next_ns) else {
            return DueTicks {
                publish: 0,
                skipped: 0,
            };
        };
        let missed = late_ns / self.period_ns;
        let made_up = missed.min(self.missed.most());
        let passed_ns = (missed + 1).saturating_mul(self.period_ns);
        self.next_ns = self.next_ns.saturating_add(passed_ns);
        DueTicks {
            publish: made_up + 1,
            skipped: missed - made_up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_skipped_made_up_for_at_once_or_one_by_one() {
        use MissedTicks::{All, Once, Skip};
        // The policy, the time of the look; messages, skipped ticks, the next tick.
        let table = [
            (Skip, 109, 0, 0, 110),
            (Skip, 110, 1, 0, 120),
            (Skip, 119, 1, 0, 120),
            (Skip, 120, 1, 1, 130),
            (Skip, 159, 1, 4, 160),
            (Once, 119, 1, 0, 120),
            (Once, 120, 2, 0, 130),
            (Once, 159, 2, 3, 160),
            (All(3), 119, 1, 0, 120),
            (All(3), 120, 2, 0, 130),
            (All(3), 149, 4, 0, 150),
            (All(3), 159, 4, 1, 160),
            (All(0), 159, 1, 4, 160),
        ];
        for (missed, now_ns, publish, skipped, next_ns) in table {
            let mut ticks = Ticks::new(10, missed, 100);
            let due = ticks.take_due(now_ns);
            assert_eq!(due, DueTicks { publish, skipped }, "{missed:?} at {now_ns}");
            assert_eq!(ticks.next_ns(), next_ns, "{missed:?} at {now_ns}");
        }
    }

    #[test]
    fn a_late_look_moves_no_later_tick_and_each_tick_is_taken_once() {
        for missed in [MissedTicks::Skip, MissedTicks::Once, MissedTicks::All(2)] {
            let mut ticks = Ticks::new(7, missed, 0);
            let (mut taken, mut now_ns) = (0, 0);
            for step in [1, 6, 7, 3, 30, 0, 7, 100, 5, 14] {
                now_ns += step;
                let due = ticks.take_due(now_ns);
                taken += due.publish + due.skipped;
                assert_eq!(taken, now_ns / 7);
                assert_eq!(ticks.next_ns() % 7, 0, "it stays on the grid");
                assert!(ticks.next_ns() > now_ns);
            }
        }
    }

    #[test]
    fn no_time_is_too_far() {
        let mut ticks = Ticks::new(u64::MAX, MissedTicks::All(1), 1);
        assert_eq!(ticks.next_ns(), u64::MAX);
        ticks.take_due(u64::MAX);
        assert_eq!(ticks.next_ns(), u64::MAX);
        let mut ticks = Ticks::new(1, MissedTicks::Once, 0);
        assert_eq!(ticks.take_due(u64::MAX).publish, 2);
        assert_eq!(ticks.next_ns(), u64::MAX);
    }
}
