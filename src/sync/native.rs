//! The backend of a normal build: the real crates.

use std::io;

use arc_swap::{ArcSwap, Guard};
use crossbeam_channel::{Receiver, Sender};
use crossbeam_queue::{ArrayQueue, SegQueue};
use dashmap::DashMap;

use super::{Arc, Thread};

mod time;

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use quanta::Clock as Counter;
pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{self, fence};
pub(crate) use std::thread::{JoinHandle, sleep, yield_now};
pub(crate) use std::thread_local;
pub(crate) use time::Instant;

pub(crate) fn spawn(
    thread: Thread,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(thread.name);
    match thread.stack_size {
        Some(bytes) => builder.stack_size(bytes),
        None => builder,
    }
    .spawn(body)
}

/// Returns whether the calling thread is the one behind the handle.
pub(crate) fn is_current(thread: &JoinHandle<()>) -> bool {
    thread.thread().id() == std::thread::current().id()
}

/// Returns a number of the calling thread's own. Numbers are given in the order of asking.
pub(crate) fn thread_number() -> u64 {
    static NEXT: atomic::AtomicU64 = atomic::AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, atomic::Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

/// Returns 64 bits that differ from call to call and from process to process. They come from the
/// standard library's source of keys for hash maps.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// Calls a function that may panic, and catches the panic.
pub(crate) fn catch_panic<R>(call: impl FnOnce() -> R) -> std::thread::Result<R> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
}

/// Runs a scenario often, as the system's scheduler will have it.
#[cfg(all(test, feature = "log"))]
pub(crate) fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    for _ in 0..100 {
        scenario();
    }
}

pub(crate) fn available_parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Hints to the core that this is a spin loop.
pub(crate) fn pause() {
    std::hint::spin_loop();
}

/// A condition variable whose waits may have an end.
pub(crate) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(parking_lot::Condvar::new())
    }

    /// Waits for a notification, or until `until` if there is such a time.
    pub(crate) fn wait<T>(
        &self,
        guard: &mut parking_lot::MutexGuard<'_, T>,
        until: Option<Instant>,
    ) {
        match until {
            Some(until) => {
                self.0.wait_until(guard, until.0);
            }
            None => self.0.wait(guard),
        }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A bounded queue of many producers and consumers. It has no parts for waiting, which its users do
/// elsewhere. It allocates all its slots when it is made.
pub(crate) struct Queue<T>(ArrayQueue<T>);

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(ArrayQueue::new(capacity))
    }

    /// Adds a value, or returns it as the error if the queue is full.
    #[inline]
    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }
}

/// A crossbeam channel with both of its ends. Its users let in no more values than they say.
pub(crate) struct Channel<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
}

impl<T> Channel<T> {
    /// The most values for which a channel is bounded, which allocates all its slots at once.
    const MOST_AT_ONCE: usize = 4_096;

    /// Makes a channel for at most `most` values. If these are very many, it grows by blocks of 31
    /// slots instead.
    pub(crate) fn new(most: usize) -> Self {
        let (sender, receiver) = match most {
            ..=Self::MOST_AT_ONCE => crossbeam_channel::bounded(most),
            _ => crossbeam_channel::unbounded(),
        };
        Self { sender, receiver }
    }

    /// Adds a value, or returns it as the error if there is no room.
    #[inline]
    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        let pushed = self.sender.try_send(value);
        pushed.map_err(crossbeam_channel::TrySendError::into_inner)
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

/// An unbounded channel without the parts for waiting. Its users bound it, too, and say so. It
/// allocates on the first push.
pub(crate) struct Unbounded<T>(SegQueue<T>);

impl<T> Unbounded<T> {
    pub(crate) const fn new() -> Self {
        Self(SegQueue::new())
    }

    pub(crate) fn push(&self, value: T) {
        self.0.push(value);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A value that is read often and replaced as a whole now and then.
pub(crate) struct Slot<T>(ArcSwap<T>);

impl<T> Slot<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self(ArcSwap::new(value))
    }

    pub(crate) fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Looks without taking a reference. `look` must be short and call no user code.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.load())
    }

    /// Returns a reader that looks often, for a while, and holds on to what it saw last.
    pub(crate) fn reader(&self) -> Reader<'_, T> {
        Reader {
            slot: &self.0,
            seen: self.0.load(),
        }
    }

    pub(crate) fn swap(&self, value: Arc<T>) -> Arc<T> {
        self.0.swap(value)
    }
}

/// Reads a [`Slot`] without counting references. `arc_swap::Cache` counts one in its life, which is
/// too often for a life of one message.
pub(crate) struct Reader<'a, T> {
    slot: &'a ArcSwap<T>,
    seen: Guard<Arc<T>>,
}

impl<T> Reader<'_, T> {
    pub(crate) fn load(&mut self) -> &Arc<T> {
        self.seen = self.slot.load();
        &self.seen
    }
}

/// A map from names to values. Every method clones the value out: no guard leaves this type, so
/// none can be alive across another call.
pub(crate) struct Map<V>(DashMap<Arc<str>, V>);

impl<V: Clone> Map<V> {
    pub(crate) fn new() -> Self {
        Self(DashMap::new())
    }

    pub(crate) fn get(&self, name: &str) -> Option<V> {
        self.0.get(name).map(|entry| entry.value().clone())
    }

    /// Inserts a value, and calls `then` before anybody can find it.
    pub(crate) fn insert(&self, name: Arc<str>, value: V, then: impl FnOnce()) {
        let held = self.0.entry(name).insert(value);
        then();
        drop(held);
    }

    pub(crate) fn remove(&self, name: &str) -> Option<V> {
        self.0.remove(name).map(|(_, value)| value)
    }

    pub(crate) fn values(&self) -> Vec<V> {
        self.0.iter().map(|entry| entry.value().clone()).collect()
    }

    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}
