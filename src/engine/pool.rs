//! Worker threads, and the queue of what is ready to run.

use std::io;

use super::contain::contain;
use super::context::Inside;
use super::sleep::Sleep;
use crate::config::Idle;
use crate::engine::Engine;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{
    Arc, JoinHandle, Mutex, Thread, Unbounded, breakable, fence, pause, spawn, yield_now,
};

/// Something that a worker can run for a turn: a topic, a partition of one, a lane or a seat,
/// which have a baton, or a buffer that has lingered, which has a lock.
pub(crate) trait Task: Send + Sync {
    /// Runs one turn if the baton can be had, and puts it down again.
    fn run(self: Arc<Self>, worker: &mut Worker<'_>);
}

/// What a turn may use of the thread it runs on.
pub(crate) struct Worker<'a> {
    pub(crate) engine: &'a Engine,
    /// Ran ready during this turn and is best run next, on this core, while its
    /// messages are in the cache.
    next: Option<Arc<dyn Task>>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(engine: &'a Engine) -> Self {
        Self { engine, next: None }
    }

    /// Ready now: run it here next, or let another worker have what was to be
    /// next until now.
    pub(crate) fn submit(&mut self, task: Arc<dyn Task>) {
        if let Some(displaced) = self.next.replace(task) {
            self.engine.pool.submit(displaced);
        }
    }

    /// Still ready after its turn: behind everybody else, for fairness.
    pub(crate) fn requeue(&mut self, task: Arc<dyn Task>) {
        self.engine.pool.submit(task);
    }
}

/// Turns from the `next` slot before the ready queue has its turn again, so that
/// a topic and its lane can't keep a core to themselves.
const NEXT_IN_A_ROW: u32 = 8;
/// To a scheduler that may put anything between two looks, one says as much as all.
pub(super) const EXPLORED: bool = cfg!(any(millstream_loom, millstream_shuttle));
/// Yields before spinning: lets a little backlog form, which is cheaper to take
/// than single messages.
const YIELDS: u32 = if EXPLORED { 1 } else { 2 };
/// Looks at the ready queue before parking, some 20 to 50 µs in all.
const SPINS: u32 = if EXPLORED { 0 } else { 200 };
const PAUSES_PER_SPIN: u32 = 8;
/// Looks of a worker that never parks before it offers its core to others, which
/// costs half a microsecond.
const SPINS_BETWEEN_YIELDS: u32 = 4_096;

