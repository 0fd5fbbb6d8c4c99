//! Stand-ins for the whole engine under a scheduler of ours: shuttle's types under the names of the
//! facade, and small ones made of them.
//!
//! Shuttle runs all threads of a schedule on one thread of the system and switches between them at
//! *steps* only. Each indivisible operation of the real thing is one step here. Time is part of the
//! schedule; see [`time`].

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::task::{Poll, Waker};
use std::time::Duration;

use ::shuttle::{sync, thread};

use super::{Arc, Thread};

mod time;

pub(crate) use ::shuttle::sync::atomic::{self, fence};
pub(crate) use ::shuttle::thread::{JoinHandle, yield_now};
pub(crate) use ::shuttle::thread_local;
pub(crate) use time::{Counter, Instant};

pub(crate) fn spawn(
    thread: Thread,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(thread.name);
    match thread.stack_size {
        Some(bytes) => builder.stack_size(bytes),
        None => builder,
    }
    .spawn(body)
}

pub(crate) fn is_current(thread: &JoinHandle<()>) -> bool {
    thread.thread().id() == thread::current().id()
}

/// Returns one number for all threads, so that a schedule can be replayed.
pub(crate) fn thread_number() -> u64 {
    0
}

/// Runs a scenario by many schedules: random ones, and those with few changes of priority.
#[cfg(all(test, feature = "log"))]
pub(crate) fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    use ::shuttle::scheduler::{PctScheduler, RandomScheduler};
    use ::shuttle::{Config, MaxSteps, Runner};

    let schedules = std::env::var("MILLSTREAM_SCHEDULES").ok();
    let schedules = schedules.map_or(1_000, |asked| asked.parse().expect("a number"));
    let mut config = Config::default();
    config.stack_size = 256 * 1_024;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    config.silence_warnings = true;
    let scenario = Arc::new(scenario);
    let again = Arc::clone(&scenario);
    let random = RandomScheduler::new_from_seed(1, schedules);
    Runner::new(random, config.clone()).run(move || scenario());
    let pct = PctScheduler::new_from_seed(1, 3, schedules);
    Runner::new(pct, config).run(move || again());
}

pub(crate) fn available_parallelism() -> usize {
    2
}

/// Yields: a thread that spins waits for one of the others, which must have a turn.
pub(crate) fn pause() {
    yield_now();
}

pub(crate) fn sleep(duration: Duration) {
    let until = Instant::now().checked_add(duration);
    let until = until.expect("a time within reach");
    let (nobody, nothing) = (Condvar::new(), Mutex::new(()));
    let mut guard = nothing.lock();
    while Instant::now() < until {
        nobody.wait(&mut guard, Some(until));
    }
}

/// Returns the same seed in every execution, which must be repeatable.
pub(crate) fn random_seed() -> u64 {
    0
}

/// Calls a function that may panic, and catches the panic. Shuttle hears of its own panics first.
pub(crate) fn catch_panic<R>(call: impl FnOnce() -> R) -> std::thread::Result<R> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
}

/// Lets the scheduler go on with another thread here.
fn step() {
    thread::sleep(Duration::ZERO);
}

/// A value whose changes no thread can interrupt: there is no step inside.
struct Indivisible<T>(std::sync::Mutex<T>);

impl<T> Indivisible<T> {
    const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Changes the value. `change` must take no step, so it must not drop a value of the user's.
    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a step of the schedule, then changes the value.
    fn step<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        step();
        self.change(change)
    }
}

/// A mutex in the manner of parking_lot: no poison.
#[derive(Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// The guard of a [`Mutex`].
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard {
            mutex: self,
            held: Some(held),
        }
    }
}

const HELD: &str = "a guard is held except while its owner waits";

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_deref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_deref_mut().expect(HELD)
    }
}

/// Wakes one thread, once: by a notification, or because its time is up.
struct WakeUp(Indivisible<(bool, Option<Waker>)>);

impl WakeUp {
    fn new() -> Arc<Self> {
        Arc::new(Self(Indivisible::new((false, None))))
    }

