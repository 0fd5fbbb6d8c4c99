//! A rate limit in one word: the generic cell rate algorithm (ITU-T I.371), in whole nanoseconds.
//!
//! The word is a time: all deliveries that have passed are paid for by then, at one *interval* each.
//! A delivery may pass if that puts the time at most a burst of intervals ahead of now. So there is
//! nothing to refill, and a single compare-and-swap moves the word. A limit whose interval is zero
//! holds nothing.
//!
//! The top bit of the word says that it was moved by [`Gcra::hold_off`] and not by deliveries. So a
//! wait has the right reason, and a permit that comes back can't shorten the wait that a handler
//! asked for.

use std::time::Duration;

use crate::pure::protect::gate::WaitingFor;
use crate::types::duration::nanos;
use crate::types::error::SettingError;

/// The word was moved by a handler that asked for a pause.
const HELD: u64 = 1 << 63;
/// The latest time that the word can say, which no clock passes.
const LATEST: u64 = HELD - 1;
/// The longest interval, and the longest time of a burst: 146 years. Their sum with any time fits.
const LONGEST_NS: u64 = HELD / 2;
/// Permits of this time are the least burst, unless another is asked for.
const BURST_NS: u64 = 10_000_000;

/// The settings of a rate limit: how many deliveries or messages may pass in a time.
///
/// They pass evenly: 100 per second are one every 10 ms. Unused permits are kept up to the
/// [burst](Self::burst). So no span of time sees more than the burst and the permits of that span.
///
/// ```
/// use millstream::protect::RateLimit;
/// use std::time::Duration;
///
/// let limit = RateLimit::new(100, Duration::from_secs(1)).burst(20);
/// # let _ = limit;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a topic or a subscription has it"]
pub struct RateLimit {
    count: u32,
    per: Duration,
    burst: Option<u32>,
}

impl RateLimit {
    /// Lets `count` pass in each `per`.
    ///
    /// The time from one to the next is rounded up to whole nanoseconds. Up to a million per second
    /// this makes the rate less than 0.1% lower.
    pub fn new(count: u32, per: Duration) -> Self {
        let burst = None;
        Self { count, per, burst }
    }

    /// Sets how many may pass at once after a pause.
    ///
    /// The default is the permits of 10 ms, and at least 1. So timers that are a little late cost a
    /// high rate nothing. The least is 1.
    pub fn burst(self, burst: u32) -> Self {
        Self {
            burst: Some(burst),
            ..self
        }
    }

