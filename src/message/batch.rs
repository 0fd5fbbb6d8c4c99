//! Messages on their way: one by one through the queue, in batches from there on.

use crate::engine::base::contain::discard;
use crate::message::MessageId;
use crate::sync::Arc;

/// Most messages in a batch. One allocation and one lane operation per
/// subscription are shared by so many; a retry or a dead letter keeps so many
/// messages alive at most.
pub(crate) const BATCH: usize = if cfg!(millstream_loom) { 3 } else { 64 };
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

impl Meta {
    /// When a message with this stamp expires, if it has a time to live of its own.
    pub(crate) fn expires_ns(&self, stamp: Stamp) -> Option<u64> {
        Some(stamp.accepted_ns.saturating_add(self.ttl_ns?))
    }
}

impl Stamp {
    /// The stamps of messages that were accepted at once, beginning with this one.
    pub(crate) fn each(self) -> impl Iterator<Item = Self> {
        (0..).map(move |number| Self {
            id: self.id.after(number),
            ..self
        })
    }
}

/// One message, by value.
pub(crate) struct Message<T> {
    pub(crate) stamp: Stamp,
    pub(crate) payload: T,
}

/// The messages of a batch.
pub(crate) enum Messages<T> {
    /// Accepted one by one.
    Each(Vec<Message<T>>),
    /// Accepted at once, in their publisher's own vector: ids that follow each other, and
    /// one time. This is the first stamp.
    Chunk(Vec<T>, Stamp),
}

/// Messages that travel together. Shared by every lane that has yet to handle
/// one of them; freed when the last delivery of the last of them has ended.
pub(crate) struct Batch<T> {
    pub(crate) messages: Messages<T>,
    /// Sorted by index; empty for most batches.
    meta: Vec<(u32, Meta)>,
}

impl<T> Batch<T> {
    /// Messages that were accepted at once, in the caller's own vector.
    pub(crate) fn chunk(payloads: Vec<T>, first: Stamp) -> Self {
        Self {
            messages: Messages::Chunk(payloads, first),
            meta: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.messages {
            Messages::Each(messages) => messages.len(),
            Messages::Chunk(payloads, _) => payloads.len(),
        }
    }

    #[inline]
    pub(crate) fn payload(&self, index: usize) -> &T {
        match &self.messages {
            Messages::Each(messages) => &messages[index].payload,
            Messages::Chunk(payloads, _) => &payloads[index],
        }
    }

    #[inline]
    pub(crate) fn stamp(&self, index: usize) -> Stamp {
        match &self.messages {
            Messages::Each(messages) => messages[index].stamp,
            Messages::Chunk(_, first) => Stamp {
                id: first.id.after(index as u64),
                accepted_ns: first.accepted_ns,
            },
        }
    }

    /// Gives back what a batch that was not full has too much, because a slow lane holds
    /// on to it.
    pub(crate) fn shrink(&mut self) {
        if let Messages::Each(messages) = &mut self.messages
            && messages.len() <= messages.capacity() / 2
        {
            messages.shrink_to_fit();
        }
    }

    /// Whether a message of it may have a time to live of its own.
    pub(crate) fn has_meta(&self) -> bool {
        !self.meta.is_empty()
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
            match &mut self.messages {
                Messages::Each(messages) => messages.drain(..).for_each(discard),
                Messages::Chunk(payloads, _) => payloads.drain(..).for_each(discard),
            }
        }
    }
}

/// A batch in the making, to which messages are added one by one.
pub(crate) struct OpenBatch<T> {
    messages: Vec<Message<T>>,
    meta: Vec<(u32, Meta)>,
    /// Messages to make room for with the first: about as many as came last time. A topic
    /// with a message now and then holds on to little memory.
    expected: usize,
}

