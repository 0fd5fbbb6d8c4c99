//! Messages, on their way and in the hands of a handler.

pub(crate) mod batch;
pub(crate) mod chunk;
pub(crate) mod delivery_batch;
pub(crate) mod error_text;
pub(crate) mod meta;
pub(crate) mod nack;
pub(crate) mod outgoing;
#[cfg(feature = "async")]
pub(crate) mod owned;

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

#[cfg(feature = "log")]
use crate::engine::outbox::lane_outbox::CallOutbox;
use crate::engine::track::ends::Ends;
use crate::engine::track::replies::Replied;
use crate::message::batch::Batch;
use crate::message::meta::HeaderValue;
use crate::pure::order::gaps::Gaps;
use crate::sync::{Arc, Mutex};
#[cfg(feature = "log")]
use crate::types::durable::durability::Durability;
#[cfg(feature = "log")]
use crate::types::durable::earlier::Earlier;

/// The number of a message within its topic.
///
/// The first message accepted has 1, and numbers go upward without gaps. Racing publishers may
/// enter the queue in another order than that of their numbers. Each thread's own messages keep
/// their order.
///
/// In a durable topic the receipt of a delayed message has a number from 2^52 on. The message gets
/// another number, without a gap, when it is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(NonZeroU64);

impl MessageId {
    pub(crate) fn new(sequence: u64) -> Self {
        Self(NonZeroU64::new(sequence).expect("tickets are numbered from 1"))
    }

    /// Returns the id of the message that comes `messages` later.
    pub(crate) fn after(self, messages: u64) -> Self {
        Self(self.0.saturating_add(messages))
    }

    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl From<MessageId> for u64 {
    fn from(id: MessageId) -> Self {
        id.get()
    }
}

impl From<MessageId> for NonZeroU64 {
    fn from(id: MessageId) -> Self {
        id.0
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

/// The way that an accepted message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Into the queue, now or later.
    Queued,
    /// It was dropped, because the topic was full.
    Dropped,
    /// To the dead letters, because the topic was full.
    Lettered,
}

/// The receipt for an accepted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) id: MessageId,
    pub(crate) evicted: u32,
    pub(crate) fate: Fate,
    pub(crate) duplicate: bool,
    #[cfg(feature = "log")]
    pub(crate) durability: Durability,
}

impl Receipt {
    /// Makes the receipt of a message in memory.
    #[inline(always)]
    pub(crate) fn volatile(id: MessageId, evicted: u32, fate: Fate) -> Self {
        Self {
            id,
            evicted,
            fate,
            duplicate: false,
            #[cfg(feature = "log")]
            durability: Durability::Volatile,
        }
    }

    /// Returns how far the message had come on its way to the disk (feature `log`).
    ///
    /// In a topic that is not [durable](crate::TopicBuilder::durable) it is `Volatile`.
    #[cfg(feature = "log")]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Returns the message's id. Of a [duplicate](Self::is_duplicate), it is that of the first.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Returns the number of older messages that were dropped to make room
    /// ([`Overflow::DropOldest`](crate::Overflow::DropOldest)).
    pub fn evicted(&self) -> u32 {
        self.evicted
    }

    /// Returns whether this message itself was dropped, because the topic was full
    /// ([`Overflow::DropNewest`](crate::Overflow::DropNewest)).
    pub fn is_dropped(&self) -> bool {
        self.fate == Fate::Dropped
    }

    /// Returns whether this message went to the dead letters, because the topic was full
    /// ([`Overflow::DeadLetter`](crate::Overflow::DeadLetter)).
    pub fn is_dead_letter(&self) -> bool {
        self.fate == Fate::Lettered
    }

    /// Returns whether a message with this [dedup id](crate::Message::dedup_id) was accepted before, so
    /// that this one was dropped.
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The receipt for a batch that was accepted as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchReceipt {
    pub(crate) accepted: usize,
    pub(crate) first: Option<MessageId>,
    pub(crate) last: Option<MessageId>,
    pub(crate) evicted: usize,
    pub(crate) dropped: usize,
    pub(crate) lettered: usize,
    pub(crate) duplicates: usize,
    #[cfg(feature = "log")]
    pub(crate) durability: Option<Durability>,
}

impl BatchReceipt {
    /// Returns how far its messages had come on their way to the disk (feature `log`).
    #[cfg(feature = "log")]
    pub fn durability(&self) -> Durability {
        self.durability.unwrap_or(Durability::Volatile)
    }

