//! How fast durable topics are, and by how much they are faster than the databases that one would
//! use instead: fjall, redb and SQLite.
//!
//! ```text
//! cargo durable              # all rows, some three minutes
//! cargo durable --quick      # a smoke run of some twenty seconds; its figures say little
//! cargo durable synced       # one row
//! ```
//!
//! The systems of a row take turns, round by round, each in an empty directory. A ratio is the
//! median of the ratios of each round. A "bare" system writes the same bytes without any of the
//! promises. Everything that was written is read back, and compared by count and sum.
//!
//! The directory is below the one that the program was built in: a temporary one may be in
//! memory, where a sync is free.

#![forbid(unsafe_code)]

mod measure;
mod records;
mod rows;
mod systems;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::measure::{Outcome, Scratch};

/// Compares durable topics with databases.
#[derive(Parser)]
struct Args {
    /// The rows to measure; all of them if none is named.
    rows: Vec<Row>,
    /// Takes few and short rounds: a smoke run.
    #[arg(long)]
    quick: bool,
    /// Rounds of each row; an odd number has a median of its own.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// MiB of the log whose recovery is timed.
    #[arg(long)]
    mib: Option<u64>,
    /// Measures only the systems whose names have this in them.
    #[arg(long)]
    system: Option<String>,
    /// A directory on the disk that is to be measured.
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// `Written` by one publisher in batches, and read back.
    Written,
    /// `Synced` by 64 publishers, one by one.
    Synced,
    /// Opening a store.
    Recovery,
}

/// How long the rows are to be measured.
pub struct Plan {
    pub rounds: usize,
    pub written_for: Duration,
    pub synced_for: Duration,
    pub recovery_mib: u64,
    pub system: Option<String>,
}

fn main() -> Outcome {
    let args = Args::parse();
    let (rounds, written_s, synced_s, mib) = match args.quick {
        true => (3, 0.1, 0.4, 128),
        false => (9, 0.4, 2.0, 1_024),
    };
    let plan = Plan {
        rounds: args.rounds.unwrap_or(rounds).max(1),
        written_for: Duration::from_secs_f64(args.seconds.unwrap_or(written_s)),
        synced_for: Duration::from_secs_f64(args.seconds.unwrap_or(synced_s)),
        recovery_mib: args.mib.unwrap_or(mib),
        system: args.system,
    };
    let scratch = Scratch::new(args.directory)?;
    let wants = |row| args.rows.is_empty() || args.rows.contains(&row);
    if wants(Row::Written) {
        rows::written::measure(&scratch, &plan)?;
    }
    if wants(Row::Synced) {
        rows::synced::measure(&scratch, &plan)?;
    }
    if wants(Row::Recovery) {
        rows::recovery::measure(&scratch, &plan)?;
    }
    Ok(())
}
