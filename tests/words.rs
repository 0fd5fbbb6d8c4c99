//! Words that this crate has given up for those that its readers know, and that stay given up.

use std::fs;
use std::path::{Path, PathBuf};

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

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

/// A sentence may begin with any word, and many begin with letters.
fn is_prose(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn retired_words_stay_retired() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
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