/// The workers of a broker; none for a manual engine.
pub(crate) struct Pool {
    /// Bounded by the number of topics, partitions, lanes, seats and buffers: each is on it at most
    /// once, but for entries made stale by a claim, which are passed over.
    ready: Unbounded<Arc<dyn Task>>,
    sleep: Sleep,
    stopping: AtomicBool,
    alive: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            ready: Unbounded::new(),
            sleep: Sleep::new(),
            stopping: AtomicBool::new(false),
            alive: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
        }
    }

    /// Starts the worker threads.
    pub(crate) fn start(
        engine: &Arc<Engine>,
        workers: usize,
        stack_size: Option<usize>,
    ) -> io::Result<()> {
        for number in 0..workers {
            let thread = Thread {
                name: format!("{}-{number}", engine.thread_name),
                stack_size,
            };
            let for_worker = Arc::clone(engine);
            engine.pool.alive.fetch_add(1, Ordering::Relaxed);
            match spawn(thread, move || for_worker.pool.work(&for_worker)) {
                Ok(handle) => engine.pool.threads.lock().push(handle),
                Err(error) => {
                    engine.pool.alive.fetch_sub(1, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts a task on the ready queue and wakes a worker if none is looking.
    pub(crate) fn submit(&self, task: Arc<dyn Task>) {
        self.ready.push(task);
        // ORDERING: `wake` fences, so either this load sees the stop or the `clear`
        // that comes after it and after the last worker sees the push.
        breakable!("pool: a task without a wake-up", self.sleep.wake());
        if self.stopping.load(Ordering::Relaxed) {
            self.clear();
        }
    }

    /// After the stop, lets go of what nobody will run any more: a task holds its
    /// topic, which holds the engine, which holds this queue. As long as somebody is
    /// at work it may be with just what the tasks are about, and runs them then.
    pub(crate) fn clear(&self) {
        // ORDERING: pairs with itself, and with the fence in `submit`, through `wake`:
        // who has stopped looks for workers, who has left looks for the stop, and who
        // has pushed looks for both.
        fence(Ordering::SeqCst);
        if self.stopping.load(Ordering::Relaxed) && self.alive() == 0 {
            while self.ready.pop().is_some() {}
        }
    }

    /// Counts the calling thread among the workers of a manual engine.
    pub(crate) fn enter<'e>(&self, engine: &'e Engine) -> AtWork<'e> {
        self.alive.fetch_add(1, Ordering::Relaxed);
        AtWork(engine)
    }

    /// Runs turns on the calling thread until none is ready; answers how many.
    /// `between` is called before each, and says whether to go on.
    pub(crate) fn run_ready(&self, engine: &Engine, mut between: impl FnMut() -> bool) -> usize {
        let mut worker = Worker::new(engine);
        let mut turns = 0;
        loop {
            if !between() {
                worker
                    .next
                    .take()
                    .into_iter()
                    .for_each(|next| self.submit(next));
                return turns;
            }
            let Some(task) = worker.next.take().or_else(|| self.ready.pop()) else {
                return turns;
            };
            run_turn(task, &mut worker);
            turns += 1;
        }
    }

    fn work(&self, engine: &Arc<Engine>) {
        let _inside = Inside::enter(engine);
        let _at_work = AtWork(engine);
        let mut worker = Worker::new(engine);
        let mut from_next = 0;
        while let Some(task) = self.take(&mut worker, &mut from_next) {
            run_turn(task, &mut worker);
        }
    }

    /// The next turn to run; `None` at the end.
    fn take(&self, worker: &mut Worker<'_>, from_next: &mut u32) -> Option<Arc<dyn Task>> {
        if let Some(task) = worker.next.take() {
            if *from_next < NEXT_IN_A_ROW {
                *from_next += 1;
                return Some(task);
            }
            self.submit(task);
        }
        *from_next = 0;
        if let Some(task) = self.ready.pop() {
            return Some(task);
        }
        let mut searching = self.sleep.search();
        loop {
            if searching && let Some(task) = self.look_around(worker.engine) {
                self.sleep.found(|| !self.ready.is_empty());
                return Some(task);
            }
            // ORDERING: pairs with the store in `stop`.
            if self.stopping.load(Ordering::Acquire) {
                if searching {
                    self.sleep.found(|| true);
                } else {
                    self.sleep.wake();
                }
                return None;
            }
            worker.engine.stillness.look();
            self.sleep.sleep(searching, || {
                !self.ready.is_empty() || self.stopping.load(Ordering::Acquire)
            });
            searching = true;
        }
    }

    /// Waits for work without sleeping: for a while, or for as long as it takes if
    /// the broker's workers spin.
    fn look_around(&self, engine: &Engine) -> Option<Arc<dyn Task>> {
        for _ in 0..YIELDS {
            yield_now();
            if let Some(task) = self.ready.pop() {
                return Some(task);
            }
        }
        match engine.idle {
            Idle::Park => self.spin(SPINS, PAUSES_PER_SPIN),
            Idle::Spin => loop {
                // Others may have waited for what this worker did last, and for
                // its core.
                engine.stillness.look();
                let found = self.spin(SPINS_BETWEEN_YIELDS, 1);
                if found.is_some() || self.stopping.load(Ordering::Relaxed) {
                    return found;
                }
                yield_now();
            },
        }
    }

    fn spin(&self, looks: u32, pauses: u32) -> Option<Arc<dyn Task>> {
        for _ in 0..looks {
            for _ in 0..pauses {
                pause();
            }
            if !self.ready.is_empty() {
                return self.ready.pop();
            }
            if self.stopping.load(Ordering::Relaxed) {
                return None;
            }
        }
        None
    }

    /// Lets the workers end after what they run now.
    pub(crate) fn stop(&self) {
        // ORDERING: pairs with the loads in `take`.
        self.stopping.store(true, Ordering::Release);
        breakable!("pool: a stop without a wake-up", self.sleep.wake_all());
    }

    /// Worker threads that have not ended; on a manual engine, threads that run it.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// Waits for the threads; call it when none is [`alive`](Self::alive), or
    /// let go of those that are stuck in a handler with [`abandon`](Self::abandon).
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A worker contains every panic, so there is none to report here.
            let _ = thread.join();
        }
    }

    pub(crate) fn abandon(&self) {
        self.threads.lock().clear();
    }
}

/// A worker that is counted, until it leaves.
pub(crate) struct AtWork<'e>(&'e Engine);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        // ORDERING: what this worker did last is visible to who sees it gone.
        self.0.pool.alive.fetch_sub(1, Ordering::Release);
        self.0.pool.clear();
        self.0.stillness.look();
    }
}

/// Runs one turn. User code is contained where it is called; this is the wall
/// behind that, so that even a bug of ours costs one turn and not a worker.
fn run_turn(task: Arc<dyn Task>, worker: &mut Worker<'_>) {
    let _ = contain(|| task.run(worker));
}
