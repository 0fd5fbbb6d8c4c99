//! Each step of the protocols, broken. The searches see every one of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::log::fs::sim::FaultKind;
use crate::log::tests::{damage, faults, power_cuts};
use crate::pure::log::broken;

/// Cuts the power at every change of the programs of so many seeds.
fn cuts() {
    for seed in 0..40 {
        power_cuts::cut_everywhere(seed);
    }
}

fn fails() {
    for seed in 0..12 {
        faults::fail_everywhere(seed, FaultKind::Error);
    }
}

/// A step that is named in the source, and a search that must see that it is broken.
const BREAKS: &[(&str, fn())] = &[
    ("sync the frames", cuts),
    ("sync once", fails),
    ("keep the failure", fails),
    ("sync before the roll", cuts),
    ("create, then remove", cuts),
    ("remove one by one", cuts),
    ("sync the segment", cuts),
    ("sync its name", cuts),
    ("write, then tell", cuts),
    ("sync, then tell", cuts),
    ("sync without records", power_cuts::sync_without_records),
    ("cut the torn tail", cuts),
    ("sync what was read", cuts),
    ("write the tail again", fails),
    ("keep the ranges", cuts),
    ("keep the numbers given", cuts),
    ("publish what is due", cuts),
    ("end the delay", cuts),
    ("remember the receipt", cuts),
    ("sync the names", cuts),
    ("sync the store's file", cuts),
    ("note the end", damage::truncate_everywhere),
    ("look at the note", damage::truncate_everywhere),
    ("look for lost messages", damage::lose_segments),
    ("vouch", damage::flip_at_rest),
    ("look for the watermark", damage::flip_at_rest),
    ("follow the chain", damage::replace_frames),
    ("chain the segments", damage::replace_segments),
];

#[test]
fn every_broken_step_is_seen() {
    let mut unseen = Vec::new();
    for (step, search) in BREAKS {
        broken::set(Some(step));
        let seen = catch_unwind(AssertUnwindSafe(search));
        broken::set(None);
        match seen {
            Ok(()) => unseen.push(*step),
            Err(panic) => {
                let said = panic.downcast_ref::<String>();
                let said = said.map_or("", |said| said.lines().next().unwrap_or_default());
                println!("{step}: {:.120}", said);
            }
        }
    }
    assert!(unseen.is_empty(), "nobody sees it: {unseen:?}");
}

#[test]
fn nothing_is_seen_where_nothing_is_broken() {
    damage::flip_at_rest();
    damage::truncate_everywhere();
    damage::lose_segments();
    damage::replace_frames();
    damage::replace_segments();
}
