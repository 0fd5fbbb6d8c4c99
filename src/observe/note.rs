//! The contents of one slot of the event buffer.
//!
//! A message that is published alone has an event of its own, told by its publisher. So this event
//! takes no more than the cache line that travels between two cores anyway. Events of workers are
//! about several messages, or rare, and travel in a box.

use crate::message::MessageId;
use crate::observe::event::{Event, EventKind, Record};
use crate::pure::decide::lifecycle::Status;
use crate::sync::Arc;

/// A record, packed.
pub(crate) enum Note {
    /// The record of one message that was accepted.
    Enqueued {
        sequence: u64,
        at_ns: u64,
        topic: Arc<str>,
        id: MessageId,
        depth: u64,
    },
    Other(Box<Record>),
}

impl Note {
    /// Returns the number of events that the note stands for.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Enqueued { .. } => 1,
            Self::Other(record) => record.len(),
        }
    }

    /// Tells the note's events, in order.
    #[inline]
    pub(crate) fn tell(&self, mut tell: impl FnMut(&Event<'_>)) {
        match self {
            &Self::Enqueued {
                sequence,
                at_ns,
                ref topic,
                id,
                depth,
            } => tell(&Event {
                sequence,
                at_ns,
                topic,
                subscription: None,
                id: Some(id),
                attempt: 0,
                status: Some(Status::Queued),
                kind: &EventKind::MessageEnqueued { depth },
            }),
            Self::Other(record) => record.tell(tell),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_and_its_slot_fit_a_cache_line() {
        // Crossbeam adds a stamp of 8 bytes per slot.
        assert_eq!(size_of::<Note>(), 48);
    }
}
