//! The deliveries of one key that wait in a sequencer, and lists of deliveries that may go.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;

/// A key, as far as order is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The hash that tells it from others.
    pub(crate) hash: u64,
    /// The rule by which it became a key. A delivery that is out when the rule changes belongs to a
    /// line that is no more.
    pub(crate) epoch: u32,
}

/// The event that a delivery waits for. `Again` and the other two classes take turns while both
/// wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A first attempt.
    New,
    /// The departure of the messages behind which it was put back.
    Requeued,
    /// Another attempt: it failed before, or was redriven.
    Again,
}

/// The place of a delivery among those of its class: its [tier](crate::pure::order::levels) and a
/// number in one word, and a second number.
pub(crate) type Rank = (u64, u64);

/// A delivery that waits.
pub(crate) struct Entry<D> {
    /// The message's id, or another place in its line.
    pub(crate) id: u64,
    pub(crate) class: Class,
    /// The message's id if it is new. If it was requeued, the id of the last message before it.
    /// Otherwise the number under which it was filed: by ids, deliveries with the lowest would come
    /// back before the others forever.
    pub(crate) rank: Rank,
    pub(crate) item: D,
}

/// A list for each class.
pub(crate) struct Lists<L> {
    pub(crate) new: L,
    pub(crate) requeued: L,
    pub(crate) again: L,
}

impl<L> Lists<L> {
    pub(crate) fn of(&self, class: Class) -> &L {
        match class {
            Class::New => &self.new,
            Class::Requeued => &self.requeued,
            Class::Again => &self.again,
        }
    }

    pub(crate) fn of_mut(&mut self, class: Class) -> &mut L {
        match class {
            Class::New => &mut self.new,
            Class::Requeued => &mut self.requeued,
            Class::Again => &mut self.again,
        }
    }
}

/// Lines that may go on, by the class and the rank of their next delivery.
pub(crate) type Ready = Lists<BTreeMap<Rank, Key>>;

impl Ready {
    pub(crate) const EMPTY: Self = Self {
        new: BTreeMap::new(),
        requeued: BTreeMap::new(),
        again: BTreeMap::new(),
    };

    pub(crate) fn len(&self) -> usize {
        self.new.len() + self.requeued.len() + self.again.len()
    }
}

/// The deliveries of one key.
pub(crate) struct Line<D> {
    /// The deliveries that wait, by message id.
    pub(crate) queue: VecDeque<Entry<D>>,
    /// How many deliveries are out.
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

    /// Returns class and rank of the delivery that goes next, if any may go.
    pub(crate) fn next(&self) -> Option<(Class, Rank)> {
        let may = self.out == 0 && self.holds == 0;
        let next = self.queue.front().filter(|_| may);
        next.map(|entry| (entry.class, entry.rank))
    }

    /// Returns whether nothing is left of it once the one that is out has been put down.
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

    /// Takes out the new delivery with this id. Others may stand behind it, in its place.
    pub(crate) fn remove_new(&mut self, id: u64) -> Option<Entry<D>> {
        let from = self.queue.partition_point(|other| other.id < id);
        let mut behind = self.queue.range(from..);
        let at = behind.position(|other| other.class == Class::New)?;
        self.queue.remove(from + at)
    }
}

/// A hasher for keys, which are hashes already.
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
