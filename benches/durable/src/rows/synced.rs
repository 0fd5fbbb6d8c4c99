//! 64 publishers, single records, and the level that survives a power cut.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::measure::{Figures, Goal, Outcome, Scratch, print};
use crate::records::some;
use crate::systems::bare::Group;
use crate::systems::{Synced, synced};

const PUBLISHERS: usize = 64;

pub fn measure(scratch: &Scratch, plan: &Plan) -> Outcome {
    probe(scratch, plan)?;
    let systems: Vec<_> = synced()
        .into_iter()
        .filter(|system| plan.takes(system.name))
        .collect();
    let mut figures: Vec<_> = systems
        .iter()
        .map(|system| Figures::new(system.name, system.note))
        .collect();
    for (name, _, note) in IDEALS {
        figures.push(Figures::new(name, note));
    }
    for _ in 0..plan.rounds {
        for (at, system) in systems.iter().enumerate() {
            let rate = scratch.lend(|path| {
                let store = (system.open)(path)?;
                publish(&*store, plan.synced_for)
            })?;
            figures[at].each.push(rate);
        }
        for (at, (_, room, _)) in IDEALS.iter().enumerate() {
            let rate = scratch.lend(|path| ideal(path, *room, plan.synced_for))?;
            figures[systems.len() + at].each.push(rate);
        }
    }
    let goal = Goal {
        least: 0.8,
        by: &["bare groups"],
    };
    print(
        "Synced, 64 publishers",
        "records a second",
        &figures,
        Some(&goal),
    );
    Ok(())
}

/// The bare systems, and how much room their file has from the start.
const IDEALS: [(&str, u64, &str); 2] = [
    ("bare groups", 0, "64 records a write, one fdatasync for it"),
    (
        "bare groups, preallocated",
        64 << 20,
        "the same into a file of zeros",
    ),
];

/// Says how long a sync takes on this disk.
fn probe(scratch: &Scratch, plan: &Plan) -> Outcome {
    let mut took = Vec::new();
    scratch.lend(|path| {
        let mut group = Group::open(path, 0)?;
        let records = some(PUBLISHERS);
        let start = Instant::now();
        while start.elapsed() < plan.synced_for {
            group.write(&records)?;
            let before = Instant::now();
            group.sync()?;
            took.push(before.elapsed());
        }
        Ok(())
    })?;
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    let (p50, p99) = (at(0.5), at(0.99));
    println!(
        "\nfdatasync on this disk: p50 {p50:.1?}, p99 {p99:.1?}, of {}",
        took.len()
    );
    Ok(())
}

/// Returns the records a second that were acknowledged before the time was up.
fn publish(store: &dyn Synced, time: Duration) -> Outcome<f64> {
    let records = some(PUBLISHERS);
    let (stops, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Barrier::new(PUBLISHERS + 1);
    let took = thread::scope(|scope| {
        let publishers: Vec<_> = records
            .iter()
            .map(|record| {
                scope.spawn(|| -> Outcome {
                    start.wait();
                    loop {
                        store.append(record)?;
                        if stops.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        start.wait();
        let start = Instant::now();
        thread::sleep(time);
        stops.store(true, Ordering::Relaxed);
        let took = start.elapsed();
        for publisher in publishers {
            publisher.join().map_err(|_| "a publisher panicked")??;
        }
        Outcome::Ok(took)
    })?;
    Ok(count.into_inner() as f64 / took.as_secs_f64())
}

/// Returns the records a second of groups without threads.
fn ideal(path: &Path, room: u64, time: Duration) -> Outcome<f64> {
    let records = some(PUBLISHERS);
    let mut group = Group::open(path, room)?;
    let (mut count, start) = (0, Instant::now());
    while start.elapsed() < time {
        group.write(&records)?;
        group.sync()?;
        count += records.len();
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
