//! A topic in the state of a log: its messages, and where they lie.

use std::collections::{BTreeMap, VecDeque};

use crate::pure::log::message::StoredMessage;
use crate::pure::log::state::{DelayedState, Inconsistent, Place, Remembered};

/// How many bytes of a topic's messages lie between two marks.
const MARK_EVERY: u64 = 64 * 1024;

/// Where a message starts to be looked for: in the frame at this offset or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    seq: u64,
    offset: u32,
}

/// A topic's messages in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) segment: u64,
    pub(crate) first_seq: u64,
    /// The number after the last.
    pub(crate) end_seq: u64,
    pub(crate) last_ms: u64,
    pub(crate) bytes: u64,
    /// Sparse, in order; the first is that of the first message.
    marks: Vec<Mark>,
    since_mark: u64,
}

/// The state of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicState {
    pub(crate) name: Box<str>,
    /// The first message that retention has left.
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    pub(crate) pieces: VecDeque<Piece>,
    pub(crate) delayed: BTreeMap<u64, DelayedState>,
    /// In the order of their numbers. Whoever knows the topic's window forgets the oldest.
    pub(crate) remembered: VecDeque<Remembered>,
}

impl TopicState {
    pub(super) fn publish(
        &mut self,
        seq: u64,
        time_ms: u64,
        message: &[u8],
        place: Place,
    ) -> Result<(), Inconsistent> {
        if seq != self.next_seq {
            return Err(Inconsistent);
        }
        self.next_seq = seq.checked_add(1).ok_or(Inconsistent)?;
        if let Some(id) = StoredMessage::read_dedup_id(message)? {
            self.remember(seq, time_ms, id);
        }
        let bytes = message.len() as u64;
        match self.pieces.back_mut() {
            Some(piece) if piece.segment == place.segment => piece.add(time_ms, bytes, place),
            _ => self.pieces.push_back(Piece {
                segment: place.segment,
                first_seq: seq,
                end_seq: seq + 1,
                last_ms: time_ms,
                bytes,
                marks: vec![Mark {
                    seq,
                    offset: place.offset,
                }],
                since_mark: bytes,
            }),
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, seq: u64, time_ms: u64, dedup_id: &str) {
        self.remembered.push_back(Remembered {
            seq,
            time_ms,
            dedup_id: dedup_id.into(),
        });
    }

    pub(super) fn trim(&mut self, first_seq: u64) -> Result<(), Inconsistent> {
        if first_seq < self.first_seq || first_seq > self.next_seq {
            return Err(Inconsistent);
        }
        self.first_seq = first_seq;
        let gone = self
            .pieces
            .partition_point(|piece| piece.end_seq <= first_seq);
        self.pieces.drain(..gone);
        Ok(())
    }

    /// Returns the frame from which on a message, or the first after it that is still there, is to
    /// be looked for. `None` if there is none yet.
    pub(crate) fn find(&self, seq: u64) -> Option<Place> {
        let at = self.pieces.partition_point(|piece| piece.end_seq <= seq);
        let piece = self.pieces.get(at)?;
        let mark = piece.marks.partition_point(|mark| mark.seq <= seq);
        let mark = piece.marks[mark.saturating_sub(1)];
        Some(Place {
            segment: piece.segment,
            offset: mark.offset,
        })
    }
}

impl Piece {
    fn add(&mut self, time_ms: u64, bytes: u64, place: Place) {
        if self.since_mark >= MARK_EVERY {
            // A mark is a frame. A second one in the same frame would say nothing new.
            if self
                .marks
                .last()
                .is_none_or(|mark| mark.offset != place.offset)
            {
                self.marks.push(Mark {
                    seq: self.end_seq,
                    offset: place.offset,
                });
            }
            self.since_mark = 0;
        }
        self.end_seq += 1;
        self.last_ms = time_ms;
        self.bytes += bytes;
        self.since_mark += bytes;
    }
}
