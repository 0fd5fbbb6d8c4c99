//! A publisher that collects messages into chunks for its caller.

use std::fmt;

use crate::engine::publish::buffer::Buffer;
use crate::message::BatchReceipt;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::error::{PartialBatch, PublishError};

/// Publishes one by one and enters the queue chunk by chunk: several times the
/// throughput of [`Topic::publish`], for callers that have no batch at hand.
///
/// A message waits here until the buffer is full, until the oldest has lingered,
/// until [`flush`](Self::flush), or until this is dropped. It doesn't wait at all
/// if the topic has nothing else to do. While it waits it has *not been accepted*:
/// it has no id, no subscription sees it, no metrics count it, and its latency
/// counts from when it leaves. Flush before a drain.
///
/// Behind a full topic, or one that refuses for want of a subscription, a buffer with a
/// linger waits for room without a timer, in line with other buffers: observers are told
/// of it once, and a worker publishes it when there is room. One without a linger waits
/// for its publisher.
///
/// Order is kept among what goes through one `BufferedPublisher`; in a topic that is
/// split into [partitions](crate::TopicBuilder::partitions), under
/// [`Unkeyed::Sticky`](crate::Unkeyed::Sticky) only.
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
    /// Blocks only under [`Overflow::Block`](crate::Overflow::Block), and then
    /// never inside a handler of the same broker.
    ///
    /// # Errors
    ///
    /// [`PublishError`], which hands this payload back, if the buffer is full and
    /// the topic takes none of it, or if it is empty and the topic, which has nothing
    /// else to do, refuses it. What the buffer holds stays there.
    pub fn publish(&mut self, payload: T) -> Result<(), PublishError<T>> {
        self.buffer.publish(payload)
    }

    /// Publishes what the buffer holds. Returns what became of all messages since
    /// the last flush.
    ///
    /// # Errors
    ///
    /// [`PartialBatch`], which hands back what was refused; the buffer is empty
    /// then.
    pub fn flush(&mut self) -> Result<BatchReceipt, PartialBatch<T>> {
        self.buffer.flush()
    }

    /// Messages in the buffer.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The topic it publishes to.
    pub fn topic(&self) -> &Topic<T> {
        &self.topic
    }
}

/// Publishes what the buffer holds, waiting for room if the topic's policy is to
/// block. What is refused then is lost, and counted as rejected: who wants it back
/// calls [`flush`](BufferedPublisher::flush) first.
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
