//! Taking from the inbox of a lane, where others than its runner may take, too.

use std::collections::VecDeque;

use crate::engine::state::lane::Lane;
use crate::message::batch::BatchSlice;
use crate::sync::{Arc, Unbounded};

impl<T: Send + Sync + 'static> Lane<T> {
    /// Passes each queued slice to `look`, which leaves what is to stay.
    pub(crate) fn look_through_inbox(
        &self,
        mut look: impl FnMut(BatchSlice<T>, &mut VecDeque<BatchSlice<T>>),
    ) {
        if self.conflation.is_some() {
            return self.look_through_conflated(look);
        }
        let Some(inbox) = self.inbox.get() else {
            return;
        };
        if self.is_sifted() || self.keyed.get().is_some() {
            let mut split = self.split.lock();
            let mut left = VecDeque::new();
            while let Some(part) = split.pop_front().or_else(|| inbox.pop()) {
                look(part, &mut left);
            }
            *split = left;
        }
    }

    /// Takes the oldest deliveries that are queued, at most `most`.
    pub(crate) fn pop_some(&self, most: u32) -> Option<BatchSlice<T>> {
        if self.conflates() {
            return self.pop_oldest_conflated();
        }
        self.pop_chosen(|_| most)
    }

    /// Takes as many deliveries of the oldest queued slice as `choose` says, unless it conflates.
    pub(crate) fn pop_chosen(
        &self,
        choose: impl FnOnce(&BatchSlice<T>) -> u32,
    ) -> Option<BatchSlice<T>> {
        let inbox = self.inbox.get()?;
        let mut split = self.split.lock();
        if split.is_empty() {
            split.push_back(inbox.pop()?);
        }
        let oldest = split.front_mut()?;
        let count = choose(oldest);
        if oldest.len() as u32 <= count {
            return split.pop_front();
        }
        let taken = BatchSlice {
            batch: Arc::clone(&oldest.batch),
            from: oldest.from,
            to: oldest.from + count,
        };
        oldest.from += count;
        Some(taken)
    }

    /// Puts back deliveries that were taken out and not tried, before those that are queued.
    pub(crate) fn unpop(&self, part: BatchSlice<T>) {
        self.split.lock().push_front(part);
    }

    /// Returns whether nothing is queued.
    pub(crate) fn is_inbox_empty(&self) -> bool {
        if self.conflation.is_some() {
            return self.conflated() == 0;
        }
        // In this order: a delivery that leaves the one is then in the other.
        let is_empty = |inbox: &Unbounded<_>| inbox.is_empty() && self.split.lock().is_empty();
        self.inbox.get().is_none_or(|inbox| is_empty(inbox))
    }

    /// Returns whether at most one slice is queued, and all its messages have the default priority.
    #[cold]
    pub(crate) fn is_level(&self) -> bool {
        let Some(inbox) = self.inbox.get() else {
            return true;
        };
        let mut split = self.split.lock();
        if split.is_empty() {
            split.extend(inbox.pop());
        }
        let is_level = split.front().is_none_or(|part| !part.batch.has_priority());
        is_level && split.len() <= 1 && inbox.is_empty()
    }

    /// Returns how many deliveries are queued; counts no further than `enough`.
    pub(crate) fn queued(&self, enough: usize) -> usize {
        if self.conflation.is_some() {
            return self.conflated().min(enough);
        }
        let Some(inbox) = self.inbox.get() else {
            return 0;
        };
        let mut split = self.split.lock();
        let (mut found, mut parts) = (0, split.iter());
        while found < enough
            && let Some(part) = parts.next()
        {
            found += part.len();
        }
        while found < enough
            && let Some(part) = inbox.pop()
        {
            found += part.len();
            split.push_back(part);
        }
        found
    }
}
