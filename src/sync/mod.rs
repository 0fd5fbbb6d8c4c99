//! The facade: everything that threads share comes from here. No other file names `std::sync`,
//! `std::thread`, `parking_lot`, crossbeam, arc-swap, dashmap, loom or shuttle, or reads a clock.
//!
//! In a normal build these are thin names over the real crates. Under the cfg `millstream_loom`
//! they are loom's types, or small stand-ins built from them. So the models in `loom-tests/` run
//! the shipped functions of `engine/`. `loom-tests/README.md` lists where a stand-in orders more
//! strictly than the real thing.
//!
//! Under the cfg `millstream_shuttle` they are shuttle's. So the scenarios in `tests/shuttle/` run
//! the whole engine, and time, by schedules that can be replayed.

#[cfg(not(any(millstream_loom, millstream_shuttle)))]
mod native;
#[cfg(not(any(millstream_loom, millstream_shuttle)))]
use native as backend;

#[cfg(millstream_loom)]
pub(crate) mod model;
#[cfg(millstream_loom)]
use model as backend;

#[cfg(millstream_shuttle)]
mod shuttle;
#[cfg(millstream_shuttle)]
use shuttle as backend;

/// Runs a scenario of threads many times, or by many schedules.
#[cfg(all(test, feature = "log", not(millstream_loom)))]
pub(crate) use backend::explore;
pub(crate) use backend::{
    Channel, Condvar, Counter, Instant, JoinHandle, Map, Mutex, MutexGuard, OnceLock, Queue,
    Reader, Slot, Unbounded, atomic, available_parallelism, catch_panic, fence, is_current, pause,
    random_seed, sleep, spawn, thread_local, thread_number, yield_now,
};
pub(crate) use crossbeam_utils::CachePadded;
/// A once-cell for statics, which outlive what a model explores.
pub(crate) use std::sync::OnceLock as StaticOnce;
pub(crate) use std::sync::{Arc, Weak};

/// Returns the time of day.
pub(crate) fn time_of_day() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Returns the time of day, in milliseconds since 1970.
#[cfg(feature = "log")]
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A word that is written seldom and read often. The models don't explore its reads: whoever writes
/// it notifies those that are to act on it.
pub(crate) struct Word(std::sync::atomic::AtomicU64);

impl Word {
    pub(crate) const fn new(word: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(word))
    }

    #[inline(always)]
    pub(crate) fn load(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn store(&self, word: u64) {
        self.0.store(word, std::sync::atomic::Ordering::Release);
    }

    /// Sets these bits, or clears them. Returns the word before.
    pub(crate) fn set_bits(&self, bits: u64, is_on: bool) -> u64 {
        let order = std::sync::atomic::Ordering::AcqRel;
        if is_on {
            self.0.fetch_or(bits, order)
        } else {
            self.0.fetch_and(!bits, order)
        }
    }

    /// Writes the word unless it is greater already.
    pub(crate) fn raise(&self, word: u64) {
        self.0.fetch_max(word, std::sync::atomic::Ordering::AcqRel);
    }
}

/// The settings with which a thread of the engine is started.
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) stack_size: Option<usize>,
}

/// Does what ships, its first expression. In the models a mutant may stand in for it: its last
/// expression, or nothing. So the models show that they would see the difference. The mutants, and
/// the models that must see each, are in `loom-tests/tests/models/mutants.rs`.
macro_rules! mutant {
    ($ships:expr, $id:literal $(, $mutant:expr)? $(,)?) => {{
        #[cfg(not(millstream_loom))]
        {
            $ships
        }
        #[cfg(millstream_loom)]
        if crate::sync::model::is_mutated($id) {
            $($mutant)?
        } else {
            $ships
        }
    }};
}
pub(crate) use mutant;

/// Does the first, then the second. In the models a mutant may do it the other way round.
macro_rules! in_order {
    ($first:expr, $second:expr, $id:literal $(,)?) => {
        #[cfg(not(millstream_loom))]
        {
            $first;
            $second;
        }
        #[cfg(millstream_loom)]
        if crate::sync::model::is_mutated($id) {
            $second;
            $first;
        } else {
            $first;
            $second;
        }
    };
}
pub(crate) use in_order;
