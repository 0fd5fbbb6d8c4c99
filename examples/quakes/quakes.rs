//! Replays a week of real earthquakes through the engine.
//!
//! ```text
//! cargo run --release --example quakes                     # flat out
//! cargo run --release --example quakes -- --speed 3600     # an hour a second
//! cargo run --release --example quakes -- --letters        # every dead letter
//! tail -n 99 quakes.ndjson | cargo run --release --example quakes -- -
//! ```
//!
//! `pipeline.rs` has the topics and subscriptions, and `check.rs` the results that are
//! expected. The exit code is zero only if every message is accounted for.

mod archive;
mod check;
mod pipeline;
mod quake;
mod replay;
mod report;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use millstream::Broker;
use millstream::event::{Event, EventKind};

use crate::check::Expected;
use crate::pipeline::Pipeline;
use crate::replay::Pace;

/// In the project, wherever the program is called from.
const WEEK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/earthquakes.ndjson");
/// Retries take milliseconds; whoever needs this long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replays earthquakes, one JSON object a line, through a publish-subscribe engine.
#[derive(Parser)]
struct Args {
    /// The events; `-` reads the standard input
    #[arg(default_value = WEEK, hide_default_value = true)]
    path: String,
    /// Seconds of history per second; 0 is as fast as it goes
    #[arg(long, default_value = "0", value_parser = Pace::parse, allow_negative_numbers = true)]
    speed: Pace,
    /// Keeps the archive, in this file
    #[arg(long)]
    archive: Option<PathBuf>,
    /// Lists every dead letter
    #[arg(long)]
    letters: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quakes: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `true`: the books balance.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let input = quake::read(&args.path)?;
    let expected = Expected::of(&input.quakes);
    let archive = archive::open(args.archive.as_deref())?;

    // Room for the events of the whole week, should the observer fall behind.
    let broker = Broker::builder().event_buffer(1 << 16).build()?;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let _observation = broker.observe(gather_batches(Arc::clone(&batches)))?;
    let screen = args.speed.screen(input.quakes.len())?;
    let pipeline = Pipeline::build(&broker, archive.try_clone()?, screen.clone())?;

    let began = Instant::now();
    let latest = replay::replay(input.quakes, &pipeline.detected, args.speed, &screen)?;
    // Wait first, then drain: a drain refuses publishes, also triage's own.
    if !broker.wait_until_idle(PATIENCE) {
        return Err(format!("still busy after {PATIENCE:?}: {:?}", broker.metrics()).into());
    }
    let took = began.elapsed();
    screen.finish_and_clear();

    // Subscriptions end with the drain, so the snapshot comes before it.
    let metrics = broker.metrics();
    let drained = broker.drain(PATIENCE)?;
    let archived = archive::ids(archive)?;
    let catalog = pipeline
        .catalog
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let facts = expected.compare(&metrics, &catalog, &archived, &drained);
    let mut letters = pipeline.detected.dead_letters().list();
    letters.extend(pipeline.significant.dead_letters().list());

    let mut out = io::stdout().lock();
    report::catalog(&mut out, &catalog)?;
    report::metrics(&mut out, &metrics)?;
    report::times(&mut out, args.speed, latest, &metrics)?;
    let batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
    report::strategy(&mut out, &pipeline.detected.metrics().strategy, &batches)?;
    report::dead_letters(&mut out, &letters, args.letters)?;
    report::facts(&mut out, &facts)?;
    let balanced = report::verdict(&mut out, input.malformed, took, &metrics, &facts)?;
    Ok(balanced)
}

/// Notes how large the batches were that the strategy had waited for.
fn gather_batches(batches: Arc<Mutex<Vec<u64>>>) -> impl Fn(&Event<'_>) + Send + Sync {
    move |event| {
        if let (EventKind::BatchFlush { size, .. }, None) = (event.kind(), event.subscription()) {
            let mut batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            batches.push(*size as u64);
        }
    }
}
