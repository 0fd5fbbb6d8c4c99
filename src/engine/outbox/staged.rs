//! A message that a delivery has published, whatever its topic's payload is.

use crate::pure::log::format::frame::FrameBuffer;
use crate::types::error::store::StoreError;

/// Whether a staged message may go to the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clearance {
    Granted,
    /// A message with its dedup id was accepted.
    Duplicate,
    /// A message with its dedup id is on its way to the log.
    Pending,
}

/// Why a staged message goes nowhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The attempt has failed, or was cancelled.
    RolledBack,
    Duplicate,
}

/// A message that waits for the ack of the delivery that has published it. It has its ticket.
pub(crate) trait Staged: Send {
    /// Returns the number of its topic, and its dedup id if it has one.
    fn dedup_id(&self) -> Option<(u32, &str)>;

    /// Claims its dedup id, if it has one.
    fn claim(&mut self) -> Clearance;

    /// Gives up the claim, so that others go on.
    fn abandon(&mut self);

    /// Whether its topic asks for a sync.
    fn syncs(&self) -> bool;

    /// Writes its record. The log calls it under the lock of its open group.
    fn put(&self, frame: &mut FrameBuffer);

    /// Lets it into the queue of its topic when its group was written, or drops it.
    fn conclude(self: Box<Self>, result: &Result<(), StoreError>);

    /// Drops it. Nobody has seen it.
    fn drop_unseen(self: Box<Self>, why: Gone);
}
