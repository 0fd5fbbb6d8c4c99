//! Which letter a subscriber to dead letters is handed next.
//!
//! Letters have numbers in the order in which they arrived. The subscriber goes through them once.
//! A letter that it puts off, or fails at, comes again when its time has come, before those that
//! the subscriber has not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The pause after a first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Returns the pause before a letter comes again, after so many failures in a row.
pub fn pause_after(failures: u32) -> Duration {
    let factor = 1 << failures.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

/// The progress of a subscriber through the letters of one store.
#[derive(Debug, Default)]
pub struct Reading {
    /// The number of the first letter that it has not seen.
    next: u64,
    /// Letters that are to come again: the time, and the failures in a row.
    later: BTreeMap<u64, (u64, u32)>,
    /// The same letters, by their times.
    due: BTreeSet<(u64, u64)>,
}

impl Reading {
    /// Returns the letters that are to come again by now, the longest due first.
    pub fn due(&self, now_ns: u64) -> impl Iterator<Item = u64> {
        let due = self.due.range(..=(now_ns, u64::MAX));
        due.map(|(_, arrival)| *arrival)
    }

    /// Returns the first time after now at which a letter comes again.
    pub fn next_due_ns(&self, now_ns: u64) -> Option<u64> {
        let mut later = self.due.range((now_ns.saturating_add(1), 0)..);
        later.next().map(|(due_ns, _)| *due_ns)
    }

    /// Returns the number of the first letter that it has not seen.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Notes that the letter with this number is handed out. Returns how often it has failed in a
    /// row.
    pub fn take(&mut self, arrival: u64) -> u32 {
        self.next = self.next.max(arrival.saturating_add(1));
        self.forget(arrival)
    }

    /// Has a letter come again at this time.
    pub fn put_off(&mut self, arrival: u64, due_ns: u64, failures: u32) {
        self.forget(arrival);
        self.later.insert(arrival, (due_ns, failures));
        self.due.insert((due_ns, arrival));
    }

    /// Forgets a letter that is gone. Returns how often it has failed in a row.
    pub fn forget(&mut self, arrival: u64) -> u32 {
        let Some((due_ns, failures)) = self.later.remove(&arrival) else {
            return 0;
        };
        self.due.remove(&(due_ns, arrival));
        failures
    }

    /// Returns how many letters are to come again.
    pub fn put_off_count(&self) -> usize {
        self.later.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let secs = |failures| pause_after(failures).as_secs();
        assert_eq!([1, 2, 3, 9, 10].map(secs), [1, 2, 4, 256, 300]);
        assert_eq!(secs(u32::MAX), 300);
    }

    #[test]
    fn a_letter_is_seen_once_and_again_when_its_time_has_come() {
        let mut reading = Reading::default();
        assert_eq!((reading.take(0), reading.take(1)), (0, 0));
        assert_eq!(reading.next(), 2);
        reading.put_off(1, 30, 1);
        reading.put_off(0, 20, 2);
        assert_eq!(reading.due(19).count(), 0);
        assert_eq!(reading.next_due_ns(19), Some(20));
        assert_eq!(reading.due(30).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(
            (reading.next_due_ns(20), reading.next_due_ns(30)),
            (Some(30), None)
        );
        assert_eq!((reading.take(0), reading.next()), (2, 2));
        assert_eq!(reading.due(30).collect::<Vec<_>>(), [1]);
        reading.put_off(1, 40, 5);
        assert_eq!((reading.due(30).count(), reading.put_off_count()), (0, 1));
        assert_eq!((reading.forget(1), reading.forget(1)), (5, 0));
        assert_eq!((reading.put_off_count(), reading.next_due_ns(0)), (0, None));
    }
}
