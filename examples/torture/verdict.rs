//! What went wrong.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// More of one kind add nothing.
const PRINTED: u64 = 10;

static FAILED: AtomicU64 = AtomicU64::new(0);
static BY_CHECK: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Says which check failed, and how.
#[cold]
pub fn fail(check: &'static str, what: impl Display) {
    FAILED.fetch_add(1, Ordering::Relaxed);
    let mut checks = BY_CHECK.lock().expect("nothing panics in here");
    let count = checks.entry(check).or_default();
    *count += 1;
    if *count <= PRINTED {
        eprintln!("FAILED: {check}: {what}");
    }
}

/// Holds two independent counts of the same thing against each other.
pub fn same<V: PartialEq + Debug>(check: &'static str, what: impl Display, engine: V, ours: V) {
    if engine != ours {
        fail(
            check,
            format_args!("{what}: the engine says {engine:?}, we counted {ours:?}"),
        );
    }
}

/// A check with a name.
pub fn check(holds: bool, check: &'static str, what: impl Display) {
    if !holds {
        fail(check, what);
    }
}

pub fn failures() -> u64 {
    FAILED.load(Ordering::Relaxed)
}

/// How often this check failed.
pub fn count(check: &str) -> u64 {
    let checks = BY_CHECK.lock().expect("nothing panics in here");
    checks.get(check).copied().unwrap_or(0)
}

/// The checks that failed, and how often.
pub fn list() -> Vec<(&'static str, u64)> {
    let checks = BY_CHECK.lock().expect("nothing panics in here");
    checks
        .iter()
        .map(|(check, count)| (*check, *count))
        .collect()
}
