//! Deliveries whose keys are parked, until their fate is decided.

use crate::engine::parts::pending::PendingDelivery;
use crate::pure::order::sequencer::Key;

use std::collections::{BTreeMap, BTreeSet};

/// The number of parked keys from which on a lane looks for some to forget.
pub(crate) const FORGET_AT: usize = 64;

/// Deliveries of parked keys. They follow into the dead-letter store, or go on when their key is
/// freed.
pub(crate) struct ParkedArrivals<T> {
    /// The deliveries of each key, by message id.
    pub(crate) lines: BTreeMap<Key, BTreeMap<u64, PendingDelivery<T>>>,
    count: usize,
    /// Keys for the lane's runner to judge.
    pub(crate) news: BTreeSet<Key>,
}

impl<T> ParkedArrivals<T> {
    pub(crate) const fn none() -> Self {
        Self {
            lines: BTreeMap::new(),
            count: 0,
            news: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn are_to_be_judged(&self) -> bool {
        !self.news.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PendingDelivery<T>> {
        self.lines.values().flat_map(BTreeMap::values)
    }

    /// Has the lane's runner judge all of them.
    pub(crate) fn judge_all(&mut self) {
        self.news.extend(self.lines.keys());
    }

    pub(crate) fn add(&mut self, key: Key, arrival: PendingDelivery<T>) {
        let line = self.lines.entry(key).or_default();
        line.insert(arrival.id().get(), arrival);
        self.count += 1;
        self.news.insert(key);
    }

    /// Returns whether a delivery of the key is here that comes before this message.
    pub(crate) fn precede(&self, key: Key, id: u64) -> bool {
        let first = self.lines.get(&key).and_then(|line| line.first_key_value());
        first.is_some_and(|(first, _)| *first < id)
    }

    /// Takes the first delivery of a key.
    pub(crate) fn pop(&mut self, key: Key) -> Option<PendingDelivery<T>> {
        let line = self.lines.get_mut(&key)?;
        let (_, first) = line.pop_first()?;
        if line.is_empty() {
            self.lines.remove(&key);
        }
        self.count -= 1;
        Some(first)
    }

    /// Takes all deliveries of a key, in order.
    pub(crate) fn take(&mut self, key: Key) -> impl Iterator<Item = PendingDelivery<T>> + use<T> {
        let line = self.lines.remove(&key).unwrap_or_default();
        self.count -= line.len();
        line.into_values()
    }

    /// Takes out all deliveries that are `chosen`.
    pub(crate) fn extract(
        &mut self,
        mut chosen: impl FnMut(&PendingDelivery<T>) -> bool,
    ) -> Vec<PendingDelivery<T>> {
        let mut out = Vec::new();
        self.lines.retain(|_, line| {
            let ids = line.iter().filter(|(_, arrival)| chosen(arrival));
            let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
            out.extend(ids.iter().filter_map(|id| line.remove(id)));
            !line.is_empty()
        });
        self.count -= out.len();
        out
    }

    /// Takes all.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = PendingDelivery<T>> + use<T> {
        let all = std::mem::replace(self, Self::none());
        all.lines.into_values().flat_map(BTreeMap::into_values)
    }
}
