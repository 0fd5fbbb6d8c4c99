//! Deliveries that outlive the call they are handed to.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "log")]
use crate::engine::outbox::lane_outbox::{CallOutbox, LaneOutbox};
use crate::engine::track::replies::Replied;
use crate::message::batch::Batch;
use crate::message::meta::HeaderValue;
use crate::message::{Address, Delivery, HoldOff, MessageId};
use crate::pure::order::gaps::Gaps;
use crate::sync::{Arc, Mutex, Weak};

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
    /// The number of the call, if the subscription has an outbox.
    #[cfg(feature = "log")]
    pub(crate) call: Option<u64>,
}

/// The names of a topic and a subscription, in one allocation, so that deliveries share one count.
pub(crate) struct Names {
    pub(crate) topic: Arc<str>,
    pub(crate) subscription: Arc<str>,
    /// The lane. A delivery doesn't keep it alive.
    pub(crate) lane: Weak<dyn HoldOff>,
    pub(crate) gaps: Option<Arc<Mutex<Gaps>>>,
    /// The outbox of a durable subscription.
    #[cfg(feature = "log")]
    pub(crate) outbox: Option<Arc<LaneOutbox>>,
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
                lane: None,
                gaps: self.names.gaps.as_deref(),
                #[cfg(feature = "log")]
                outbox: self.names.outbox.as_deref().map(|lane| CallOutbox {
                    lane,
                    call: self.call,
                }),
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
        self.batch.replayed_after().is_some()
    }

    /// Returns whether the message was published before the subscription came, and its topic kept it
    /// ([`TopicBuilder::retain_last`](crate::TopicBuilder::retain_last)).
    pub fn is_retained(&self) -> bool {
        self.delivery().is_retained()
    }

    /// Has the subscription hand out nothing for this time, as
    /// [`Delivery::hold_off`] does.
    pub fn hold_off(&self, time: Duration) {
        if let Some(lane) = self.names.lane.upgrade() {
            lane.hold_off(time);
        }
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

    /// Returns the priority that the publisher gave, which is
    /// [`Normal`](crate::protect::Priority::Normal) by default.
    pub fn priority(&self) -> crate::protect::Priority {
        self.delivery().priority()
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

    /// Returns whether the message is a [request](crate::Topic::request), as
    /// [`Delivery::is_request`] does.
    pub fn is_request(&self) -> bool {
        self.delivery().is_request()
    }

    /// Replies to the publisher of a [request](crate::Topic::request), as [`Delivery::reply`] does.
    pub fn reply<R: Send + 'static>(&self, reply: R) -> Replied {
        self.delivery().reply(reply)
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
