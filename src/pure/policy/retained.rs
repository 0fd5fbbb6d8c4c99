//! The newest messages of a topic, kept for subscriptions that come late.
//!
//! A topic keeps its last messages, or the last message of each key. Messages come in runs: adjacent
//! messages of one batch. A batch that leaves is handed back, because its payloads are the user's,
//! and the caller may hold a lock.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

use crate::types::error::SettingError;
use crate::types::range::in_range;

/// Which messages a topic keeps for subscriptions that come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retain {
    /// The last messages, at most so many.
    Last(usize),
    /// The last message of each key, for at most so many keys.
    PerKey(usize),
}

impl Retain {
    /// Returns the name of the setting, and the most messages that it keeps.
    fn parts(self) -> (&'static str, usize) {
        match self {
            Self::Last(messages) => ("retain_last", messages),
            Self::PerKey(keys) => ("retain_last_per_key", keys),
        }
    }

    /// Refuses numbers out of range, and more messages than fit the lane of a subscription.
    pub(crate) fn check(self, lane_capacity: usize) -> Result<(), SettingError> {
        let (setting, most) = self.parts();
        in_range(setting, Some(most), most)?;
        if most > lane_capacity {
            let rule = "must not exceed lane_capacity, or a late subscription had no room for all";
            return Err(SettingError::new(setting, most, rule));
        }
        Ok(())
    }

    /// Refuses it for a topic that has every message in its log.
    #[cfg(feature = "log")]
    pub(crate) fn refuse_durable(self) -> SettingError {
        let (setting, most) = self.parts();
        let rule = "must not be set in a durable topic: subscribe with `from(Start)` instead";
        SettingError::new(setting, most, rule)
    }
}

/// The messages that are kept, by the batches `V` that they are in.
pub(crate) enum Retained<K, V> {
    Last(Last<V>),
    PerKey(PerKey<K, V>),
}

impl<K, V> Retained<K, V>
where
    K: Clone + Eq + Hash + Borrow<str> + for<'k> From<&'k str>,
    V: Clone,
{
    pub(crate) fn new(retain: Retain) -> Self {
        match retain {
            Retain::Last(most) => Self::Last(Last::new(most)),
            Retain::PerKey(most) => Self::PerKey(PerKey::new(most)),
        }
    }

    /// Keeps the messages of a batch from `from` up to `to`, the newest there are. `key` says which
    /// key a message has. Adds to `gone` the batches of those that had to leave.
    pub(crate) fn keep<'k>(
        &mut self,
        of: &V,
        from: u32,
        to: u32,
        key: impl Fn(u32) -> Option<&'k str>,
        gone: &mut Vec<V>,
    ) {
        match self {
            Self::Last(last) => last.keep(of, from, to, gone),
            Self::PerKey(per_key) => {
                for index in from..to {
                    per_key.keep(of, index, key(index), gone);
                }
            }
        }
    }

    /// Returns the messages, oldest first: each by its batch and its place in it.
    pub(crate) fn list(&self) -> Vec<(V, u32)> {
        match self {
            Self::Last(last) => last.list(),
            Self::PerKey(per_key) => {
                let kept = per_key.kept.values();
                kept.map(|kept| (kept.of.clone(), kept.index)).collect()
            }
        }
    }

    /// Returns how many messages it keeps.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Last(last) => last.len,
            Self::PerKey(per_key) => per_key.kept.len(),
        }
    }

    /// Returns how many keys had to make room for others.
    pub(crate) fn evicted(&self) -> u64 {
        match self {
            Self::Last(_) => 0,
            Self::PerKey(per_key) => per_key.evicted,
        }
    }
}

/// The last messages of a topic.
pub(crate) struct Last<V> {
    most: usize,
    runs: VecDeque<Run<V>>,
    len: usize,
}

/// Adjacent messages of a batch.
struct Run<V> {
    of: V,
    from: u32,
    to: u32,
}

impl<V: Clone> Last<V> {
    fn new(most: usize) -> Self {
        Self {
            most,
            runs: VecDeque::new(),
            len: 0,
        }
    }

    fn keep(&mut self, of: &V, from: u32, to: u32, gone: &mut Vec<V>) {
        let of = of.clone();
        self.runs.push_back(Run { of, from, to });
        self.len += (to - from) as usize;
        while self.len > self.most {
            let Some(oldest) = self.runs.front_mut() else {
                return;
            };
            let (surplus, there) = (self.len - self.most, (oldest.to - oldest.from) as usize);
            if surplus < there {
                oldest.from += surplus as u32;
                self.len = self.most;
            } else {
                self.len -= there;
                gone.extend(self.runs.pop_front().map(|run| run.of));
            }
        }
    }

    fn list(&self) -> Vec<(V, u32)> {
        let runs = self.runs.iter();
        let each = runs.flat_map(|run| (run.from..run.to).map(|index| (run.of.clone(), index)));
        each.collect()
    }
}

/// The last message of each key.
pub(crate) struct PerKey<K, V> {
    most: usize,
    /// The messages, in the order in which they came.
    kept: BTreeMap<u64, Kept<K, V>>,
    places: HashMap<K, u64>,
    /// The place of the last message without a key.
    unkeyed: Option<u64>,
    next: u64,
    evicted: u64,
}

struct Kept<K, V> {
    key: Option<K>,
    of: V,
    index: u32,
}