    /// Returns the number of messages accepted: all of the batch, but for
    /// [duplicates](Self::duplicates).
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// Returns the id of the first message accepted, or `None` if there was none.
    pub fn first(&self) -> Option<MessageId> {
        self.first
    }

    /// Returns the id of the last message accepted, or `None` if there was none.
    ///
    /// Ids between the first and the last may belong to messages of other publishers, published at
    /// the same time.
    pub fn last(&self) -> Option<MessageId> {
        self.last
    }

    /// Returns the number of older messages that were dropped to make room.
    pub fn evicted(&self) -> usize {
        self.evicted
    }

    /// Returns the number of messages of this batch that were dropped because the topic was full.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Returns the number of messages of this batch that went to the dead letters because the topic
    /// was full.
    pub fn dead_letters(&self) -> usize {
        self.lettered
    }

    /// Returns the number of messages of this batch that were dropped because a message with their
    /// [dedup id](crate::Message::dedup_id) had been accepted.
    pub fn duplicates(&self) -> usize {
        self.duplicates
    }

    /// Adds the receipt of one message.
    pub(crate) fn add(&mut self, receipt: Receipt) {
        self.evicted += receipt.evicted as usize;
        if receipt.duplicate {
            self.duplicates += 1;
            return;
        }
        self.accepted += 1;
        self.first = self.first.or(Some(receipt.id));
        self.last = Some(receipt.id);
        self.dropped += usize::from(receipt.is_dropped());
        self.lettered += usize::from(receipt.is_dead_letter());
        #[cfg(feature = "log")]
        {
            self.durability = Some(receipt.durability);
        }
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

/// A lane of any payload type that can be told to hand out nothing for a while.
pub(crate) trait HoldOff: Send + Sync {
    fn hold_off(&self, time: Duration);
}

/// The topic and the subscription of a delivery.
#[derive(Clone, Copy)]
pub(crate) struct Address<'a> {
    pub(crate) topic: &'a str,
    pub(crate) subscription: &'a str,
    /// The lane that it came from.
    pub(crate) lane: Option<&'a dyn HoldOff>,
    /// The messages that the subscription has skipped, if it only observes.
    pub(crate) gaps: Option<&'a Mutex<Gaps>>,
    /// The outbox of the call, if its subscription is durable.
    #[cfg(feature = "log")]
    pub(crate) outbox: Option<CallOutbox<'a>>,
}

impl<'a, T> Delivery<'a, T> {
    /// Returns the payload that was published.
    pub fn payload(&self) -> &'a T {
        self.batch.payload(self.index)
    }

    /// Returns the message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.batch.stamp(self.index).id
    }

    /// Returns the number of the attempt: 1 for the first entry of this delivery into the handler.
    ///
    /// Attempts that ended by [`Nack::requeue`](crate::Nack::requeue) or
    /// [`Nack::snooze`](crate::Nack::snooze) are not counted. A redrive begins again at 1. A durable
    /// subscription that resumes goes on counting. It doesn't count attempts that a crash has cut off.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the number of times that the delivery was redriven from the dead letters.
    ///
    /// The number saturates at 65,535.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// Returns whether the message was read from the log, and didn't come from its publisher
    /// (feature `log`).
    ///
    /// It may have been published long ago, and a durable subscription may have had it before.
    #[cfg(feature = "log")]
    pub fn is_replayed(&self) -> bool {
        self.batch.replayed_after().is_some()
    }

    /// Returns whether the subscription may have had the message before (feature `log`).
    ///
    /// That is so for a later attempt, and for a letter that was redriven. In a durable subscription
    /// that has resumed, it is so for each message from before. Such a message may have been
    /// handled, though its ack was lost in a crash.
    #[cfg(feature = "log")]
    pub fn is_redelivered(&self) -> bool {
        let had = |earlier: Earlier| earlier.had;
        let was_had = self.batch.replayed_after().is_some_and(had);
        self.attempt > 1 || self.generation > 0 || was_had
    }

    /// Returns whether the message was published before the subscription came, and its topic kept it
    /// ([`TopicBuilder::retain_last`](crate::TopicBuilder::retain_last)).
    ///
    /// It stays so in retries and redrives.
    pub fn is_retained(&self) -> bool {
        self.batch.is_retained()
    }

