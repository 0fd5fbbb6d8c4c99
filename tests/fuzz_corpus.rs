//! What the fuzzers kept, without a fuzzer: inputs that reach all they have reached,
//! and those that once broke something. `tests/fuzz/README.md` says how they came
//! about.

#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

/// Does with every kept input what the fuzz target does with it.
fn replay(target: &str, run: fn(&[u8])) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let inputs = fs::read_dir(kept.join(target)).expect("every target has a corpus");
    let mut count = 0;
    for input in inputs {
        let path = input.expect("a readable directory").path();
        let bytes = fs::read(&path).expect("a readable file");
        if std::panic::catch_unwind(|| run(&bytes)).is_err() {
            panic!("{} breaks it, for the reason above", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "{target} has kept nothing");
}

#[test]
fn any_text_is_a_name_or_refused_as_one() {
    replay("names", fuzz::names::fuzz);
}

#[test]
fn any_text_is_a_pattern_that_matches_by_the_rules_or_refused_as_one() {
    replay("patterns", fuzz::patterns::fuzz);
}

#[test]
fn any_settings_work_or_are_refused_by_name() {
    replay("settings", fuzz::settings::fuzz);
}

#[test]
fn any_program_leaves_balanced_books_and_no_payload() {
    replay("engine", fuzz::engine::fuzz);
}

#[test]
fn any_timer_fires_at_its_tick() {
    replay("timers", fuzz::timers::fuzz);
}

#[test]
fn any_line_is_an_earthquake_or_skipped_with_a_reason() {
    replay("quakes", fuzz::quakes::fuzz);
}

#[test]
fn the_load_generator_reads_any_text() {
    replay("bench", fuzz::bench::fuzz);
}

#[cfg(feature = "log")]
#[test]
fn any_bytes_are_a_store_or_refused_as_one() {
    replay("log", fuzz::log::fuzz);
}

#[cfg(feature = "log")]
#[test]
#[ignore = "it changes the recorded store, which only a change of the format needs"]
fn record_a_store() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/recorded");
    fuzz::log::record(&recorded);
}