    /// Refuses settings that are out of range.
    pub(crate) fn check(self) -> Result<(), SettingError> {
        if self.count == 0 {
            let rule = "must be at least 1; to let nothing pass, pause";
            return Err(SettingError::new("count", 0, rule));
        }
        if nanos(self.per) < u64::from(self.count) {
            let rule = "must be at least a nanosecond for each";
            return Err(SettingError::new(
                "per",
                format_args!("{:?}", self.per),
                rule,
            ));
        }
        match self.burst {
            Some(0) => Err(SettingError::new("burst", 0, "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// Returns the machine of these settings, which have been checked.
    pub(crate) fn gcra(self) -> Gcra {
        let interval_ns = nanos(self.per).div_ceil(u64::from(self.count));
        let interval_ns = interval_ns.min(LONGEST_NS);
        let burst = match self.burst {
            Some(burst) => u64::from(burst),
            None => BURST_NS / interval_ns,
        };
        let burst = burst.max(1);
        Gcra {
            interval_ns,
            burst_ns: burst.saturating_mul(interval_ns).min(LONGEST_NS),
        }
    }
}

/// The steps of the word of a rate limit. A word of zero has its whole burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gcra {
    interval_ns: u64,
    /// How far the word may be ahead of now.
    burst_ns: u64,
}

/// The answer of a limit that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// One may pass at this time, if no other takes its place.
    pub(crate) until_ns: u64,
    /// A handler asked for the wait.
    pub(crate) is_hold_off: bool,
}

impl Wait {
    /// Returns the reason of the wait, as users are told it.
    pub(crate) fn reason(self) -> WaitingFor {
        match self.is_hold_off {
            true => WaitingFor::HoldOff,
            false => WaitingFor::Rate,
        }
    }
}

impl Gcra {
    /// No limit, for a lane that is held off by its handler alone.
    pub(crate) const UNLIMITED: Self = Self {
        interval_ns: 0,
        burst_ns: 0,
    };

    /// Takes up to `wanted` permits, and returns the next word and how many it took: one at least.
    pub(crate) fn take(self, word: u64, now_ns: u64, wanted: u32) -> Result<(u64, u32), Wait> {
        let now_ns = now_ns.min(LATEST);
        let paid_ns = (word & LATEST).max(now_ns);
        let room_ns = (now_ns + self.burst_ns).checked_sub(paid_ns);
        let Some(room_ns) = room_ns.filter(|room_ns| *room_ns >= self.interval_ns) else {
            return Err(Wait {
                until_ns: paid_ns.saturating_sub(self.slack_ns()),
                is_hold_off: word & HELD != 0,
            });
        };
        let granted = match u64::from(wanted).checked_mul(self.interval_ns) {
            Some(all_ns) if all_ns <= room_ns => wanted,
            // The interval is not zero, or all would have fitted.
            _ => (room_ns / self.interval_ns) as u32,
        };
        let next_ns = paid_ns + u64::from(granted) * self.interval_ns;
        Ok((next_ns.min(LATEST), granted))
    }

    /// Puts back permits that were taken and not used.
    pub(crate) fn give_back(self, word: u64, count: u32) -> u64 {
        match word & HELD {
            0 => word.saturating_sub(u64::from(count).saturating_mul(self.interval_ns)),
            _ => word,
        }
    }

    /// Lets nothing pass until this time, and then one per interval: the burst is spent.
    ///
    /// A wait that is longer already stays as it is.
    pub(crate) fn hold_off(self, word: u64, until_ns: u64) -> u64 {
        let next_ns = until_ns.saturating_add(self.slack_ns()).min(LATEST);
        match next_ns > word & LATEST {
            true => next_ns | HELD,
            false => word,
        }
    }

    /// Returns the word under this limit that stands for `word` under the one before.
    ///
    /// Permits that are spent stay spent, as far as the new burst goes. A hold-off stays.
    pub(crate) fn carry(self, before: Self, word: u64, now_ns: u64) -> u64 {
        let paid_ns = word & LATEST;
        if word & HELD != 0 {
            return self.hold_off(0, paid_ns.saturating_sub(before.slack_ns()));
        }
        let ahead_ns = paid_ns.saturating_sub(now_ns);
        if before.interval_ns == 0 || ahead_ns == 0 {
            return word;
        }
        let spent = ahead_ns.div_ceil(before.interval_ns);
        let spent_ns = spent.saturating_mul(self.interval_ns).min(self.burst_ns);
        now_ns.saturating_add(spent_ns).min(LATEST)
    }

    /// Returns how far the word may be ahead of now while one may still pass.
    fn slack_ns(self) -> u64 {
        self.burst_ns - self.interval_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One per 10 ns, with this burst.
    fn gcra(burst: u32) -> Gcra {
        let limit = RateLimit::new(1, Duration::from_nanos(10));
        limit.burst(burst).gcra()
    }

    fn rate(until_ns: u64) -> Wait {
        Wait {
            until_ns,
            is_hold_off: false,
        }
    }

    fn held(until_ns: u64) -> Wait {
        Wait {
            until_ns,
            is_hold_off: true,
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_per_interval() {
        let gcra = gcra(3);
        let table = [
            (100, 2, Ok(2)),
            (100, 2, Ok(1)),
            (100, 1, Err(rate(110))),
            (109, 1, Err(rate(110))),
            (110, 9, Ok(1)),
            (125, 9, Ok(1)),
            (130, 9, Ok(1)),
            (1_000, 9, Ok(3)),
            (999, 1, Err(rate(1_010))), // read on another core, a little behind
        ];
        let mut word = 0;
        for (now, wanted, expected) in table {
            let taken = gcra.take(word, now, wanted);
            assert_eq!(taken.map(|(_, granted)| granted), expected, "at {now}");
            word = taken.map_or(word, |(next, _)| next);
        }
    }

    #[test]
    fn the_default_burst_is_what_comes_due_in_ten_milliseconds() {
        for (count, burst) in [(1, 1), (100, 1), (1_000, 10), (100_000, 1_000)] {
            let gcra = RateLimit::new(count, SECOND).gcra();
            let (_, granted) = gcra.take(0, 0, u32::MAX).expect("nothing was taken");
            assert_eq!(granted, burst, "{count} per second");
        }
    }

    #[test]
    fn an_interval_is_rounded_up_so_that_no_more_pass_than_was_said() {
        let ns = Duration::from_nanos;
        for (count, per, interval) in [(3, ns(10), 4), (7, SECOND, 142_857_143), (4, ns(4), 1)] {
            let gcra = RateLimit::new(count, per).gcra();
            assert_eq!(gcra.interval_ns, interval, "{count} per {per:?}");
        }
    }

    #[test]
    fn permits_that_come_back_can_be_taken_again() {
        let gcra = gcra(3);
        let (word, _) = gcra.take(0, 100, 3).expect("the burst");
        let word = gcra.give_back(word, 2);
        let (word, granted) = gcra.take(word, 100, 3).expect("two came back");
        assert_eq!(granted, 2);
        // So late that they have been made up for anyway, they add nothing.
        let word = gcra.give_back(word, 3);
        assert_eq!(gcra.take(word, 900, 9).map(|(_, granted)| granted), Ok(3));
        assert_eq!(gcra.give_back(5, 3), 0);
    }

    #[test]
    fn a_hold_off_ends_when_it_was_said_and_spends_the_burst() {
        for burst in [1, 3] {
            let gcra = gcra(burst);
            let word = gcra.hold_off(0, 500);
            assert_eq!(gcra.take(word, 499, 1), Err(held(500)));
            assert_eq!(gcra.give_back(word, 3), word, "nothing shortens it");
            assert_eq!(gcra.hold_off(word, 400), word, "a longer wait stays");
            let (word, granted) = gcra.take(word, 500, 9).expect("it is over");
            assert_eq!(granted, 1);
            assert_eq!(gcra.take(word, 500, 1), Err(rate(510)));
        }
    }

    #[test]
    fn without_a_limit_only_a_hold_off_holds() {
        let none = Gcra::UNLIMITED;
        assert_eq!(none.take(0, 0, u32::MAX), Ok((0, u32::MAX)));
        let word = none.hold_off(0, 500);
        assert_eq!(none.take(word, 499, 1), Err(held(500)));
        assert_eq!(none.take(word, 500, 7), Ok((500, 7)));
    }

    #[test]
    fn another_limit_takes_over_what_is_spent_and_what_is_held() {
        let slow = RateLimit::new(1, SECOND).burst(4).gcra();
        let fast = gcra(3);
        let (word, _) = slow.take(0, 0, 4).expect("the burst");
        let table = [
            (word, slow, fast, 0, Err(rate(10))),
            (word, slow, slow, 0, Err(rate(1_000_000_000))),
            // Two of the four have been made up for.
            (word, slow, fast, 2_000_000_000, Ok(1)),
            (word, slow, fast, 9_000_000_000, Ok(3)),
            (word, slow, Gcra::UNLIMITED, 0, Ok(9)),
            (0, Gcra::UNLIMITED, fast, 0, Ok(3)),
            (slow.hold_off(0, 77), slow, fast, 0, Err(held(77))),
            (
                fast.hold_off(0, 77),
                fast,
                Gcra::UNLIMITED,
                0,
                Err(held(77)),
            ),
            (
                Gcra::UNLIMITED.hold_off(0, 77),
                Gcra::UNLIMITED,
                slow,
                0,
                Err(held(77)),
            ),
        ];
        for (word, before, after, now, expected) in table {
            let carried = after.carry(before, word, now);
            let taken = after.take(carried, now, 9).map(|(_, granted)| granted);
            assert_eq!(taken, expected, "{before:?} to {after:?} at {now}");
        }
    }

    #[test]
    fn neither_the_end_of_time_nor_the_longest_interval_overflows() {
        let endless = RateLimit::new(1, Duration::MAX).burst(u32::MAX).gcra();
        for gcra in [Gcra::UNLIMITED, gcra(1), gcra(u32::MAX), endless] {
            for word in [0, LATEST, HELD | LATEST] {
                for now in [0, LATEST, u64::MAX] {
                    let _ = gcra.take(word, now, u32::MAX);
                    let _ = gcra.hold_off(word, now);
                    let _ = gcra.give_back(word, u32::MAX);
                    let _ = gcra.carry(endless, word, now);
                    let _ = endless.carry(gcra, word, now);
                }
            }
        }
        for now in [0, 5, LATEST] {
            assert!(endless.take(0, now, 1).is_ok(), "the first passes");
        }
        let never = gcra(1).hold_off(0, u64::MAX);
        assert!(gcra(1).take(never, LATEST - 1, 1).is_err());
    }

    #[test]
    fn settings_out_of_range_are_refused_by_their_name() {
        let table = [
            ("", RateLimit::new(1, SECOND)),
            ("", RateLimit::new(1_000_000_000, SECOND).burst(1)),
            ("count", RateLimit::new(0, SECOND)),
            ("per", RateLimit::new(1, Duration::ZERO)),
            ("per", RateLimit::new(1_000_000_001, SECOND)),
            ("burst", RateLimit::new(1, SECOND).burst(0)),
        ];
        for (setting, limit) in table {
            let refused = limit.check().err();
            let refused = refused.as_ref().map_or("", SettingError::setting);
            assert_eq!(refused, setting, "{limit:?}");
        }
    }

    proptest! {
        /// The model is a bucket that is filled as time passes, and from which permits are taken.
        #[test]
        fn it_grants_what_a_bucket_of_permits_grants(
            interval in 1_u64..50,
            burst in 1_u32..6,
            steps in prop::collection::vec((0_u64..80, 1_u32..8, any::<bool>()), 0..100),
        ) {
            let limit = RateLimit::new(1, Duration::from_nanos(interval)).burst(burst);
            let gcra = limit.gcra();
            let full = interval * u64::from(burst);
            let (mut word, mut level, mut now) = (0, full, 0);
            for (passed, wanted, is_back) in steps {
                now += passed;
                level = (level + passed).min(full);
                let fits = (level / interval).min(u64::from(wanted)) as u32;
                match gcra.take(word, now, wanted) {
                    Ok((next, granted)) => {
                        prop_assert_eq!(granted, fits);
                        word = next;
                        level -= u64::from(granted) * interval;
                        if is_back {
                            word = gcra.give_back(word, granted);
                            level += u64::from(granted) * interval;
                        }
                    }
                    Err(wait) => {
                        prop_assert_eq!(fits, 0);
                        prop_assert_eq!(wait, rate(now + interval - level));
                        prop_assert!(gcra.take(word, wait.until_ns - 1, 1).is_err());
                        prop_assert!(gcra.take(word, wait.until_ns, 1).is_ok());
                    }
                }
            }
        }

        /// However takes and hold-offs come, no span sees more than a burst and its own permits.
        #[test]
        fn no_span_of_time_sees_more_than_the_burst_and_its_permits(
            count in 1_u32..2_000,
            burst in 1_u32..10,
            steps in prop::collection::vec((0_u64..900_000, 1_u32..6, 0_u64..20), 0..60),
        ) {
            let limit = RateLimit::new(count, Duration::from_millis(1)).burst(burst);
            let gcra = limit.gcra();
            let (mut word, mut now, mut held_until) = (0, 0, 0);
            let mut granted: Vec<(u64, u64)> = Vec::new();
            for (passed, wanted, hold) in steps {
                now += passed;
                if let Ok((next, count)) = gcra.take(word, now, wanted) {
                    prop_assert!(now >= held_until, "nothing passes while it is held off");
                    word = next;
                    granted.push((now, u64::from(count)));
                }
                if hold == 0 {
                    held_until = held_until.max(now + 300_000);
                    word = gcra.hold_off(word, now + 300_000);
                }
            }
            for (at, (first, _)) in granted.iter().enumerate() {
                let mut sum = 0;
                for (last, granted) in &granted[at..] {
                    sum += granted;
                    let permits = u128::from(last - first) * u128::from(count) / 1_000_000;
                    prop_assert!(u128::from(sum) <= u128::from(burst) + permits);
                }
            }
        }
    }
}
