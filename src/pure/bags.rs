//! Where the slots of the timer wheel keep their timers: bags, in no order, out of which any item
//! can be taken in constant time.
//!
//! A timer's own entry lies wherever its index says, so with many of them each look at one waits
//! for memory. An item says all that it takes to move a timer from slot to slot, and items lie side
//! by side in chunks, so that going through a bag waits for nothing.
//!
//! What must stay true:
//!
//! 1. Of a bag's chunks only the newest may have room left, and none is empty. So `n` items in `b`
//!    bags take at most `n / CHUNK + b` chunks, whatever has been added and removed before: to
//!    remove an item is to fill its place with the last of its bag.
//! 2. An item stays in its place until its bag is emptied, or another item of its bag is removed:
//!    then one item moves, and the caller is told.
//!
//! Chunks that a bag gives up serve all others. The memory of a storm goes back when the last item
//! has gone, as that of an [`Arena`] does.

use crate::pure::arena::{Arena, NIL};

/// As many bags as are asked for.
pub(crate) struct Bags {
    /// The newest chunk of each bag, or [`NIL`] for an empty one.
    newest: Box<[u32]>,
    chunks: Arena<Chunk>,
}

/// What lies in a bag: a timer. Packed, for a million of them would waste 4 MB.
#[derive(Clone, Copy)]
#[repr(Rust, packed(4))]
pub(crate) struct Item {
    pub(crate) deadline_ns: u64,
    pub(crate) index: u32,
}

/// Some items of one bag.
pub(crate) struct Chunk {
    items: [Item; CHUNK],
    len: u16,
    bag: u16,
    /// The bag's next older chunk.
    older: u32,
}

impl Chunk {
    pub(crate) fn items(&self) -> &[Item] {
        &self.items[..usize::from(self.len)]
    }
}

/// What the removal of an item has done.
pub(crate) struct Removed {
    /// The item that lies in the place now, if any does.
    pub(crate) moved: Option<Item>,
    pub(crate) bag: usize,
    /// Whether that bag is empty now.
    pub(crate) emptied: bool,
}

/// What is still to come of a bag that was emptied.
pub(crate) struct Emptied(u32);

impl Bags {
    /// So many empty bags, at most 2^16. Takes four bytes for each until items are added.
    pub(crate) fn new(bags: usize) -> Self {
        Self {
            newest: vec![NIL; bags].into(),
            chunks: Arena::new(),
        }
    }

    /// Puts an item in a bag, in constant time, and says in which place.
    #[inline]
    pub(crate) fn add(&mut self, bag: usize, item: Item) -> u32 {
        let newest = self.newest[bag];
        let (at, chunk) = match self.chunks.get_mut(newest) {
            Some(chunk) if usize::from(chunk.len) < CHUNK => (newest, chunk),
            _ => self.start_chunk(bag, item),
        };
        let offset = chunk.len;
        chunk.items[usize::from(offset)] = item;
        chunk.len += 1;
        at * CHUNK as u32 + u32::from(offset)
    }

    /// Takes the item in this place out of its bag, in constant time. There must be one.
    pub(crate) fn remove(&mut self, place: u32) -> Removed {
        let (at, offset) = (place / CHUNK as u32, place as usize % CHUNK);
        let bag = usize::from(self.chunk_mut(at).bag);
        let newest_at = self.newest[bag];
        let newest = self.chunk_mut(newest_at);
        newest.len -= 1;
        let (left, older) = (newest.len, newest.older);
        let last = newest.items[usize::from(left)];
        let was_last = (at, offset) == (newest_at, usize::from(left));
        if !was_last {
            self.chunk_mut(at).items[offset] = last;
        }
        if left == 0 {
            self.newest[bag] = older;
            self.chunks.remove(newest_at);
        }
        Removed {
            moved: (!was_last).then_some(last),
            bag,
            emptied: self.newest[bag] == NIL,
        }
    }

