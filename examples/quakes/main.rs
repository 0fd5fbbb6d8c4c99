//! A week of real earthquakes, replayed through the engine.
//!
//! ```text
//! cargo run --release --example quakes                    # flat out
//! cargo run --release --example quakes -- --speed 3600    # an hour a second
//! tail -n 99 quakes.ndjson | cargo run --release --example quakes -- -
//! ```
//!
//! Who listens to what is in `pipeline.rs`; what must come out of it, in
//! `check.rs`. The exit code is zero only if every message is accounted for.

mod check;
mod pipeline;
mod quake;
mod report;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use millstream::{Batched, Broker, Event, EventKind, Topic};

use crate::check::Expected;
use crate::pipeline::{Pipeline, Shared};
use crate::quake::Quake;

/// In the project, wherever the program is called from.
const WEEK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/earthquakes.ndjson");
/// Retries take milliseconds; whoever needs this long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replays earthquakes, one JSON object a line, through a publish-subscribe engine.
#[derive(Parser)]
struct Args {
    /// The events; `-` reads the standard input
    #[arg(default_value = WEEK, hide_default_value = true)]
    path: String,
    /// Seconds of history per second; 0 is as fast as it goes
    #[arg(long, default_value_t = 0.0, value_parser = speed, allow_negative_numbers = true)]
    speed: f64,
    /// Where the archive goes; by default into the directory for temporary files
    #[arg(long)]
    archive: Option<PathBuf>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if f64::is_finite(speed) && speed >= 0.0 => Ok(speed),
        _ => Err("not a number from zero up".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quakes: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `true`: the books balance.
fn run(args: Args) -> Result<bool, Box<dyn Error>> {
    let input = quake::read(&args.path)?;
    let expected = Expected::of(&input.quakes);
    let archive = args.archive.unwrap_or_else(|| {
        let name = format!("quakes-{}.ndjson", std::process::id());
        std::env::temp_dir().join(name)
    });
    let count = input.quakes.len() as u64;

    // Room for the events of the whole week, should the observer fall behind.
    let broker = Broker::builder().event_buffer(1 << 16).build()?;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let _observation = broker.observe(gather_batches(Arc::clone(&batches)))?;
    let screen = progress_bar(args.speed, count)?;
    let pipeline = Pipeline::build(&broker, &archive, screen.clone())?;

    let began = Instant::now();
    replay(input.quakes, &pipeline.detected, args.speed, &screen)?;
    // Wait first, then drain: a drain refuses publishes, also triage's own.
    if !broker.wait_until_idle(PATIENCE) {
        return Err(format!("still busy after {PATIENCE:?}: {:?}", broker.metrics()).into());
    }
    let took = began.elapsed();
    screen.finish_and_clear();

    // Subscriptions end with the drain, so the snapshot comes before it.
    let metrics = broker.metrics();
    let drained = broker.drain(PATIENCE)?;
    let archived = check::archived_ids(&archive)?;
    let catalogue = pipeline
        .catalogue
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let facts = expected.compare(&metrics, &catalogue, &archived, &drained);
    let balance = metrics.balance();

    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} events replayed in {took:.1?}; {} malformed lines skipped",
        HumanCount(count),
        HumanCount(input.malformed),
    )?;
    let batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(
        out,
        "strategy: immediate, then from halfway on {}: {} messages in {} batches",
        pipeline.detected.metrics().strategy,
        HumanCount(batches.iter().sum()),
        batches.len(),
    )?;
    announce_archive(&mut out, &archive, archived.len())?;
    report::catalogue(&mut out, &catalogue)?;
    report::metrics(&mut out, &metrics)?;
    report::latencies(&mut out, &metrics)?;
    let mut letters = pipeline.detected.dead_letters().list();
    letters.extend(pipeline.significant.dead_letters().list());
    report::dead_letters(&mut out, &letters)?;
    report::books(&mut out, &metrics, balance.as_ref().copied(), &facts)?;

    let balanced = balance.is_ok() && facts.iter().all(check::Fact::holds);
    let verdict = if balanced {
        "The books balance."
    } else {
        "THE BOOKS DO NOT BALANCE."
    };
    writeln!(out, "\n{verdict}")?;
    Ok(balanced)
}

/// Publishes in the file's order, at its pace or flat out. Halfway the strategy
/// is swapped under full load: nothing may be lost, stranded or reordered by it.
fn replay(
    quakes: Vec<Quake>,
    detected: &Topic<Shared>,
    speed: f64,
    screen: &ProgressBar,
) -> Result<(), Box<dyn Error>> {
    let (began, half) = (Instant::now(), quakes.len() / 2);
    let first_ms = quakes.first().map_or(0, |quake| quake.time_ms);
    for (at, quake) in quakes.into_iter().enumerate() {
        if at == half {
            detected.set_strategy(Batched::of(32).linger(Duration::from_millis(2)))?;
        }
        if speed > 0.0 {
            let since_ms = quake.time_ms.saturating_sub(first_ms).max(0);
            let due = Duration::try_from_secs_f64(since_ms as f64 / 1e3 / speed);
            let due = due.unwrap_or(Duration::MAX); // so slow that it never comes
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            screen.set_message(format!("hour {}", since_ms / 3_600_000));
        }
        detected.publish(Arc::new(quake))?;
        screen.inc(1);
    }
    Ok(())
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

/// Only a replay at a pace is worth watching.
fn progress_bar(speed: f64, count: u64) -> Result<ProgressBar, Box<dyn Error>> {
    if speed == 0.0 {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{msg:>9} {wide_bar} {human_pos}/{human_len}")?;
    Ok(ProgressBar::new(count).with_style(style))
}

fn announce_archive(out: &mut impl Write, path: &Path, lines: usize) -> io::Result<()> {
    let lines = HumanCount(lines as u64);
    writeln!(out, "archive: {lines} lines in {}", path.display())
}
