//! The plan of a salvage: the file by which a crash in the middle of one is undone, or completed.
//!
//! ```text
//! magic | phase u8 | store u128 | first u64 | number u64 | crc u32
//! ```
//!
//! Segments before `first` are the damaged ones; the others are new. In the first phase they are
//! being written, and a crash leaves the damaged store. In the second they are complete, and the
//! damaged files get other names.

use crate::pure::log::format::bytes::{Malformed, Reader};

/// The name of the file.
pub(crate) const PLAN_FILE: &str = "salvage";

/// The name under which it is written, before it is whole.
pub(crate) const NEW_PLAN_FILE: &str = "salvage.new";

const MAGIC: [u8; 8] = *b"millsalv";

/// How far a salvage has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Writing,
    Written,
}

/// The plan of a salvage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) phase: Phase,
    pub(crate) store: u128,
    /// The first of the new segments.
    pub(crate) first: u64,
    /// Which salvage of the store it is, from one.
    pub(crate) number: u64,
}

impl Plan {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(match self.phase {
            Phase::Writing => 0,
            Phase::Written => 1,
        });
        out.extend_from_slice(&self.store.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (content, crc) = bytes.split_last_chunk().ok_or(Malformed)?;
        let mut reader = Reader::new(content);
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) || reader.array()? != MAGIC {
            return Err(Malformed);
        }
        Ok(Self {
            phase: match reader.u8()? {
                0 => Phase::Writing,
                1 => Phase::Written,
                _ => return Err(Malformed),
            },
            store: u128::from_le_bytes(reader.array()?),
            first: reader.u64()?,
            number: reader.u64()?,
        })
    }

    /// Returns the name that a damaged file gets.
    pub(crate) fn kept_name(&self, name: &str) -> String {
        format!("{}{name}", kept_prefix(self.number))
    }
}

fn kept_prefix(number: u64) -> String {
    format!("damaged-{number}.")
}

/// Returns which salvage is the next, by the names of the files that earlier ones have kept.
pub(crate) fn next_number(names: &[String]) -> u64 {
    let number = |name: &String| {
        let (number, _) = name.strip_prefix("damaged-")?.split_once('.')?;
        number.parse::<u64>().ok()
    };
    let last = names.iter().filter_map(number).max();
    last.unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_back_and_no_flipped_bit_passes() {
        for phase in [Phase::Writing, Phase::Written] {
            let plan = Plan {
                phase,
                store: 77,
                first: 9,
                number: 2,
            };
            let bytes = plan.encode();
            assert_eq!(Plan::decode(&bytes), Ok(plan));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Plan::decode(&flipped), Err(Malformed), "bit {bit}");
            }
        }
    }

    #[test]
    fn each_salvage_keeps_its_files_under_names_of_their_own() {
        let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(next_number(&names(&["store", "lock"])), 1);
        let kept = names(&["damaged-1.store", "damaged-12.report", "damaged-x.y"]);
        assert_eq!(next_number(&kept), 13);
    }
}
