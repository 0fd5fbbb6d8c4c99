//! The declared weight of messages, and a topic's limit for it.

use crate::engine::base::contain::contain;
use crate::pure::decide::load::Load;
use crate::sync::{Arc, Mutex, MutexGuard};

/// Says what a payload weighs. It is the user's.
pub(crate) type Weigh<T> = Arc<dyn Fn(&T) -> u64 + Send + Sync>;

/// The weight of the messages that wait in a topic.
pub(crate) struct Weights<T> {
    weigh: Weigh<T>,
    load: Mutex<Load>,
}

impl<T> Weights<T> {
    pub(crate) fn new(limit: u64, weigh: Weigh<T>) -> Self {
        Self {
            weigh,
            load: Mutex::new(Load::new(limit)),
        }
    }

    /// Returns what a payload weighs, or `None` if the user's code panics.
    pub(crate) fn weigh(&self, payload: &T) -> Option<u64> {
        contain(|| (self.weigh)(payload)).ok()
    }

    /// Returns the load. No user code may run while it is locked.
    pub(crate) fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock()
    }
}
