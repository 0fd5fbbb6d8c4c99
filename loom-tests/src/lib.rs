//! What the models share. Run them with `cargo loom` in the root of the project.
#![cfg(millstream_loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Explores every interleaving of `run` with up to `preemptions` preemptions (or
/// all of them), prints how many there were, and fails if loom gave up early: no
/// limit on time or on permutations is ever set, so there is no silent pass.
pub fn model(name: &str, preemptions: Option<usize>, run: impl Fn() + Sync + Send + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 50_000;
    builder.max_duration = None;
    builder.max_permutations = None;
    let began = std::time::Instant::now();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        run();
    });
    let pass = if std::env::var_os("MILLSTREAM_LOOM_RMW").is_some() {
        "read-modify-writes"
    } else {
        "plain"
    };
    let executions = executions.load(Ordering::Relaxed);
    println!(
        "{name} ({pass}): {executions} executions, {:.1?}",
        began.elapsed()
    );
}
