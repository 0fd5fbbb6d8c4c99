//! A frame: what one commit wrote. All of it counts, or none.
//!
//! ```text
//! length u32 | crc u32 | lsn u64 | synced u64 | chain u32 | count u32 | records, padded to 8 bytes
//! ```
//!
//! - `length` counts the bytes of the records, without the padding.
//! - `crc` is the CRC-32 of everything else in the frame. It starts from a seed that the store and
//!   the segment give. So a payload can't pass for a frame, though it holds those of another
//!   store, or of this one's past.
//! - `lsn` counts the frames of the store.
//! - `synced` is the lsn that was known to be on the disk when this frame was written. It tells
//!   [`walk`](crate::pure::log::format::walk) a torn tail from damage.
//! - `chain` is the `crc` of the frame before.
//! - `count` is the number of records. A frame without any only says what is synced.

use crate::pure::log::format::bytes::{Malformed, Reader};

pub(crate) const HEADER: usize = 32;

/// The size of the records from which on a frame takes no more. Whoever has some waits for the next.
pub(crate) const FULL_FRAME: usize = if cfg!(test) { 256 } else { 4 << 20 };

/// The most bytes of records that a frame has. It is far less than its length can say.
///
/// A frame that is not full takes one commit more, whatever its size. So this bounds the largest
/// commit, too.
pub(crate) const MOST_RECORDS: usize = 256 << 20;

/// Frames start at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// The place of a frame in the succession of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) lsn: u64,
    pub(crate) crc: u32,
}

/// A frame whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) link: Link,
    pub(crate) synced: u64,
    pub(crate) chain: u32,
    pub(crate) count: u32,
    pub(crate) records: &'a [u8],
}

impl Frame<'_> {
    /// Returns how many bytes the frame takes in the log.
    pub(crate) fn size(&self) -> usize {
        HEADER + self.records.len().next_multiple_of(ALIGNMENT)
    }

    /// Returns whether it is the frame after that one.
    pub(crate) fn follows(&self, before: Link) -> bool {
        self.link.lsn == before.lsn + 1 && self.chain == before.crc
    }
}

/// A frame that is being written: records behind room for the header.
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    count: u32,
    /// The end of the records, before the padding.
    end: usize,
}

impl FrameBuffer {
    /// The most bytes that a frame has besides its records.
    pub(crate) const OVERHEAD: u64 = (HEADER + ALIGNMENT) as u64;

    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; HEADER],
            count: 0,
            end: HEADER,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the size of the records so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - HEADER
    }

    /// Makes it empty. Its memory stays.
    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.count = 0;
        self.end = HEADER;
    }

    /// Returns where to write the next record.
    pub(crate) fn record(&mut self) -> &mut Vec<u8> {
        self.count += 1;
        &mut self.bytes
    }

    /// Returns the records of a frame that was sealed.
    pub(crate) fn records(&self) -> &[u8] {
        &self.bytes[HEADER..self.end]
    }

    /// Completes the frame. Returns its place, and its bytes.
    pub(crate) fn seal(&mut self, seed: u32, after: Link, synced: u64) -> (Link, &[u8]) {
        let length = self.bytes.len() - HEADER;
        self.end = self.bytes.len();
        debug_assert!(length <= MOST_RECORDS, "its writer refuses it");
        self.bytes
            .resize(HEADER + length.next_multiple_of(ALIGNMENT), 0);
        let lsn = after.lsn + 1;
        self.bytes[0..4].copy_from_slice(&(length as u32).to_le_bytes());
        self.bytes[8..16].copy_from_slice(&lsn.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&synced.to_le_bytes());
        self.bytes[24..28].copy_from_slice(&after.crc.to_le_bytes());
        self.bytes[28..32].copy_from_slice(&self.count.to_le_bytes());
        let crc = checksum(seed, &self.bytes);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        (Link { lsn, crc }, &self.bytes)
    }
}

/// The checksum of a frame: of all its bytes but those of the checksum.
fn checksum(seed: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Returns the size that a header says its frame has. The header may be damaged.
pub(crate) fn size(header: &[u8]) -> usize {
    let length = Reader::new(header).u32().unwrap_or_default() as usize;
    HEADER + length.next_multiple_of(ALIGNMENT)
}

/// Returns the lsn in a header, which may be damaged.
pub(crate) fn lsn(header: &[u8]) -> u64 {
    number_at(header, 8)
}

/// Returns the lsn that a header says to be synced. It may be damaged.
pub(crate) fn synced(header: &[u8]) -> u64 {
    number_at(header, 16)
}

fn number_at(header: &[u8], at: usize) -> u64 {
    let number = header
        .get(at..)
        .and_then(|from| Reader::new(from).u64().ok());
    number.unwrap_or_default()
}

/// Reads the frame at the front of these bytes, if its checksum holds and it comes later than
/// `after`.
///
/// The cheap conditions come first. So a search for frames among other bytes computes few
/// checksums.
pub(crate) fn read(seed: u32, bytes: &[u8], after: u64) -> Result<Frame<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let length = reader.u32()? as usize;
    let crc = reader.u32()?;
    let lsn = reader.u64()?;
    let synced = reader.u64()?;
    let chain = reader.u32()?;
    let count = reader.u32()?;
    if lsn <= after || synced >= lsn || count as usize > length {
        return Err(Malformed);
    }
    let records = reader.take(length)?;
    let size = HEADER + length.next_multiple_of(ALIGNMENT);
    let whole = bytes.get(..size).ok_or(Malformed)?;
    if checksum(seed, whole) != crc {
        return Err(Malformed);
    }
    Ok(Frame {
        link: Link { lsn, crc },
        synced,
        chain,
        count,
        records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Link = Link {
        lsn: 6,
        crc: 0xabcd,
    };

    fn frame(records: &[&[u8]]) -> Vec<u8> {
        let mut buffer = FrameBuffer::new();
        for record in records {
            buffer.record().extend_from_slice(record);
        }
        buffer.seal(9, BEFORE, 5).1.to_vec()
    }

    #[test]
    fn a_frame_comes_back() {
        let bytes = frame(&[b"one", b"three"]);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let read = read(9, &bytes, 6).expect("it is whole");
        assert!(read.follows(BEFORE));
        assert_eq!(
            (read.synced, read.count, read.records),
            (5, 2, &b"onethree"[..])
        );
        assert_eq!(read.size(), bytes.len());
    }

    #[test]
    fn no_flipped_bit_no_truncation_and_no_other_seed_passes() {
        let bytes = frame(&[b"one", b"three", b"seven"]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(9, &flipped, 6), Err(Malformed), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(read(9, &bytes[..length], 6), Err(Malformed));
        }
        assert_eq!(read(8, &bytes, 6), Err(Malformed));
    }

    #[test]
    fn a_frame_of_the_past_is_none() {
        assert_eq!(read(9, &frame(&[]), 7), Err(Malformed));
    }
}
