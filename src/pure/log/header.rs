//! What stands at the head of the files: of the store's own, and of each segment.

use crate::pure::log::bytes::{Malformed, Reader};
use crate::pure::log::frame::Link;

/// The name of the file that says which store this is.
pub(crate) const STORE_FILE: &str = "store";

/// The name under which that file is written, before it is whole.
pub(crate) const NEW_STORE_FILE: &str = "store.new";

/// The name of the file that the process with the store open has locked.
pub(crate) const LOCK_FILE: &str = "lock";

const STORE_MAGIC: [u8; 8] = *b"millstor";
const SEGMENT_MAGIC: [u8; 8] = *b"millsegm";

/// The version of the format. A store of another version is refused.
pub(crate) const VERSION: u32 = 1;

/// The size of a segment's header. Frames follow.
pub(crate) const SEGMENT_HEADER: usize = 56;

/// Why a header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Malformed,
    /// It is whole, but of another version.
    Version(u32),
}

impl From<Malformed> for BadHeader {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// The file that names a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreFile {
    pub(crate) store: u128,
    /// An lsn that was on the disk when the file was written. A log that ends before it is damaged,
    /// however whole it looks.
    pub(crate) synced: u64,
}

impl StoreFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = STORE_MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.store.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        with_checksum(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let mut reader = checked(bytes, STORE_MAGIC)?;
        Ok(Self {
            store: u128::from_le_bytes(reader.array()?),
            synced: reader.u64()?,
        })
    }
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: u128,
    pub(crate) number: u64,
    /// The place of the frame before the segment's first.
    pub(crate) before: Link,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = SEGMENT_MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.store.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.before.lsn.to_le_bytes());
        out.extend_from_slice(&self.before.crc.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        with_checksum(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let head = bytes.get(..SEGMENT_HEADER).ok_or(Malformed)?;
        let mut reader = checked(head, SEGMENT_MAGIC)?;
        Ok(Self {
            store: u128::from_le_bytes(reader.array()?),
            number: reader.u64()?,
            before: Link {
                lsn: reader.u64()?,
                crc: reader.u32()?,
            },
        })
    }
}

fn with_checksum(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Returns what follows the magic and the version, if the checksum holds.
fn checked(bytes: &[u8], magic: [u8; 8]) -> Result<Reader<'_>, BadHeader> {
    let (content, crc) = bytes.split_last_chunk().ok_or(Malformed)?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return Err(BadHeader::Malformed);
    }
    let mut reader = Reader::new(content);
    if reader.array()? != magic {
        return Err(BadHeader::Malformed);
    }
    match reader.u32()? {
        VERSION => Ok(reader),
        other => Err(BadHeader::Version(other)),
    }
}

/// Returns the seed for the checksums of a segment's frames.
pub(crate) fn seed(store: u128, segment: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store.to_le_bytes());
    hasher.update(&segment.to_le_bytes());
    hasher.finalize()
}

/// Returns the name of a segment's file. Names sort as the numbers do.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:020}.seg")
}

/// Returns the number of the segment in a file of this name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        store: 77,
        number: 3,
        before: Link { lsn: 12, crc: 5 },
    };

    #[test]
    fn headers_come_back_and_no_flipped_bit_passes() {
        let bytes = HEADER.encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        let file = StoreFile {
            store: 77,
            synced: 9,
        };
        let store = file.encode();
        assert_eq!(StoreFile::decode(&store), Ok(file));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        for bit in 0..store.len() * 8 {
            let mut flipped = store.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(StoreFile::decode(&flipped).is_err(), "bit {bit}");
        }
        assert_eq!(StoreFile::decode(&bytes), Err(BadHeader::Malformed));
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut bytes = STORE_MAGIC.to_vec();
        bytes.extend_from_slice(&2_u32.to_le_bytes());
        assert_eq!(
            StoreFile::decode(&with_checksum(bytes)),
            Err(BadHeader::Version(2))
        );
    }

    #[test]
    fn only_names_of_segments_are_taken_for_such() {
        assert_eq!(segment_number(&segment_name(7)), Some(7));
        assert_eq!(segment_number(&segment_name(u64::MAX)), Some(u64::MAX));
        for other in [
            "7.seg",
            "store",
            "00000000000000000007.seg.bak",
            "+0000000000000000007.seg",
        ] {
            assert_eq!(segment_number(other), None, "{other}");
        }
    }
}
