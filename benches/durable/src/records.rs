//! The records that every system stores.

/// The size of a record in bytes.
pub const SIZE: usize = 100;

/// Records of one commit.
pub const BATCH: usize = 64;

pub type Record = [u8; SIZE];

/// Returns different records, which don't compress.
pub fn some(count: usize) -> Vec<Record> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    };
    let record = |_| [(); SIZE].map(|()| byte());
    (0..count).map(record).collect()
}

/// What was written, or read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    sum: u64,
}

impl Tally {
    /// Counts a record, and adds up its first and last bytes.
    pub fn add(&mut self, record: &[u8]) {
        let number = |bytes: Option<&[u8; 8]>| u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]));
        let (first, last) = (record.first_chunk(), record.last_chunk());
        self.count += 1;
        self.sum = self
            .sum
            .wrapping_add(number(first))
            .wrapping_add(number(last).rotate_left(1));
    }
}
