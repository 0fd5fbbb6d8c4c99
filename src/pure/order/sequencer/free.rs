//! Deliveries without a key, in the order in which they go.
//!
//! Nearly all of them come in their order and go in it, so each tier has a queue. A delivery that
//! comes out of order is put into its place, and one that goes out of order is searched for.

use std::collections::VecDeque;

use crate::pure::order::levels::tier_of;
use crate::pure::order::line::{Class, Entry, Lists, Rank};

/// A queue that has run empty keeps room for so many deliveries.
const KEPT: usize = 1_024;

/// The deliveries of one class, by tier and rank.
pub(crate) struct Queues<D> {
    /// As many as the highest tier so far needs. Without levels there is one.
    tiers: Vec<VecDeque<Entry<D>>>,
    len: usize,
}

impl<D> Queues<D> {
    const EMPTY: Self = Self {
        tiers: Vec::new(),
        len: 0,
    };

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the first delivery of a tier.
    pub(crate) fn first(&self, tier: u64) -> Option<&Entry<D>> {
        self.tiers.get(tier as usize)?.front()
    }

    pub(crate) fn get(&self, rank: Rank) -> Option<&Entry<D>> {
        let queue = self.tiers.get(tier_of(rank) as usize)?;
        let first = queue.front().filter(|entry| entry.rank == rank);
        first.or_else(|| queue.get(place_of(queue, rank)?))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry<D>> {
        self.tiers.iter().flatten()
    }

    /// Adds a delivery, in its place.
    pub(crate) fn insert(&mut self, entry: Entry<D>) {
        let tier = tier_of(entry.rank) as usize;
        if self.tiers.len() <= tier {
            self.tiers.resize_with(tier + 1, VecDeque::new);
        }
        let queue = &mut self.tiers[tier];
        self.len += 1;
        if queue.back().is_none_or(|last| last.rank < entry.rank) {
            return queue.push_back(entry);
        }
        let at = queue.partition_point(|other| other.rank < entry.rank);
        queue.insert(at, entry);
    }

    /// Takes the first delivery of a tier.
    #[inline]
    pub(crate) fn pop(&mut self, tier: u64) -> Option<Entry<D>> {
        let queue = self.tiers.get_mut(tier as usize)?;
        let entry = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() && queue.capacity() > KEPT {
            *queue = VecDeque::new();
        }
        Some(entry)
    }

    pub(crate) fn remove(&mut self, rank: Rank) -> Option<Entry<D>> {
        let tier = tier_of(rank);
        if self.first(tier)?.rank == rank {
            return self.pop(tier);
        }
        let queue = self.tiers.get_mut(tier as usize)?;
        let entry = queue.remove(place_of(queue, rank)?)?;
        self.len -= 1;
        Some(entry)
    }

    /// Takes all deliveries that are chosen, in order, and leaves the others as they are.
    pub(crate) fn extract(&mut self, mut chosen: impl FnMut(&D) -> bool, out: &mut Vec<Entry<D>>) {
        for queue in &mut self.tiers {
            for _ in 0..queue.len() {
                let Some(entry) = queue.pop_front() else {
                    break;
                };
                match chosen(&entry.item) {
                    true => out.push(entry),
                    false => queue.push_back(entry),
                }
            }
        }
        self.len = self.tiers.iter().map(VecDeque::len).sum();
    }

    fn into_entries(self) -> impl Iterator<Item = Entry<D>> {
        self.tiers.into_iter().flatten()
    }
}

/// Returns the place of the delivery with this rank.
fn place_of<D>(queue: &VecDeque<Entry<D>>, rank: Rank) -> Option<usize> {
    queue.binary_search_by_key(&rank, |entry| entry.rank).ok()
}

/// All deliveries without a key.
pub(crate) type Free<D> = Lists<Queues<D>>;

impl<D> Free<D> {
    pub(crate) const EMPTY: Self = Self {
        new: Queues::EMPTY,
        requeued: Queues::EMPTY,
        again: Queues::EMPTY,
    };

    pub(crate) fn len(&self) -> usize {
        self.new.len + self.requeued.len + self.again.len
    }

    /// Takes everything, class by class.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry<D>> + use<D> {
        let all = std::mem::replace(self, Self::EMPTY);
        let classes = [all.new, all.requeued, all.again].into_iter();
        classes.flat_map(Queues::into_entries)
    }

    pub(crate) fn insert(&mut self, entry: Entry<D>) {
        self.of_mut(entry.class).insert(entry);
    }

    pub(crate) fn extract(&mut self, mut chosen: impl FnMut(&D) -> bool) -> Vec<Entry<D>> {
        let mut out = Vec::new();
        for class in [Class::New, Class::Requeued, Class::Again] {
            self.of_mut(class).extract(&mut chosen, &mut out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(rank: Rank) -> Entry<u64> {
        Entry {
            id: rank.0,
            class: Class::New,
            rank,
            item: rank.0,
        }
    }

    #[test]
    fn a_long_queue_that_has_run_empty_gives_its_memory_back() {
        let mut all: Queues<u64> = Queues::EMPTY;
        for id in 0..=2 * KEPT as u64 {
            all.insert(entry((id, 0)));
        }
        while all.pop(0).is_some() {}
        assert_eq!((all.len(), all.tiers[0].capacity()), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(Rank),
        Remove(Rank),
        Pop(u64),
        Extract(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let rank =
            || (0..4_u64, 0..9_u64, 0..2_u64).prop_map(|(tier, id, at)| (tier << 62 | id, at));
        prop_oneof![
            4 => rank().prop_map(Act::Insert),
            2 => rank().prop_map(Act::Remove),
            2 => (0..4_u64).prop_map(Act::Pop),
            1 => (2..5_u64).prop_map(Act::Extract),
        ]
    }

    proptest! {
        #[test]
        fn queues_are_a_map_by_rank(acts in proptest::collection::vec(act(), 0..100)) {
            let mut all: Queues<u64> = Queues::EMPTY;
            let mut map: BTreeMap<Rank, u64> = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Insert(rank) if map.contains_key(&rank) => {}
                    Act::Insert(rank) => {
                        map.insert(rank, rank.0);
                        all.insert(entry(rank));
                    }
                    Act::Remove(rank) => {
                        prop_assert_eq!(all.get(rank).map(|entry| entry.item), map.get(&rank).copied());
                        prop_assert_eq!(all.remove(rank).map(|entry| entry.item), map.remove(&rank));
                    }
                    Act::Pop(tier) => {
                        let first = map.keys().find(|rank| tier_of(**rank) == tier).copied();
                        prop_assert_eq!(all.first(tier).map(|entry| entry.rank), first);
                        prop_assert_eq!(all.pop(tier).map(|entry| entry.rank), first);
                        first.map(|rank| map.remove(&rank));
                    }
                    Act::Extract(each) => {
                        let mut out = Vec::new();
                        all.extract(|item| item % each == 0, &mut out);
                        let gone: Vec<u64> = map.extract_if(.., |_, item| *item % each == 0).map(|(_, item)| item).collect();
                        prop_assert_eq!(out.into_iter().map(|entry| entry.item).collect::<Vec<_>>(), gone);
                    }
                }
                prop_assert_eq!(all.len(), map.len());
                let ranks: Vec<Rank> = all.iter().map(|entry| entry.rank).collect();
                prop_assert_eq!(ranks, map.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
