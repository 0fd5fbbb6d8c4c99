//! The group of records that is open, or is being written.

use crate::log::commit::Hook;
use crate::log::cursor::Cursor;
use crate::pure::log::format::frame::FrameBuffer;
use crate::sync::{Arc, Instant};

/// Records that are to be one frame.
pub(super) struct Group {
    pub(super) number: u64,
    pub(super) frame: FrameBuffer,
    pub(super) syncs: bool,
    pub(super) hooks: Vec<Hook>,
    /// Cursors that have moved, and say how far when the group is written.
    pub(super) riders: Vec<Arc<Cursor>>,
    pub(super) due: Option<Instant>,
}

impl Group {
    pub(super) fn new(number: u64, frame: FrameBuffer) -> Self {
        Self {
            number,
            frame,
            syncs: false,
            hooks: Vec::new(),
            riders: Vec::new(),
            due: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frame.is_empty() && self.riders.is_empty()
    }

    /// Has it written by then. Returns whether that is earlier than before.
    pub(super) fn hasten(&mut self, until: Instant) -> bool {
        let hastens = self.due.is_none_or(|due| until < due);
        if hastens {
            self.due = Some(until);
        }
        hastens
    }
}
