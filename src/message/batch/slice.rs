//! Ranges of batches, each for one lane.

use crate::engine::track::ends::Ends;
use crate::message::MessageId;
use crate::message::batch::{Batch, BatchSlice, Stamp};
use crate::sync::Arc;

impl<T> BatchSlice<T> {
    /// Makes a slice of a whole batch.
    pub(crate) fn whole(batch: Arc<Batch<T>>) -> Self {
        Self {
            from: 0,
            to: batch.len() as u32,
            batch,
        }
    }

    pub(crate) fn len(&self) -> usize {
        (self.to - self.from) as usize
    }

    /// Returns a slice of the one message at this place of the batch.
    pub(crate) fn one(&self, index: u32) -> Self {
        Self {
            batch: Arc::clone(&self.batch),
            from: index,
            to: index + 1,
        }
    }

    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = MessageId> {
        self.batch.ids(self.from as usize, self.to as usize)
    }

    pub(crate) fn first(&self) -> Stamp {
        self.batch.stamp(self.from as usize)
    }

    /// Returns the time when the first message of the slice expires, or `u64::MAX` if none does.
    #[inline]
    pub(crate) fn expires_ns(&self) -> u64 {
        if !self.batch.may_expire() {
            return u64::MAX;
        }
        self.first_expiry_ns()
    }

    fn first_expiry_ns(&self) -> u64 {
        let each = self.from as usize..self.to as usize;
        if self.batch.ttl.is_some() {
            let each = each.filter_map(|index| self.batch.expires_ns(index));
            return each.min().unwrap_or(u64::MAX);
        }
        let own = self.batch.meta.iter().filter_map(|(index, meta)| {
            let (index, ttl_ns) = (*index as usize, meta.ttl_ns?);
            let stamp = each.contains(&index).then(|| self.batch.stamp(index))?;
            Some(stamp.accepted_ns.saturating_add(ttl_ns))
        });
        own.min().unwrap_or(u64::MAX)
    }

    /// Returns what the messages weigh together.
    pub(crate) fn weight(&self) -> u64 {
        let metas = (self.from..self.to).filter_map(|index| self.batch.meta(index as usize));
        metas.filter_map(|meta| meta.weight).sum()
    }

    /// Returns the place in the batch of the first of its messages that has this key.
    pub(crate) fn find_key(&self, key: &str) -> Option<u32> {
        let metas = self.batch.meta.iter();
        let mut within = metas.filter(|(at, _)| (self.from..self.to).contains(at));
        let found = within.find(|(_, meta)| meta.key.as_deref() == Some(key));
        found.map(|(at, _)| *at)
    }

    /// Calls `note` with the trackers of the messages, if they have any.
    #[inline(always)]
    pub(crate) fn track(&self, note: impl Fn(&Ends)) {
        if self.batch.is_watched() {
            self.batch.track(self.from, self.to, note);
        }
    }

    /// Returns the rest behind the first `count` messages, if there is any.
    pub(crate) fn after(self, count: u32) -> Option<Self> {
        let from = self.from + count;
        Self { from, ..self }.unless_empty()
    }

    pub(crate) fn unless_empty(self) -> Option<Self> {
        (self.len() > 0).then_some(self)
    }

    /// Returns the first messages, at most `most`, and the others if there are any.
    pub(crate) fn split_at_most(self, most: u32) -> (Self, Option<Self>) {
        if self.len() as u32 <= most {
            return (self, None);
        }
        let (front, others) = self.split_front(most);
        (front, Some(others))
    }

    /// Returns the first `count` messages, and the others.
    pub(crate) fn split_front(self, count: u32) -> (Self, Self) {
        let split = self.from + count;
        let front = Self {
            batch: Arc::clone(&self.batch),
            from: self.from,
            to: split,
        };
        (
            front,
            Self {
                from: split,
                ..self
            },
        )
    }

    /// Returns the messages behind the first `count`, and the first `count`.
    pub(crate) fn split_back(self, count: u32) -> (Self, Self) {
        let (front, back) = self.split_front(count);
        (back, front)
    }
}
