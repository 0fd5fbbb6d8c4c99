//! Deliveries that wait in the inbox of a lane that conflates: at most one of each key.
//!
//! The newest of a key stands in the place of the one that it replaces. So a key that changes often
//! neither starves the others nor is starved by them. A delivery that is *evicted* for a newer one,
//! which is on its way, leaves its place empty for it.

use std::collections::{BTreeMap, HashMap};

/// A place in the order.
struct Place<D> {
    key: Option<Box<str>>,
    /// `None` if it was evicted for a newer one that has not come yet.
    item: Option<D>,
}

/// The deliveries that wait, in order.
pub(crate) struct Conflation<D> {
    places: BTreeMap<u64, Place<D>>,
    by_key: HashMap<Box<str>, u64>,
    next: u64,
    /// How many places are not empty.
    len: usize,
    /// How many deliveries were replaced or evicted, ever.
    replaced: u64,
}

impl<D> Conflation<D> {
    pub(crate) fn new() -> Self {
        Self {
            places: BTreeMap::new(),
            by_key: HashMap::new(),
            next: 0,
            len: 0,
            replaced: 0,
        }
    }

    /// Returns how many deliveries wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns how many deliveries were replaced or evicted, ever.
    pub(crate) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Returns whether a delivery of this key waits, so that a newer one replaces it.
    pub(crate) fn waits(&self, key: &str) -> bool {
        let place = self.by_key.get(key).and_then(|at| self.places.get(at));
        place.is_some_and(|place| place.item.is_some())
    }

    /// Adds a delivery. Returns the older one of its key, whose place it has taken.
    #[must_use]
    pub(crate) fn push(&mut self, key: Option<&str>, item: D) -> Option<D> {
        let at = key.and_then(|key| self.by_key.get(key));
        if let Some(place) = at.and_then(|at| self.places.get_mut(at)) {
            let replaced = place.item.replace(item);
            self.len += usize::from(replaced.is_none());
            self.replaced += u64::from(replaced.is_some());
            return replaced;
        }
        if let Some(key) = key {
            self.by_key.insert(key.into(), self.next);
        }
        let place = Place {
            key: key.map(Box::from),
            item: Some(item),
        };
        self.places.insert(self.next, place);
        self.next += 1;
        self.len += 1;
        None
    }

    /// Takes out the delivery of this key for a newer one, which gets its place when it comes.
    pub(crate) fn evict(&mut self, key: &str) -> Option<D> {
        let at = self.by_key.get(key)?;
        let evicted = self.places.get_mut(at)?.item.take();
        self.len -= usize::from(evicted.is_some());
        self.replaced += u64::from(evicted.is_some());
        evicted
    }

    /// Takes out the oldest delivery that may go. The others keep their places.
    pub(crate) fn pop_where(&mut self, mut may_go: impl FnMut(&D) -> bool) -> Option<D> {
        // Nobody takes a place that was left empty and has become the first: what comes for it
        // would be first anyhow, or is none.
        while let Some(first) = self.places.first_entry()
            && first.get().item.is_none()
        {
            let at = *first.key();
            self.remove(at);
        }
        let mut waiting = self.places.iter();
        let found = waiting.find(|(_, place)| place.item.as_ref().is_some_and(&mut may_go));
        let at = *found?.0;
        self.remove(at)
    }

    /// Returns whether a delivery waits that may go.
    pub(crate) fn has_some(&self, may_go: impl FnMut(&D) -> bool) -> bool {
        let mut waiting = self.places.values().filter_map(|place| place.item.as_ref());
        waiting.any(may_go)
    }

    /// Takes out the deliveries that `is_over` picks.
    pub(crate) fn extract(&mut self, mut is_over: impl FnMut(&D) -> bool) -> Vec<D> {
        let over = self
            .places
            .iter()
            .filter(|(_, place)| place.item.as_ref().is_some_and(&mut is_over));
        let over: Vec<_> = over.map(|(at, _)| *at).collect();
        let taken = over.into_iter().filter_map(|at| self.remove(at));
        taken.collect()
    }

    fn remove(&mut self, at: u64) -> Option<D> {
        let place = self.places.remove(&at)?;
        if let Some(key) = place.key {
            self.by_key.remove(&key);
        }
        self.len -= usize::from(place.item.is_some());
        place.item
    }
}

