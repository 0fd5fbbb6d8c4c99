//! Messages on their way: one by one through the queue, and in batches from there on.

use crate::engine::base::contain::discard;
use crate::engine::track::ends::Ends;
use crate::message::MessageId;
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::pure::decide::lifecycle::Status;
use crate::pure::protect::priority::Priority;
use crate::sync::Arc;
#[cfg(feature = "log")]
use crate::types::durable::earlier::Earlier;

use std::mem::ManuallyDrop;
use std::num::NonZeroU64;

mod retained;
mod slice;

use retained::Sources;

/// The most messages in a batch.
///
/// They share one allocation, and one lane operation per subscription. A retry or a dead letter
/// keeps at most this many messages alive.
pub(crate) const BATCH: usize = if cfg!(millstream_loom) { 3 } else { 64 };

/// The id and the time that a message got when it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) id: MessageId,
    pub(crate) accepted_ns: u64,
}

impl Stamp {
    /// Returns the stamps of messages that were accepted at once, beginning with this one.
    pub(crate) fn each(self) -> impl Iterator<Item = Self> {
        (0..).map(move |number| Self {
            id: self.id.after(number),
            ..self
        })
    }
}

/// One accepted message, by value.
pub(crate) struct Accepted<T> {
    pub(crate) stamp: Stamp,
    pub(crate) payload: T,
}

/// The messages of a batch.
pub(crate) enum Messages<T> {
    /// Messages that were accepted one by one.
    Each(Vec<Accepted<T>>),
    /// Messages that were accepted at once, in their publisher's own vector, and their first stamp.
    ///
    /// Their ids follow each other, and they share one time.
    Chunk(Vec<T>, Stamp),
}

/// Messages that travel together.
///
/// Every lane that has yet to handle one of them shares the batch. It is freed when the last
/// delivery of its messages has ended.
pub(crate) struct Batch<T> {
    pub(crate) messages: Messages<T>,
    /// The messages, if they are in other batches. Then it has none of its own.
    retained: ManuallyDrop<Option<Box<Sources<T>>>>,
    /// The parts added to messages, sorted by index. It is empty for most batches. This and the one
    /// above are dropped by hand, so that a batch without them pays one look at each.
    meta: ManuallyDrop<Vec<(u32, Box<Meta>)>>,
    marks: Marks,
    /// The time to live, in nanoseconds, that the topic had when the batch was begun. It holds for
    /// messages without one of their own.
    ttl: Option<NonZeroU64>,
}

/// The kinds of parts that some message of a batch has, so that others needn't be looked for.
#[derive(Clone, Copy)]
struct Marks {
    /// A time to live of its own.
    expires: bool,
    /// Somebody who wants to know its end: its publisher, or the log.
    is_watched: bool,
    /// A priority other than the default.
    has_priority: bool,
    /// It was read from the log, after the subscription has done this with it.
    #[cfg(feature = "log")]
    replayed: Option<Earlier>,
}

impl Marks {
    const NONE: Self = Self {
        expires: false,
        is_watched: false,
        has_priority: false,
        #[cfg(feature = "log")]
        replayed: None,
    };

    fn add(&mut self, meta: &Meta) {
        self.expires |= meta.ttl_ns.is_some();
        self.is_watched |= meta.is_watched();
        self.has_priority |= meta.priority != Priority::Normal;
    }
}

