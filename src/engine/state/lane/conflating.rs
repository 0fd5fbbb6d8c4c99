//! The inbox of a lane that conflates. Its deliveries wait one by one under one short lock, and none
//! is taken out before it is about to be delivered. So all that wait can be replaced.

use std::collections::VecDeque;

use crate::engine::state::lane::Lane;
use crate::message::batch::BatchSlice;
use crate::pure::order::conflation::fitting;
use crate::sync::Arc;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Returns whether the newest delivery of a key replaces the one that waits.
    #[inline(always)]
    pub(crate) fn conflates(&self) -> bool {
        self.conflation.is_some()
    }

    /// Returns how many deliveries wait.
    pub(super) fn conflated(&self) -> usize {
        let conflation = self.conflation.as_ref();
        conflation.map_or(0, |conflation| conflation.lock().len())
    }

    /// Returns how many deliveries were replaced, ever.
    pub(crate) fn replaced(&self) -> u64 {
        let conflation = self.conflation.as_ref();
        conflation.map_or(0, |conflation| conflation.lock().replaced())
    }

    /// Adds deliveries that hold a place. Returns the older ones that they have replaced.
    pub(crate) fn push_conflated(&self, part: &BatchSlice<T>) -> Vec<BatchSlice<T>> {
        let Some(conflation) = &self.conflation else {
            return Vec::new();
        };
        let mut conflation = conflation.lock();
        let each = (part.from..part.to).map(|index| part.one(index));
        let replaced = each.filter_map(|one| {
            let batch = Arc::clone(&one.batch);
            conflation.push(batch.key(one.from), one)
        });
        replaced.collect()
    }

    /// Takes the oldest delivery.
    #[cold]
    pub(super) fn pop_oldest_conflated(&self) -> Option<BatchSlice<T>> {
        self.pop_conflated(|_| true)
    }

    /// Takes the oldest delivery that may go.
    pub(crate) fn pop_conflated(
        &self,
        may_go: impl FnMut(&BatchSlice<T>) -> bool,
    ) -> Option<BatchSlice<T>> {
        self.conflation.as_ref()?.lock().pop_where(may_go)
    }

    /// Returns whether a delivery waits that may go.
    pub(crate) fn has_conflated(&self, may_go: impl FnMut(&BatchSlice<T>) -> bool) -> bool {
        let conflation = self.conflation.as_ref();
        conflation.is_some_and(|conflation| conflation.lock().has_some(may_go))
    }

    /// Passes each delivery to `look`, which leaves those that are to stay.
    pub(super) fn look_through_conflated(
        &self,
        mut look: impl FnMut(BatchSlice<T>, &mut VecDeque<BatchSlice<T>>),
    ) {
        let Some(conflation) = &self.conflation else {
            return;
        };
        let mut left = VecDeque::new();
        let gone = conflation.lock().extract(|one| {
            left.clear();
            look(one.one(one.from), &mut left);
            left.is_empty()
        });
        drop(gone);
    }

    /// Returns whether a delivery of this message's key waits.
    pub(crate) fn would_replace(&self, part: &BatchSlice<T>, index: u32) -> bool {
        let conflation = self.conflation.as_ref();
        conflation
            .zip(part.batch.key(index))
            .is_some_and(|(conflation, key)| conflation.lock().waits(key))
    }

    /// Returns how many of the first `most` messages fit into `free` places.
    pub(crate) fn fitting(&self, part: &BatchSlice<T>, most: u32, free: u32) -> u32 {
        let Some(conflation) = &self.conflation else {
            return free.min(most);
        };
        let keys = (part.from..part.from + most).map(|index| part.batch.key(index));
        let conflation = conflation.lock();
        fitting(keys, free, |key| conflation.waits(key))
    }

    /// Takes out deliveries that the first `wanted` messages are about to replace, so that these
    /// fit into `granted` places and theirs.
    pub(crate) fn evict_conflated(
        &self,
        part: &BatchSlice<T>,
        wanted: u32,
        granted: u32,
    ) -> Vec<BatchSlice<T>> {
        let Some(conflation) = &self.conflation else {
            return Vec::new();
        };
        let mut conflation = conflation.lock();
        let (mut evicted, mut places) = (Vec::new(), granted);
        // One that comes without a place is not handed on, so it replaces nothing.
        for at in 0..wanted {
            if places == wanted || at > places {
                break;
            }
            if let Some(key) = part.batch.key(part.from + at)
                && let Some(older) = conflation.evict(key)
            {
                evicted.push(older);
                places += 1;
            }
        }
        evicted
    }
}
