//! Topics, as users hold them.

pub(crate) mod attach;
pub(crate) mod builder;
pub(crate) mod dead_letters;
#[cfg(feature = "async")]
pub(crate) mod draining;
pub(crate) mod end;
#[cfg(feature = "async")]
pub(crate) mod futures;
pub(crate) mod live;
pub(crate) mod publisher;

use std::any::type_name;
use std::fmt;
use std::time::Duration;

use crate::engine::base::contain::{share_policy, share_strategy};
use crate::engine::publish::admit::Wait;
use crate::engine::publish::buffer::Buffer;
use crate::engine::runtime::directory::AnyTopic;
use crate::engine::state::topic::TopicCore;
use crate::message::batch::Meta;
use crate::message::nack::Nack;
use crate::message::{BatchReceipt, Delivery, Receipt};
use crate::observe::metrics::TopicMetrics;
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::subscription::Subscription;
use crate::subscription::builder::SubscriptionBuilder;
use crate::sync::{Arc, mutant};
use crate::topic::builder::{check_partitions, check_ttl};
use crate::topic::dead_letters::DeadLetters;
use crate::topic::publisher::BufferedPublisher;
use crate::types::error::{
    InvalidSetting, PartialBatch, PartitionsError, PublishError, SubscribeError,
};

/// A handle to a typed topic. Clone it freely, and publish from any thread.
///
/// # When the queue is full, and when the broker closes
///
/// The topic's [`Overflow`](crate::Overflow) policy decides about a publish into a full queue.
/// After the broker's drain has begun, every publish returns [`PublishError::Closed`]. Every
/// [`PublishError`] hands the payload back.
///
/// # Cost
///
/// A publish reads the clock and takes one short lock. Under the lock, the message is admitted and
/// written into the queue's open batch. A publish looks up no map. It allocates for every 64th
/// message, and for keys and headers.
pub struct Topic<T: Send + Sync + 'static> {
    pub(crate) core: Arc<TopicCore<T>>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Makes one more handle, unless the topic has been removed.
    pub(crate) fn join(core: Arc<TopicCore<T>>) -> Option<Self> {
        let joined = core.handles.update(|handles| handles.join());
        let joined = mutant!(joined, "handles.removed", true);
        joined.then(|| Self { core })
    }

    /// Returns the topic's name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Publishes a message.
    ///
    /// It blocks only under [`Overflow::Block`](crate::Overflow::Block), and then never inside a
    /// handler of the same broker. [`try_publish`](Self::try_publish) never blocks, and
    /// [`publish_timeout`](Self::publish_timeout) waits as long as you say.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands the payload back: `Full`, `TimedOut`, `Closed` or
    /// `NoSubscribers`.
    pub fn publish(&self, payload: T) -> Result<Receipt, PublishError<T>> {
        self.core.publish(payload, None, Wait::ByPolicy)
    }

    /// Publishes a message if there is room now. It never blocks.
    ///
    /// It is [`publish`](Self::publish), except that a topic with
    /// [`Overflow::Block`](crate::Overflow::Block) refuses the message when it is full. A topic
    /// that drops messages drops them here, too.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands the payload back: `Full`, `Closed` or
    /// `NoSubscribers`.
    pub fn try_publish(&self, payload: T) -> Result<Receipt, PublishError<T>> {
        self.core.publish(payload, None, Wait::Never)
    }

    /// Publishes a message, and waits up to `timeout` for room.
    ///
    /// It is [`publish`](Self::publish), except that this timeout stands in for the topic's own. It
    /// waits even for a topic that would reject the message. A topic that drops messages when it is
    /// full drops them here, too, and nobody waits. Inside a handler of the same broker it returns
    /// `Full` at once. On a broker without workers it waits for another thread to run the broker.
    ///
    /// ```
    /// use millstream::{Broker, PublishError};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let orders = broker.topic::<u32>("orders").capacity(1_000).open()?;
    /// match orders.publish_timeout(7, Duration::from_millis(20)) {
    ///     Ok(receipt) => println!("accepted as {receipt}"),
    ///     Err(PublishError::TimedOut(order)) => println!("no room for {order} in time"),
    ///     Err(other) => return Err(other.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands the payload back: `Full`, `TimedOut`, `Closed` or
    /// `NoSubscribers`.
    pub fn publish_timeout(
        &self,
        payload: T,
        timeout: Duration,
    ) -> Result<Receipt, PublishError<T>> {
        self.core.publish(payload, None, Wait::For(timeout))
    }

    /// Publishes many messages in order, in chunks of up to 64, each of which is accepted at once.
    ///
    /// A vector of 33 to 64 messages is taken as it is. Acceptance is all or nothing for each
    /// message, never for the batch. At the first refusal the call ends, and [`PartialBatch`] hands
    /// back the rest.
    ///
    /// Chunks of several publishers may interleave. Within this call the order is kept.
    ///
    /// It blocks only under [`Overflow::Block`](crate::Overflow::Block), with one timeout for the
    /// whole call, and then never inside a handler of the same broker.
    ///
    /// # Errors
    ///
    /// Returns a [`PartialBatch`], with the number of accepted messages, the reason for the
    /// refusal, and the rest.
    pub fn publish_batch(
        &self,
        payloads: impl IntoIterator<Item = T>,
    ) -> Result<BatchReceipt, PartialBatch<T>> {
        self.core.publish_batch(payloads.into_iter())
    }

    /// Makes a publisher that collects single messages into chunks.
    ///
    /// It publishes a chunk when it is full or has lingered, whichever comes first.
    /// [`BufferedPublisher`] says what that means for a message.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] for a size of zero, or one above the topic's capacity.
    pub fn buffered(&self, batches: Batched) -> Result<BufferedPublisher<T>, InvalidSetting> {
        batches.check()?;
        if batches.size() as u64 > self.core.live.capacity.get() {
            let rule = "must not exceed the topic's capacity";
            return Err(InvalidSetting::new("batch size", batches.size(), rule));
        }
        let buffer = Buffer::new(Arc::clone(&self.core), batches);
        Ok(BufferedPublisher::new(self.clone(), buffer))
    }

    /// Publishes a message that enters the queue only after `delay`, rounded up to a tick of 100
    /// µs.
    ///
    /// The message is accepted now: it has its id and holds its place meanwhile. So it can be
    /// neither rejected nor dropped later. It goes to subscriptions that are open now and still
    /// open when it is due. A subscription that comes in between doesn't get it. A drain delivers
    /// it if it is due before the deadline. Its age, its latency and its time to live count from
    /// when it is due. With a delay of zero this is [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish).
    pub fn publish_after(&self, delay: Duration, payload: T) -> Result<Receipt, PublishError<T>> {
        self.core
            .publish_after(delay, payload, None, Wait::ByPolicy)
    }

    /// Begins a message with a key, headers, a time to live or a delay.
    ///
    /// Finish it with [`publish`](MessageBuilder::publish).
    pub fn message(&self, payload: T) -> MessageBuilder<'_, T> {
        MessageBuilder {
            topic: self,
            payload,
            meta: Meta::default(),
            ttl: None,
            delay: None,
        }
    }

    /// Subscribes with the default settings: `handler` is called for each delivery.
    ///
    /// Only one call runs at a time, in accept order. The subscription starts now. It gets every
    /// message that is accepted after this call has returned. It gets no message that was accepted
    /// before the call, even if that is still queued or [delayed](Self::publish_after). A successor
    /// of the same name gets none of its predecessor's deliveries.
    ///
    /// Under [`NoSubscribers::Retain`](crate::NoSubscribers::Retain), a subscription that comes
    /// while no other is open also gets the waiting messages.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid or taken name, or a closed broker.
    pub fn subscribe<F>(&self, name: &str, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.subscription(name).subscribe(handler)
    }

    /// Begins a subscription with settings of its own.
    pub fn subscription(&self, name: &str) -> SubscriptionBuilder<'_, T> {
        SubscriptionBuilder::new(&self.core, name)
    }

    /// Sets the strategy while traffic runs.
    ///
    /// The new strategy judges waiting messages at once. No message is lost, reordered or made
    /// younger.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] if the strategy refuses its own settings.
    pub fn set_strategy(&self, strategy: impl Strategy) -> Result<(), InvalidSetting> {
        // The strategy is shared first: a value that panics when dropped must not unwind through
        // us.
        let strategy = share_strategy(strategy);
        strategy.check()?;
        Arc::clone(&self.core).swap_strategy(strategy);
        Ok(())
    }

    /// Sets the retry policy of the subscriptions that have none of their own.
    ///
    /// It decides from the next failure on. Retries already granted stand.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), InvalidSetting> {
        let policy = share_policy(policy);
        policy.check()?;
        self.core.retry.swap(policy);
        Ok(())
    }

    /// Returns the number of partitions that the topic is split into, or one if it isn't.
    pub fn partitions(&self) -> usize {
        let split = self.core.split.as_deref();
        split.map_or(1, |split| split.count())
    }

    /// Returns the partition to which messages with this key go now, counted from zero.
    pub fn partition_of(&self, key: &str) -> usize {
        let split = self.core.split.as_deref();
        split.map_or(0, |split| split.place_of(key))
    }

    /// Changes the number of partitions while traffic runs.
    ///
    /// Only a topic that was opened with [`partitions`](crate::TopicBuilder::partitions) can be
    /// changed; `partitions(1)` suffices. Nothing is lost, and each key keeps its order, though it
    /// may move to another partition.
    ///
    /// Messages accepted before the change are dispatched first, from their old partitions, as if
    /// by a [`flush`](Self::flush). Messages published from now on wait in the new partitions until
    /// that is done. Retries and deliveries that are already in their lanes are not affected. A
    /// delayed message goes to its new partition when it is due. This call does not wait for any of
    /// that.
    ///
    /// # Errors
    ///
    /// Returns a [`PartitionsError`]. `Invalid` is for a number out of range, or a topic opened
    /// without partitions. `Underway` is for a change before the last one has ended. A full lane
    /// can delay that end. So can the lack of a subscription under
    /// [`NoSubscribers::Retain`](crate::NoSubscribers::Retain).
    pub fn set_partitions(&self, partitions: usize) -> Result<(), PartitionsError> {
        let Some(split) = &self.core.split else {
            let rule = "can't be set for a topic that was opened without";
            return Err(InvalidSetting::new("partitions", partitions, rule).into());
        };
        let _changing = self.core.changing.lock();
        check_partitions(partitions, self.core.live.capacity.get())?;
        split.change(&self.core, partitions)
    }

    /// Hands on everything accepted so far, whatever the strategy says.
    ///
    /// Subscriptions that accumulate batches hand it on as well. This call does not wait.
    pub fn flush(&self) {
        self.core.flush();
    }

    /// Returns the dead-letter store, which has the deliveries that failed for good.
    pub fn dead_letters(&self) -> DeadLetters<T> {
        DeadLetters::new(self.clone())
    }

    /// Returns a snapshot of this topic's counts.
    pub fn metrics(&self) -> TopicMetrics {
        self.core.read_metrics()
    }
}

