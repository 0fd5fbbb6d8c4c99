//! The way through a segment that doesn't stop at damage.

use crate::pure::log::format::frame::{self, ALIGNMENT, Frame, read};
use crate::pure::log::format::header::SEGMENT_HEADER;

/// More frames than a store ever has. Hardly any bytes that are no frame pass for a header then, or
/// each would cost a checksum.
const MOST_FRAMES: u64 = 1 << 48;

/// A stretch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Frame(Frame<'a>),
    /// Bytes without a frame that can be read, up to this offset.
    Hole(usize),
}

/// A walk through all frames that can be read, and the holes between them.
///
/// Each checksum stands for itself. So a frame behind a hole is as good as one before it.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    seed: u32,
    offset: usize,
    /// The lsn of the last frame. Frames that follow have higher ones.
    last: u64,
}

impl<'a> Scan<'a> {
    /// Starts behind the header of a segment, whose frames come after this lsn.
    pub(crate) fn new(segment: &'a [u8], seed: u32, after: u64) -> Self {
        Self {
            bytes: segment,
            seed,
            offset: SEGMENT_HEADER.min(segment.len()),
            last: after,
        }
    }

    /// Returns the end of what was found.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for Scan<'a> {
    /// Where the stretch starts, and what it is.
    type Item = (usize, Found<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        let left = &self.bytes[offset..];
        if let Ok(frame) = read(self.seed, left, self.last) {
            self.offset += frame.size();
            self.last = frame.link.lsn;
            return Some((offset, Found::Frame(frame)));
        }
        // Zeros to the end are room that was never written.
        if left.iter().all(|byte| *byte == 0) {
            return None;
        }
        let is_frame = |at: &usize| {
            let place = &left[*at..];
            frame::lsn(place) < MOST_FRAMES && read(self.seed, place, self.last).is_ok()
        };
        let mut places = (ALIGNMENT..left.len()).step_by(ALIGNMENT);
        self.offset += places.find(is_frame).unwrap_or(left.len());
        Some((offset, Found::Hole(self.offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::log::format::frame::{FrameBuffer, Link};

    const SEED: u32 = 42;

    fn segment(frames: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; SEGMENT_HEADER];
        let mut starts = Vec::new();
        let mut last = Link { lsn: 0, crc: 0 };
        for _ in 0..frames {
            let mut frame = FrameBuffer::new();
            frame.record().extend_from_slice(b"a record");
            starts.push(bytes.len());
            let (link, frame) = frame.seal(SEED, last, 0);
            bytes.extend_from_slice(frame);
            last = link;
        }
        starts.push(bytes.len());
        (bytes, starts)
    }

    #[test]
    fn a_flipped_bit_takes_its_own_frame_and_no_other() {
        let (whole, starts) = segment(5);
        for bit in SEGMENT_HEADER * 8..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let broken = starts.partition_point(|start| *start <= bit / 8) - 1;
            for (at, (offset, found)) in Scan::new(&bytes, SEED, 0).enumerate() {
                assert_eq!(offset, starts[at], "bit {bit}");
                match found {
                    Found::Frame(frame) => assert_eq!(frame.link.lsn, at as u64 + 1),
                    Found::Hole(to) => assert_eq!((at, to), (broken, starts[at + 1])),
                }
            }
            assert_eq!(Scan::new(&bytes, SEED, 0).count(), 5);
        }
    }

    #[test]
    fn any_bytes_are_scanned_to_their_end() {
        let (bytes, starts) = segment(3);
        for length in 0..bytes.len() {
            let whole = starts[1..].iter().filter(|end| **end <= length).count();
            let scan = Scan::new(&bytes[..length], SEED, 0);
            let frames = scan.filter(|(_, found)| matches!(found, Found::Frame(_)));
            assert_eq!(frames.count(), whole, "cut at {length}");
        }
        let zeros = [bytes, vec![0; 100]].concat();
        assert_eq!(Scan::new(&zeros, SEED, 0).count(), 3);
    }
}
