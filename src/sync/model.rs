//! Stand-ins for the models: loom's types under the names of the facade, and
//! small models, made of them, of what loom can't look into.
//!
//! With the environment variable `MILLSTREAM_LOOM_RMW` set, atomic loads and stores
//! become read-modify-writes: loom skips interleavings of threads that begin with
//! a load (loom issues 166 and 392), so every model runs both ways.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::time::Instant;

use super::{Arc, JoinHandle, Thread};

pub(crate) use loom::sync::atomic::fence;
pub(crate) use loom::thread_local;

/// Models run the steps of the engine's threads themselves.
pub(crate) fn spawn(
    _thread: Thread,
    _body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn available_parallelism() -> usize {
    1
}

pub(crate) fn pause() {
    loom::thread::yield_now();
}

/// Models don't wait for time to pass.
pub(crate) fn sleep(_duration: std::time::Duration) {
    loom::thread::yield_now();
}

pub(crate) fn yield_now() {
    loom::thread::yield_now();
}

fn rmw_only() -> bool {
    static RMW: OnceLock<bool> = OnceLock::new();
    *RMW.get_or_init(|| std::env::var_os("MILLSTREAM_LOOM_RMW").is_some())
}

/// Atomics whose loads and stores may be read-modify-writes.
pub(crate) mod atomic {
    use super::rmw_only;
    pub(crate) use std::sync::atomic::Ordering;

    macro_rules! integer {
        ($name:ident, $value:ty) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            #[allow(dead_code, reason = "one set of operations for all widths")]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    if rmw_only() {
                        self.0.fetch_add(0, order)
                    } else {
                        self.0.load(order)
                    }
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    if rmw_only() {
                        self.0.swap(value, order);
                    } else {
                        self.0.store(value, order);
                    }
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, order)
                }

                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_add(value, order)
                }

                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_sub(value, order)
                }

                pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_max(value, order)
                }

                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    step: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.0.fetch_update(set, fetch, step)
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    integer!(AtomicU64, u64);
    integer!(AtomicUsize, usize);

    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(AtomicUsize);

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> Self {
            Self(AtomicUsize::new(usize::from(value)))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            self.0.load(order) != 0
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            self.0.store(usize::from(value), order);
        }

        pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
            self.0.swap(usize::from(value), order) != 0
        }
    }
}

/// A mutex in the manner of parking_lot: no poison.
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

/// The guard of a [`Mutex`].
pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock();
        MutexGuard(Some(guard.unwrap_or_else(|poison| poison.into_inner())))
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

const HELD: &str = "a guard is held except while its owner waits";

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect(HELD)
    }
}

