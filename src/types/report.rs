//! The report of a drain.

use std::fmt;
use std::time::Duration;

use crate::types::duration::Short;

/// The result of a drain. Every message accepted is in one of these counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// All messages that the broker ever accepted.
    pub published: u64,
    /// Messages handed to the lanes of their topic.
    pub dispatched: u64,
    /// Messages that found no subscription.
    pub unrouted: u64,
    /// Messages that never reached a lane.
    ///
    /// They were dropped by overflow, cancelled while they were delayed, expired without a
    /// subscription, or not dispatched when the time was up. Or they were delayed, and are kept in
    /// the log of a durable topic ([`DropCause::Kept`](crate::event::DropCause)).
    pub messages_dropped: u64,
    /// Deliveries made of the dispatched messages, without those that a filter refused.
    pub made: u64,
    /// Deliveries whose handler returned `Ok`, or whose lease was acked.
    pub delivered: u64,
    /// Deliveries that went to the dead letters.
    pub dead_lettered: u64,
    /// Deliveries dropped by overflow or discarded.
    pub dropped: u64,
    /// Deliveries that outlived their time to live, under
    /// [`OnExpired::Drop`](crate::OnExpired::Drop).
    pub expired: u64,
    /// Deliveries cancelled by an unsubscribe, because a publish of their handler was refused, or
    /// because the time was up.
    pub cancelled: u64,
    /// Messages and deliveries still in the hands of handlers that have not returned.
    pub remaining: u64,
    /// The part of all these that the end of the broker cut off.
    ///
    /// It counts deliveries cancelled because a publish of their handler was refused, or because
    /// the time was up. It counts messages dropped and not kept because the time was up, and
    /// everything that remains. Deliveries cancelled by an unsubscribe and messages dropped by overflow are not in
    /// it.
    pub cut_off: u64,
    /// The time that the drain took.
    pub took: Duration,
}

impl DrainReport {
    /// Returns whether nothing was cut off and nothing remains.
    pub fn is_complete(&self) -> bool {
        self.cut_off == 0 && self.remaining == 0
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} messages: {} dispatched, {} unrouted, {} dropped",
            self.published, self.dispatched, self.unrouted, self.messages_dropped,
        )?;
        writeln!(
            f,
            "{} deliveries: {} delivered, {} dead-lettered, {} dropped, {} expired, {} cancelled",
            self.made,
            self.delivered,
            self.dead_lettered,
            self.dropped,
            self.expired,
            self.cancelled,
        )?;
        write!(
            f,
            "{} remaining, {} cut off, in {}",
            self.remaining,
            self.cut_off,
            Short(self.took),
        )
    }
}