impl<T> Batch<T> {
    /// Makes a batch of messages that were accepted at once, in the vector of their chunk.
    pub(crate) fn chunk(chunk: Chunk<T>, first: Stamp, ttl: Option<NonZeroU64>) -> Self {
        let mut marks = Marks::NONE;
        chunk.meta.iter().for_each(|(_, meta)| marks.add(meta));
        Self {
            messages: Messages::Chunk(chunk.payloads, first),
            retained: ManuallyDrop::new(None),
            meta: ManuallyDrop::new(chunk.meta),
            marks,
            ttl,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.messages {
            Messages::Each(messages) if messages.is_empty() => self.retained_len(),
            Messages::Each(messages) => messages.len(),
            Messages::Chunk(payloads, _) => payloads.len(),
        }
    }

    #[inline]
    pub(crate) fn payload(&self, index: usize) -> &T {
        match &self.messages {
            // The look for other batches costs nothing where the message is here.
            Messages::Each(messages) => match messages.get(index) {
                Some(message) => &message.payload,
                None => self.retained_payload(index),
            },
            Messages::Chunk(payloads, _) => &payloads[index],
        }
    }

    #[inline]
    pub(crate) fn stamp(&self, index: usize) -> Stamp {
        match &self.messages {
            Messages::Each(messages) => match messages.get(index) {
                Some(message) => message.stamp,
                None => self.retained_stamp(index),
            },
            Messages::Chunk(_, first) => Stamp {
                id: first.id.after(index as u64),
                accepted_ns: first.accepted_ns,
            },
        }
    }

    /// Frees the unused half of a batch that was not full, because a slow lane keeps it.
    pub(crate) fn shrink(&mut self) {
        if let Messages::Each(messages) = &mut self.messages
            && messages.len() <= messages.capacity() / 2
        {
            messages.shrink_to_fit();
        }
    }

    /// Returns whether a message of the batch may have a time to live.
    #[inline(always)]
    pub(crate) fn may_expire(&self) -> bool {
        self.ttl.is_some() || self.marks.expires
    }

    pub(crate) fn ids(&self, from: usize, to: usize) -> impl ExactSizeIterator<Item = MessageId> {
        (from..to).map(|index| self.stamp(index).id)
    }

    pub(crate) fn meta(&self, index: usize) -> Option<&Meta> {
        if self.meta.is_empty() {
            return None;
        }
        // Where every message has parts, those of each are in its own place.
        if let Some((at, meta)) = self.meta.get(index)
            && *at == index as u32
        {
            return Some(meta);
        }
        self.search_meta(index)
    }

    #[inline(never)]
    fn search_meta(&self, index: usize) -> Option<&Meta> {
        let found = self
            .meta
            .binary_search_by_key(&(index as u32), |(index, _)| *index);
        found.ok().map(|at| &*self.meta[at].1)
    }

    /// Returns whether a message has another priority than the default.
    pub(crate) fn has_priority(&self) -> bool {
        self.marks.has_priority
    }

    /// Returns the priority of a message.
    pub(crate) fn priority(&self, index: usize) -> Priority {
        self.meta(index)
            .map_or(Priority::Normal, |meta| meta.priority)
    }

    /// Returns the key of a message, if its publisher gave one.
    pub(crate) fn key(&self, index: u32) -> Option<&str> {
        self.meta(index as usize)?.key.as_deref()
    }

    /// Returns whether somebody wants to know the end of a message.
    pub(crate) fn is_watched(&self) -> bool {
        self.marks.is_watched
    }

    /// Makes a batch of messages that were read from the log.
    #[cfg(feature = "log")]
    pub(crate) fn replayed(
        each: Vec<(Accepted<T>, Option<Box<Meta>>)>,
        ttl: Option<NonZeroU64>,
        earlier: Earlier,
    ) -> Self {
        let mut open = OpenBatch::new(ttl);
        for (message, meta) in each {
            open.push(message, meta);
        }
        open.marks.is_watched = true;
        open.marks.replayed = Some(earlier);
        open.take()
    }

    /// Returns what the subscription has done before with its messages, if they were read from the
    /// log.
    #[cfg(feature = "log")]
    pub(crate) fn replayed_after(&self) -> Option<Earlier> {
        self.marks.replayed
    }

    /// Returns how often its messages were tried before the subscription resumed.
    #[inline(always)]
    pub(crate) fn tried(&self) -> u32 {
        #[cfg(feature = "log")]
        let tried = self.marks.replayed.map_or(0, |earlier| earlier.tried);
        #[cfg(not(feature = "log"))]
        let tried = 0;
        tried
    }

    /// Calls `note` with the trackers of the messages from `from` up to `to`.
    #[cold]
    fn track(&self, from: u32, to: u32, note: impl Fn(&Ends)) {
        let within = self.meta.iter().filter(|(at, _)| (from..to).contains(at));
        let trackers = within.filter_map(|(_, meta)| meta.tracker());
        trackers.for_each(|tracker| note(tracker));
    }

    /// Notes how a delivery of the message at this place has ended.
    pub(crate) fn track_end(&self, place: usize, end: Status) {
        if let Some(tracker) = self.meta(place).and_then(Meta::tracker) {
            tracker.end(end);
        }
    }

    /// Returns the time to live of a message with these parts, if it has one.
    #[inline]
    pub(crate) fn ttl_ns(&self, meta: Option<&Meta>) -> Option<u64> {
        let own = meta.and_then(|meta| meta.ttl_ns);
        own.or(self.ttl.map(NonZeroU64::get))
    }

    /// Returns the time when the message expires, if it does.
    pub(crate) fn expires_ns(&self, index: usize) -> Option<u64> {
        let ttl_ns = self.ttl_ns(self.meta(index))?;
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
        if self.meta.capacity() > 0 || self.retained.is_some() {
            self.drop_parts();
        }
    }
}

impl<T> Batch<T> {
    #[inline(never)]
    fn drop_parts(&mut self) {
        drop(std::mem::take(&mut *self.meta));
        drop(self.retained.take());
    }
}

/// A batch in the making, to which messages are added one by one.
pub(crate) struct OpenBatch<T> {
    messages: Vec<Accepted<T>>,
    meta: Vec<(u32, Box<Meta>)>,
    marks: Marks,
    /// The number of messages to reserve room for with the first: about as many as came last time.
    ///
    /// So a topic with a message now and then keeps little memory.
    expected: usize,
    /// The time to live of the batches to be made, in nanoseconds.
    ttl: Option<NonZeroU64>,
}

impl<T> OpenBatch<T> {
    pub(crate) const fn new(ttl: Option<NonZeroU64>) -> Self {
        Self {
            messages: Vec::new(),
            meta: Vec::new(),
            marks: Marks::NONE,
            expected: 1,
            ttl,
        }
    }

