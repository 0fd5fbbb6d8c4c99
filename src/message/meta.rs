//! The parts that a publisher may add to a payload.

use std::fmt;

use crate::engine::track::ends::{Ends, Track};
use crate::message::batch::Stamp;
use crate::pure::protect::priority::Priority;
use crate::sync::Arc;

/// The parts that a publisher may add to a payload. Messages without them pay nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) key: Option<Box<str>>,
    pub(crate) headers: Vec<(Box<str>, Value)>,
    pub(crate) ttl_ns: Option<u64>,
    pub(crate) dedup_id: Option<Arc<str>>,
    pub(crate) priority: Priority,
    /// The weight of the payload, in a topic that weighs payloads.
    pub(crate) weight: Option<u64>,
    pub(crate) track: Option<Track>,
    /// The message is in the log, which wants to know the end of its deliveries.
    pub(crate) is_logged: bool,
}

impl Meta {
    /// Returns the tracker of the message, if its publisher gave it one.
    pub(crate) fn tracker(&self) -> Option<&Arc<Ends>> {
        self.track.as_ref().map(|track| &track.0)
    }

    /// Returns whether somebody wants to know how its deliveries end.
    pub(crate) fn is_watched(&self) -> bool {
        self.track.is_some() || self.is_logged
    }

    /// Returns the parts that a handler can read, and the time to live, without anybody who waits for
    /// an end.
    pub(crate) fn without_watchers(&self) -> Self {
        Self {
            key: self.key.clone(),
            headers: self.headers.clone(),
            ttl_ns: self.ttl_ns,
            dedup_id: self.dedup_id.clone(),
            priority: self.priority,
            ..Self::default()
        }
    }

    /// Notes that the message was accepted, before anybody can see it.
    pub(crate) fn begin(&self) {
        if let Some(tracker) = self.tracker() {
            tracker.open();
        }
    }

    /// Returns the time when a message with this stamp expires, if it has a time to live of its
    /// own.
    pub(crate) fn expires_ns(&self, stamp: Stamp) -> Option<u64> {
        Some(stamp.accepted_ns.saturating_add(self.ttl_ns?))
    }
}

/// The value of a header, in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

/// The value of a header, as a handler reads it: text or bytes.
///
/// It prints text as it is, and bytes as ASCII with escapes.
///
/// ```
/// use millstream::{Broker, HeaderValue};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::builder().workers(0).build()?;
/// let uploads = broker.topic::<&str>("uploads").open()?;
/// let _index = uploads.subscribe("index", |upload| {
///     for (name, value) in upload.headers() {
///         match value {
///             HeaderValue::Text(text) => println!("{name}: {text}"),
///             HeaderValue::Bytes(bytes) => println!("{name}: {} bytes", bytes.len()),
///         }
///     }
///     Ok(())
/// })?;
/// let upload = uploads.message("a file").header("from", "ann");
/// upload.header_bytes("digest", b"\xca\xfe").publish()?;
/// broker.run_until_idle();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderValue<'a> {
    /// The value was added by [`Message::header`](crate::Message::header).
    Text(&'a str),
    /// The value was added by [`Message::header_bytes`](crate::Message::header_bytes).
    Bytes(&'a [u8]),
}

impl From<HeaderValue<'_>> for Value {
    fn from(value: HeaderValue<'_>) -> Self {
        match value {
            HeaderValue::Text(text) => Self::Text(text.into()),
            HeaderValue::Bytes(bytes) => Self::Bytes(bytes.into()),
        }
    }
}

impl<'a> HeaderValue<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        match value {
            Value::Text(text) => Self::Text(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    /// Returns the text, or `None` for bytes, even if they are UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(_) => None,
        }
    }

    /// Returns the bytes, or those of the text.
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a str> for HeaderValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for HeaderValue<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl fmt::Display for HeaderValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Bytes(bytes) => f.pad(&bytes.escape_ascii().to_string()),
        }
    }
}
