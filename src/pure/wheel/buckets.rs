//! The buckets in which the slots of the timer wheel keep their timers, in no order. Any item can
//! be taken out of them in constant time.
//!
//! A timer's own entry lies wherever its index says, so with many of them each look at one waits
//! for memory. An item holds all that it takes to move a timer from slot to slot. Items lie side by
//! side in chunks, so that going through a bucket waits for nothing.
//!
//! These properties hold at all times:
//!
//! 1. Of a bucket's chunks only the newest may have room left, and none is empty. To remove an item
//!    is to fill its place with the last of its bucket. So `n` items in `b` buckets take at most
//!    `n / CHUNK + b` chunks, whatever has been added and removed before.
//! 2. An item stays in its place until its bucket is emptied, or another item of its bucket is
//!    removed. Then one item moves, and the caller is told.
//!
//! Chunks that a bucket gives up serve all others. The memory of a storm goes back when the last
//! item has gone, as that of an [`Arena`] does.

use crate::pure::wheel::arena::{Arena, NIL};

/// A fixed number of buckets.
pub(crate) struct Buckets {
    /// The newest chunk of each bucket, or [`NIL`] for an empty one.
    newest: Box<[u32]>,
    chunks: Arena<Chunk>,
}

/// An item of a bucket: a timer. It is packed, for a million of them would waste 4 MB.
#[derive(Clone, Copy)]
#[repr(Rust, packed(4))]
pub(crate) struct Item {
    pub(crate) deadline_ns: u64,
    pub(crate) index: u32,
}

/// Some items of one bucket.
pub(crate) struct Chunk {
    items: [Item; CHUNK],
    len: u16,
    bucket: u16,
    /// The bucket's next older chunk.
    older: u32,
}

impl Chunk {
    pub(crate) fn items(&self) -> &[Item] {
        &self.items[..usize::from(self.len)]
    }
}

/// The result of removing an item.
pub(crate) struct Removed {
    /// The item that lies in the place now, if any does.
    pub(crate) moved: Option<Item>,
    pub(crate) bucket: usize,
    /// Whether that bucket is empty now.
    pub(crate) emptied: bool,
}

/// The chunks that are still to come of a bucket that was emptied.
pub(crate) struct Emptied(u32);

impl Buckets {
    /// Returns all items, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Item> {
        self.chunks.values().flat_map(Chunk::items)
    }

    /// Makes `buckets` empty buckets, at most 2^16. Each takes four bytes until items are added.
    pub(crate) fn new(buckets: usize) -> Self {
        Self {
            newest: vec![NIL; buckets].into(),
            chunks: Arena::new(),
        }
    }

    /// Puts an item in a bucket, in constant time, and returns its place.
    #[inline]
    pub(crate) fn add(&mut self, bucket: usize, item: Item) -> u32 {
        let newest = self.newest[bucket];
        let (at, chunk) = match self.chunks.get_mut(newest) {
            Some(chunk) if usize::from(chunk.len) < CHUNK => (newest, chunk),
            _ => self.start_chunk(bucket, item),
        };
        let offset = chunk.len;
        chunk.items[usize::from(offset)] = item;
        chunk.len += 1;
        at * CHUNK as u32 + u32::from(offset)
    }

    /// Takes the item in this place out of its bucket, in constant time. There must be one.
    pub(crate) fn remove(&mut self, place: u32) -> Removed {
        let (at, offset) = (place / CHUNK as u32, place as usize % CHUNK);
        let bucket = usize::from(self.chunk_mut(at).bucket);
        let newest_at = self.newest[bucket];
        let newest = self.chunk_mut(newest_at);
        newest.len -= 1;
        let (left, older) = (newest.len, newest.older);
        let last = newest.items[usize::from(left)];
        let was_last = (at, offset) == (newest_at, usize::from(left));
        if !was_last {
            self.chunk_mut(at).items[offset] = last;
        }
        if left == 0 {
            self.newest[bucket] = older;
            self.chunks.remove(newest_at);
        }
        Removed {
            moved: (!was_last).then_some(last),
            bucket,
            emptied: self.newest[bucket] == NIL,
        }
    }

    /// Empties a bucket. Returns what [`next_chunk`](Self::next_chunk) needs to go through its
    /// items. Items that are still to come have no place, and cannot be removed.
    pub(crate) fn empty(&mut self, bucket: usize) -> Emptied {
        Emptied(std::mem::replace(&mut self.newest[bucket], NIL))
    }

    /// Returns the next chunk of an emptied bucket. Items may be added meanwhile, even to it.
    pub(crate) fn next_chunk(&mut self, emptied: &mut Emptied) -> Option<Chunk> {
        let chunk = self.chunks.remove(emptied.0)?;
        emptied.0 = chunk.older;
        Some(chunk)
    }

    /// Adds an empty chunk to a bucket whose newest has no room.
    #[inline(never)]
    fn start_chunk(&mut self, bucket: usize, filling: Item) -> (u32, &mut Chunk) {
        let at = self.chunks.insert(Chunk {
            items: [filling; CHUNK],
            len: 0,
            bucket: bucket as u16,
            older: self.newest[bucket],
        });
        assert!(at < u32::MAX / CHUNK as u32, "a place has 32 bits");
        self.newest[bucket] = at;
        (at, self.chunk_mut(at))
    }

    fn chunk_mut(&mut self, at: u32) -> &mut Chunk {
        self.chunks.get_mut(at).expect("an item lies in a chunk")
    }
}

