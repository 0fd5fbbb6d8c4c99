//! Where a subscription to a stored topic starts.

use std::time::SystemTime;

/// Where a subscription to a durable topic starts, or a read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the next message that is published.
    #[default]
    Latest,
    /// With the first message that retention has left.
    Earliest,
    /// With the message that has this number, which is its id.
    Seq(u64),
    /// With the first message that was published at this time or later, by the clock of its
    /// publisher's machine.
    Time(SystemTime),
}
