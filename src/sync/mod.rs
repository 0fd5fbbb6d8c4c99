//! The facade: everything that threads share comes from here, and no other file
//! names `std::sync`, `std::thread`, `parking_lot`, crossbeam, arc-swap, dashmap,
//! loom or shuttle, or reads a clock.
//!
//! In a normal build these are thin names over the real crates. Under the cfg
//! `millstream_loom` they are loom's types, or small stand-ins built from them, so
//! that the models in `loom-tests/` run the shipped functions of `engine/`.
//! What a stand-in orders more strictly than the real thing is written down in
//! `loom-tests/README.md`. Under the cfg `millstream_shuttle` they are shuttle's, so
//! that the scenarios in `tests/shuttle/` run the whole engine, and time, by
//! schedules that can be replayed.

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

pub(crate) use backend::{
    Channel, Condvar, Counter, Instant, JoinHandle, Map, Mutex, MutexGuard, OnceLock, Queue,
    Reader, Slot, Unbounded, atomic, available_parallelism, catch_panic, fence, is_current, pause,
    random_seed, sleep, spawn, thread_local, thread_number, yield_now,
};
pub(crate) use crossbeam_utils::CachePadded;
/// For statics, which outlive what a model explores.
pub(crate) use std::sync::OnceLock as StaticOnce;
pub(crate) use std::sync::{Arc, Weak};

/// How a thread of the engine is started.
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) stack_size: Option<usize>,
}

/// Does what ships, its first expression. Only in the models may a deliberate break
/// stand in for it, or nothing: so they show that they would see it. The breaks, and
/// the models that must see them, are in `loom-tests/tests/models/mutants.rs`.
macro_rules! breakable {
    ($name:literal, $ships:expr $(, $broken:expr)?) => {{
        #[cfg(not(millstream_loom))]
        {
            $ships
        }
        #[cfg(millstream_loom)]
        if crate::sync::model::is_broken($name) {
            $($broken)?
        } else {
            $ships
        }
    }};
}
pub(crate) use breakable;

/// Does the first, then the second: the other way round where the break is on.
macro_rules! in_order {
    ($name:literal, $first:expr, $second:expr $(,)?) => {{
        #[cfg(millstream_loom)]
        let is_broken = crate::sync::model::is_broken($name);
        #[cfg(not(millstream_loom))]
        let is_broken = false;
        if is_broken {
            $second;
            $first;
        } else {
            $first;
            $second;
        }
    }};
}
pub(crate) use in_order;
