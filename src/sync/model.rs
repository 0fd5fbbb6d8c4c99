//! Stand-ins for the models: loom's types under the names of the facade. Where loom can't look into
//! a type, a small model of it is made of them.
//!
//! Every model runs twice; see [`read_modify_writes_only`].

use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock as StdOnceLock;

use super::{Arc, Thread, Weak};

pub(crate) mod atomic;
mod queue;
mod time;

pub(crate) use queue::Channel;
pub use queue::{Queue, Unbounded};
pub(crate) use time::{Counter, sleep};
pub use time::{Instant, restart_time};

pub(crate) use loom::sync::atomic::fence;
pub(crate) use loom::thread_local;

pub(crate) use loom::thread::JoinHandle;

pub(crate) fn spawn(
    thread: Thread,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = loom::thread::Builder::new().name(thread.name);
    match thread.stack_size {
        Some(bytes) => builder.stack_size(bytes),
        None => builder,
    }
    .spawn(body)
}

/// Returns whether the calling thread is the one behind the handle.
pub(crate) fn is_current(thread: &JoinHandle<()>) -> bool {
    thread.thread().id() == loom::thread::current().id()
}

/// Returns one number for all threads of a model: its executions must not differ.
pub(crate) fn thread_number() -> u64 {
    0
}

/// Returns the same seed in every execution, which must be repeatable.
pub(crate) fn random_seed() -> u64 {
    0
}

/// Catches nothing: loom panics where it finds something, and must be heard. So no handler of a
/// model panics.
pub(crate) fn catch_panic<R>(call: impl FnOnce() -> R) -> std::thread::Result<R> {
    Ok(call())
}

pub(crate) fn available_parallelism() -> usize {
    1
}

pub(crate) fn pause() {
    loom::thread::yield_now();
}

pub(crate) fn yield_now() {
    loom::thread::yield_now();
}

std::thread_local! {
    static RMW_ONLY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Sets whether atomic loads and stores become read-modify-writes, for the models that this thread
/// explores. Loom skips interleavings of threads that begin with a load (loom issues 166 and 392).
pub fn read_modify_writes_only(only: bool) {
    RMW_ONLY.set(only);
}

fn rmw_only() -> bool {
    RMW_ONLY.get()
}

/// Returns whether the models run with this mutant: see `loom-tests/tests/models/mutants.rs`.
pub(crate) fn is_mutated(id: &str) -> bool {
    static MUTANT: StdOnceLock<Option<String>> = StdOnceLock::new();
    let mutant = MUTANT.get_or_init(|| std::env::var("MILLSTREAM_MUTANT").ok());
    mutant.as_deref() == Some(id)
}

/// A mutex in the manner of parking_lot: no poison.
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

/// The guard of a [`Mutex`].
pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>, &'a Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock();
        MutexGuard(
            Some(guard.unwrap_or_else(|poison| poison.into_inner())),
            self,
        )
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

const NO_PANIC: &str = "no panic while it is held";
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

/// A condition variable whose waits may have an end. Loom's own waits never time out, so a wait
/// with an end ends when others have had their turn. A wait without one is loom's, which finds
/// threads that wait forever.
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Instant>) {
        let held = guard.0.take().expect(HELD);
        let again = match until {
            None => self.0.wait(held),
            Some(until) => {
                drop(held);
                time::wait_until(until);
                guard.1.0.lock()
            }
        };
        guard.0 = Some(again.unwrap_or_else(|poison| poison.into_inner()));
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A value made on first use. Loom can't see that the real one orders its making before its use. So
/// a flag with the real one's orderings stands beside it.
pub(crate) struct OnceLock<T> {
    made: atomic::AtomicBool,
    making: Mutex<()>,
    value: StdOnceLock<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            made: atomic::AtomicBool::new(false),
            making: Mutex::new(()),
            value: StdOnceLock::new(),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        let made = self.made.load(atomic::Ordering::Acquire);
        made.then(|| self.value.get().expect("the flag says that it is there"))
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _making = self.making.lock();
        let value = self.value.get_or_init(make);
        self.made.store(true, atomic::Ordering::Release);
        value
    }
}

/// A slot that is weaker than arc-swap, which loads in the single order of sequentially consistent
/// steps. A load here may miss a swap unless something else orders the two. It then finds the value
/// that the swap's caller still holds.
pub(crate) struct Slot<T> {
    version: atomic::AtomicUsize,
    /// The value, and those before it. The mutex is not loom's, so that it orders nothing.
    values: std::sync::Mutex<(Arc<T>, Vec<Weak<T>>)>,
}

impl<T> Slot<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        let past = vec![Arc::downgrade(&value)];
        Self {
            version: atomic::AtomicUsize::new(0),
            values: std::sync::Mutex::new((value, past)),
        }
    }

    pub(crate) fn load(&self) -> Arc<T> {
        let version = self.version.load(atomic::Ordering::Acquire);
        if let Some(value) = self.values.lock().expect(NO_PANIC).1[version].upgrade() {
            return value;
        }
        self.version.fetch_add(0, atomic::Ordering::AcqRel);
        Arc::clone(&self.values.lock().expect(NO_PANIC).0)
    }

    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    pub(crate) fn reader(&self) -> Reader<'_, T> {
        Reader(self, self.load())
    }

    pub(crate) fn swap(&self, value: Arc<T>) -> Arc<T> {
        let mut values = self.values.lock().expect(NO_PANIC);
        values.1.push(Arc::downgrade(&value));
        let before = std::mem::replace(&mut values.0, value);
        drop(values);
        self.version.fetch_add(1, atomic::Ordering::AcqRel);
        before
    }
}

pub(crate) struct Reader<'a, T>(&'a Slot<T>, Arc<T>);

impl<T> Reader<'_, T> {
    pub(crate) fn load(&mut self) -> &Arc<T> {
        self.1 = self.0.load();
        &self.1
    }
}

/// A map that is stricter than dashmap: one lock for all.
pub(crate) struct Map<V>(Mutex<BTreeMap<Arc<str>, V>>);

impl<V: Clone> Map<V> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<V> {
        self.0.lock().get(name).cloned()
    }

    pub(crate) fn insert(&self, name: Arc<str>, value: V, then: impl FnOnce()) {
        let mut held = self.0.lock();
        held.insert(name, value);
        then();
        drop(held);
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
