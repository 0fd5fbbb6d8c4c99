//! Messages on their way: one by one through the queue, in batches from there on.

use crate::engine::contain::discard;
use crate::message::MessageId;
use crate::sync::Arc;

/// What a publisher may add to a payload. Messages without it pay nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) key: Option<Box<str>>,
    pub(crate) headers: Vec<(Box<str>, Box<str>)>,
    pub(crate) ttl_ns: Option<u64>,
}

/// What a message got when it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) id: MessageId,
    pub(crate) accepted_ns: u64,
}

/// One message, by value.
pub(crate) struct Message<T> {
    pub(crate) stamp: Stamp,
    pub(crate) payload: T,
}

/// The stamps of a batch.
pub(crate) enum Stamps {
    /// Accepted at once: ids that follow each other, and one time. This is the
    /// first stamp.
    Chunk(Stamp),
    /// Accepted one by one.
    Each(Vec<Stamp>),
}

/// Messages that travel together. Shared by every lane that has yet to handle
/// one of them; freed when the last delivery of the last of them has ended.
pub(crate) struct Batch<T> {
    pub(crate) payloads: Vec<T>,
    pub(crate) stamps: Stamps,
    /// Sorted by index; empty for most batches.
    pub(crate) meta: Vec<(u32, Meta)>,
}

impl<T> Batch<T> {
    /// Messages that were accepted at once, in the caller's own vector.
    pub(crate) fn chunk(payloads: Vec<T>, first: Stamp) -> Self {
        Self {
            payloads,
            stamps: Stamps::Chunk(first),
            meta: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.payloads.len()
    }

    #[inline]
    pub(crate) fn stamp(&self, index: usize) -> Stamp {
        match &self.stamps {
            Stamps::Chunk(first) => Stamp {
                id: first.id.after(index as u64),
                accepted_ns: first.accepted_ns,
            },
            Stamps::Each(stamps) => stamps[index],
        }
    }

    pub(crate) fn ids(&self, from: usize, to: usize) -> impl ExactSizeIterator<Item = MessageId> {
        (from..to).map(|index| self.stamp(index).id)
    }

    pub(crate) fn meta(&self, index: usize) -> Option<&Meta> {
        if self.meta.is_empty() {
            return None;
        }
        let found = self
            .meta
            .binary_search_by_key(&(index as u32), |(index, _)| *index);
        found.ok().map(|at| &self.meta[at].1)
    }

    /// When the message's time to live ends, given that of its topic.
    pub(crate) fn expires_ns(&self, index: usize, topic_ttl_ns: Option<u64>) -> Option<u64> {
        let own = self.meta(index).and_then(|meta| meta.ttl_ns);
        let ttl_ns = own.or(topic_ttl_ns)?;
        Some(self.stamp(index).accepted_ns.saturating_add(ttl_ns))
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            self.payloads.drain(..).for_each(discard);
        }
    }
}

/// A batch in the making, of messages that were accepted one by one.
pub(crate) struct Collected<T> {
    payloads: Vec<T>,
    stamps: Vec<Stamp>,
    meta: Vec<(u32, Meta)>,
}

impl<T> Collected<T> {
    pub(crate) const fn new() -> Self {
        Self {
            payloads: Vec::new(),
            stamps: Vec::new(),
            meta: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.stamps.len()
    }

    /// Adds a message. The first one makes room for as many as `there` are.
    #[inline(always)]
    pub(crate) fn push(&mut self, message: Message<T>, there: impl FnOnce() -> usize) {
        if self.stamps.is_empty() {
            let messages = there();
            self.payloads.reserve_exact(messages);
            self.stamps.reserve_exact(messages);
        }
        self.payloads.push(message.payload);
        self.stamps.push(message.stamp);
    }

    /// Adds the message of a chunk of one, and what belongs to it.
    pub(crate) fn push_single(&mut self, chunk: Arc<Batch<T>>, there: impl FnOnce() -> usize) {
        let at = self.stamps.len() as u32;
        let Some(mut chunk) = Arc::into_inner(chunk) else {
            return;
        };
        let stamp = chunk.stamp(0);
        if let Some(payload) = chunk.payloads.pop() {
            self.push(Message { stamp, payload }, there);
            self.meta
                .extend(chunk.meta.drain(..).map(|(_, own)| (at, own)));
        }
    }

    pub(crate) fn finish(self) -> Batch<T> {
        Batch {
            payloads: self.payloads,
            stamps: Stamps::Each(self.stamps),
            meta: self.meta,
        }
    }
}

/// What fills one slot of a topic queue: a message, or a chunk of them.
pub(crate) enum Parcel<T> {
    One(Message<T>),
    Chunk(Arc<Batch<T>>),
}

impl<T> Parcel<T> {
    /// What a message travels in: a slot of its own, or with what its publisher
    /// added, a chunk of one.
    #[inline(always)]
    pub(crate) fn of(message: Message<T>, meta: Option<Meta>) -> Self {
        match meta {
            None => Self::One(message),
            Some(meta) => Self::Chunk(Arc::new(Batch {
                payloads: vec![message.payload],
                stamps: Stamps::Chunk(message.stamp),
                meta: vec![(0, meta)],
            })),
        }
    }

