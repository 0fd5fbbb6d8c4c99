//! Deliveries that outlive the call they are handed to.

use std::fmt;
use std::time::Duration;

use crate::message::batch::Batch;
use crate::message::meta::HeaderValue;
use crate::message::{Address, Delivery, MessageId};
use crate::pure::order::gaps::Gaps;
use crate::sync::{Arc, Mutex};

/// A [`Delivery`] that shares its message with the engine instead of borrowing it.
///
/// So it can be kept across an `await`. It keeps its batch of up to 64 messages alive.
pub struct OwnedDelivery<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) index: usize,
    pub(crate) attempt: u32,
    pub(crate) generation: u16,
    pub(crate) names: Arc<Names>,
    pub(crate) now_ns: u64,
}

/// The names of a topic and a subscription, in one allocation, so that deliveries share one count.
pub(crate) struct Names {
    pub(crate) topic: Arc<str>,
    pub(crate) subscription: Arc<str>,
    pub(crate) gaps: Option<Arc<Mutex<Gaps>>>,
}

impl<T> OwnedDelivery<T> {
    /// Returns the same delivery, borrowed.
    pub fn delivery(&self) -> Delivery<'_, T> {
        Delivery {
            batch: &self.batch,
            index: self.index,
            attempt: self.attempt,
            generation: self.generation,
            address: Address {
                topic: &self.names.topic,
                subscription: &self.names.subscription,
                gaps: self.names.gaps.as_deref(),
            },
            now_ns: self.now_ns,
        }
    }

    /// Returns the payload that was published.
    pub fn payload(&self) -> &T {
        self.delivery().payload()
    }

    /// Returns the message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.delivery().id()
    }

    /// Returns the number of the attempt: 1 for the first of this delivery.
    ///
    /// Attempts that ended by [`Nack::requeue`](crate::Nack::requeue) or
    /// [`Nack::snooze`](crate::Nack::snooze) are not counted. A redrive begins again at 1.
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
        self.batch.is_replayed()
    }

    /// Returns the topic's name.
    pub fn topic(&self) -> &str {
        &self.names.topic
    }

    /// Returns the subscription's name.
    pub fn subscription(&self) -> &str {
        &self.names.subscription
    }

    /// Returns how many messages before this one the subscription has skipped; see
    /// [`Delivery::missed`].
    pub fn missed(&self) -> u64 {
        self.delivery().missed()
    }

    /// Returns the key that the publisher gave, if any.
    pub fn key(&self) -> Option<&str> {
        self.delivery().key()
    }

    /// Returns the [dedup id](crate::Message::dedup_id) that the publisher gave, if any.
    pub fn dedup_id(&self) -> Option<&str> {
        self.delivery().dedup_id()
    }

    /// Returns the text of the first header with this name, or `None` if there is none or it has
    /// bytes.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.delivery().header(name)
    }

    /// Returns the value of the first header with this name as bytes, whether it is text or bytes.
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.delivery().header_bytes(name)
    }

    /// Returns all headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        self.delivery().headers()
    }

    /// Returns the time between the acceptance of the message and the beginning of this attempt.
    pub fn age(&self) -> Duration {
        self.delivery().age()
    }
}

impl<T> Clone for OwnedDelivery<T> {
    fn clone(&self) -> Self {
        Self {
            batch: Arc::clone(&self.batch),
            names: Arc::clone(&self.names),
            ..*self
        }
    }
}

impl<T> fmt::Debug for OwnedDelivery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.delivery().fmt(f)
    }
}
