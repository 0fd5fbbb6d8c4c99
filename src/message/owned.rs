//! Deliveries that outlive the call they are handed to.

use std::fmt;
use std::time::Duration;

use crate::message::batch::Batch;
use crate::message::{Address, Delivery, MessageId};
use crate::sync::Arc;

/// A [`Delivery`] that shares what it shows with the engine instead of borrowing it,
/// so that it can be kept across an `await`. It keeps its batch of up to 64 messages
/// alive.
pub struct OwnedDelivery<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) index: usize,
    pub(crate) attempt: u32,
    pub(crate) generation: u16,
    pub(crate) names: Arc<Names>,
    pub(crate) now_ns: u64,
}

/// Where deliveries come from, so that they share one count and not two.
pub(crate) struct Names {
    pub(crate) topic: Arc<str>,
    pub(crate) subscription: Arc<str>,
}

impl<T> OwnedDelivery<T> {
    /// The same, borrowed.
    pub fn borrow(&self) -> Delivery<'_, T> {
        Delivery {
            batch: &self.batch,
            index: self.index,
            attempt: self.attempt,
            generation: self.generation,
            address: Address {
                topic: &self.names.topic,
                subscription: &self.names.subscription,
            },
            now_ns: self.now_ns,
        }
    }

    /// What was published.
    pub fn payload(&self) -> &T {
        self.borrow().payload()
    }

    /// The message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.borrow().id()
    }

    /// Which attempt this is, counted for this delivery: 1 is the first. Those that
    /// ended by [`Nack::requeue`](crate::Nack::requeue) are not counted. Begins again at
    /// 1 after a redrive.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the delivery was redriven from the dead letters.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.names.topic
    }

    /// The subscription's name.
    pub fn subscription(&self) -> &str {
        &self.names.subscription
    }

    /// The key the publisher gave, if any.
    pub fn key(&self) -> Option<&str> {
        self.borrow().key()
    }

    /// The value of the first header of this name, if any.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.borrow().header(name)
    }

    /// All headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.borrow().headers()
    }

    /// How long after its message was accepted this attempt began.
    pub fn age(&self) -> Duration {
        self.borrow().age()
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
        self.borrow().fmt(f)
    }
}
