//! What a deadline is set for.

use crate::sync::Arc;

/// Something that a deadline can be set for.
pub(crate) trait Fire: Send + Sync {
    /// The deadline with this tag has come.
    fn fire(self: Arc<Self>, tag: u32);
}

/// The tag that means nothing but "look again": the end of a linger.
pub(crate) const LOOK: u32 = u32::MAX;
/// The tag that ends a lane's drain.
pub(crate) const CANCEL: u32 = u32::MAX - 1;
/// The tag of the first deadline of a lane's leases; what awaits its time has one below.
pub(crate) const LEASE: u32 = 1 << 30;
