//! How a drain has ended.

use std::fmt;
use std::time::Duration;

use crate::types::duration::Short;

/// What a drain came to: every message accepted is in one of these counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Messages accepted, ever.
    pub published: u64,
    /// Messages handed to the lanes there were.
    pub dispatched: u64,
    /// Messages that found no subscription.
    pub unrouted: u64,
    /// Messages dropped by overflow, expired without a subscription, or not dispatched
    /// when the time was up.
    pub messages_dropped: u64,
    /// Deliveries made of the dispatched messages.
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
    /// Deliveries cancelled: by an unsubscribe, because a publish of their handler was
    /// refused, or because the time was up.
    pub cancelled: u64,
    /// Messages and deliveries that are still somewhere: in the hands of
    /// handlers that have not returned.
    pub remaining: u64,
    /// Of all that, what the end of the broker has cut off: deliveries cancelled because a
    /// publish of their handler was refused, or because the time was up, messages dropped
    /// because it was up, and what remains. What an unsubscribe cancelled, or an overflow
    /// dropped, is not in it.
    pub cut_off: u64,
    /// How long the drain took.
    pub took: Duration,
}

impl DrainReport {
    /// Whether nothing was cut off and nothing remains.
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