/// Its waits have no end: loom's never time out.
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Option<Instant>) {
        let held = guard.0.take().expect(HELD);
        let again = self.0.wait(held);
        guard.0 = Some(again.unwrap_or_else(|poison| poison.into_inner()));
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A bounded queue after Dmitry Vyukov's, which is what crossbeam's array channel
/// is too, with the orderings that crossbeam has. A mutex would order more than
/// the real queue does and hide missing fences.
pub struct Queue<T> {
    head: atomic::AtomicUsize,
    tail: atomic::AtomicUsize,
    slots: Vec<QueueSlot<T>>,
}

struct QueueSlot<T> {
    /// `position` when free for the push at that position, `position + 1` when
    /// filled by it.
    stamp: atomic::AtomicUsize,
    /// Not loom's: it must not order anything. Loom runs one thread at a time,
    /// and the stamps keep two from meeting here.
    value: std::sync::Mutex<Option<T>>,
}

impl<T> Queue<T> {
    /// A queue of so many slots.
    pub fn new(capacity: usize) -> Self {
        let slot = |position| QueueSlot {
            stamp: atomic::AtomicUsize::new(position),
            value: std::sync::Mutex::new(None),
        };
        Self {
            head: atomic::AtomicUsize::new(0),
            tail: atomic::AtomicUsize::new(0),
            slots: (0..capacity).map(slot).collect(),
        }
    }

    /// Hands the value back if the queue is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        use atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
        loop {
            let tail = self.tail.load(Relaxed);
            let slot = &self.slots[tail % self.slots.len()];
            let stamp = slot.stamp.load(Acquire);
            if stamp == tail {
                let moved = self
                    .tail
                    .compare_exchange_weak(tail, tail + 1, SeqCst, Relaxed);
                if moved.is_ok() {
                    *slot.value.lock().expect("no panic while held") = Some(value);
                    slot.stamp.store(tail + 1, Release);
                    return Ok(());
                }
            } else if stamp + self.slots.len() == tail + 1 {
                fence(SeqCst);
                if self.head.load(Relaxed) + self.slots.len() == tail {
                    return Err(value);
                }
                yield_now();
            } else {
                yield_now();
            }
        }
    }

    /// The oldest value, if there is any.
    pub fn pop(&self) -> Option<T> {
        use atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
        loop {
            let head = self.head.load(Relaxed);
            let slot = &self.slots[head % self.slots.len()];
            let stamp = slot.stamp.load(Acquire);
            if stamp == head + 1 {
                let moved = self
                    .head
                    .compare_exchange_weak(head, head + 1, SeqCst, Relaxed);
                if moved.is_ok() {
                    let value = slot.value.lock().expect("no panic while held").take();
                    slot.stamp.store(head + self.slots.len(), Release);
                    return value;
                }
            } else if stamp == head {
                fence(SeqCst);
                if self.tail.load(Relaxed) == head {
                    return None;
                }
                yield_now();
            } else {
                yield_now();
            }
        }
    }

    /// Values in the queue.
    pub fn len(&self) -> usize {
        use atomic::Ordering::SeqCst;
        let head = self.head.load(SeqCst);
        self.tail.load(SeqCst).saturating_sub(head)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// More than any model puts into an unbounded queue.
const UNBOUNDED: usize = 8;

/// An unbounded queue that models don't fill.
pub struct Unbounded<T>(Queue<T>);

impl<T> Unbounded<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self(Queue::new(UNBOUNDED))
    }

    /// Adds a value.
    pub fn push(&self, value: T) {
        assert!(
            self.0.push(value).is_ok(),
            "a model fills no unbounded queue"
        );
    }

    /// The oldest value, if there is any.
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Values in the queue.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// To a model, a channel that grows is a queue that it doesn't fill.
pub(crate) type Channel<T> = Unbounded<T>;

/// Stricter than arc-swap: a mutex orders its users.
pub(crate) struct Slot<T>(Mutex<Arc<T>>);

impl<T> Slot<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock())
    }

    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    pub(crate) fn reader(&self) -> Reader<'_, T> {
        Reader(self, self.load())
    }

    pub(crate) fn swap(&self, value: Arc<T>) -> Arc<T> {
        std::mem::replace(&mut *self.0.lock(), value)
    }
}

pub(crate) struct Reader<'a, T>(&'a Slot<T>, Arc<T>);

impl<T> Reader<'_, T> {
    pub(crate) fn load(&mut self) -> &Arc<T> {
        self.1 = self.0.load();
        &self.1
    }
}

/// Stricter than dashmap: one lock for all.
pub(crate) struct Map<V>(Mutex<BTreeMap<Arc<str>, V>>);

impl<V: Clone> Map<V> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<V> {
        self.0.lock().get(name).cloned()
    }

    pub(crate) fn get_or_insert(&self, name: Arc<str>, value: V) -> V {
        self.0.lock().entry(name).or_insert(value).clone()
    }

    pub(crate) fn remove(&self, name: &str) -> Option<V> {
        self.0.lock().remove(name)
    }

    pub(crate) fn values(&self) -> Vec<V> {
        self.0.lock().values().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}
