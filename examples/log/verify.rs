//! Reads and checks everything.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use millstream::store::{Health, Inspection, inspect};

use crate::State;
use crate::text::{bytes, count};

pub fn run(directory: &Path, out: &mut dyn Write) -> Result<State, Box<dyn Error>> {
    let found = inspect(directory)?;
    let total = found.segments.iter().map(|segment| segment.bytes).sum();
    let frames = found.segments.iter().map(|segment| segment.frames).sum();
    let records = found.segments.iter().map(|segment| segment.records).sum();
    writeln!(
        out,
        "read {} with {} and {} in {}",
        count(found.segments.len() as u64, "segment"),
        count(frames, "frame"),
        count(records, "record"),
        bytes(total),
    )?;
    tell(&found, out)
}

/// Tells whether a store is whole.
pub fn tell(found: &Inspection, out: &mut dyn Write) -> Result<State, Box<dyn Error>> {
    match &found.health {
        Health::Torn(torn) => {
            let cut = bytes(torn.bytes);
            let (segment, offset) = (torn.segment, torn.offset);
            writeln!(
                out,
                "torn tail: opening the store cuts segment {segment} at byte {offset}, which \
                 takes {cut} that no receipt was given for"
            )?;
            Ok(State::Torn)
        }
        Health::Damaged(report) => {
            writeln!(out, "DAMAGED: only a salvage opens the store")?;
            write!(out, "{report}")?;
            Ok(State::Damaged)
        }
        _ => {
            writeln!(out, "OK")?;
            Ok(State::Whole)
        }
    }
}
