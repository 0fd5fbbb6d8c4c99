//! The protection of one lane: the machines that its gate asks, and why it waits.

use crate::engine::runtime::linger::Linger;
use crate::types::waiting::WaitingFor;

/// The protection of one lane.
pub(crate) struct Protection {
    /// The reason why the lane's deliveries wait, and since when.
    pub(crate) waiting: Option<(WaitingFor, u64)>,
    /// Has the lane look again when its gate may open.
    pub(crate) wake: Linger,
}

impl Protection {
    pub(crate) fn new() -> Self {
        Self {
            waiting: None,
            wake: Linger::default(),
        }
    }

    /// Notes why the lane waits, or that it doesn't. Returns whether that is news.
    pub(crate) fn note(&mut self, reason: Option<WaitingFor>, now_ns: u64) -> bool {
        if self.waiting.map(|(reason, _)| reason) == reason {
            return false;
        }
        self.waiting = reason.map(|reason| (reason, now_ns));
        true
    }
}
