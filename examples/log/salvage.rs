//! Opens what is left of a damaged store.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use millstream::store::{Store, inspect};

use crate::State;

pub fn run(directory: &Path, out: &mut dyn Write) -> Result<State, Box<dyn Error>> {
    // Opening makes a store where there is none. This doesn't.
    inspect(directory)?;
    let store = Store::builder(directory).salvage().open()?;
    match &store.opened().salvage {
        Some(report) => write!(out, "{report}")?,
        None => writeln!(out, "nothing is damaged")?,
    }
    Ok(State::Whole)
}
