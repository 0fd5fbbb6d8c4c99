//! Decisions, and nothing else.
//!
//! Every function below this directory maps values to values:
//! `(state, input, now) -> (state, what to do)`. There is no clock, thread,
//! atomic, lock or channel here, and time is always an argument, so each file
//! can be tested exhaustively and the engine can be driven by a manual clock.

pub(crate) mod arena;
pub(crate) mod buckets;
pub(crate) mod ending;
pub(crate) mod expiry;
pub(crate) mod handles;
pub(crate) mod idle;
pub(crate) mod key_hash;
pub(crate) mod lifecycle;
pub(crate) mod line;
pub(crate) mod news;
mod owners;
pub(crate) mod pattern;
pub(crate) mod retry;
pub(crate) mod room;
pub(crate) mod rules;
pub(crate) mod schedule;
pub(crate) mod sequencer;
pub(crate) mod start;
pub(crate) mod strategy;
pub(crate) mod stride;
pub(crate) mod tickets;
pub(crate) mod verdict;
pub(crate) mod wheel;

/// A state that fits one machine word, so that a single compare-and-swap can
/// move it. Implementors are the machines of this directory.
pub trait Packed: Copy {
    /// The word that stands for this state.
    fn pack(self) -> u64;
    /// The state a word stands for.
    fn unpack(word: u64) -> Self;
}
