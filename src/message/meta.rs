//! The parts that a publisher may add to a payload.

use crate::message::batch::Stamp;

/// The parts that a publisher may add to a payload. Messages without them pay nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) key: Option<Box<str>>,
    pub(crate) headers: Vec<(Box<str>, Box<str>)>,
    pub(crate) ttl_ns: Option<u64>,
}

impl Meta {
    /// Returns the parts, if there are any.
    pub(crate) fn unless_empty(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }

    /// Returns the time when a message with this stamp expires, if it has a time to live of its
    /// own.
    pub(crate) fn expires_ns(&self, stamp: Stamp) -> Option<u64> {
        Some(stamp.accepted_ns.saturating_add(self.ttl_ns?))
    }
}
