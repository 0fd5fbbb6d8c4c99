//! Messages, on their way and in the hands of a handler.

pub(crate) mod batch;
pub(crate) mod delivery_batch;
pub(crate) mod error_text;
pub(crate) mod nack;
#[cfg(feature = "async")]
pub(crate) mod owned;

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::message::batch::Batch;

/// A message's number within its topic: 1 for the first one accepted, then
/// upwards without gaps. Publishers that race may get into the queue in another
/// order than they got their numbers; one thread's messages keep theirs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(NonZeroU64);

impl MessageId {
    pub(crate) fn new(sequence: u64) -> Self {
        Self(NonZeroU64::new(sequence).expect("tickets are numbered from 1"))
    }

    /// The id that many messages further on.
    pub(crate) fn after(self, messages: u64) -> Self {
        Self(self.0.saturating_add(messages))
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
    /// What was published.
    pub fn payload(&self) -> &'a T {
        self.batch.payload(self.index)
    }

    /// The message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.batch.stamp(self.index).id
    }

    /// Which entry into the handler this is, counted for this delivery: 1 is
    /// the first. Those that ended by [`Nack::requeue`](crate::Nack::requeue) are not
    /// counted. Begins again at 1 after a redrive.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the delivery was redriven from the dead letters. Saturates at
    /// 65,535.
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
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a, T> {
        let headers = self.batch.meta(self.index).map(|meta| &meta.headers[..]);
        headers
            .unwrap_or_default()
            .iter()
            .map(|(name, value)| (&**name, &**value))
    }

    /// Time since the message was accepted, read when its handler's worker last
    /// looked at the clock: a few microseconds old at most.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(
            self.now_ns
                .saturating_sub(self.batch.stamp(self.index).accepted_ns),
        )
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