    /// Empties a bag: returns what [`next_chunk`](Self::next_chunk) needs to go through what was in
    /// it. What is still to come of that has no place, and cannot be removed.
    pub(crate) fn empty(&mut self, bag: usize) -> Emptied {
        Emptied(std::mem::replace(&mut self.newest[bag], NIL))
    }

    /// The next chunk of what was emptied. Items may be added meanwhile, to the same bag too.
    pub(crate) fn next_chunk(&mut self, emptied: &mut Emptied) -> Option<Chunk> {
        let chunk = self.chunks.remove(emptied.0)?;
        emptied.0 = chunk.older;
        Some(chunk)
    }

    /// Adds an empty chunk to a bag whose newest has no room.
    #[inline(never)]
    fn start_chunk(&mut self, bag: usize, filling: Item) -> (u32, &mut Chunk) {
        let at = self.chunks.insert(Chunk {
            items: [filling; CHUNK],
            len: 0,
            bag: bag as u16,
            older: self.newest[bag],
        });
        assert!(at < u32::MAX / CHUNK as u32, "a place has 32 bits");
        self.newest[bag] = at;
        (at, self.chunk_mut(at))
    }

    fn chunk_mut(&mut self, at: u32) -> &mut Chunk {
        self.chunks.get_mut(at).expect("an item lies in a chunk")
    }
}

/// Items in a chunk: three cache lines with what else is in it.
pub(crate) const CHUNK: usize = 15;

#[cfg(test)]
impl Bags {
    /// The items of a bag with their places, and what must stay true of it.
    pub(crate) fn places(&self, bag: usize) -> Vec<(u32, Item)> {
        let mut places = Vec::new();
        let mut at = self.newest[bag];
        while let Some(chunk) = self.chunks.get(at) {
            assert_eq!(usize::from(chunk.bag), bag);
            assert!(!chunk.items().is_empty());
            assert!(chunk.items().len() == CHUNK || at == self.newest[bag]);
            let first = at * CHUNK as u32;
            places.extend((first..).zip(chunk.items().iter().copied()));
            at = chunk.older;
        }
        places
    }

    /// How many items there is memory for.
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
        assert_eq!(size_of::<crate::pure::arena::Slot<Chunk>>(), 192);
    }

    #[test]
    fn a_bag_may_be_added_to_while_what_was_in_it_is_gone_through() {
        let mut bags = Bags::new(1);
        for index in 0..100 {
            bags.add(0, item(index));
        }
        let mut emptied = bags.empty(0);
        assert!(bags.places(0).is_empty());
        let mut seen = Vec::new();
        while let Some(chunk) = bags.next_chunk(&mut emptied) {
            for &item in chunk.items() {
                seen.push(item.index);
                bags.add(0, item);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<u32>>());
        assert_eq!(bags.places(0).len(), 100);
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
            let mut bags = Bags::new(3);
            // Which bag and place each item is in.
            let mut model: Vec<(u32, usize, u32)> = Vec::new();
            for (index, (bag, pick)) in (0..).zip(steps) {
                if let Some(pick) = pick.filter(|_| !model.is_empty()) {
                    let (_, bag, place) = model.swap_remove(pick.index(model.len()));
                    let removed = bags.remove(place);
                    prop_assert_eq!(removed.bag, bag);
                    prop_assert_eq!(removed.emptied, model.iter().all(|item| item.1 != bag));
                    if let Some(moved) = removed.moved {
                        let index = moved.index;
                        let item = model.iter_mut().find(|item| item.0 == index).unwrap();
                        prop_assert_eq!(item.1, bag);
                        item.2 = place;
                    }
                } else {
                    model.push((index, bag, bags.add(bag, item(index))));
                }
                let mut found = Vec::new();
                for bag in 0..3 {
                    for (place, Item { index, deadline_ns }) in bags.places(bag) {
                        let expected = item(index).deadline_ns;
                        prop_assert_eq!(deadline_ns, expected);
                        found.push((index, bag, place));
                    }
                }
                found.sort_unstable();
                model.sort_unstable();
                prop_assert_eq!(&found, &model);
                prop_assert!(bags.chunks.len() <= model.len() / CHUNK + 3);
            }
        }
    }
}