    pub(crate) fn ttl(&self) -> Option<NonZeroU64> {
        self.ttl
    }

    /// Sets the time to live of the batches to be made. It must be empty.
    pub(crate) fn set_ttl(&mut self, ttl: Option<NonZeroU64>) {
        self.ttl = ttl;
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, message: Accepted<T>, meta: Option<Box<Meta>>) {
        if self.messages.len() == self.messages.capacity() {
            self.grow();
        }
        if let Some(meta) = meta {
            self.marks.add(&meta);
            self.meta.push((self.messages.len() as u32, meta));
        }
        self.messages.push(message);
    }

    #[cold]
    fn grow(&mut self) {
        let more = self.expected.max(self.messages.len());
        self.messages.reserve_exact(more);
    }

    /// Takes everything that was added, as a batch, and leaves nothing.
    pub(crate) fn take(&mut self) -> Batch<T> {
        let messages = std::mem::take(&mut self.messages);
        self.expected = messages.len().next_power_of_two();
        Batch {
            messages: Messages::Each(messages),
            retained: ManuallyDrop::new(None),
            meta: ManuallyDrop::new(std::mem::take(&mut self.meta)),
            ttl: self.ttl,
            marks: std::mem::replace(&mut self.marks, Marks::NONE),
        }
    }
}

/// The entry that a publisher pushes: one message, or messages that were accepted at once.
///
/// The stamp of a chunk is that of its first message.
pub(crate) enum QueueEntry<T> {
    One(Accepted<T>, Option<Box<Meta>>),
    Chunk(Chunk<T>, Stamp),
}

impl<T> QueueEntry<T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Chunk(chunk, _) => chunk.len(),
        }
    }

    /// Makes a batch of its messages, which do not go through a queue.
    pub(crate) fn into_slice(self, ttl: Option<NonZeroU64>) -> BatchSlice<T> {
        let batch = match self {
            Self::One(message, meta) => {
                let mut open = OpenBatch::new(ttl);
                open.push(message, meta);
                open.take()
            }
            Self::Chunk(chunk, first) => Batch::chunk(chunk, first, ttl),
        };
        BatchSlice::whole(Arc::new(batch))
    }

    /// Returns the stamp of the oldest message.
    pub(crate) fn first(&self) -> Stamp {
        match self {
            Self::One(message, _) => message.stamp,
            Self::Chunk(_, first) => *first,
        }
    }

    /// Returns the parts that the publisher added, if the entry is a single message.
    pub(crate) fn meta(&self) -> Option<&Meta> {
        match self {
            Self::One(_, meta) => meta.as_deref(),
            Self::Chunk(chunk, _) => chunk.first_meta().filter(|_| chunk.len() == 1),
        }
    }

    /// Returns the first time when a message expires by a time to live of its own.
    pub(crate) fn own_expires_ns(&self) -> Option<u64> {
        match self {
            Self::One(message, meta) => meta.as_ref()?.expires_ns(message.stamp),
            Self::Chunk(chunk, first) => chunk.own_expires_ns(*first),
        }
    }

    /// Calls `note` with the trackers of the messages, if they have any.
    fn track(&self, note: impl Fn(&Ends)) {
        let (one, chunk) = match self {
            Self::One(_, meta) => (meta.as_ref(), [].as_slice()),
            Self::Chunk(chunk, _) => (None, &chunk.meta[..]),
        };
        let all = one.into_iter().chain(chunk.iter().map(|(_, meta)| meta));
        let trackers = all.filter_map(|meta| meta.tracker());
        trackers.for_each(|tracker| note(tracker));
    }

    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = MessageId> + use<T> {
        let first = self.first().id;
        (0..self.len() as u32).map(move |index| first.after(u64::from(index)))
    }
}

