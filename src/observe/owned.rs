//! Events to keep.

use std::fmt;

use crate::message::MessageId;
use crate::observe::event::{Event, EventKind};
use crate::pure::decide::lifecycle::Status;
use crate::sync::Arc;

/// An event that outlives the observer's call, to be kept, sent to a channel or compared.
///
/// [`Event::into_owned`] makes one. Its names are shared with the engine, not copied.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedEvent {
    sequence: u64,
    at_ns: u64,
    topic: Arc<str>,
    subscription: Option<Arc<str>>,
    id: Option<MessageId>,
    attempt: u32,
    status: Option<Status>,
    kind: EventKind,
}

impl OwnedEvent {
    /// Returns the event as the observer saw it.
    pub fn event(&self) -> Event<'_> {
        Event {
            sequence: self.sequence,
            at_ns: self.at_ns,
            topic: &self.topic,
            subscription: self.subscription.as_ref(),
            id: self.id,
            attempt: self.attempt,
            status: self.status,
            kind: &self.kind,
        }
    }
}

/// Prints the same line as the [`Event`].
impl fmt::Display for OwnedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.event().fmt(f)
    }
}

impl fmt::Debug for OwnedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.event(), f)
    }
}

impl Event<'_> {
    /// Returns the event as a value that may be kept and sent anywhere.
    ///
    /// It counts references to names, and clones the kind. It allocates nothing.
    pub fn into_owned(self) -> OwnedEvent {
        OwnedEvent {
            sequence: self.sequence,
            at_ns: self.at_ns,
            topic: Arc::clone(self.topic),
            subscription: self.subscription.map(Arc::clone),
            id: self.id,
            attempt: self.attempt,
            status: self.status,
            kind: self.kind.clone(),
        }
    }
}
