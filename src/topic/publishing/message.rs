//! A message of one topic in the making.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::engine::publish::ask::Wait;
use crate::message::Receipt;
use crate::message::outgoing::Message;
use crate::pure::protect::priority::Priority;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::error::PublishError;

/// A message in the making, with more than a payload.
#[must_use = "a message goes nowhere until it is published"]
pub struct MessageBuilder<'t, T: Send + Sync + 'static> {
    pub(crate) topic: &'t Topic<T>,
    pub(crate) message: Message<T>,
}

impl<'t, T: Send + Sync + 'static> MessageBuilder<'t, T> {
    pub(crate) fn new(topic: &'t Topic<T>, message: Message<T>) -> Self {
        Self { topic, message }
    }

    /// Sets the key, as [`Message::key`] does.
    pub fn key(self, key: impl Into<Box<str>>) -> Self {
        self.with(|message| message.key(key))
    }

    /// Adds a header of text, as [`Message::header`] does.
    pub fn header(self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.with(|message| message.header(name, value))
    }

    /// Adds a header of bytes, as [`Message::header_bytes`] does.
    pub fn header_bytes(self, name: impl Into<Box<str>>, value: impl Into<Vec<u8>>) -> Self {
        self.with(|message| message.header_bytes(name, value))
    }

    /// Names the message, so that its topic accepts it once, as [`Message::dedup_id`] does.
    ///
    /// ```
    /// # use millstream::{Broker, Dedup};
    /// # use std::time::Duration;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u64>("orders");
    /// let orders = orders.dedup(Dedup::window(Duration::from_secs(300))).open()?;
    /// for _ in ["a request", "the same request, sent again"] {
    ///     let receipt = orders.message(42).dedup_id("req-77").publish()?;
    ///     assert_eq!(receipt.id().get(), 1);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dedup_id(self, id: impl Into<Arc<str>>) -> Self {
        self.with(|message| message.dedup_id(id))
    }

    /// Sets how urgent the message is, as [`Message::priority`] does.
    pub fn priority(self, priority: Priority) -> Self {
        self.with(|message| message.priority(priority))
    }

    /// Sets how long after its acceptance the message is still worth handling, as [`Message::ttl`]
    /// does.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|message| message.ttl(ttl))
    }

    /// Delays the message, as [`Message::after`] does.
    pub fn after(self, delay: Duration) -> Self {
        self.with(|message| message.after(delay))
    }

    /// Delays the message until this time of day, as [`Message::at`] does.
    pub fn at(self, time: SystemTime) -> Self {
        self.with(|message| message.at(time))
    }

    pub(crate) fn with(self, add: impl FnOnce(Message<T>) -> Message<T>) -> Self {
        Self::new(self.topic, add(self.message))
    }

    /// Publishes the message.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::publish`], and [`PublishError::Invalid`] for a time to live
    /// of zero, or a dedup id in a topic without [dedup](crate::TopicBuilder::dedup).
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

    fn publish_by(self, wait: Wait) -> Result<Receipt, PublishError<T>> {
        self.topic.core.publish_message(self.message, wait)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for MessageBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBuilder")
            .field("topic", &self.topic.name())
            .field("message", &self.message)
            .finish()
    }
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Begins a message with a key, headers, a time to live or a delay.
    ///
    /// Finish it with [`publish`](MessageBuilder::publish).
    pub fn message(&self, payload: T) -> MessageBuilder<'_, T> {
        MessageBuilder::new(self, Message::new(payload))
    }
}
