//! What waits in a sequencer: the deliveries of one key, and lists of what may go.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;

/// A key, as far as order is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// What tells it from others.
    pub(crate) hash: u64,
    /// By which rule it became a key. What is out when the rule changes belongs to
    /// a line that is no more.
    pub(crate) epoch: u32,
}

/// What a delivery waits for. Those of the last kind and the others take turns while
/// there are both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Its first attempt.
    New,
    /// That those have gone which it was put back behind.
    Requeued,
    /// Another attempt: it failed before, or was redriven.
    Again,
}

/// The place of a delivery among those of its class.
pub(crate) type Rank = (u64, u64);

/// A delivery that waits.
pub(crate) struct Entry<D> {
    /// The message's id, or where else it stands in its line.
    pub(crate) id: u64,
    pub(crate) class: Class,
    /// The message's id if it is new; that of the last before it if it was requeued; or else
    /// when it was filed, or those with the lowest ids would come back before the others
    /// for ever.
    pub(crate) rank: Rank,
    pub(crate) item: D,
}

/// Something for each delivery that may go, by class and rank.
pub(crate) struct Lists<V> {
    pub(crate) new: BTreeMap<Rank, V>,
    pub(crate) requeued: BTreeMap<Rank, V>,
    pub(crate) again: BTreeMap<Rank, V>,
}

impl<V> Lists<V> {
    pub(crate) const EMPTY: Self = Self {
        new: BTreeMap::new(),
        requeued: BTreeMap::new(),
        again: BTreeMap::new(),
    };

    pub(crate) fn of(&self, class: Class) -> &BTreeMap<Rank, V> {
        match class {
            Class::New => &self.new,
            Class::Requeued => &self.requeued,
            Class::Again => &self.again,
        }
    }

    pub(crate) fn of_mut(&mut self, class: Class) -> &mut BTreeMap<Rank, V> {
        match class {
            Class::New => &mut self.new,
            Class::Requeued => &mut self.requeued,
            Class::Again => &mut self.again,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.new.len() + self.requeued.len() + self.again.len()
    }
}

/// The deliveries of one key.
pub(crate) struct Line<D> {
    /// By message id.
    pub(crate) queue: VecDeque<Entry<D>>,
    /// How many are in somebody's hands.
    pub(crate) out: u32,
    /// How many reasons there are to hand out none.
    pub(crate) holds: u32,
}

impl<D> Line<D> {
    pub(crate) const EMPTY: Self = Self {
        queue: VecDeque::new(),
        out: 0,
        holds: 0,
    };

    /// Class and rank of what it would hand out next, if it may.
    pub(crate) fn next(&self) -> Option<(Class, Rank)> {
        let may = self.out == 0 && self.holds == 0;
        let next = self.queue.front().filter(|_| may);
        next.map(|entry| (entry.class, entry.rank))
    }

    /// Whether nothing is left of it once the one that is out has been put down.
    pub(crate) fn is_last_out(&self) -> bool {
        self.out == 1 && self.holds == 0 && self.queue.is_empty()
    }

    pub(crate) fn insert(&mut self, entry: Entry<D>) {
        let at = self.queue.partition_point(|other| other.id <= entry.id);
        self.queue.insert(at, entry);
    }

    pub(crate) fn remove(&mut self, class: Class, rank: Rank) -> Option<Entry<D>> {
        let is_it = |entry: &Entry<D>| entry.class == class && entry.rank == rank;
        let at = self.queue.iter().position(is_it)?;
        self.queue.remove(at)
    }

    /// Takes out the new one with this id. Others may stand behind it, in its place.
    pub(crate) fn remove_new(&mut self, id: u64) -> Option<Entry<D>> {
        let from = self.queue.partition_point(|other| other.id < id);
        let mut behind = self.queue.range(from..);
        let at = behind.position(|other| other.class == Class::New)?;
        self.queue.remove(from + at)
    }
}

/// The hash of what is one already.
#[derive(Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, epoch: u32) {
        self.0 = self.0.rotate_left(8) ^ u64::from(epoch);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
