//! Taking from the inbox of a lane, where others than its runner may take, too.

use std::collections::VecDeque;

use crate::engine::state::lane::Lane;
use crate::message::batch::BatchSlice;
use crate::sync::atomic::Ordering;
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

    /// Notes that messages with a priority of their own were queued.
    #[cold]
    pub(super) fn note_levels(&self) {
        // ORDERING: a swap, here and below, so that who finds the note taken finds the messages of
        // all who have made it.
        self.leveled.swap(true, Ordering::AcqRel);
    }

    /// Takes the note that such messages were queued, for a consumer that is about to file all that
    /// is queued. It makes the note again if it leaves some.
    pub(crate) fn take_levels(&self) {
        if self.leveled.load(Ordering::Relaxed) {
            self.leveled.swap(false, Ordering::AcqRel);
        }
    }

    /// Notes that not all that is queued was filed.
    pub(crate) fn leave_levels(&self) {
        if !self.is_inbox_empty() {
            self.note_levels();
        }
    }

    /// Returns whether all messages that are queued have the default priority.
    ///
    /// The feared interleaving: a consumer takes the note of messages that it doesn't find. They would
    /// pass for messages without a level. It can't happen: they are queued first and noted then.
    pub(crate) fn is_level(&self) -> bool {
        !self.leveled.load(Ordering::Acquire)
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
