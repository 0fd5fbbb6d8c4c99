//! The way through a segment, frame by frame, and what it means that the way ends.
//!
//! After a power cut, of the bytes that were not synced any subset may be on the disk. So in the
//! last segment a frame that can't be read may be the work of the cut. It is a *torn tail*, even if
//! whole frames lie behind it: nobody was told that they are safe. It is *damage* if somebody was
//! told. That shows in the frames behind it: each says which lsn was synced when it was written. If
//! one of them names a frame that the walk did not reach, then a synced frame is lost.
//!
//! The last frames before a crash may have nobody behind them. So a store that comes to rest writes
//! one frame without records, which vouches for the others. And a store that is closed notes in its
//! own file how far it came, so that a log that lost its end is told from a shorter one.
//!
//! One thing can't be told from a power cut: damage of the last synced frame, together with the
//! frame that vouches for it, in a log that was not closed.

use crate::pure::log::frame::{self, ALIGNMENT, Frame, HEADER, Link, read};
use crate::pure::log::header::SEGMENT_HEADER;

/// How a walk through a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At the end of the file, or before zeros that reach to its end.
    Whole,
    /// At a frame that can't be read. Nothing behind it was known to be synced.
    Torn,
    /// At a frame that can't be read, before one that was known to be synced.
    Damaged,
}

/// A walk through the frames of a segment.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    seed: u32,
    offset: usize,
    last: Link,
    synced: u64,
}

impl<'a> Walk<'a> {
    /// Starts behind the header of a segment. `before` is the place of the frame before its first.
    pub(crate) fn new(segment: &'a [u8], seed: u32, before: Link) -> Self {
        Self {
            bytes: segment,
            seed,
            offset: SEGMENT_HEADER,
            last: before,
            synced: 0,
        }
    }

    /// Returns where the next frame starts, or would.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the place of the last frame.
    pub(crate) fn reached(&self) -> Link {
        self.last
    }

    /// Returns the highest lsn that a frame so far said to be synced.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// Judges the end of the walk, after the last frame.
    pub(crate) fn end(&self) -> End {
        let left = self.bytes.get(self.offset..).unwrap_or_default();
        if left.iter().all(|byte| *byte == 0) {
            return End::Whole;
        }
        let vouched = vouched(left, self.seed, self.last.lsn);
        if step!("look for the watermark", vouched > self.last.lsn, false) {
            End::Damaged
        } else {
            End::Torn
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (usize, Frame<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.bytes.get(self.offset..)?;
        let frame = read(self.seed, bytes, self.last.lsn).ok()?;
        if step!("follow the chain", !frame.follows(self.last), false) {
            return None;
        }
        let offset = self.offset;
        self.offset += frame.size();
        self.last = frame.link;
        self.synced = self.synced.max(frame.synced);
        Some((offset, frame))
    }
}

/// Returns the highest lsn after this one that any frame in these bytes says to be synced, or zero.
/// They start where a frame could.
pub(crate) fn vouched(bytes: &[u8], seed: u32, after: u64) -> u64 {
    // No more frames fit in. Of bytes that are no frame hardly any pass, or each would cost a
    // checksum.
    let most = after.saturating_add((bytes.len() / HEADER) as u64);
    let may_vouch = |header: &[u8]| frame::synced(header) > after && frame::lsn(header) <= most;
    let places = (0..bytes.len()).step_by(ALIGNMENT).map(|at| &bytes[at..]);
    let frames = places
        .filter(|place| may_vouch(place))
        .filter_map(|place| read(seed, place, after).ok());
    frames.map(|frame| frame.synced).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::log::frame::FrameBuffer;

    const SEED: u32 = 42;
    const START: Link = Link { lsn: 0, crc: 0 };

    /// A segment with a frame for each of these: what it says to be synced.
    fn segment(synced: &[u64]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; SEGMENT_HEADER];
        let mut starts = Vec::new();
        let mut last = START;
        for synced in synced {
            let mut frame = FrameBuffer::new();
            frame.record().extend_from_slice(b"a record");
            starts.push(bytes.len());
            let (link, frame) = frame.seal(SEED, last, *synced);
            bytes.extend_from_slice(frame);
            last = link;
        }
        (bytes, starts)
    }

    fn walk(bytes: &[u8]) -> (u64, End) {
        let mut walk = Walk::new(bytes, SEED, START);
        walk.by_ref().for_each(drop);
        (walk.reached().lsn, walk.end())
    }

    #[test]
    fn a_whole_segment_is_walked_to_its_end() {
        let (mut bytes, _) = segment(&[0, 1, 2]);
        assert_eq!(walk(&bytes), (3, End::Whole));
        bytes.resize(bytes.len() + 100, 0);
        assert_eq!(walk(&bytes), (3, End::Whole));
    }

    #[test]
    fn a_hole_before_frames_that_vouch_for_nothing_behind_it_is_a_torn_tail() {
        let (mut bytes, starts) = segment(&[0, 1, 1, 1]);
        bytes[starts[1] + 9] ^= 1;
        assert_eq!(walk(&bytes), (1, End::Torn));
    }

    #[test]
    fn a_hole_before_a_frame_that_knew_it_synced_is_damage() {
        let (whole, starts) = segment(&[0, 1, 1, 2]);
        for bit in 0..8 * (starts[2] - starts[1]) {
            let mut bytes = whole.clone();
            bytes[starts[1] + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(walk(&bytes), (1, End::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_cut_at_any_byte_is_a_torn_tail() {
        let (bytes, starts) = segment(&[0, 1, 2]);
        for length in SEGMENT_HEADER..bytes.len() {
            let frames = starts.iter().filter(|start| **start + 40 <= length).count() as u64;
            let (last, end) = walk(&bytes[..length]);
            assert_eq!(last, frames);
            assert_ne!(end, End::Damaged, "cut at {length}");
        }
    }
}
