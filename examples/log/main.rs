//! Looks into the directory of a store, and opens what is left of a damaged one.
//!
//! ```text
//! cargo run --release --features log --example log -- verify DIR   # whole, torn or damaged?
//! cargo run --release --features log --example log -- stat DIR     # files, topics, subscriptions
//! cargo run --release --features log --example log -- dump DIR --topic orders --from 100
//! cargo run --release --features log --example log -- salvage DIR  # the damaged files are kept
//! ```
//!
//! No process may have the store open. Only `salvage` changes anything. The exit code is 0 for a store
//! that is whole, 1 for a torn tail, 2 for damage, and 3 for an error.

mod dump;
mod salvage;
mod stat;
mod text;
mod verify;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Looks into the store of durable topics in a directory.
#[derive(Parser)]
#[command(name = "log")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Read and check everything
    Verify { directory: PathBuf },
    /// List the files, topics and subscriptions
    Stat { directory: PathBuf },
    /// Print the records, one a line
    Dump {
        directory: PathBuf,
        #[command(flatten)]
        filter: dump::Filter,
    },
    /// Open what is left of a damaged store, and tell what is lost
    Salvage { directory: PathBuf },
}

/// The state of a store, as the exit code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Whole = 0,
    Torn = 1,
    Damaged = 2,
}

/// The exit code of an error.
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Whoever asks for help has not failed.
            let code = if error.use_stderr() { FAILED } else { 0 };
            let _ = error.print();
            return code.into();
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    match run(&args.verb, &mut out).and_then(|state| Ok(out.flush().map(|()| state)?)) {
        Ok(state) => (state as u8).into(),
        // The reader of a pipe has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            FAILED.into()
        }
    }
}

fn run(verb: &Verb, out: &mut dyn Write) -> Result<State, Box<dyn Error>> {
    match verb {
        Verb::Verify { directory } => verify::run(directory, out),
        Verb::Stat { directory } => stat::run(directory, out),
        Verb::Dump { directory, filter } => dump::run(directory, filter, out),
        Verb::Salvage { directory } => salvage::run(directory, out),
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