/// Returns how many of the first deliveries with these keys fit into `free` places. One whose older
/// one `waits` takes the place of that, and needs none.
pub(crate) fn fitting<'k>(
    keys: impl Iterator<Item = Option<&'k str>>,
    free: u32,
    waits: impl Fn(&str) -> bool,
) -> u32 {
    let (mut fits, mut left) = (0, free);
    let mut replaced = Vec::new();
    for key in keys {
        match key {
            // A second one of a key would replace the first, but only once that has a place.
            Some(key) if !replaced.contains(&key) && waits(key) => replaced.push(key),
            _ if left == 0 => break,
            _ => left -= 1,
        }
        fits += 1;
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Act {
        Push(Option<u8>),
        Evict(u8),
        Pop,
        PopEven,
        ExtractFives,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => prop::option::weighted(0.8, 0..6_u8).prop_map(Act::Push),
            1 => (0..6_u8).prop_map(Act::Evict),
            2 => Just(Act::Pop),
            1 => Just(Act::PopEven),
            1 => Just(Act::ExtractFives),
        ];
        prop::collection::vec(act, 0..80)
    }

    /// The same by a list that is searched, with a place for each entry.
    #[derive(Default)]
    struct Naive(Vec<(Option<String>, Option<u32>)>);

    impl Naive {
        fn at(&mut self, key: Option<&str>) -> Option<&mut Option<u32>> {
            let key = key?;
            let mut places = self.0.iter_mut();
            let found = places.find(|(other, _)| other.as_deref() == Some(key));
            found.map(|(_, item)| item)
        }

        fn push(&mut self, key: Option<&str>, item: u32) -> Option<u32> {
            match self.at(key) {
                Some(place) => place.replace(item),
                None => {
                    self.0.push((key.map(str::to_owned), Some(item)));
                    None
                }
            }
        }

        fn pop_where(&mut self, may_go: impl Fn(u32) -> bool) -> Option<u32> {
            let empty = self.0.iter().take_while(|(_, item)| item.is_none()).count();
            self.0.drain(..empty);
            let mut places = self.0.iter();
            let at = places.position(|(_, item)| item.is_some_and(&may_go))?;
            self.0.remove(at).1
        }
    }

    proptest! {
        #[test]
        fn it_does_as_a_list_that_is_searched(acts in acts()) {
            let (mut naive, mut conflation) = (Naive::default(), Conflation::new());
            for (number, act) in (0_u32..).zip(acts) {
                let name = |key: u8| format!("key-{key}");
                match act {
                    Act::Push(key) => {
                        let key = key.map(name);
                        let (key, item) = (key.as_deref(), number);
                        let waits = key.is_some_and(|key| conflation.waits(key));
                        let replaced = conflation.push(key, item);
                        prop_assert_eq!(waits, replaced.is_some());
                        prop_assert_eq!(naive.push(key, item), replaced);
                    }
                    Act::Evict(key) => {
                        let evicted = naive.at(Some(&name(key))).and_then(Option::take);
                        prop_assert_eq!(evicted, conflation.evict(&name(key)));
                    }
                    Act::Pop => prop_assert_eq!(naive.pop_where(|_| true), conflation.pop_where(|_| true)),
                    Act::PopEven => {
                        let is_even = |item: &u32| item.is_multiple_of(2);
                        let popped = conflation.pop_where(is_even);
                        prop_assert_eq!(naive.pop_where(|item| is_even(&item)), popped);
                    }
                    Act::ExtractFives => {
                        let is_five = |item: &u32| item.is_multiple_of(5);
                        let kept = |(_, item): &mut (_, Option<u32>)| {
                            item.is_some_and(|item| is_five(&item))
                        };
                        let naive: Vec<_> = naive.0.extract_if(.., kept).collect();
                        let naive: Vec<_> = naive.into_iter().filter_map(|(_, item)| item).collect();
                        prop_assert_eq!(naive, conflation.extract(is_five));
                    }
                }
                let waiting = naive.0.iter().filter(|(_, item)| item.is_some()).count();
                prop_assert_eq!(waiting, conflation.len());
                prop_assert!(conflation.by_key.len() <= 6);
            }
        }

        #[test]
        fn what_fits_needs_no_more_places_than_there_are(
            waiting in prop::collection::btree_set(0..4_u8, 0..4),
            coming in prop::collection::vec(prop::option::of(0..6_u8), 0..12),
            free in 0..6_u32,
        ) {
            let name = |key: u8| format!("key-{key}");
            let mut conflation = Conflation::new();
            for key in &waiting {
                prop_assert_eq!(conflation.push(Some(&name(*key)), 0), None);
            }
            let coming: Vec<_> = coming.into_iter().map(|key| key.map(name)).collect();
            let keys = || coming.iter().map(Option::as_deref);
            let fits = fitting(keys(), free, |key| conflation.waits(key)) as usize;
            // What needs a place of its own: all but the first of each key that waits.
            let mut evicted = 0;
            for key in keys().take(fits) {
                evicted += u32::from(key.and_then(|key| conflation.evict(key)).is_some());
            }
            prop_assert!(fits as u32 - evicted <= free);
            if let Some(next) = keys().nth(fits) {
                prop_assert_eq!(fits as u32 - evicted, free, "the next would have had a place");
                prop_assert!(next.and_then(|key| conflation.evict(key)).is_none());
            }
        }
    }

    #[test]
    fn a_hot_key_keeps_its_place_and_starves_nobody() {
        let mut conflation = Conflation::new();
        for (key, item) in [("a", 1), ("hot", 2), ("b", 3)] {
            assert_eq!(conflation.push(Some(key), item), None);
        }
        for item in 4..100 {
            assert!(conflation.push(Some("hot"), item).is_some());
        }
        assert_eq!(conflation.push(None, 100), None);
        let order: Vec<_> = std::iter::from_fn(|| conflation.pop_where(|_| true)).collect();
        assert_eq!(order, [1, 99, 3, 100]);
    }
}
