//! The messages that an observer of a topic has skipped, and has yet to be told of.

use std::collections::VecDeque;

/// The most gaps that are kept apart. Beyond that, the latest ones are told together.
const MOST: usize = 64;

/// Messages that were skipped, by the last of each gap.
#[derive(Default)]
pub(crate) struct Gaps {
    untold: VecDeque<(u64, u64)>,
    total: u64,
}

impl Gaps {
    /// Adds `count` messages that were skipped, the last of which has this number.
    pub(crate) fn add(&mut self, last: u64, count: u64) {
        self.total += count;
        let is_full = self.untold.len() == MOST;
        match self.untold.back_mut().filter(|_| is_full) {
            Some(latest) => *latest = (latest.0.max(last), latest.1 + count),
            None => self.untold.push_back((last, count)),
        }
    }

    /// Returns how many messages were skipped before this one and have not been told, which they
    /// are now.
    pub(crate) fn tell_before(&mut self, id: u64) -> u64 {
        let mut told = 0;
        self.untold.retain(|(last, count)| {
            let is_before = *last < id;
            told += if is_before { *count } else { 0 };
            !is_before
        });
        told
    }

    /// Returns how many messages were skipped in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gap_is_told_once_to_what_comes_behind_it() {
        let mut gaps = Gaps::default();
        gaps.add(4, 2);
        gaps.add(7, 1);
        let told: Vec<_> = [2, 5, 5, 6, 9, 10].map(|id| gaps.tell_before(id)).into();
        assert_eq!(told, [0, 2, 0, 0, 1, 0]);
        assert_eq!(gaps.total(), 3);
    }

    #[test]
    fn gaps_that_nobody_asks_for_take_little_room_and_none_is_lost() {
        let mut gaps = Gaps::default();
        for id in 1..=1_000 {
            gaps.add(2 * id, 1);
        }
        assert!(gaps.untold.len() <= MOST);
        assert_eq!(gaps.tell_before(101), 50);
        assert_eq!(gaps.tell_before(1_999), 13, "the latest are told together");
        assert_eq!(gaps.tell_before(2_001), 1_000 - 63);
    }
}
