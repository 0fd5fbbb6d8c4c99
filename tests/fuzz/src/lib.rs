//! What the fuzz targets do with their bytes. `tests/fuzz_corpus.rs` does the same
//! with the bytes that are kept, so that it needs no fuzzer.

pub mod bench;
pub mod engine;
#[cfg(feature = "log")]
pub mod log;
pub mod names;
pub mod patterns;
pub mod quakes;
pub mod settings;
pub mod shapes;
pub mod timers;

use millstream::{Broker, ManualClock, Metrics};

/// A broker that runs on this thread, by a clock that the bytes move.
fn manual() -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    let builder = Broker::builder().workers(0).manual_clock(&clock).seed(0);
    (builder.build().expect("it starts no threads"), clock)
}

/// The law of conservation, and a table that a terminal survives.
fn check_books(broker: &Broker) -> Metrics {
    let metrics = broker.metrics();
    if let Err(imbalance) = metrics.balance() {
        panic!("{imbalance}\n{metrics:#?}");
    }
    for line in metrics.to_string().lines() {
        check_text(line);
    }
    metrics
}

/// What an error says fits on a line and controls no terminal.
fn check_text(said: impl std::fmt::Display) {
    let said = said.to_string();
    assert!(!said.is_empty(), "an error without a word");
    assert!(!said.contains(char::is_control), "{said:?}");
}
