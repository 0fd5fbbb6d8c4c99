//! Opening a store, which reads and checks everything in it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use millstream::store::Store;

use crate::Plan;
use crate::measure::{Figures, Outcome, Scratch, print};
use crate::records::{BATCH, some};
use crate::systems::Written;
use crate::systems::ours::Ours;

pub fn measure(scratch: &Scratch, plan: &Plan) -> Outcome {
    let bytes = plan.recovery_mib << 20;
    let mut recovered = Figures::new("millstream", "");
    let mut read = Figures::new("bare read", "the same files in pieces of 1 MiB");
    let mut calls = 0;
    let mut records = 0;
    scratch.lend(|path| {
        fill(path, bytes)?;
        for _ in 0..plan.rounds.min(5) {
            let told = Arc::new(AtomicU64::new(0));
            let tell = Arc::clone(&told);
            let builder = Store::builder(path).progress(move |_| {
                tell.fetch_add(1, Ordering::Relaxed);
            });
            let start = Instant::now();
            let store = builder.open()?;
            recovered.each.push(start.elapsed().as_secs_f64());
            records = store.opened().records;
            calls = told.load(Ordering::Relaxed);
            drop(store);
            let start = Instant::now();
            read_all(path)?;
            read.each.push(start.elapsed().as_secs_f64());
        }
        Ok(())
    })?;
    let title = format!("recovery of {} MiB", plan.recovery_mib);
    print(&title, "seconds", &[recovered, read], None);
    println!(
        "\n{records} records; progress was told {calls} times. The system has the files in memory."
    );
    Ok(())
}

/// Writes about as much as this.
fn fill(path: &Path, bytes: u64) -> Outcome {
    let records = some(BATCH);
    let mut store = Ours::written(path)?;
    let size = crate::systems::bare::FRAME as u64;
    for _ in 0..bytes / size {
        store.append(&records)?;
    }
    Ok(())
}

fn read_all(path: &Path) -> Outcome {
    let mut buffer = vec![0; 1 << 20];
    for entry in fs::read_dir(path)? {
        let mut file = File::open(entry?.path())?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}