/// Messages that publishers have dropped.
///
/// Their destructors are the user's, and so are the wakers of those who wait for their end. They
/// run when this value is dropped, where no lock is held.
///
/// Both vectors are empty nearly always. They are dropped by hand, so that this costs a look at their
/// lengths.
pub(crate) struct DeferredDrops<T> {
    entries: ManuallyDrop<Vec<QueueEntry<T>>>,
    parts: ManuallyDrop<Vec<BatchSlice<T>>>,
}

impl<T> DeferredDrops<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: ManuallyDrop::new(Vec::new()),
            parts: ManuallyDrop::new(Vec::new()),
        }
    }

    /// Adds an entry that was not let in.
    pub(crate) fn add_entry(&mut self, entry: QueueEntry<T>) {
        self.entries.push(entry);
    }

    /// Adds messages that had to make room.
    pub(crate) fn add_part(&mut self, part: BatchSlice<T>) {
        self.parts.push(part);
    }
}

impl<T> Drop for DeferredDrops<T> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.entries.is_empty() || !self.parts.is_empty() {
            self.drop_all();
        }
    }
}

impl<T> DeferredDrops<T> {
    #[cold]
    fn drop_all(&mut self) {
        let parts = std::mem::take(&mut *self.parts);
        for part in &parts {
            part.track(|tracker| tracker.end(Status::Dropped));
        }
        for entry in std::mem::take(&mut *self.entries) {
            entry.track(|tracker| tracker.end(Status::Dropped));
            match entry {
                QueueEntry::One(message, _) => discard(message),
                QueueEntry::Chunk(chunk, _) => chunk.payloads.into_iter().for_each(discard),
            }
        }
    }
}

/// A slice of a batch, bound for one lane.
pub(crate) struct BatchSlice<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) from: u32,
    pub(crate) to: u32,
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
        assert_eq!(size_of::<Accepted<[u8; 64]>>(), 80);
    }

    #[test]
    fn a_batch_in_the_making_makes_room_for_about_as_many_as_came_last_time() {
        let mut open = OpenBatch::new(None);
        let mut fill = |count: u64| {
            for sequence in 1..=count {
                let payload = sequence;
                let stamp = stamp(sequence, 0);
                open.push(Accepted { stamp, payload }, None);
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
        let chunk = Batch::chunk(
            Chunk::plain(vec!['a', 'b', 'c']),
            stamp(7, 500),
            NonZeroU64::new(10),
        );
        assert_eq!(
            [0, 2].map(|at| chunk.stamp(at)),
            [stamp(7, 500), stamp(9, 500)]
        );
        assert_eq!(chunk.expires_ns(2), Some(510));
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
        drop(Batch::chunk(Chunk::plain(bombs.into()), stamp(1, 0), None));
        assert_eq!(drops.load(Ordering::Relaxed), 3);
    }
}
