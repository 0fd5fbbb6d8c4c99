//! The facade: everything that threads share comes from here, and no other file
//! names `std::sync`, `std::thread`, `parking_lot`, crossbeam, arc-swap, dashmap
//! or loom.
//!
//! In a normal build these are thin names over the real crates. Under the cfg
//! `millstream_loom` they are loom's types, or small stand-ins built from them, so
//! that the models in `loom-tests/` run the shipped functions of `engine/`.
//! What a stand-in orders more strictly than the real thing is written down in
//! `loom-tests/README.md`.

#[cfg(not(millstream_loom))]
mod native;
#[cfg(not(millstream_loom))]
pub(crate) use native::{
    Channel, Condvar, Map, Mutex, Queue, Reader, Slot, Unbounded, atomic, available_parallelism,
    fence, pause, sleep, spawn, thread_local, yield_now,
};

#[cfg(millstream_loom)]
pub(crate) mod model;
#[cfg(millstream_loom)]
pub(crate) use model::{
    Channel, Condvar, Map, Mutex, Queue, Reader, Slot, Unbounded, atomic, available_parallelism,
    fence, pause, sleep, spawn, thread_local, yield_now,
};

pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use std::sync::{Arc, OnceLock, Weak};
pub(crate) use std::thread::JoinHandle;

/// How a thread of the engine is started.
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) stack_size: Option<usize>,
}

/// Whether the calling thread is the one behind the handle.
pub(crate) fn is_current(thread: &JoinHandle<()>) -> bool {
    thread.thread().id() == std::thread::current().id()
}