    /// Has the subscription hand out nothing for this time, because a dependency asked for it.
    ///
    /// The delivery itself ends as the handler says: return [`Nack::snooze`](crate::Nack::snooze) to
    /// have it come again without burning an attempt. Calls that run go on, and retries wait, too. A
    /// longer wait that was asked for before stays. The metrics say
    /// [`WaitingFor::HoldOff`](crate::metrics::WaitingFor::HoldOff) meanwhile. A subscription to
    /// patterns waits in this topic alone. On a dead letter it does nothing.
    ///
    /// ```
    /// use millstream::{Broker, Nack};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let billing = orders.subscribe("billing", |order| {
    ///     let wait = Duration::from_secs(30); // the header `retry-after` of a response with 429
    ///     order.hold_off(wait);
    ///     Err(Nack::snooze(wait, "too many requests"))
    /// })?;
    /// orders.publish_batch([7, 8])?;
    /// broker.run_until_idle();
    /// assert_eq!(billing.metrics().counts.attempts, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn hold_off(&self, time: Duration) {
        if let Some(lane) = self.address.lane {
            lane.hold_off(time);
        }
    }

    /// Returns the topic's name.
    pub fn topic(&self) -> &'a str {
        self.address.topic
    }

    /// Returns the subscription's name.
    pub fn subscription(&self) -> &'a str {
        self.address.subscription
    }

    /// Returns how many messages before this one the subscription has skipped.
    ///
    /// Only a subscription that [observes](crate::SubscriptionBuilder::observe_only) skips messages.
    /// Each gap is told once: to the first delivery behind it that asks. So add up what you get.
    pub fn missed(&self) -> u64 {
        let id = self.id().get();
        self.address
            .gaps
            .map_or(0, |gaps| gaps.lock().tell_before(id))
    }

    /// Returns the key that the publisher gave, if any.
    pub fn key(&self) -> Option<&'a str> {
        self.batch.meta(self.index)?.key.as_deref()
    }

    /// Returns the priority that the publisher gave, which is
    /// [`Normal`](crate::protect::Priority::Normal) by default.
    pub fn priority(&self) -> crate::protect::Priority {
        self.batch.priority(self.index)
    }

    /// Returns the [dedup id](crate::Message::dedup_id) that the publisher gave, if any.
    pub fn dedup_id(&self) -> Option<&'a str> {
        self.batch.meta(self.index)?.dedup_id.as_deref()
    }

    /// Returns the text of the first header with this name, or `None` if there is none or it has
    /// bytes.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.first_header(name)?.as_str()
    }

    /// Returns the value of the first header with this name as bytes, whether it is text or bytes.
    pub fn header_bytes(&self, name: &str) -> Option<&'a [u8]> {
        Some(self.first_header(name)?.as_bytes())
    }

    fn first_header(&self, name: &str) -> Option<HeaderValue<'a>> {
        let mut headers = self.headers();
        headers.find_map(|(header, value)| (header == name).then_some(value))
    }

    /// Returns all headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, HeaderValue<'a>)> + use<'a, T> {
        let headers = self.batch.meta(self.index).map(|meta| &meta.headers[..]);
        headers
            .unwrap_or_default()
            .iter()
            .map(|(name, value)| (&**name, HeaderValue::of(value)))
    }

    /// Returns whether the message is a [request](crate::Topic::request), whose publisher waits, or
    /// has waited, for replies.
    pub fn is_request(&self) -> bool {
        self.tracker().is_some_and(|tracker| tracker.is_request())
    }

    /// Replies to the publisher of a [request](crate::Topic::request).
    ///
    /// Reply before the handler returns, or the lease is settled: when all deliveries of a request
    /// have ended, its publisher waits no longer. A reply is no settlement. So a handler may fail
    /// after its reply, and be called again. Then its second reply is late.
    ///
    /// It doesn't block, except for a short lock. A message that is no request takes no reply. So
    /// one handler can serve both.
    ///
    /// ```
    /// # use millstream::Broker;
    /// # use std::time::Duration;
    /// # let broker = Broker::new()?;
    /// let prices = broker.topic::<&str>("prices").open()?;
    /// let _desk = prices.subscribe("desk", |question| {
    ///     question.reply(question.payload().len());
    ///     Ok(())
    /// })?;
    /// let price: usize = prices.request("ACME", Duration::from_secs(5))?;
    /// assert_eq!(price, 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reply<R: Send + 'static>(&self, reply: R) -> Replied {
        match self.tracker() {
            Some(tracker) => tracker.reply(self.id().get(), reply),
            None => Replied::NotRequested,
        }
    }

    fn tracker(&self) -> Option<&'a Arc<Ends>> {
        self.batch.meta(self.index)?.tracker()
    }

    /// Returns the time since the message was accepted, a few microseconds old at most.
    ///
    /// The time was read when the handler's worker last looked at the clock.
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