/// Items in a chunk: it takes three cache lines with the rest of its fields.
pub(crate) const CHUNK: usize = 15;

#[cfg(test)]
impl Buckets {
    /// Returns the items of a bucket with their places, and checks the bucket's properties.
    pub(crate) fn places(&self, bucket: usize) -> Vec<(u32, Item)> {
        let mut places = Vec::new();
        let mut at = self.newest[bucket];
        while let Some(chunk) = self.chunks.get(at) {
            assert_eq!(usize::from(chunk.bucket), bucket);
            assert!(!chunk.items().is_empty());
            assert!(chunk.items().len() == CHUNK || at == self.newest[bucket]);
            let first = at * CHUNK as u32;
            places.extend((first..).zip(chunk.items().iter().copied()));
            at = chunk.older;
        }
        places
    }

    /// Returns how many items there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.chunks.capacity() * CHUNK
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_takes_three_cache_lines() {
        assert_eq!(size_of::<crate::pure::wheel::arena::Slot<Chunk>>(), 192);
    }

    #[test]
    fn a_bag_may_be_added_to_while_what_was_in_it_is_gone_through() {
        let mut buckets = Buckets::new(1);
        for index in 0..100 {
            buckets.add(0, item(index));
        }
        let mut emptied = buckets.empty(0);
        assert!(buckets.places(0).is_empty());
        let mut seen = Vec::new();
        while let Some(chunk) = buckets.next_chunk(&mut emptied) {
            for &item in chunk.items() {
                seen.push(item.index);
                buckets.add(0, item);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<u32>>());
        assert_eq!(buckets.places(0).len(), 100);
    }

    fn item(index: u32) -> Item {
        Item {
            deadline_ns: u64::from(index) << 40,
            index,
        }
    }

    proptest! {
        #[test]
        fn bags_behave_as_sets_and_take_memory_for_what_is_in_them(
            steps in prop::collection::vec((0usize..3, any::<Option<prop::sample::Index>>()), 0..400),
        ) {
            let mut buckets = Buckets::new(3);
            // Which bucket and place each item is in.
            let mut model: Vec<(u32, usize, u32)> = Vec::new();
            for (index, (bucket, pick)) in (0..).zip(steps) {
                if let Some(pick) = pick.filter(|_| !model.is_empty()) {
                    let (_, bucket, place) = model.swap_remove(pick.index(model.len()));
                    let removed = buckets.remove(place);
                    prop_assert_eq!(removed.bucket, bucket);
                    prop_assert_eq!(removed.emptied, model.iter().all(|item| item.1 != bucket));
                    if let Some(moved) = removed.moved {
                        let index = moved.index;
                        let item = model.iter_mut().find(|item| item.0 == index).unwrap();
                        prop_assert_eq!(item.1, bucket);
                        item.2 = place;
                    }
                } else {
                    model.push((index, bucket, buckets.add(bucket, item(index))));
                }
                let mut found = Vec::new();
                for bucket in 0..3 {
                    for (place, Item { index, deadline_ns }) in buckets.places(bucket) {
                        let expected = item(index).deadline_ns;
                        prop_assert_eq!(deadline_ns, expected);
                        found.push((index, bucket, place));
                    }
                }
                found.sort_unstable();
                model.sort_unstable();
                prop_assert_eq!(&found, &model);
                prop_assert!(buckets.chunks.len() <= model.len() / CHUNK + 3);
            }
        }
    }
}
