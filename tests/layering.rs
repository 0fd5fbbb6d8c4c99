//! The absences that ARCHITECTURE.md promises, as far as a reader of the source
//! can check them; and the words that were given up for those that readers know.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).expect("the source is here") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file by its path below `src`, without its tests and comments.
fn code() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a readable file");
        let shipped = text.split("#[cfg(test)]\nmod tests").next();
        let lines = shipped.unwrap_or_default().lines();
        let code: Vec<_> = lines
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let below = path.strip_prefix(&src).expect("it was found below");
        let name = below.to_string_lossy().replace('\\', "/");
        (name, code.join("\n"))
    };
    paths.into_iter().map(read).collect()
}

fn assert_absent(words: &[&str], from: impl Fn(&str) -> bool) {
    for (name, text) in code() {
        for word in words {
            assert!(!from(&name) || !text.contains(word), "{name} says `{word}`");
        }
    }
}

#[test]
fn only_the_facade_names_what_threads_share() {
    let words = [
        "std::sync",
        "std::thread::",
        "parking_lot",
        "crossbeam",
        "arc_swap",
        "dashmap",
        "loom::",
        "shuttle::",
        "quanta",
        "std::time::Instant",
        "Duration, Instant",
    ];
    // A retry policy shares its classifier with its clones, and is the user's.
    assert_absent(&words, |name| {
        !name.starts_with("sync") && name != "pure/retry.rs"
    });
}

#[test]
fn decisions_know_no_clock_thread_atomic_lock_or_channel() {
    let words = [
        "Instant",
        "Atomic",
        "Mutex",
        "Condvar",
        "spawn",
        "crate::engine",
    ];
    assert_absent(&words, |name| name.starts_with("pure/"));
    assert_absent(&["crate::sync"], |name| name.starts_with("pure/"));
}

#[test]
fn the_only_compare_and_swap_loop_is_in_the_cell() {
    assert_absent(&["compare_exchange"], |name| {
        !name.starts_with("sync") && name != "engine/cell.rs"
    });
}

#[test]
fn handles_know_the_engine_and_the_engine_knows_no_handle() {
    let words = ["crate::broker", "crate::topic", "crate::subscription"];
    assert_absent(&words, |name| name.starts_with("engine/"));
}

#[test]
fn a_file_of_more_than_400_lines_of_code_is_split_by_decision() {
    for (name, text) in code() {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{name} has {lines} lines of code");
    }
}

/// A retired word, and what stands in its place.
const RETIRED: [(&str, &str); 12] = [
    ("Redelivery", "PendingDelivery"),
    ("in_hand", "in_flight"),
    ("Parcel", "QueueEntry"),
    ("parcel", "queue entry"),
    ("Waste", "DeferredDrops"),
    ("Tray", "Settlements"),
    ("Stillness", "Quiescence"),
    ("stillness", "quiescence"),
    ("Bags", "Buckets"),
    ("Letters", "DeadLetterStore"),
    ("Lot", "Partition"),
    ("lot", "partition"),
];

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

/// A sentence may begin with any word, and many begin with letters.
fn is_prose(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn retired_words_stay_retired() {
    let mut paths = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&src, &mut paths);
    for path in paths {
        let text = fs::read_to_string(&path).expect("a readable file");
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !is_prose(line)) {
            for word in words(line) {
                let retired = RETIRED.iter().find(|(retired, _)| *retired == word);
                if let Some((retired, instead)) = retired {
                    let path = path.display();
                    panic!("{path}:{number} says `{retired}`; say `{instead}`");
                }
            }
        }
    }
}