impl<T: Send + Sync + 'static> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self::join(Arc::clone(&self.core)).expect("a topic with a handle can't be removed")
    }
}

impl<T: Send + Sync + 'static> Drop for Topic<T> {
    fn drop(&mut self) {
        self.core.handles.update(|handles| handles.leave());
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.core.name)
            .field("payload", &type_name::<T>())
            .finish_non_exhaustive()
    }
}

/// A message in the making, with more than a payload.
#[must_use = "a message goes nowhere until it is published"]
pub struct MessageBuilder<'t, T: Send + Sync + 'static> {
    topic: &'t Topic<T>,
    payload: T,
    meta: Meta,
    ttl: Option<Duration>,
    delay: Option<Duration>,
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Sets the key of the message, such as an account or a device. Handlers can read it.
    ///
    /// Messages with the same key have an order of their own in
    /// [partitions](crate::TopicBuilder::partitions), consumer groups, concurrent handlers and
    /// [`OnFailure::BlockKey`](crate::OnFailure::BlockKey).
    pub fn key(mut self, key: impl Into<Box<str>>) -> Self {
        self.meta.key = Some(key.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.meta.headers.push((name.into(), value.into()));
        self
    }

    /// Sets how long after its acceptance the message is still worth handling.
    ///
    /// It replaces the topic's [time to live](crate::TopicBuilder::ttl). Zero is refused when the
    /// message is published.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Delays the message, as [`Topic::publish_after`] does. The time to live counts from when it
    /// is due.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Publishes the message.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::publish`], and [`PublishError::Invalid`] for a time to live
    /// of zero.
    pub fn publish(self) -> Result<Receipt, PublishError<T>> {
        self.publish_by(Wait::ByPolicy)
    }

    /// Publishes the message if there is room now, as [`Topic::try_publish`] does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::try_publish`], and [`PublishError::Invalid`] for a time to
    /// live of zero.
    pub fn try_publish(self) -> Result<Receipt, PublishError<T>> {
        self.publish_by(Wait::Never)
    }

    /// Publishes the message, and waits up to `timeout` for room, as [`Topic::publish_timeout`]
    /// does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::publish_timeout`], and [`PublishError::Invalid`] for a time
    /// to live of zero.
    pub fn publish_timeout(self, timeout: Duration) -> Result<Receipt, PublishError<T>> {
        self.publish_by(Wait::For(timeout))
    }

    /// Returns the payload and what belongs to it, if the settings make sense.
    fn checked(self) -> Result<(T, Meta), PublishError<T>> {
        let (payload, mut meta) = (self.payload, self.meta);
        match self.ttl.map(check_ttl).transpose() {
            Ok(ttl_ns) => {
                meta.ttl_ns = ttl_ns;
                Ok((payload, meta))
            }
            Err(invalid) => {
                let invalid = Box::new(invalid);
                Err(PublishError::Invalid { payload, invalid })
            }
        }
    }

    fn publish_by(self, wait: Wait) -> Result<Receipt, PublishError<T>> {
        let (core, delay) = (&self.topic.core, self.delay);
        let (payload, meta) = self.checked()?;
        match delay {
            None => core.publish(payload, Some(meta), wait),
            Some(delay) => core.publish_after(delay, payload, Some(meta), wait),
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for MessageBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBuilder")
            .field("topic", &self.topic.name())
            .field("meta", &self.meta)
            .field("ttl", &self.ttl)
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;

    #[test]
    fn a_handle_that_is_refused_because_the_topic_was_removed_counts_for_nothing() {
        let broker = Broker::builder().workers(0).build().expect("valid");
        let topic = broker.topic::<()>("t").open().expect("opens");
        let core = Arc::clone(&topic.core);
        drop(topic);
        let removed = core.handles.update(|handles| handles.remove());
        assert_eq!(removed, Ok(()));
        assert!(Topic::join(Arc::clone(&core)).is_none());
        core.handles.update(|handles| handles.restore());
        assert_eq!(broker.remove_topic("t"), Ok(()));
    }
}
