//! Messages, on their way and in the hands of a handler.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::engine::contain::discard;
use crate::sync::Arc;

/// A message's number within its topic: 1 for the first one accepted, then
/// upwards without gaps. Publishers that race may get into the queue in another
/// order than they got their numbers; one thread's messages keep theirs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(NonZeroU64);

impl MessageId {
    pub(crate) fn new(sequence: u64) -> Self {
        Self(NonZeroU64::new(sequence).expect("tickets are numbered from 1"))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.0)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a publisher may add to a payload. Messages without it pay nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) key: Option<Box<str>>,
    pub(crate) headers: Vec<(Box<str>, Box<str>)>,
    pub(crate) ttl_ns: Option<u64>,
}

/// One message, by value.
pub(crate) struct Message<T> {
    pub(crate) id: MessageId,
    pub(crate) accepted_ns: u64,
    pub(crate) payload: T,
}

impl<T> Message<T> {
    /// A message that gets its id and its time when it is admitted.
    pub(crate) fn unnumbered(payload: T) -> Self {
        Self {
            id: MessageId(NonZeroU64::MIN),
            accepted_ns: 0,
            payload,
        }
    }
}

/// Messages that travel together. Shared by every lane that has yet to handle
/// one of them; freed when the last delivery of the last of them has ended.
pub(crate) struct Batch<T> {
    pub(crate) messages: Vec<Message<T>>,
    /// Sorted by index; empty for most batches.
    pub(crate) meta: Vec<(u32, Meta)>,
}

impl<T> Batch<T> {
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
        Some(self.messages[index].accepted_ns.saturating_add(ttl_ns))
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            self.messages.drain(..).for_each(discard);
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
                messages: vec![message],
                meta: vec![(0, meta)],
            })),
        }
    }

    pub(crate) fn messages(&self) -> &[Message<T>] {
        match self {
            Self::One(message) => std::slice::from_ref(message),
            Self::Chunk(batch) => &batch.messages,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages().len()
    }

    /// Its oldest message.
    pub(crate) fn first(&self) -> &Message<T> {
        &self.messages()[0]
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

    pub(crate) fn messages(&self) -> &[Message<T>] {
        &self.batch.messages[self.from as usize..self.to as usize]
    }

    pub(crate) fn first(&self) -> &Message<T> {
        &self.messages()[0]
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

/// What a publisher gets for an accepted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) id: MessageId,
    pub(crate) evicted: u32,
    pub(crate) dropped: bool,
}

impl Receipt {
    /// The message's id.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// How many older messages were dropped to make room
    /// ([`Overflow::DropOldest`](crate::Overflow::DropOldest)).
    pub fn evicted(&self) -> u32 {
        self.evicted
    }

    /// Whether this message itself was dropped, because the topic was full
    /// ([`Overflow::DropNewest`](crate::Overflow::DropNewest)).
    pub fn is_dropped(&self) -> bool {
        self.dropped
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// What a publisher gets for a batch that was accepted as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchReceipt {
    pub(crate) accepted: usize,
    pub(crate) first: Option<MessageId>,
    pub(crate) last: Option<MessageId>,
    pub(crate) evicted: usize,
    pub(crate) dropped: usize,
}

impl BatchReceipt {
    /// Messages accepted: all of the batch.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// The first message's id; `None` for an empty batch.
    pub fn first(&self) -> Option<MessageId> {
        self.first
    }

    /// The last message's id. Ids between first and last may belong to others
    /// that published at the same time.
    pub fn last(&self) -> Option<MessageId> {
        self.last
    }

    /// How many older messages were dropped to make room.
    pub fn evicted(&self) -> usize {
        self.evicted
    }

    /// How many messages of this batch were dropped because the topic was full.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Adds one message's.
    pub(crate) fn add(&mut self, receipt: Receipt) {
        self.accepted += 1;
        self.first = self.first.or(Some(receipt.id));
        self.last = Some(receipt.id);
        self.evicted += receipt.evicted as usize;
        self.dropped += usize::from(receipt.dropped);
    }
}

/// One message for one subscription, as its handler sees it.
pub struct Delivery<'a, T> {
    pub(crate) batch: &'a Batch<T>,
    pub(crate) index: usize,
    pub(crate) attempt: u32,
    pub(crate) generation: u16,
    pub(crate) address: Address<'a>,
    pub(crate) now_ns: u64,
}

/// Where a delivery is going.
#[derive(Clone, Copy)]
pub(crate) struct Address<'a> {
    pub(crate) topic: &'a str,
    pub(crate) subscription: &'a str,
}

impl<'a, T> Delivery<'a, T> {
    fn message(&self) -> &'a Message<T> {
        &self.batch.messages[self.index]
    }

    /// What was published.
    pub fn payload(&self) -> &'a T {
        &self.message().payload
    }

    /// The message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.message().id
    }

    /// Which entry into the handler this is, counted for this delivery: 1 is
    /// the first. Begins again at 1 after a redrive.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the delivery was redriven from the dead letters.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// The topic's name.
    pub fn topic(&self) -> &'a str {
        self.address.topic
    }

    /// The subscription's name.
    pub fn subscription(&self) -> &'a str {
        self.address.subscription
    }

    /// The key the publisher gave, if any.
    pub fn key(&self) -> Option<&'a str> {
        self.batch.meta(self.index)?.key.as_deref()
    }

    /// The value of the first header of this name, if any.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers()
            .find_map(|(header, value)| (header == name).then_some(value))
    }

    /// All headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let headers = self.batch.meta(self.index).map(|meta| &meta.headers[..]);
        headers
            .unwrap_or_default()
            .iter()
            .map(|(name, value)| (&**name, &**value))
    }

    /// Time since the message was accepted, read when its handler's worker last
    /// looked at the clock: a few microseconds old at most.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(self.now_ns.saturating_sub(self.message().accepted_ns))
    }
}

impl<T> Clone for Delivery<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Delivery<'_, T> {}

impl<T> fmt::Debug for Delivery<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("topic", &self.topic())
            .field("subscription", &self.subscription())
            .field("id", &self.id())
            .field("attempt", &self.attempt)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queued_64_byte_message_takes_80_bytes() {
        // The id's niche tells the two kinds of parcel apart; crossbeam adds a
        // stamp of 8 bytes per slot.
        assert_eq!(size_of::<Parcel<[u8; 64]>>(), 80);
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
        let messages = (1..=3)
            .map(|sequence| Message {
                id: MessageId::new(sequence),
                accepted_ns: 0,
                payload: Bomb(drops.clone()),
            })
            .collect();
        drop(Batch {
            messages,
            meta: Vec::new(),
        });
        assert_eq!(drops.load(Ordering::Relaxed), 3);
    }
}