impl<T> OpenBatch<T> {
    pub(crate) const fn new() -> Self {
        Self {
            messages: Vec::new(),
            meta: Vec::new(),
            expected: 1,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, message: Message<T>, meta: Option<Meta>) {
        if self.messages.len() == self.messages.capacity() {
            self.grow();
        }
        if let Some(meta) = meta {
            self.meta.push((self.messages.len() as u32, meta));
        }
        self.messages.push(message);
    }

    #[cold]
    fn grow(&mut self) {
        let more = self.expected.max(self.messages.len());
        self.messages.reserve_exact(more);
    }

    /// Everything that was added, and leaves nothing.
    pub(crate) fn take(&mut self) -> Batch<T> {
        let messages = std::mem::take(&mut self.messages);
        self.expected = messages.len().next_power_of_two();
        Batch {
            messages: Messages::Each(messages),
            meta: std::mem::take(&mut self.meta),
        }
    }
}

/// What a publisher hands in: a message and what belongs to it, or messages that were
/// accepted at once, of which this is the first stamp.
pub(crate) enum QueueEntry<T> {
    One(Message<T>, Option<Meta>),
    Chunk(Vec<T>, Stamp),
}

impl<T> QueueEntry<T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Chunk(payloads, _) => payloads.len(),
        }
    }

    /// Its oldest message's.
    pub(crate) fn first(&self) -> Stamp {
        match self {
            Self::One(message, _) => message.stamp,
            Self::Chunk(_, first) => *first,
        }
    }

    /// What its publisher added to it, if it is a message of its own.
    pub(crate) fn meta(&self) -> Option<&Meta> {
        match self {
            Self::One(_, meta) => meta.as_ref(),
            Self::Chunk(..) => None,
        }
    }

    /// When it expires, if it is a message that has a time to live of its own.
    pub(crate) fn own_expires_ns(&self) -> Option<u64> {
        self.meta()?.expires_ns(self.first())
    }

    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = MessageId> + use<T> {
        let first = self.first().id;
        (0..self.len() as u32).map(move |index| first.after(u64::from(index)))
    }
}

/// What publishers have dropped. Its destructors are the user's, and run when this
/// goes: where no lock is held.
pub(crate) struct DeferredDrops<T> {
    entries: Vec<QueueEntry<T>>,
    parts: Vec<BatchSlice<T>>,
}

impl<T> DeferredDrops<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// What was not let in.
    pub(crate) fn add_entry(&mut self, entry: QueueEntry<T>) {
        self.entries.push(entry);
    }

    /// What had to make room.
    pub(crate) fn add_part(&mut self, part: BatchSlice<T>) {
        self.parts.push(part);
    }
}

impl<T> Drop for DeferredDrops<T> {
    fn drop(&mut self) {
        for entry in self.entries.drain(..) {
            match entry {
                QueueEntry::One(message, _) => discard(message),
                QueueEntry::Chunk(payloads, _) => payloads.into_iter().for_each(discard),
            }
        }
    }
}

/// A run of a batch's messages, bound for one lane.
pub(crate) struct BatchSlice<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl<T> BatchSlice<T> {
    /// All of a batch.
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
        if topic_ttl_ns.is_none() && !self.batch.has_meta() {
            return u64::MAX;
        }
        let each = self.from as usize..self.to as usize;
        let each = each.filter_map(|index| self.batch.expires_ns(index, topic_ttl_ns));
        each.min().unwrap_or(u64::MAX)
    }

    /// What is left without the first `count` messages, if anything is.
    pub(crate) fn after(self, count: u32) -> Option<Self> {
        let from = self.from + count;
        Self { from, ..self }.unless_empty()
    }

    pub(crate) fn unless_empty(self) -> Option<Self> {
        (self.len() > 0).then_some(self)
    }

    /// The first messages, at most so many, and the others if there are any.
    pub(crate) fn split_at_most(self, most: u32) -> (Self, Option<Self>) {
        if self.len() as u32 <= most {
            return (self, None);
        }
        let (front, others) = self.split_front(most);
        (front, Some(others))
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
        assert_eq!(size_of::<Message<[u8; 64]>>(), 80);
    }

    #[test]
    fn a_batch_in_the_making_makes_room_for_about_as_many_as_came_last_time() {
        let mut open = OpenBatch::new();
        let mut fill = |count: u64| {
            for sequence in 1..=count {
                let payload = sequence;
                let stamp = stamp(sequence, 0);
                open.push(Message { stamp, payload }, None);
            }
            let Messages::Each(messages) = &open.take().messages else {
                panic!("they came one by one");
            };
            assert_eq!(messages.len() as u64, count);
            messages.capacity()
        };
        assert_eq!([fill(1), fill(64), fill(33), fill(1)], [1, 64, 64, 64]);
        assert_eq!(fill(1), 1);
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
    fn a_panic_in_one_payloads_drop_does_not_stop_its_neighbors() {
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
