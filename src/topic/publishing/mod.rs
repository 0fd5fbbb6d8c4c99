//! Publishing, as users do it.

#[cfg(feature = "async")]
pub(crate) mod batch_futures;
#[cfg(feature = "async")]
pub(crate) mod futures;
pub(crate) mod message;
#[cfg(feature = "log")]
pub(crate) mod outbox;
#[cfg(feature = "log")]
pub(crate) mod pending;
pub(crate) mod publisher;
pub(crate) mod tracker;

use std::time::{Duration, SystemTime};

use crate::engine::publish::ask::Wait;
use crate::message::outgoing::Message;
use crate::message::{BatchReceipt, MessageId, Receipt};
use crate::topic::Topic;
use crate::types::error::{NotDelayedError, PublishBatchError, PublishError};

impl<T: Send + Sync + 'static> Topic<T> {
    /// Publishes a message.
    ///
    /// It blocks only under [`Overflow::Block`](crate::Overflow::Block), for room or for the topic's
    /// [rate](crate::TopicBuilder::rate_limit), and then never inside a handler of the same broker.
    /// [`try_publish`](Self::try_publish) never blocks, and
    /// [`publish_timeout`](Self::publish_timeout) waits as long as you say.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands the payload back: `Full`, `TimedOut`, `RateLimited`,
    /// `Closed` or `NoSubscribers`.
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
    /// Returns a [`PublishError`], which hands the payload back: `Full`, `RateLimited`, `Closed` or
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
    /// Returns a [`PublishError`], which hands the payload back: `Full`, `TimedOut`, `RateLimited`,
    /// `Closed` or `NoSubscribers`.
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
    /// message, never for the batch. At the first refusal the call ends, and [`PublishBatchError`] hands
    /// back the rest.
    ///
    /// Chunks of several publishers may interleave. Within this call the order is kept.
    ///
    /// It blocks only under [`Overflow::Block`](crate::Overflow::Block), with one timeout for the
    /// whole call, and then never inside a handler of the same broker.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishBatchError`], with the number of accepted messages, the reason for the
    /// refusal, and the rest.
    pub fn publish_batch(
        &self,
        payloads: impl IntoIterator<Item = T>,
    ) -> Result<BatchReceipt, PublishBatchError<T>> {
        self.core.publish_batch(payloads.into_iter())
    }

    /// Publishes many messages in order, each with what its publisher added to it.
    ///
    /// It is [`publish_batch`](Self::publish_batch) for messages with keys, headers, times to live
    /// and delays. Messages go in chunks of up to 64. A delayed message is accepted by itself, in
    /// its turn. In a topic that is split into partitions, so is a message with a key. For payloads
    /// without any of that, `publish_batch` is faster.
    ///
    /// ```
    /// use millstream::{Broker, Message};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let lines = [("ada", 42), ("bob", 7), ("ada", 1)];
    /// let messages = lines.map(|(customer, total)| Message::new(total).key(customer));
    /// assert_eq!(orders.publish_messages(messages)?.accepted(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`PublishBatchError`] as `publish_batch` does, and also for a time to live of zero
    /// ([`PublishError::Invalid`]). It hands the rest back as whole messages.
    pub fn publish_messages(
        &self,
        messages: impl IntoIterator<Item = Message<T>>,
    ) -> Result<BatchReceipt, PublishBatchError<Message<T>>> {
        self.core.publish_messages(messages.into_iter())
    }

    /// Publishes a message that enters the queue only after `delay`, rounded up to a tick of 100
    /// µs.
    ///
    /// The message is accepted now: it has its id and holds its place meanwhile. So it can be
    /// neither rejected nor dropped later, unless you [cancel](Self::cancel_delayed) it. It goes to subscriptions that are open now and still
    /// open when it is due. A subscription that comes in between doesn't get it. A drain delivers
    /// it if it is due before the deadline. Its age, its latency and its time to live count from
    /// when it is due. With a delay of zero this is [`publish`](Self::publish).
    ///
    /// In a durable topic the message is stored now, and outlives the process. Its receipt has a
    /// number of another kind, for [`cancel_delayed`](Self::cancel_delayed). When it is due it gets
    /// the topic's next number. So a subscription that comes in between gets it there. The chapter on
    /// durability has more.
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish).
    pub fn publish_after(&self, delay: Duration, payload: T) -> Result<Receipt, PublishError<T>> {
        let message = Message::new(payload).after(delay);
        self.core.publish_message(message, Wait::ByPolicy)
    }

    /// Publishes a message that enters the queue at this time of day.
    ///
    /// It is [`publish_after`](Self::publish_after) with the time that is left when the message is
    /// accepted. So the wait itself is kept by a clock that never jumps. If the time of day is set
    /// meanwhile, the message is due as much earlier or later by the new time. A time that has passed
    /// is due at once. [`cancel_delayed`](Self::cancel_delayed) takes the message back, and the
    /// end of the process loses it.
    ///
    /// ```
    /// use millstream::{Broker, ManualClock};
    /// use std::time::{Duration, SystemTime};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = ManualClock::new(); // it begins at 1970-01-01 00:00
    /// let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    /// let reminders = broker.topic::<&str>("reminders").open()?;
    /// let _log = reminders.subscribe("log", |_| Ok(()))?;
    /// let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3_600);
    /// reminders.publish_at(noon, "have lunch")?;
    /// clock.advance(Duration::from_secs(12 * 3_600));
    /// broker.run_until_idle();
    /// assert_eq!(broker.metrics().deliveries().delivered, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish).
    pub fn publish_at(&self, time: SystemTime, payload: T) -> Result<Receipt, PublishError<T>> {
        let message = Message::new(payload).at(time);
        self.core.publish_message(message, Wait::ByPolicy)
    }

    /// Takes a delayed message back before it is due, and returns it without its delay.
    ///
    /// Its place is free at once, and publishers that wait for room are called. The message counts
    /// as dropped, and observers are told so ([`DropCause::Cancelled`](crate::event::DropCause)). A message
    /// is either cancelled or delivered, never both, however close the call comes to its time. The
    /// call doesn't wait.
    ///
    /// In a durable topic it waits until the log says so at the topic's level. When it returns the
    /// message, no crash brings that back. The id may be that of a receipt from before a restart.
    ///
    /// ```
    /// use millstream::Broker;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let reminders = broker.topic::<&str>("reminders").open()?;
    /// let receipt = reminders.publish_after(Duration::from_secs(60), "call Ann")?;
    /// match reminders.cancel_delayed(receipt.id()) {
    ///     Ok(message) => println!("taken back: {}", message.payload()),
    ///     Err(too_late) => println!("{too_late}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`NotDelayedError`] for a message of this topic that is due, was cancelled, or never had
    /// a delay. A durable topic returns it, too, if its store has failed. Then the message may be
    /// published when the store is open again.
    pub fn cancel_delayed(&self, id: MessageId) -> Result<Message<T>, NotDelayedError> {
        self.core.cancel_delayed(id)
    }
}
