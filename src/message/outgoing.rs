//! Messages that have yet to be published, as their publishers hold them.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::engine::track::ends::{Ends, Track};
use crate::message::meta::{Meta, Value};
use crate::pure::protect::priority::Priority;
use crate::sync::Arc;
use crate::types::duration::nanos;

/// A message that has yet to be published: a payload, and what its publisher adds to it.
///
/// [`Topic::publish_messages`](crate::Topic::publish_messages) and
/// [`BufferedPublisher::publish_message`](crate::BufferedPublisher::publish_message) take these. A
/// refusal hands them back whole, with key and headers. [`Topic::message`](crate::Topic::message)
/// makes and publishes one in a single expression.
///
/// ```
/// use millstream::{Broker, Message};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let moves = broker.topic::<i64>("moves").open()?;
/// let batch = [
///     Message::new(-100).key("account-1").header("by", "card"),
///     Message::new(100).key("account-2").ttl(Duration::from_secs(5)),
///     Message::from(7), // a payload alone
/// ];
/// if let Err(partial) = moves.publish_messages(batch) {
///     let rest: Vec<Message<i64>> = partial.into_inner();
///     println!("{} messages are to be tried again", rest.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message<T> {
    payload: T,
    meta: Option<Box<Meta>>,
    due: Due,
}

/// The time at which a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    After(Duration),
    At(SystemTime),
}

impl Due {
    const NOW: Self = Self::After(Duration::ZERO);
}

impl<T> Message<T> {
    /// Makes a message of this payload, without a key or anything else.
    pub fn new(payload: T) -> Self {
        Self {
            payload,
            meta: None,
            due: Due::NOW,
        }
    }

    /// Sets the key of the message, such as an account or a device. Handlers can read it.
    ///
    /// Messages with the same key have an order of their own in
    /// [partitions](crate::TopicBuilder::partitions), consumer groups, concurrent handlers and
    /// [`OnFailure::BlockKey`](crate::OnFailure::BlockKey).
    #[must_use]
    pub fn key(mut self, key: impl Into<Box<str>>) -> Self {
        self.parts().key = Some(key.into());
        self
    }

    /// Adds a header of text.
    ///
    /// Headers keep their order. A name may be used again; readers by name find its first header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        let value = Value::Text(value.into());
        self.parts().headers.push((name.into(), value));
        self
    }

    /// Adds a header of bytes, such as a digest or a trace id.
    #[must_use]
    pub fn header_bytes(mut self, name: impl Into<Box<str>>, value: impl Into<Vec<u8>>) -> Self {
        let value = Value::Bytes(value.into().into_boxed_slice());
        self.parts().headers.push((name.into(), value));
        self
    }

    /// Names the message, so that its topic accepts it once: a request id, or a number in a file.
    ///
    /// The topic must have been opened with [`dedup`](crate::TopicBuilder::dedup), which says how
    /// long it remembers the id. Of two messages with one id, the second is a
    /// [duplicate](crate::Receipt::is_duplicate): it gets the receipt of the first, and is dropped.
    ///
    /// A message that was refused doesn't count, and neither does one that the topic accepted and
    /// [dropped](crate::Receipt::is_dropped), nor one that was
    /// [cancelled](crate::Topic::cancel_delayed). Publish it again with the same id.
    #[must_use]
    pub fn dedup_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.parts().dedup_id = Some(id.into());
        self
    }

    /// Sets how urgent the message is. The default is [`Priority::Normal`].
    ///
    /// It makes a difference to subscriptions with [priorities](crate::SubscriptionOptions::priorities).
    /// Others ignore it.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        if priority != Priority::Normal || self.meta.is_some() {
            self.parts().priority = priority;
        }
        self
    }

    /// Sets how long after its acceptance the message is still worth handling.
    ///
    /// It replaces the topic's [time to live](crate::TopicBuilder::ttl). Zero is refused when the
    /// message is published.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.parts().ttl_ns = Some(nanos(ttl));
        self
    }

    /// Delays the message, as [`Topic::publish_after`](crate::Topic::publish_after) does. The time
    /// to live counts from when it is due.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// Delays the message until this time of day, as
    /// [`Topic::publish_at`](crate::Topic::publish_at) does. It replaces a [delay](Self::after).
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }

    /// Returns the payload.
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// Returns the payload, and drops the rest.
    pub fn into_inner(self) -> T {
        self.payload
    }

    /// Has the ends of its deliveries counted here.
    pub(crate) fn track(mut self, ends: &Arc<Ends>) -> Self {
        self.parts().track = Some(Track(Arc::clone(ends)));
        self
    }

    /// Returns the time from `now` until it is due.
    pub(crate) fn delay(&self, now: impl FnOnce() -> SystemTime) -> Duration {
        match self.due {
            Due::After(delay) => delay,
            Due::At(time) => time.duration_since(now()).unwrap_or_default(),
        }
    }

    fn parts(&mut self) -> &mut Meta {
        self.meta.get_or_insert_default()
    }

    pub(crate) fn meta(&self) -> Option<&Meta> {
        self.meta.as_deref()
    }

    /// Returns whether it is due later.
    pub(crate) fn is_late(&self) -> bool {
        match self.due {
            Due::After(delay) => !delay.is_zero(),
            Due::At(_) => true,
        }
    }

    /// Returns whether its time to live is zero, which makes no sense.
    pub(crate) fn is_stillborn(&self) -> bool {
        self.meta().is_some_and(|meta| meta.ttl_ns == Some(0))
    }

    pub(crate) fn has_dedup_id(&self) -> bool {
        self.meta().is_some_and(|meta| meta.dedup_id.is_some())
    }

    /// Returns whether it can't go together with others.
    pub(crate) fn goes_alone(&self) -> bool {
        self.is_late() || self.is_stillborn() || self.has_dedup_id()
    }

    /// Returns the payload, and the parts added to it if there are any.
    pub(crate) fn into_parts(self) -> (T, Option<Box<Meta>>) {
        (self.payload, self.meta)
    }

    /// Makes a message of its parts, without a delay. Another topic may weigh it again, or store it.
    pub(crate) fn from_parts((payload, meta): (T, Option<Box<Meta>>)) -> Self {
        let due = Due::NOW;
        Self { payload, meta, due }.unweighed()
    }

    /// Forgets what a topic has noted: what the payload weighs, and that it is in a log.
    pub(crate) fn unweighed(mut self) -> Self {
        if let Some(meta) = &mut self.meta {
            let is_weighed = meta.weight.take().is_some();
            let is_logged = std::mem::take(&mut meta.is_logged);
            if (is_weighed || is_logged) && **meta == Meta::default() {
                self.meta = None;
            }
        }
        self
    }

    /// Notes what the payload weighs.
    pub(crate) fn set_weight(&mut self, weight: u64) {
        self.parts().weight = Some(weight);
    }
}

impl<T> From<T> for Message<T> {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

/// The payload is not printed.
impl<T> fmt::Debug for Message<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("meta", &self.meta)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}
