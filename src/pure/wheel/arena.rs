//! A slab of values, addressed by `u32`, that grows a page at a time.
//!
//! A `Vec` would do the same work but for the moment it doubles. With a million entries that is one
//! copy of tens of megabytes, made while the owner holds a lock and everyone else waits. Pages of
//! [`PAGE_SLOTS`] values never move. Only the table that points at them is ever copied, and it
//! costs eight bytes per page.
//!
//! Vacant slots hold the free list, so an entry costs what its value costs if that has a niche. A
//! niche is a reference, `Box` or `Arc` anywhere inside it: there the slot says that it is vacant.
//!
//! An index is not a key: once its value is removed, the next insert may be given the same index.
//! Owners that hand indices out must pair them with something that tells the tenants apart.

use std::mem;

/// A paged slab. See the module's doc for what it promises about memory.
pub(crate) struct Arena<T> {
    pages: Vec<Box<[Slot<T>; PAGE_SLOTS]>>,
    /// The first vacant slot, or [`NIL`] when every slot of every page is taken.
    free: u32,
    len: u32,
}

impl<T> Arena<T> {
    /// Makes an empty arena. It allocates nothing until the first insert.
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: NIL,
            len: 0,
        }
    }

    /// Stores `value` and returns its index. Constant time, plus one page's allocation every
    /// [`PAGE_SLOTS`] inserts while the arena grows.
    ///
    /// # Panics
    ///
    /// Panics when the arena would need an index of [`NIL`] or more.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let (page, offset) = split(index);
        let slot = &mut self.pages[page][offset];
        let Slot::Vacant { next } = *slot else {
            unreachable!("the free list runs through vacant slots only");
        };
        *slot = Slot::Occupied(value);
        self.free = next;
        self.len += 1;
        index
    }

    /// Returns the value at `index`, or `None` if that slot is vacant or was never allocated.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (page, offset) = split(index);
        match &self.pages.get(page)?[offset] {
            Slot::Occupied(value) => Some(value),
            Slot::Vacant { .. } => None,
        }
    }

    /// Returns the value at `index`, as [`get`](Self::get) does, to be changed in place.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (page, offset) = split(index);
        match &mut self.pages.get_mut(page)?[offset] {
            Slot::Occupied(value) => Some(value),
            Slot::Vacant { .. } => None,
        }
    }

    /// Takes the value at `index` out, or returns `None` if there is none.
    ///
    /// Constant time, save that the removal which empties the arena also frees its pages, one free
    /// per page.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let (page, offset) = split(index);
        let slot = &mut self.pages.get_mut(page)?[offset];
        match mem::replace(slot, Slot::Vacant { next: self.free }) {
            Slot::Occupied(value) => {
                self.free = index;
                self.len -= 1;
                self.shrink_if_empty();
                Some(value)
            }
            vacant => {
                *slot = vacant;
                None
            }
        }
    }

    /// Drops the value at `index` where it is. Returns whether there was one.
    #[inline]
    pub(crate) fn vacate(&mut self, index: u32) -> bool {
        let (page, offset) = split(index);
        let slot = self.pages.get_mut(page).map(|page| &mut page[offset]);
        let Some(slot) = slot.filter(|slot| matches!(slot, Slot::Occupied(_))) else {
            return false;
        };
        *slot = Slot::Vacant { next: self.free };
        self.free = index;
        self.len -= 1;
        self.shrink_if_empty();
        true
    }

    /// Returns how many values are stored.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns whether no value is stored.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many values there is memory for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.pages.len() * PAGE_SLOTS
    }

    /// Returns the values with their indices, in order of index.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.pages.iter().flat_map(|page| page.iter());
        let indexed = (0..).zip(slots);
        indexed.filter_map(|(index, slot)| match slot {
            Slot::Occupied(value) => Some((index, value)),
            Slot::Vacant { .. } => None,
        })
    }

    /// Returns the values, in order of index.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries().map(|(_, value)| value)
    }

    /// Takes out the values that are chosen, in order of index.
    pub(crate) fn extract(&mut self, chosen: impl Fn(&T) -> bool) -> Vec<T> {
        let slots = self.pages.len() * PAGE_SLOTS;
        let chosen = |index: &u32| self.get(*index).is_some_and(&chosen);
        let indices: Vec<_> = (0..slots as u32).filter(chosen).collect();
        let taken = indices.into_iter().filter_map(|index| self.remove(index));
        taken.collect()
    }

    /// Takes every value out, in order of index. The arena is empty as soon as this returns,
    /// whether or not the iterator is run to its end. Each page is freed as the iterator leaves it.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let pages = mem::replace(self, Self::new()).pages;
        let slots = pages.into_iter().flat_map(|page| page as Box<[Slot<T>]>);
        slots.filter_map(|slot| match slot {
            Slot::Occupied(value) => Some(value),
            Slot::Vacant { .. } => None,
        })
    }

    /// Adds a page of vacant slots. Called only when the free list is empty, so the new page is the
    /// whole of it.
    ///
    /// It is out of line, or every insert would make room on the stack for a page, and touch it.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let first = self.pages.len() * PAGE_SLOTS;
        let end = u32::try_from(first + PAGE_SLOTS).expect("an arena has fewer than 2^32 slots");
        self.pages.push(Box::new(vacant_page(end)));
        self.free = end - PAGE_SLOTS as u32;
    }

    #[inline]
    fn shrink_if_empty(&mut self) {
        if self.len == 0 && self.pages.len() > 1 {
            self.shrink();
        }
    }

    /// Frees every page but the first, so that one storm does not hold its memory forever. The
    /// first stays: an arena that wavers between no values and a few must not waver at the
    /// allocator.
    #[cold]
    fn shrink(&mut self) {
        self.pages.truncate(1);
        self.pages.shrink_to_fit();
        // The free list may run through the pages just freed, in any order: start it afresh.
        *self.pages[0] = vacant_page(PAGE_SLOTS as u32);
        self.free = 0;
    }
}

