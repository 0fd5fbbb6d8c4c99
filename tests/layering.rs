//! The absences that ARCHITECTURE.md promises, as far as a reader of the source
//! can check them; and the words that were given up for those that readers know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

pub fn sources(under: &Path, found: &mut Vec<PathBuf>) {
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
    paths.retain(|path| {
        let below = path.strip_prefix(&src).expect("it was found below");
        !below.ends_with("tests.rs") && below.iter().all(|folder| folder != "tests")
    });
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
    // Policies, strategies and predicates are the user's, who may share them or what they have.
    let is_shared = [
        "pure/policy/chosen.rs",
        "pure/policy/retry.rs",
        "pure/protect/breaker.rs",
    ];
    assert_absent(&words, |name| {
        !name.starts_with("sync") && !is_shared.contains(&name)
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
        !name.starts_with("sync") && name != "engine/base/cell.rs"
    });
}

/// The folders in the order in which they are read, and which of those before it each uses.
const FOLDERS: &[(&str, &[&str])] = &[
    ("sync", &[]),
    ("types", &["sync"]),
    ("types/durable", &[]),
    ("pure/wheel", &[]),
    ("pure/decide", &[]),
    ("pure/log/format", &[]),
    ("pure/log", &["pure/log/format"]),
    ("pure/policy", &["types", "pure/decide", "pure/log"]),
    ("pure/protect", &["types", "pure/decide"]),
    ("pure/order", &["types", "pure/decide", "pure/protect"]),
    ("pure/words", &[]),
    ("log/fs", &["sync", "types", "pure/log/format"]),
    ("log/waiters", &["sync", "types", "pure/log"]),
    (
        "log",
        &[
            "sync",
            "types",
            "pure/log/format",
            "pure/log",
            "log/fs",
            "log/waiters",
        ],
    ),
    (
        "engine/base",
        &["sync", "types", "pure/decide", "pure/policy", "pure/words"],
    ),
    ("engine/track", &["sync", "pure/decide", "engine/base"]),
    (
        "engine/outbox",
        &["sync", "types", "pure/log/format", "pure/log", "log"],
    ),
    (
        "message",
        &[
            "sync",
            "types",
            "types/durable",
            "pure/decide",
            "pure/policy",
            "pure/protect",
            "pure/order",
            "engine/base",
            "engine/track",
            "engine/outbox",
        ],
    ),
    (
        "observe",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/policy",
            "pure/protect",
            "engine/base",
            "message",
        ],
    ),
    ("engine/wait", &["sync", "engine/base"]),
    (
        "engine/runtime",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/decide",
            "pure/policy",
            "pure/protect",
            "pure/words",
            "log",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
        ],
    ),
    (
        "engine/parts",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/decide",
            "pure/policy",
            "pure/order",
            "pure/words",
            "engine/base",
            "engine/track",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
        ],
    ),
    (
        "engine/terms",
        &[
            "sync",
            "pure/decide",
            "pure/protect",
            "engine/base",
            "engine/wait",
            "engine/runtime",
        ],
    ),
    ("engine/late", &["sync", "pure/policy", "message"]),
    ("engine/letters", &["sync", "pure/order", "observe"]),
    (
        "engine/journal",
        &[
            "sync",
            "types",
            "types/durable",
            "pure/log/format",
            "pure/log",
            "pure/policy",
            "pure/protect",
            "log/waiters",
            "log",
            "engine/base",
            "engine/outbox",
            "message",
        ],
    ),
    (
        "engine/state",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/decide",
            "pure/policy",
            "pure/protect",
            "pure/order",
            "pure/words",
            "log",
            "engine/base",
            "engine/track",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/terms",
            "engine/late",
            "engine/letters",
            "engine/journal",
        ],
    ),
    (
        "engine/publish",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/decide",
            "pure/policy",
            "pure/words",
            "log/waiters",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/terms",
            "engine/journal",
            "engine/state",
        ],
    ),
    (
        "engine/dispatch",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/policy",
            "pure/protect",
            "pure/words",
            "engine/base",
            "engine/track",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/late",
            "engine/state",
        ],
    ),
    (
        "engine/deliver",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/log",
            "pure/policy",
            "pure/words",
            "log",
            "engine/base",
            "engine/outbox",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/state",
        ],
    ),
    (
        "engine/durable",
        &[
            "sync",
            "types",
            "types/durable",
            "pure/wheel",
            "pure/decide",
            "pure/log/format",
            "pure/log",
            "pure/policy",
            "pure/words",
            "log/waiters",
            "log",
            "engine/base",
            "engine/outbox",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/journal",
            "engine/state",
            "engine/publish",
        ],
    ),
    (
        "engine/keyed",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/policy",
            "pure/order",
            "pure/words",
            "message",
            "observe",
            "engine/wait",
            "engine/parts",
            "engine/state",
            "engine/deliver",
        ],
    ),
    (
        "engine/slots",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/decide",
            "pure/policy",
            "pure/order",
            "pure/words",
            "engine/base",
            "engine/outbox",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/state",
            "engine/deliver",
            "engine/keyed",
        ],
    ),
    (
        "engine/pull",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/order",
            "pure/words",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/state",
            "engine/keyed",
        ],
    ),
    (
        "engine/reading",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/order",
            "pure/words",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/letters",
            "engine/state",
        ],
    ),
    (
        "engine/registry",
        &[
            "sync",
            "types",
            "pure/policy",
            "pure/protect",
            "pure/order",
            "pure/words",
            "engine/base",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/journal",
            "engine/state",
        ],
    ),
    (
        "engine/patterns",
        &[
            "sync",
            "types",
            "pure/protect",
            "pure/order",
            "pure/words",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/parts",
            "engine/state",
            "engine/slots",
            "engine/pull",
            "engine/registry",
        ],
    ),
    (
        "subscription",
        &[
            "sync",
            "types",
            "pure/decide",
            "pure/policy",
            "pure/protect",
            "pure/order",
            "pure/words",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/state",
            "engine/slots",
            "engine/registry",
            "engine/patterns",
        ],
    ),
    (
        "subscription/pull",
        &[
            "sync",
            "types",
            "pure/order",
            "engine/track",
            "engine/outbox",
            "message",
            "engine/wait",
            "engine/parts",
            "engine/state",
            "engine/pull",
            "engine/patterns",
            "subscription",
        ],
    ),
    (
        "subscription/group",
        &[
            "sync",
            "types",
            "pure/policy",
            "pure/order",
            "pure/words",
            "engine/base",
            "message",
            "observe",
            "engine/runtime",
            "engine/state",
            "engine/slots",
            "engine/registry",
            "engine/patterns",
            "subscription",
        ],
    ),
    (
        "subscription/builder",
        &[
            "sync",
            "types",
            "types/durable",
            "pure/log",
            "pure/policy",
            "pure/order",
            "pure/words",
            "log",
            "engine/base",
            "message",
            "observe",
            "engine/runtime",
            "engine/parts",
            "engine/journal",
            "engine/state",
            "engine/slots",
            "engine/pull",
            "engine/registry",
            "engine/patterns",
            "subscription",
            "subscription/pull",
            "subscription/group",
        ],
    ),
    (
        "topic",
        &[
            "sync",
            "types",
            "types/durable",
            "pure/log",
            "pure/policy",
            "pure/protect",
            "pure/words",
            "log",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/terms",
            "engine/journal",
            "engine/state",
            "subscription",
            "subscription/pull",
            "subscription/group",
            "subscription/builder",
        ],
    ),
    (
        "topic/publishing",
        &[
            "sync",
            "types",
            "pure/policy",
            "pure/protect",
            "log",
            "engine/track",
            "engine/outbox",
            "message",
            "engine/wait",
            "engine/runtime",
            "engine/journal",
            "engine/publish",
            "subscription/pull",
            "topic",
        ],
    ),
    (
        "topic/requests",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/decide",
            "engine/track",
            "message",
            "engine/wait",
            "engine/runtime",
            "engine/state",
            "engine/publish",
            "topic",
            "topic/publishing",
        ],
    ),
    (
        "topic/schedules",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/policy",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/publish",
            "topic",
        ],
    ),
    (
        "topic/letters",
        &[
            "sync",
            "types",
            "pure/wheel",
            "pure/policy",
            "pure/words",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/letters",
            "engine/state",
            "engine/publish",
            "engine/reading",
            "engine/registry",
            "topic",
            "topic/publishing",
        ],
    ),
    (
        "broker",
        &[
            "sync",
            "types",
            "pure/policy",
            "pure/words",
            "log",
            "engine/base",
            "message",
            "observe",
            "engine/wait",
            "engine/runtime",
            "engine/state",
            "engine/reading",
            "engine/registry",
            "subscription/builder",
            "topic",
            "topic/letters",
        ],
    ),
];

