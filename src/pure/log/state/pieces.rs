//! Where the messages of a topic are, piece by piece.

use crate::pure::log::state::{MARK_EVERY, Mark, Piece, Place};

impl Piece {
    /// Adds a message. Lost ones may lie between it and the one before.
    pub(super) fn add(&mut self, seq: u64, time_ms: u64, bytes: u64, place: Place) {
        if self.since_mark >= MARK_EVERY {
            // A mark is a frame. A second one in the same frame would say nothing new.
            if self
                .marks
                .last()
                .is_none_or(|mark| mark.offset != place.offset)
            {
                self.marks.push(Mark {
                    seq,
                    offset: place.offset,
                });
            }
            self.since_mark = 0;
        }
        self.end_seq = seq + 1;
        self.last_ms = time_ms;
        self.bytes += bytes;
        self.since_mark += bytes;
    }
}