impl<K, V> PerKey<K, V>
where
    K: Clone + Eq + Hash + Borrow<str> + for<'k> From<&'k str>,
    V: Clone,
{
    fn new(most: usize) -> Self {
        Self {
            most,
            kept: BTreeMap::new(),
            places: HashMap::new(),
            unkeyed: None,
            next: 0,
            evicted: 0,
        }
    }

    fn keep(&mut self, of: &V, index: u32, key: Option<&str>, gone: &mut Vec<V>) {
        let place = match key {
            Some(key) => self.places.get(key).copied(),
            None => self.unkeyed,
        };
        let before = place.and_then(|place| self.kept.remove(&place));
        let key = match before {
            Some(before) => {
                gone.push(before.of);
                before.key
            }
            None => {
                if self.kept.len() >= self.most {
                    self.evict(gone);
                }
                key.map(K::from)
            }
        };
        match &key {
            Some(key) => {
                self.places.insert(key.clone(), self.next);
            }
            None => self.unkeyed = Some(self.next),
        }
        let of = of.clone();
        self.kept.insert(self.next, Kept { key, of, index });
        self.next += 1;
    }

    /// Forgets the key whose last message is the oldest.
    fn evict(&mut self, gone: &mut Vec<V>) {
        let Some((_, oldest)) = self.kept.pop_first() else {
            return;
        };
        match oldest.key {
            Some(key) => {
                self.places.remove(key.borrow());
            }
            None => self.unkeyed = None,
        }
        gone.push(oldest.of);
        self.evicted += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Messages = Retained<Box<str>, usize>;

    /// Keeps one message after the other: its number is its batch.
    fn keep_each(retain: Retain, keys: &[Option<&'static str>]) -> Messages {
        let mut kept = Messages::new(retain);
        for (number, key) in keys.iter().enumerate() {
            kept.keep(&number, 0, 1, |_| *key, &mut Vec::new());
        }
        kept
    }

    fn numbers(kept: &Messages) -> Vec<usize> {
        kept.list().into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn the_table_of_what_is_kept() {
        let (a, b, c, none) = (Some("a"), Some("b"), Some("c"), None);
        let table = [
            (Retain::Last(1), vec![a, b, c], vec![2], 0),
            (Retain::Last(2), vec![a, a, none], vec![1, 2], 0),
            (Retain::Last(9), vec![a, b, c], vec![0, 1, 2], 0),
            (Retain::PerKey(1), vec![a, a, a], vec![2], 0),
            (Retain::PerKey(1), vec![a, b, a], vec![2], 2),
            (Retain::PerKey(2), vec![a, b, a, b, a], vec![3, 4], 0),
            // The key that was written longest ago has to go, not the one that came first.
            (Retain::PerKey(2), vec![a, b, a, c], vec![2, 3], 1),
            // Messages without a key are those of one more key.
            (Retain::PerKey(2), vec![none, a, none], vec![1, 2], 0),
            (Retain::PerKey(2), vec![none, a, b, none], vec![2, 3], 2),
        ];
        for (retain, keys, expected, evicted) in table {
            let kept = keep_each(retain, &keys);
            assert_eq!(numbers(&kept), expected, "{retain:?} of {keys:?}");
            assert_eq!((kept.len(), kept.evicted()), (expected.len(), evicted));
        }
    }

    #[test]
    fn a_number_is_checked_against_its_range_and_the_lanes() {
        let rule = |retain: Retain| retain.check(8).map_err(|error| error.setting());
        assert_eq!(rule(Retain::Last(8)), Ok(()));
        assert_eq!(rule(Retain::PerKey(1)), Ok(()));
        assert_eq!(rule(Retain::Last(0)), Err("retain_last"));
        assert_eq!(rule(Retain::PerKey(0)), Err("retain_last_per_key"));
        assert_eq!(rule(Retain::PerKey(9)), Err("retain_last_per_key"));
    }

    proptest! {
        /// Against plain vectors: what is kept, in which order, and that each batch is handed back
        /// exactly once for each of its runs or messages.
        #[test]
        fn it_keeps_what_a_vector_keeps(
            most in 1usize..6,
            per_key in any::<bool>(),
            runs in prop::collection::vec(prop::collection::vec(0u8..5, 1..5), 0..30),
        ) {
            let names = ["a", "b", "c", "d"];
            let key_of = |key: u8| names.get(usize::from(key)).copied();
            let retain = if per_key { Retain::PerKey(most) } else { Retain::Last(most) };
            let mut kept = Messages::new(retain);
            let mut naive: Vec<(usize, u32, Option<&str>)> = Vec::new();
            let (mut gone, mut held) = (Vec::new(), 0);
            for (batch, keys) in runs.iter().enumerate() {
                // A run may begin behind the first message of its batch.
                let from = batch as u32 % 3;
                let to = from + keys.len() as u32;
                let key = |index: u32| key_of(keys[(index - from) as usize]);
                kept.keep(&batch, from, to, key, &mut gone);
                held += if per_key { keys.len() } else { 1 };
                for index in from..to {
                    if per_key {
                        naive.retain(|(_, _, other)| *other != key(index));
                    }
                    naive.push((batch, index, key(index)));
                    naive.drain(..naive.len().saturating_sub(most));
                }
                let expected: Vec<_> = naive.iter().map(|(of, at, _)| (*of, *at)).collect();
                prop_assert_eq!(kept.list(), expected);
                prop_assert_eq!(kept.len(), naive.len());
                let still = match &kept {
                    Retained::Last(last) => last.runs.len(),
                    Retained::PerKey(per_key) => {
                        prop_assert_eq!(
                            per_key.places.len() + usize::from(per_key.unkeyed.is_some()),
                            per_key.kept.len()
                        );
                        per_key.kept.len()
                    }
                };
                prop_assert_eq!(gone.len() + still, held);
            }
        }
    }
}
