//! Measures many topics, many timers, and silence, against the limits that the crate promises.
//!
//! ```text
//! cargo run --release --example scale              # exits with 1 if a limit is missed
//! cargo run --release --example scale -- --report  # only tells: for a busy machine
//! ```
//!
//! Each figure is the best of a few rounds, because what else the machine does can
//! only make it worse.

mod growth;
mod lateness;
mod random;
mod silence;
mod table;

use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream::Broker;
use random::Random;
use table::Table;

// The wheel that ships, alone: it knows nothing of the rest of the crate.
#[allow(dead_code, reason = "the engine uses the rest")]
#[path = "../../src/pure"]
mod pure {
    pub mod wheel;
}

type Payload = [u8; 64];
type Outcome<V = ()> = Result<V, Box<dyn Error>>;

const PAYLOAD: Payload = [7; 64];
const ROUNDS: usize = 5;
/// What deadlines are rounded up to.
const TICK: Duration = Duration::from_micros(100);
/// Longer than anything takes, so that only a hang reaches it.
const HANG: Duration = Duration::from_secs(60);

fn main() -> Outcome<ExitCode> {
    let only_report = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--report") => true,
        Some(unknown) => return Err(format!("unknown option {unknown}").into()),
    };
    let mut table = Table::new();
    opening(&mut table)?;
    wheel(&mut table)?;
    lateness::lateness(&mut table)?;
    silence::silence(&mut table)?;
    growth::growth(&mut table)?;
    Ok(if table.missed > 0 && !only_report {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Topics opened per second, each with a subscription.
fn opening(table: &mut Table) -> Outcome {
    const TOPICS: usize = 100_000;
    let names: Vec<_> = (0..TOPICS).map(|n| format!("sensor-{n}")).collect();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let broker = Broker::new()?;
        let mut opened = Vec::with_capacity(TOPICS);
        let began = Instant::now();
        for name in &names {
            let topic = broker.topic::<Payload>(name).open()?;
            let subscription = topic.subscribe("sink", |_| Ok(()))?;
            opened.push((topic, subscription));
        }
        best = best.min(began.elapsed());
    }
    let what = "topics opened with a subscription each, 100,000";
    table.rate(what, 0.2, TOPICS, best);
    Ok(())
}

/// Timers set and fired per second while a million are pending on average.
fn wheel(table: &mut Table) -> Outcome {
    use pure::wheel::Wheel;
    const TIMERS: u64 = 2_000_000;
    const REACH_NS: u64 = 10_000_000_000;
    const TICK_NS: u64 = TICK.as_nanos() as u64;
    let target: Arc<dyn Send + Sync> = Arc::new(());
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let mut wheel = Wheel::new(0);
        let (mut due, mut random) = (Vec::new(), Random::new());
        let (mut now_ns, mut fired) = (0, 0);
        let began = Instant::now();
        for _ in 0..TIMERS {
            let deadline_ns = random.below(REACH_NS);
            wheel.insert(deadline_ns, 0, Arc::clone(&target));
        }
        while now_ns <= REACH_NS {
            now_ns += TICK_NS;
            wheel.advance(now_ns, &mut due);
            fired += due.len() as u64;
            due.drain(..).for_each(|due| drop(black_box(due)));
        }
        best = best.min(began.elapsed());
        same(fired, TIMERS, "timers fired")?;
    }
    let what = "timers set and fired, 1,000,000 pending on average";
    table.rate(what, 5.0, TIMERS as usize, best);
    Ok(())
}

/// A figure counts only if what it was divided by is really there.
fn same(found: u64, wanted: u64, what: &str) -> Outcome {
    if found == wanted {
        return Ok(());
    }
    Err(format!("expected {wanted} {what}, found {found}").into())
}
