//! Power cuts and kills at every change that a program makes to the disk.

use crate::log::fs::sim::{Change, Random, SimFs};
use crate::log::tests::program::{Sure, go_on, run};

/// Runs the program of a seed, and opens what is left of the disk if it ends after any of its
/// changes. Returns how often a store was opened.
pub(super) fn cut_everywhere(seed: u64) -> u64 {
    let fs = SimFs::default();
    fs.record();
    let program = run(seed, &fs);
    assert!(program.error.is_none(), "seed {seed}: {:?}", program.error);
    let settings = program.settings;
    let mut random = Random(!seed);
    let mut opened = 0;
    let disk = SimFs::default();
    let journal = fs.journal();
    for changes in 0..=journal.len() {
        let books = program.books.after(changes);
        let (written, synced) = (books.written, books.synced);
        let kill = Sure {
            now: written,
            synced,
        };
        let mut go_on = |disk, sure| {
            opened += go_on(disk, settings, books.clone(), sure, &mut random);
        };
        go_on(disk.after_kill(), kill);
        if let Some(Change::Write {
            inode,
            offset,
            bytes,
        }) = journal.get(changes)
        {
            // In the middle of the write.
            let disk = disk.after_kill();
            disk.apply(&Change::Write {
                inode: *inode,
                offset: *offset,
                bytes: bytes[..bytes.len() / 2].to_vec(),
            });
            go_on(disk, kill);
        }
        let cut = Sure {
            now: synced,
            synced,
        };
        for of in 0..3 {
            let mut cuts = Random(seed ^ (changes as u64) << 32 ^ of << 60);
            go_on(disk.after_power_cut(&mut cuts), cut);
        }
        if let Some(change) = journal.get(changes) {
            disk.apply(change);
        }
    }
    opened
}

#[test]
fn no_crash_loses_what_was_acknowledged_or_is_refused() {
    let mut opened = 0;
    let mut seed = 0;
    while opened < 10_000 {
        opened += cut_everywhere(seed);
        seed += 1;
    }
}

/// The same at length. `MILLSTREAM_SEED` is the first seed, `MILLSTREAM_RUNS` how often a store is
/// opened at least.
#[test]
#[ignore = "takes minutes"]
fn no_crash_in_a_million_loses_what_was_acknowledged_or_is_refused() {
    let number = |name, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let mut seed = number("MILLSTREAM_SEED", 1 << 20);
    let runs = number("MILLSTREAM_RUNS", 1_000_000);
    let mut opened = 0;
    while opened < runs {
        opened += cut_everywhere(seed);
        seed += 1;
    }
    println!("{opened} runs, up to seed {seed}");
}
