//! The sequence numbers that a subscription is done with.

use std::collections::BTreeMap;

use crate::pure::log::bytes::{Malformed, Reader, put_varint};

/// A set of sequence numbers: all below a low-water mark, and ranges above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// The first number that is not done.
    next: u64,
    /// The ranges above, by their first number; the value is the number after the last.
    above: BTreeMap<u64, u64>,
}

impl Done {
    /// Everything before `next` is done.
    pub(crate) fn before(next: u64) -> Self {
        Self {
            next,
            above: BTreeMap::new(),
        }
    }

    /// Returns the first number that is not done.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        number < self.next
            || self
                .above
                .range(..=number)
                .next_back()
                .is_some_and(|(_, to)| number < *to)
    }

    /// Returns the number after the highest that is done.
    pub(crate) fn end(&self) -> u64 {
        self.above.values().next_back().map_or(self.next, |to| *to)
    }

    /// Returns how many ranges there are above the low-water mark.
    pub(crate) fn gaps(&self) -> usize {
        self.above.len()
    }

    /// Returns the ranges above the low-water mark.
    pub(crate) fn above(&self) -> impl Iterator<Item = (u64, u64)> {
        self.above.iter().map(|(from, to)| (*from, *to))
    }

    /// Adds the numbers from `from` up to `to`, which is not among them.
    pub(crate) fn add(&mut self, mut from: u64, mut to: u64) {
        if from >= to || to <= self.next {
            return;
        }
        if from > self.next {
            // Those that touch the new range become one with it.
            while let Some((start, end)) = self.above.range(..=to).next_back() {
                let (start, end) = (*start, *end);
                if end < from {
                    break;
                }
                self.above.remove(&start);
                from = from.min(start);
                to = to.max(end);
            }
            self.above.insert(from, to);
            return;
        }
        self.next = to;
        while let Some(first) = self.above.first_entry() {
            if *first.key() > self.next {
                break;
            }
            self.next = self.next.max(first.remove());
        }
    }

    /// Writes the ranges above the low-water mark, each by its distance from the one before.
    pub(crate) fn put_above(&self, out: &mut Vec<u8>) {
        put_ranges(out, self.next, self.above());
    }
}

/// Writes ascending ranges, each by its distance from the one before. The first starts at `base`
/// or later.
pub(crate) fn put_ranges(out: &mut Vec<u8>, base: u64, ranges: impl Iterator<Item = (u64, u64)>) {
    let mut at = base;
    for (from, to) in ranges {
        put_varint(out, from - at);
        put_varint(out, to - from);
        at = to;
    }
}

/// Reads what [`put_ranges`] wrote, to the end of the reader.
pub(crate) fn read_ranges(
    mut reader: Reader<'_>,
    base: u64,
    mut add: impl FnMut(u64, u64),
) -> Result<(), Malformed> {
    let mut at = base;
    while !reader.is_empty() {
        let from = at.checked_add(reader.varint()?).ok_or(Malformed)?;
        let to = from.checked_add(reader.varint()?).ok_or(Malformed)?;
        if from == to {
            return Err(Malformed);
        }
        add(from, to);
        at = to;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_added(
            adds in prop::collection::vec((1_u64..60, 0_u64..12), 0..40),
        ) {
            let mut done = Done::before(3);
            let mut set: BTreeSet<u64> = (0..3).collect();
            for (from, length) in adds {
                done.add(from, from + length);
                set.extend(from..from + length);
                for number in 0..80 {
                    prop_assert_eq!(done.contains(number), set.contains(&number));
                }
                prop_assert_eq!(done.next(), (0..).find(|n| !set.contains(n)).unwrap());
                let mut at = done.next();
                for (from, to) in done.above() {
                    prop_assert!(at < from && from < to, "ranges touch");
                    at = to;
                }
            }
            let mut bytes = Vec::new();
            done.put_above(&mut bytes);
            let mut back = Done::before(done.next());
            read_ranges(Reader::new(&bytes), done.next(), |from, to| back.add(from, to)).unwrap();
            prop_assert_eq!(back, done);
        }
    }

    #[test]
    fn ranges_beyond_the_last_number_are_malformed() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, u64::MAX);
        put_varint(&mut bytes, 1);
        assert_eq!(
            read_ranges(Reader::new(&bytes), 5, |_, _| ()),
            Err(Malformed)
        );
    }
}
