//! The gate of one lane.

use crate::engine::gates::protection::Protection;
use crate::engine::wait::holds::Holds;
use crate::sync::{Mutex, MutexGuard, OnceLock};

/// The gate of one lane. A lane that nobody has paused or protected has nothing but a clear word.
pub(crate) struct LaneGate {
    pub(crate) holds: Holds,
    /// Made when it is first needed.
    protection: OnceLock<Box<Mutex<Protection>>>,
}

impl LaneGate {
    pub(crate) fn new() -> Self {
        Self {
            holds: Holds::new(),
            protection: OnceLock::new(),
        }
    }

    /// Returns the protection, which is made now if there was none.
    pub(crate) fn protection(&self) -> MutexGuard<'_, Protection> {
        let new = || Box::new(Mutex::new(Protection::new()));
        self.protection.get_or_init(new).lock()
    }

    /// Returns the protection, if there is any.
    pub(crate) fn known(&self) -> Option<MutexGuard<'_, Protection>> {
        self.protection.get().map(|protection| protection.lock())
    }
}
