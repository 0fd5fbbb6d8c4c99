//! Decisions, and nothing else.
//!
//! Every function below this directory maps values to values:
//! `(state, input, now) -> (state, what to do)`. There is no clock, thread, atomic, lock or channel
//! here, and time is always an argument. So each file can be tested exhaustively, and a manual
//! clock can drive the engine.

pub(crate) mod decide;
#[cfg(feature = "log")]
pub(crate) mod log;
pub(crate) mod order;
pub(crate) mod policy;
pub(crate) mod protect;
pub(crate) mod wheel;
pub(crate) mod words;
