//! Where subscriptions start. Each gets the messages whose ids are greater than those that had been
//! given out when it came.
//!
//! Ids decide, and not places in the queue. Racing publishers push a little out of the order of
//! their ids, and a delayed message enters long after it was accepted.

use std::ops::RangeInclusive;

/// The latest start of a subscription that older messages may still meet. The dispatcher asks each
/// lane what it wants only while there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starts(u64);

impl Starts {
    /// No start: every message is for all subscriptions.
    pub const NONE: Self = Self(0);

    /// Begins a start: a subscription comes that wants nothing up to this id.
    pub fn begin(self, after: u64) -> (Self, ()) {
        (Self(self.0.max(after)), ())
    }

    /// Ends a start, because all older messages have gone, unless somebody has come since.
    pub fn end(self, passed: Self) -> (Self, ()) {
        let next = if self == passed { Self::NONE } else { self };
        (next, ())
    }

    /// Returns whether a message is younger than all starts.
    pub fn precede(self, id: u64) -> bool {
        self.0 < id
    }
}

impl crate::pure::words::Packed for Starts {
    fn pack(self) -> u64 {
        self.0
    }

    fn unpack(word: u64) -> Self {
        Self(word)
    }
}

/// Returns the ids that the same subscriptions want as this one, given where they start.
pub(crate) fn alike(id: u64, starts: impl Iterator<Item = u64>) -> RangeInclusive<u64> {
    let (mut least, mut most) = (0, u64::MAX);
    for after in starts {
        if after < id {
            least = least.max(after + 1);
        } else {
            most = most.min(after);
        }
    }
    least..=most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_alike_if_no_start_lies_between_them() {
        let wanted = |id: u64, starts: &[u64]| -> Vec<bool> {
            starts.iter().map(|after| *after < id).collect()
        };
        for starts in [&[][..], &[0], &[3], &[0, 3, 3], &[2, 5, u64::MAX]] {
            for first in 1..8 {
                let range = alike(first, starts.iter().copied());
                for id in 1..8 {
                    let same = wanted(id, starts) == wanted(first, starts);
                    assert_eq!(range.contains(&id), same, "{starts:?} {first} {id}");
                }
            }
        }
    }

    #[test]
    fn a_start_is_forgotten_unless_a_later_one_has_come() {
        let (early, ()) = Starts::NONE.begin(7);
        let (late, ()) = early.begin(9);
        assert_eq!(late.begin(8).0, late);
        assert_eq!(early.end(early).0, Starts::NONE);
        assert_eq!(late.end(early).0, late);
        assert!(late.precede(10) && !late.precede(9));
    }
}
