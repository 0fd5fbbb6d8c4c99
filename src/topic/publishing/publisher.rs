//! A publisher that collects messages into chunks for its caller.

use std::fmt;

use crate::engine::publish::buffer::Buffer;
use crate::message::BatchReceipt;
use crate::message::outgoing::Message;
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::error::{PublishBatchError, PublishError, SettingError};

/// A publisher that takes messages one by one and enters the queue chunk by chunk.
///
/// It has several times the throughput of [`Topic::publish`], for callers that have no batch at
/// hand.
///
/// A message waits in the buffer until the buffer is full, until the oldest message has lingered,
/// until [`flush`](Self::flush), or until the publisher is dropped. It does not wait at all if the
/// topic has nothing else to do. While it waits it has *not been accepted*. It has no id, no
/// subscription sees it, and no metrics count it. Its latency counts from when it leaves. Flush
/// before a drain.
///
/// A topic may be full, or refuse messages because it has no subscription. A buffer with a linger
/// then waits for room without a timer, in line with other buffers. Observers are told of it once,
/// and a worker publishes it when there is room. A buffer without a linger waits for its publisher.
///
/// Messages that go through one `BufferedPublisher` keep their order. In a topic that is split into
/// [partitions](crate::TopicBuilder::partitions), they keep it only under
/// [`Unkeyed::Sticky`](crate::Unkeyed::Sticky).
///
/// ```
/// use millstream::{Batched, Broker};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let ticks = broker.topic::<u64>("ticks").capacity(65_536).open()?;
/// let _sum = ticks.subscribe("sum", |_| Ok(()))?;
///
/// let mut publisher = ticks.buffered(Batched::of(64).linger(Duration::from_micros(200)))?;
/// for tick in 0..1_000 {
///     publisher.publish(tick)?;
/// }
/// assert_eq!(publisher.flush()?.accepted(), 1_000);
/// # Ok(())
/// # }
/// ```
pub struct BufferedPublisher<T: Send + Sync + 'static> {
    topic: Topic<T>,
    buffer: Arc<Buffer<T>>,
}

impl<T: Send + Sync + 'static> BufferedPublisher<T> {
    pub(crate) fn new(topic: Topic<T>, buffer: Buffer<T>) -> Self {
        Self {
            topic,
            buffer: Arc::new(buffer),
        }
    }

    /// Puts a message into the buffer, and publishes the buffer if that fills it.
    ///
    /// It blocks only under [`Overflow::Block`](crate::Overflow::Block), and then never inside a
    /// handler of the same broker.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands this payload back, in two cases. Either the buffer
    /// is full and the topic takes none of it. Or the buffer is empty, the topic has nothing else
    /// to do, and it refuses the message. Messages in the buffer stay there.
    pub fn publish(&mut self, payload: T) -> Result<(), PublishError<T>> {
        let published = self.buffer.publish(payload, None);
        published.map_err(|(refused, payload, _)| refused.error(payload))
    }

    /// Puts a message with a key, headers or a time to live into the buffer, as
    /// [`publish`](Self::publish) does with a payload.
    ///
    /// Its time to live counts from when it leaves the buffer. Its dedup id is looked up then, too,
    /// and the receipt of the [flush](Self::flush) counts the duplicates. A
    /// [delayed](crate::Message::after) message does not wait in the buffer. It is accepted now,
    /// and so before the messages that are in the buffer.
    ///
    /// ```
    /// use millstream::{Batched, Broker, Message};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let ticks = broker.topic::<u64>("ticks").open()?;
    /// let mut publisher = ticks.buffered(Batched::of(64))?;
    /// publisher.publish_message(Message::new(7).key("EURUSD"))?;
    /// assert_eq!(publisher.flush()?.accepted(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands the whole message back, where `publish` does. A time
    /// to live of zero is refused at once ([`PublishError::Invalid`]). So is a dedup id in a topic
    /// without [dedup](crate::TopicBuilder::dedup).
    pub fn publish_message(&mut self, message: Message<T>) -> Result<(), PublishError<Message<T>>> {
        let published = if let Err(refused) = self.buffer.check(&message) {
            Err((refused, message))
        } else if message.is_late() {
            self.buffer.publish_late(message)
        } else {
            let (payload, meta) = message.into_parts();
            let published = self.buffer.publish(payload, meta);
            published
                .map_err(|(refused, payload, meta)| (refused, Message::from_parts((payload, meta))))
        };
        published.map_err(|(refused, message)| refused.error(message))
    }

    /// Publishes the messages in the buffer, and returns the receipt of all messages since the last
    /// flush.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishBatchError`], which hands back the refused messages, whole. The buffer is empty
    /// then.
    pub fn flush(&mut self) -> Result<BatchReceipt, PublishBatchError<Message<T>>> {
        self.buffer.flush()
    }

    /// Returns the number of messages in the buffer.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the topic that the buffer publishes to.
    pub fn topic(&self) -> &Topic<T> {
        &self.topic
    }
}

/// Publishes the messages in the buffer, and waits for room if the topic's policy blocks.
///
/// Messages that are refused then are lost, and counted as rejected. To get them back, call
/// [`flush`](BufferedPublisher::flush) first.
impl<T: Send + Sync + 'static> Drop for BufferedPublisher<T> {
    fn drop(&mut self) {
        self.buffer.close();
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for BufferedPublisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedPublisher")
            .field("topic", &self.topic.name())
            .field("buffered", &self.buffered())
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Makes a publisher that collects single messages into chunks.
    ///
    /// It publishes a chunk when it is full or has lingered, whichever comes first.
    /// [`BufferedPublisher`] says what that means for a message.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for a size of zero, or one above the topic's capacity.
    pub fn buffered(&self, batches: Batched) -> Result<BufferedPublisher<T>, SettingError> {
        batches.check()?;
        if batches.size() as u64 > self.core.live.capacity.get() {
            let rule = "must not exceed the topic's capacity";
            return Err(SettingError::new("batch_size", batches.size(), rule));
        }
        let buffer = Buffer::new(Arc::clone(&self.core), batches);
        Ok(BufferedPublisher::new(self.clone(), buffer))
    }
}