/// The folder of `src` that a path such as `engine::state::lane::Lane` leads into.
fn folder_of(path: &str) -> Option<&'static str> {
    let path = path.replace("::", "/");
    let leads_into = |folder: &&str| {
        let rest = path.strip_prefix(folder);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let folders = FOLDERS.iter().map(|(folder, _)| *folder);
    // A folder in another one counts by itself.
    folders.filter(leads_into).max_by_key(|folder| folder.len())
}

/// The folder that a file is in; those of a backend are in `sync`.
fn folder_with(file: &str) -> Option<&'static str> {
    folder_of(file.rsplit_once('/')?.0)
}

/// The paths below the crate that a file names.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("crate::").skip(1).map(|rest| {
        let end =
            rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn a_folder_uses_what_its_row_allows_and_nothing_that_comes_after_it() {
    let mut used = BTreeSet::new();
    for (file, text) in code() {
        let Some(own) = folder_with(&file) else {
            continue;
        };
        let (_, allowed) = FOLDERS
            .iter()
            .find(|(folder, _)| *folder == own)
            .expect("a row");
        for other in named(&text)
            .filter_map(folder_of)
            .filter(|other| *other != own)
        {
            assert!(allowed.contains(&other), "{file} uses {other}");
            used.insert((own, other));
        }
    }
    for (at, (folder, allowed)) in FOLDERS.iter().enumerate() {
        for other in *allowed {
            let before = FOLDERS[..at].iter().any(|(before, _)| before == other);
            assert!(before, "{folder} may use {other}, which comes after it");
            assert!(
                used.contains(&(*folder, *other)),
                "{folder} no longer uses {other}"
            );
        }
    }
}