    /// What messages travel in that were accepted at once. One of them needs no vector.
    pub(crate) fn of_chunk(mut payloads: Vec<T>, first: Stamp) -> Self {
        if payloads.len() == 1
            && let Some(payload) = payloads.pop()
        {
            let stamp = first;
            return Self::One(Message { stamp, payload });
        }
        Self::Chunk(Arc::new(Batch::chunk(payloads, first)))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Chunk(batch) => batch.len(),
        }
    }

    fn stamp(&self, index: usize) -> Stamp {
        match self {
            Self::One(message) => message.stamp,
            Self::Chunk(batch) => batch.stamp(index),
        }
    }

    /// What its publisher added to it, if it is a message of its own.
    pub(crate) fn meta(&self) -> Option<&Meta> {
        match self {
            Self::One(_) => None,
            Self::Chunk(batch) => batch.meta(0),
        }
    }

    /// When it expires, given the time to live of its topic. Only a message of its own
    /// has one of its own, and the messages of a chunk were accepted at once.
    #[inline(always)]
    pub(crate) fn expires_ns(&self, topic_ttl_ns: Option<u64>) -> Option<u64> {
        match self {
            Self::One(message) => {
                let ttl_ns = topic_ttl_ns?;
                Some(message.stamp.accepted_ns.saturating_add(ttl_ns))
            }
            Self::Chunk(batch) => batch.expires_ns(0, topic_ttl_ns),
        }
    }

    /// All of it.
    pub(crate) fn into_part(self) -> Part<T> {
        let batch = match self {
            Self::One(message) => Arc::new(Batch::chunk(vec![message.payload], message.stamp)),
            Self::Chunk(batch) => batch,
        };
        Part {
            from: 0,
            to: batch.len() as u32,
            batch,
        }
    }

    /// Its oldest message's.
    pub(crate) fn first(&self) -> Stamp {
        self.stamp(0)
    }

    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = MessageId> {
        (0..self.len()).map(|index| self.stamp(index).id)
    }
}

/// What publishers have dropped. Its destructors are the user's, and run when this
/// goes: where no lock is held.
pub(crate) struct Waste<T>(Vec<Parcel<T>>);

impl<T> Waste<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, parcel: Parcel<T>) {
        self.0.push(parcel);
    }
}

impl<T> Drop for Waste<T> {
    fn drop(&mut self) {
        self.0.drain(..).for_each(discard);
    }
}

/// A run of a batch's messages, bound for one lane.
pub(crate) struct Part<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl<T> Part<T> {
    pub(crate) fn len(&self) -> usize {
        (self.to - self.from) as usize
    }

    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = MessageId> {
        self.batch.ids(self.from as usize, self.to as usize)
    }

    pub(crate) fn first(&self) -> Stamp {
        self.batch.stamp(self.from as usize)
    }

    /// When the first of its messages expires that does, given the time to live of
    /// their topic; `u64::MAX` if none does.
    #[inline]
    pub(crate) fn expires_ns(&self, topic_ttl_ns: Option<u64>) -> u64 {
        if topic_ttl_ns.is_none() && self.batch.meta.is_empty() {
            return u64::MAX;
        }
        let each = self.from as usize..self.to as usize;
        let each = each.filter_map(|index| self.batch.expires_ns(index, topic_ttl_ns));
        each.min().unwrap_or(u64::MAX)
    }

    /// The first `count` messages, and the others.
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

    /// What is left without the first `count` messages, and those.
    pub(crate) fn split_back(self, count: u32) -> (Self, Self) {
        let (front, back) = self.split_front(count);
        (back, front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64, accepted_ns: u64) -> Stamp {
        Stamp {
            id: MessageId::new(sequence),
            accepted_ns,
        }
    }

    #[test]
    fn a_queued_64_byte_message_takes_80_bytes() {
        // The id's niche tells the two kinds of parcel apart; crossbeam adds a
        // stamp of 8 bytes per slot.
        assert_eq!(size_of::<Parcel<[u8; 64]>>(), 80);
    }

    #[test]
    fn the_messages_of_a_chunk_are_numbered_from_its_first() {
        let chunk = Batch::chunk(vec!['a', 'b', 'c'], stamp(7, 500));
        assert_eq!(
            [0, 2].map(|at| chunk.stamp(at)),
            [stamp(7, 500), stamp(9, 500)]
        );
        assert_eq!(chunk.expires_ns(2, Some(10)), Some(510));
    }

    #[test]
    fn a_panic_in_one_payloads_drop_does_not_stop_its_neighbours() {
        use crate::sync::atomic::{AtomicUsize, Ordering};

        struct Bomb(Arc<AtomicUsize>);
        impl Drop for Bomb {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
                panic!("a payload that won't go quietly");
            }
        }
        let drops = Arc::new(AtomicUsize::new(0));
        let bombs = [(); 3].map(|()| Bomb(drops.clone()));
        drop(Batch::chunk(bombs.into(), stamp(1, 0)));
        assert_eq!(drops.load(Ordering::Relaxed), 3);
    }
}
