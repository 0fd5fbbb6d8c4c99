//! The gaps of a lane whose subscription only observes.

use crate::engine::state::lane::Lane;
use crate::message::batch::BatchSlice;
use crate::observe::event::DropCause;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Notes deliveries that were dropped for want of room.
    pub(crate) fn note_gap(&self, part: &BatchSlice<T>, cause: DropCause) {
        if let Some(gaps) = &self.gaps
            && cause == DropCause::LaneFull
            && let Some(last) = part.ids().last()
        {
            gaps.lock().add(last.get(), part.len() as u64);
        }
    }

    /// Returns how many messages it has skipped.
    pub(crate) fn missed(&self) -> u64 {
        let gaps = self.gaps.as_ref();
        gaps.map_or(0, |gaps| gaps.lock().total())
    }
}