#[test]
fn every_file_is_in_a_folder_of_at_most_nine() {
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for (file, _) in code().into_iter().filter(|(file, _)| file != "lib.rs") {
        let (folder, _) = file
            .rsplit_once('/')
            .unwrap_or_else(|| panic!("{file} is in no folder"));
        *files.entry(folder.to_owned()).or_default() += 1;
    }
    for (folder, count) in files {
        assert!(count <= 9, "{folder} has {count} files");
    }
}

#[test]
fn a_file_of_more_than_400_lines_of_code_is_split_by_decision() {
    for (name, text) in code() {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{name} has {lines} lines of code");
    }
}

/// A retired word, and what stands in its place.
const RETIRED: &[(&str, &str)] = &[
    ("Baton", "TaskState"),
    ("baton", "task"),
    ("ring", "schedule or notify"),
    ("bell", "condvar"),
    ("Seat", "ConsumerSlot, or WaiterId"),
    ("seat", "slot"),
    ("Desk", "DispatcherState"),
    ("desk", "dispatcher"),
    ("Hands", "Consumers"),
    ("Strays", "ParkedArrivals"),
    ("strays", "parked_arrivals"),
    ("owed", "carried_over"),
    ("Part", "BatchSlice"),
    ("Fault", "FailedCall"),
    ("Wish", "NackAction"),
    ("Sentence", "Settled"),
    ("Follower", "PatternSub"),
    ("let_go", "release_user_code"),
    ("departed", "retired_topics"),
    ("SubscriberAdded", "SubscriptionAdded"),
    ("SubscriberRemoved", "SubscriptionRemoved"),
    ("Crew", "Keyed"),
    ("crew", "keyed"),
    ("breakable", "mutant"),
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
    ("Stale", "StaleError"),
    ("InvalidSetting", "SettingError"),
    ("InvalidName", "NameError"),
    ("InvalidPattern", "PatternError"),
    ("UnknownPattern", "UnknownPatternError"),
    ("Imbalance", "ImbalanceError"),
    ("PartialBatch", "PublishBatchError"),
    ("into_payload", "into_inner"),
    ("into_rest", "into_inner"),
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

/// Cargo is told which files are programs, and those which they include. A file that is
/// forgotten would be a promise that nobody keeps.
#[test]
fn every_test_file_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("a readable file");
    let included = read("tests/promises.rs").replace("r#", "") + &read("tests/house.rs");
    let programs = read("Cargo.toml");
    for entry in fs::read_dir(root.join("tests")).expect("they are here") {
        let path = entry.expect("a readable directory").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_program = programs.contains(&format!("[[test]]\nname = \"{name}\"\n"));
        let is_included = included.contains(&format!("\nmod {name};\n"));
        assert!(is_program || is_included, "no program runs {path:?}");
    }
}