    /// Wakes the thread, without a step.
    fn wake(&self) {
        let waker = self.0.change(|(rung, waker)| {
            *rung = true;
            waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    fn wait(&self) {
        ::shuttle::future::block_on(poll_fn(|context| {
            self.0.change(|(rung, waker)| {
                if *rung {
                    return Poll::Ready(());
                }
                *waker = Some(context.waker().clone());
                Poll::Pending
            })
        }));
    }
}

/// A condition variable each of whose waits ends only for its own reason. Shuttle's own waits never
/// time out, and to wake everybody instead would hide a notification that is lost.
pub(crate) struct Condvar(Indivisible<Vec<Arc<WakeUp>>>);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(Indivisible::new(Vec::new()))
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Instant>) {
        let wake_up = WakeUp::new();
        // The step of an unlock comes before it: nobody can come between the unlock and the wait.
        drop(guard.held.take());
        self.0.change(|waiting| waiting.push(Arc::clone(&wake_up)));
        let alarm = until.map(|until| time::set_alarm(until, Arc::clone(&wake_up)));
        wake_up.wait();
        drop(alarm);
        self.0
            .change(|waiting| waiting.retain(|other| !Arc::ptr_eq(other, &wake_up)));
        *guard = guard.mutex.lock();
    }

    pub(crate) fn notify_one(&self) {
        let chosen = self.0.step(|waiting| {
            let choice = match waiting.len() {
                0 => return None,
                1 => 0,
                several => {
                    ::shuttle::rand::Rng::gen_range(&mut ::shuttle::rand::thread_rng(), 0..several)
                }
            };
            Some(waiting.swap_remove(choice))
        });
        chosen.into_iter().for_each(|wake_up| wake_up.wake());
    }

    pub(crate) fn notify_all(&self) {
        let all = self.0.step(std::mem::take);
        all.into_iter().for_each(|wake_up| wake_up.wake());
    }
}

/// A value that is set once.
pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub(crate) const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        step();
        self.0.get()
    }

    /// Returns the value, which `init` makes if need be. `init` must take no step.
    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        step();
        self.0.get_or_init(init)
    }
}

/// A bounded queue of many producers and consumers.
pub(crate) struct Queue<T> {
    values: Indivisible<VecDeque<T>>,
    capacity: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            values: Indivisible::new(VecDeque::new()),
            capacity,
        }
    }

    /// Adds a value, or returns it as the error if the queue is full.
    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        self.values.step(|values| {
            if values.len() >= self.capacity {
                return Err(value);
            }
            values.push_back(value);
            Ok(())
        })
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.values.step(VecDeque::pop_front)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.values.step(|values| values.len())
    }
}

/// A queue without bounds.
pub(crate) struct Unbounded<T>(Queue<T>);

impl<T> Unbounded<T> {
    pub(crate) fn new() -> Self {
        Self(Queue::new(usize::MAX))
    }

    pub(crate) fn push(&self, value: T) {
        let pushed = self.0.push(value);
        assert!(pushed.is_ok(), "there is room without bounds");
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A queue for as many values as its users say.
pub(crate) struct Channel<T>(Queue<T>);

impl<T> Channel<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self(Queue::new(most))
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A value that is read often and replaced as a whole now and then.
pub(crate) struct Slot<T>(Indivisible<Arc<T>>);

impl<T> Slot<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self(Indivisible::new(value))
    }

    pub(crate) fn load(&self) -> Arc<T> {
        self.0.step(|value| Arc::clone(value))
    }

    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    pub(crate) fn reader(&self) -> Reader<'_, T> {
        Reader(self, self.load())
    }

    pub(crate) fn swap(&self, value: Arc<T>) -> Arc<T> {
        self.0.step(|held| std::mem::replace(held, value))
    }
}

pub(crate) struct Reader<'a, T>(&'a Slot<T>, Arc<T>);

impl<T> Reader<'_, T> {
    pub(crate) fn load(&mut self) -> &Arc<T> {
        self.1 = self.0.load();
        &self.1
    }
}

/// A map from names to values, in the order of the names: a schedule must come out the same when it
/// is replayed.
pub(crate) struct Map<V>(Indivisible<BTreeMap<Arc<str>, V>>);

impl<V: Clone> Map<V> {
    pub(crate) fn new() -> Self {
        Self(Indivisible::new(BTreeMap::new()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<V> {
        self.0.step(|values| values.get(name).cloned())
    }

    /// Inserts a value, and then calls `then`. Only the insertion is a step here, so others may
    /// find the value before the call.
    pub(crate) fn insert(&self, name: Arc<str>, value: V, then: impl FnOnce()) {
        self.0.step(|values| values.insert(name, value));
        then();
    }

    pub(crate) fn remove(&self, name: &str) -> Option<V> {
        self.0.step(|values| values.remove(name))
    }

    pub(crate) fn values(&self) -> Vec<V> {
        self.0.step(|values| values.values().cloned().collect())
    }

    pub(crate) fn clear(&self) {
        let gone = self.0.step(std::mem::take);
        drop(gone);
    }
}