/// One place in a page. It is as large as `T` when `T` has a niche.
pub(crate) enum Slot<T> {
    Occupied(T),
    /// `next` is the index of the next vacant slot, or [`NIL`] at the end of the free list.
    Vacant {
        next: u32,
    },
}

/// Makes a page whose indices end just before `end`. Its free list runs upwards, so that values
/// inserted one after another lie one after another.
fn vacant_page<T>(end: u32) -> [Slot<T>; PAGE_SLOTS] {
    let first = end - PAGE_SLOTS as u32;
    std::array::from_fn(|offset| {
        let next = first + offset as u32 + 1;
        Slot::Vacant {
            next: if next == end { NIL } else { next },
        }
    })
}

fn split(index: u32) -> (usize, usize) {
    let index = index as usize;
    (index / PAGE_SLOTS, index % PAGE_SLOTS)
}

/// The index that no value ever has: the end of a list threaded through an arena.
pub(crate) const NIL: u32 = u32::MAX;

/// The slots of a page: enough that an allocation is rare, and few enough that a page of small
/// values stays within a few KiB.
const PAGE_SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_arena_allocates_nothing() {
        let arena = Arena::<u64>::new();
        assert_eq!(arena.pages.capacity(), 0);
        assert!(arena.is_empty());
    }

    #[test]
    fn a_value_is_found_where_it_was_put_and_only_until_it_is_removed() {
        let mut arena = Arena::new();
        let index = arena.insert("first");
        assert!(!arena.is_empty());
        assert_eq!(arena.get(index), Some(&"first"));
        *arena.get_mut(index).unwrap() = "changed";
        assert_eq!(arena.remove(index), Some("changed"));
        assert_eq!(arena.get(index), None);
        assert_eq!(arena.get_mut(index), None);
        assert_eq!(arena.remove(index), None);
        assert!(arena.is_empty());
    }

    #[test]
    fn an_index_that_was_never_given_out_holds_nothing() {
        let mut arena = Arena::new();
        arena.insert(1);
        for index in [1, 63, 64, 1 << 20, NIL] {
            assert_eq!(arena.get(index), None);
            assert_eq!(arena.remove(index), None);
        }
        assert_eq!(arena.len(), 1);
    }

    #[test]
    fn freed_slots_are_reused_before_a_page_is_added() {
        let mut arena = Arena::new();
        let indices: Vec<u32> = (0..PAGE_SLOTS as u64).map(|n| arena.insert(n)).collect();
        for &index in indices.iter().step_by(2) {
            arena.remove(index);
        }
        for n in 0..PAGE_SLOTS as u64 / 2 {
            arena.insert(n);
        }
        assert_eq!(arena.pages.len(), 1);
        arena.insert(0);
        assert_eq!(arena.pages.len(), 2);
    }

    #[test]
    fn growth_moves_no_value() {
        let mut arena = Arena::new();
        let index = arena.insert(7u64);
        let before = std::ptr::from_ref(arena.get(index).unwrap());
        for n in 0..10_000 {
            arena.insert(n);
        }
        assert_eq!(std::ptr::from_ref(arena.get(index).unwrap()), before);
    }

    #[test]
    fn an_emptied_arena_keeps_one_page_and_is_usable_again() {
        let mut arena = Arena::new();
        for round in 0..3 {
            let indices: Vec<u32> = (0..1_000).map(|n| arena.insert(n)).collect();
            assert_eq!(arena.pages.len(), 1_000usize.div_ceil(PAGE_SLOTS));
            // Each round frees in a different order, so that the free list ends in a different
            // page.
            for step in 0..1_000 {
                let index = indices[(step * 7 + round * 501) % 1_000];
                assert!(arena.remove(index).is_some());
            }
            assert_eq!(arena.pages.len(), 1);
        }
    }

    #[test]
    fn one_value_coming_and_going_keeps_its_page() {
        let mut arena = Arena::new();
        let index = arena.insert(0);
        let page = std::ptr::from_ref(&*arena.pages[0]);
        arena.remove(index);
        for n in 1..100 {
            assert_eq!(arena.insert(n), index);
            assert_eq!(arena.remove(index), Some(n));
        }
        assert_eq!(std::ptr::from_ref(&*arena.pages[0]), page);
    }

    #[test]
    fn drain_empties_the_arena_even_when_the_iterator_is_dropped_early() {
        let witness = Rc::new(());
        let mut arena = Arena::new();
        for _ in 0..200 {
            arena.insert(Rc::clone(&witness));
        }
        arena.remove(70);
        let mut drained = arena.drain();
        assert!(drained.next().is_some());
        assert!(arena.is_empty());
        drop(drained);
        assert_eq!(Rc::strong_count(&witness), 1);
        assert_eq!(arena.insert(witness), 0);
        assert_eq!(arena.drain().count(), 1);
    }

    #[test]
    fn what_is_chosen_is_taken_out_and_the_others_stay() {
        let mut arena = Arena::new();
        for n in 0..130 {
            arena.insert(n);
        }
        arena.remove(7);
        assert_eq!(arena.extract(|n| *n > 126 || *n == 7), [127, 128, 129]);
        assert_eq!(arena.values().count(), 126);
        assert_eq!(arena.values().max(), Some(&126));
        assert_eq!(arena.extract(|_| true).len(), 126);
        assert!(arena.is_empty());
    }

    #[test]
    fn drain_yields_what_is_left_in_order_of_index() {
        let mut arena = Arena::new();
        let indices: Vec<u32> = (0..130).map(|n| arena.insert(n)).collect();
        arena.remove(indices[0]);
        arena.remove(indices[128]);
        let expected: Vec<u32> = (0..130).filter(|n| ![0, 128].contains(n)).collect();
        assert_eq!(arena.drain().collect::<Vec<u32>>(), expected);
    }

    #[test]
    fn a_slot_is_no_larger_than_a_value_that_has_a_niche() {
        type Value = (Arc<str>, u64, u32);
        assert_eq!(size_of::<Slot<Value>>(), size_of::<Value>());
        assert_eq!(size_of::<Slot<Box<u8>>>(), size_of::<Box<u8>>() * 2);
    }

    proptest! {
        #[test]
        fn an_arena_behaves_as_a_map_from_index_to_value(
            steps in proptest::collection::vec((0u32..300, any::<bool>()), 0..600),
        ) {
            let mut arena = Arena::new();
            let mut model = BTreeMap::new();
            for (step, (pick, insert)) in steps.into_iter().enumerate() {
                if insert {
                    let index = arena.insert(step);
                    prop_assert_eq!(model.insert(index, step), None);
                } else {
                    let vacates = step % 2 == 0;
                    let removed = model.remove(&pick);
                    match vacates {
                        true => prop_assert_eq!(arena.vacate(pick), removed.is_some()),
                        false => prop_assert_eq!(arena.remove(pick), removed),
                    }
                }
                prop_assert_eq!(arena.get(pick), model.get(&pick));
                prop_assert_eq!(arena.len(), model.len());
            }
            let left: Vec<usize> = model.into_values().collect();
            prop_assert_eq!(arena.drain().collect::<Vec<_>>(), left);
        }
    }
}
