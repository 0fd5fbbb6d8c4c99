//! One publisher, batches of 64, and the level that survives `kill -9`. Then everything is read
//! back.

use std::path::Path;
use std::time::Instant;

use crate::Plan;
use crate::measure::{Figures, Goal, Outcome, Scratch, print};
use crate::records::{BATCH, Tally, some};
use crate::systems::{Written, written};

/// Batches between two looks at the clock.
const STRIDE: usize = 8;

/// The most records of one measurement: 256 MiB on the disk, or a little more.
const MOST: u64 = (256 << 20) / 128;

pub fn measure(scratch: &Scratch, plan: &Plan) -> Outcome {
    let systems: Vec<_> = written()
        .into_iter()
        .filter(|system| plan.takes(system.name))
        .collect();
    let figures = || {
        systems
            .iter()
            .map(|system| Figures::new(system.name, system.note))
    };
    let mut wrote: Vec<_> = figures().collect();
    let mut read: Vec<_> = figures().collect();
    let mut publish_by_read = Vec::new();
    for _ in 0..plan.rounds {
        for (at, system) in systems.iter().enumerate() {
            let (written, replayed) = scratch.lend(|path| one(path, system.open, plan))?;
            wrote[at].each.push(written / 1e3);
            read[at].each.push(replayed / 1e3);
        }
        publish_by_read.push(read[0].each.last().copied().unwrap_or(0.0));
    }
    let unit = "thousand records a second";
    let goal = Goal {
        least: 3.0,
        by: &["fjall", "redb", "SQLite"],
    };
    print("Written, batches of 64", unit, &wrote, Some(&goal));
    print("read back from the start", unit, &read, None);
    let published = Figures {
        system: "publish",
        note: "",
        each: wrote.swap_remove(0).each,
    };
    let ours = read.swap_remove(0);
    let goal = Goal {
        least: 5.0,
        by: &["publish"],
    };
    print("replay by publish", unit, &[ours, published], Some(&goal));
    Ok(())
}

type Open = fn(&Path) -> Outcome<Box<dyn Written>>;

/// Returns the records a second that a system wrote, and those that it read.
fn one(path: &Path, open: Open, plan: &Plan) -> Outcome<(f64, f64)> {
    let pool = some(BATCH * 256);
    let mut store = open(path)?;
    let mut written = Tally::default();
    let start = Instant::now();
    let mut batches = pool.chunks(BATCH).cycle();
    while start.elapsed() < plan.written_for && written.count < MOST {
        for batch in batches.by_ref().take(STRIDE) {
            store.append(batch)?;
            batch.iter().for_each(|record| written.add(record));
        }
    }
    let took = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let replayed = store.replay()?;
    let replay_took = start.elapsed().as_secs_f64();
    assert_eq!(replayed, written, "something is lost");
    let count = written.count as f64;
    Ok((count / took, count / replay_took))
}
