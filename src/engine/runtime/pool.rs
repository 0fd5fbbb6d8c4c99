//! Worker threads, and the queue of tasks that are ready to run.

use std::io;

use crate::engine::base::contain::contain;
use crate::engine::base::loans::Loans;
use crate::engine::base::sleep::Sleep;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{
    Arc, JoinHandle, Mutex, Thread, Unbounded, fence, mutant, pause, spawn, yield_now,
};
use crate::types::config::Idle;

/// A task that a worker runs for a turn: a topic, a partition of one, a lane, a slot or a buffer
/// that has lingered. A buffer has a lock, and the others have a task state.
pub(crate) trait Task: Send + Sync {
    /// Runs one turn, unless somebody else runs the task.
    fn run(self: Arc<Self>, worker: &mut Worker<'_>);

    /// Returns whether a worker that keeps it should run it now.
    fn has_news(&self) -> bool {
        false
    }

    /// Returns whether its worker is likely to be back soon if it runs it.
    fn is_brisk(&self) -> bool {
        false
    }
}

/// The step that follows a turn of a topic, or of a partition of one.
#[must_use]
pub(crate) enum After {
    /// The task rests.
    Rest,
    /// The task goes back on the ready queue.
    Requeue,
    /// The task was lent: its worker keeps it, and runs it again.
    Keep { has_news: bool },
}

/// The state of the thread that a turn runs on.
pub(crate) struct Worker<'a> {
    pub(crate) engine: &'a Engine,
    /// The pool whose tasks it runs.
    pool: &'a Pool,
    /// A task that became ready during this turn. It is best run next, on this core, while its
    /// messages are in the cache.
    next: Option<Arc<dyn Task>>,
    /// The worker's place among the pool's threads, if it is one of them.
    number: Option<usize>,
    /// The worker has had more to do than what it was woken for.
    is_busy: bool,
    /// The worker has written down a loan, which somebody may have taken since.
    keeps: bool,
    /// Searches in a row that found nothing.
    vain_searches: u32,
}

impl<'a> Worker<'a> {
    /// Makes a worker that keeps nothing, for a caller that runs a turn and goes.
    pub(crate) fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            pool: &engine.pool,
            next: None,
            number: None,
            is_busy: false,
            keeps: false,
            vain_searches: 0,
        }
    }

    /// Submits a task that is ready now. If its home is the default pool, it runs here next, and
    /// another worker gets the task that was next until now.
    pub(crate) fn submit(&mut self, home: Home, task: Arc<dyn Task>) {
        if home != Home::DEFAULT {
            return self.engine.pool_of(home).submit(task);
        }
        if let Some(displaced) = self.next.replace(task) {
            self.pool.submit(displaced);
        }
    }

    /// Puts a task that is still ready behind all others, for fairness.
    pub(crate) fn requeue(&mut self, task: Arc<dyn Task>) {
        self.pool.submit(task);
    }

    /// Returns whether it may keep a topic that it found dry. It may not if other tasks wait, or if
    /// it may be away for long.
    pub(crate) fn may_keep(&self) -> bool {
        KEEPS
            && self.number.is_some()
            && self.is_busy
            && !self.keeps
            && self.next.as_ref().is_none_or(|next| next.is_brisk())
            && self.pool.ready.is_empty()
    }

    /// Puts a task down after its turn.
    pub(crate) fn put_down(&mut self, task: Arc<dyn Task>, then: After) {
        match (then, self.number) {
            (After::Rest, _) => {}
            (After::Keep { has_news }, Some(number)) => {
                self.keeps = true;
                if self.pool.loans.lend(number, task, has_news) {
                    self.engine.timer.watch(&self.engine.clock, WATCH_NS);
                }
            }
            (After::Requeue | After::Keep { .. }, _) => self.requeue(task),
        }
    }

    /// Takes back the task that it keeps, if there is news of it.
    fn take_news(&mut self) -> Option<Arc<dyn Task>> {
        let number = self.number.filter(|_| self.keeps)?;
        let loans = &self.pool.loans;
        let kept = loans.take_back_if(number, |kept| kept.has_news());
        self.keeps = kept.is_none();
        kept
    }

    /// Puts down the task that it keeps, after a last look.
    fn settle(&mut self) {
        let Some(number) = self.number.filter(|_| self.keeps) else {
            return;
        };
        self.keeps = false;
        if let Some(kept) = self.pool.loans.take_back(number) {
            let is_busy = std::mem::take(&mut self.is_busy);
            run_turn(kept, self);
            self.is_busy = is_busy;
        }
    }
}

/// Turns of tasks that are next, or kept, before the ready queue has its turn again. So a topic and
/// its lane can't keep a core to themselves.
const NEXT_IN_A_ROW: u32 = 8;
/// Whether the scheduler explores: it may put anything between two looks, so one look is enough.
pub(crate) const EXPLORED: bool = cfg!(any(millstream_loom, millstream_shuttle));
/// Whole brokers with loans have more interleavings than loom can explore: it models the parts, and
/// shuttle the whole.
const KEEPS: bool = !cfg!(millstream_loom);
/// Looks for work before parking, some 30 µs in all, and some 60 where that pays.
const LOOKS: u32 = if EXPLORED { 1 } else { 400 };
const MORE_LOOKS: u32 = if EXPLORED { 1 } else { 1_000 };
const PAUSES: u32 = if EXPLORED { 1 } else { 4 };
/// The rate of long searches among those that find nothing: one in this many.
const LONG_ONE_IN: u32 = 8;
/// Looks before a worker offers its core to others, which costs half a microsecond.
const LOOKS_BETWEEN_YIELDS: u32 = 64;
/// Looks of a worker that never parks, before it offers its core. It looks without a pause.
const SPINS_BETWEEN_YIELDS: u32 = 4_096;
/// How often the watch over the loans comes by. It takes a loan that it has seen twice, in less
/// than a millisecond.
const WATCH_NS: u64 = 400_000;

/// The pool on whose workers a task runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Home(u16);

impl Home {
    /// The broker's own workers, or the caller's thread on a manual engine.
    pub(crate) const DEFAULT: Self = Self(0);
}

/// A pool beside the default one, for the handlers of some subscriptions.
pub(crate) struct NamedPool {
    pub(crate) name: Arc<str>,
    pub(crate) workers: usize,
    pub(crate) pool: Pool,
}

impl Engine {
    /// Returns the pool whose workers run the tasks of this home.
    pub(crate) fn pool_of(&self, home: Home) -> &Pool {
        let at = usize::from(home.0).checked_sub(1);
        let named = at.and_then(|at| self.pools.get(at));
        named.map_or(&self.pool, |named| &named.pool)
    }

    /// Returns the home of handlers in the pool with this name. On a manual engine, the caller's
    /// thread runs them all.
    pub(crate) fn home_named(&self, name: &str) -> Option<Home> {
        let at = self.pools.iter().position(|named| *named.name == *name)?;
        match self.is_manual() {
            true => Some(Home::DEFAULT),
            false => u16::try_from(at + 1).ok().map(Home),
        }
    }

    fn all_pools(&self) -> impl Iterator<Item = &Pool> {
        let named = self.pools.iter().map(|named| &named.pool);
        named.chain([&self.pool])
    }

    /// Returns the worker threads that have not ended; on a manual engine, the threads that run it.
    pub(crate) fn alive(&self) -> usize {
        self.all_pools().map(Pool::alive).sum()
    }

    /// Lets all workers end after their present turn.
    pub(crate) fn stop_pools(&self) {
        self.all_pools().for_each(Pool::stop);
    }

    /// Waits for the threads, when none is [`alive`](Self::alive), or lets go of those that are
    /// stuck in a handler. Tasks that nobody will run any more are let go of.
    pub(crate) fn end_pools(&self, all_gone: bool) {
        for pool in self.all_pools() {
            match all_gone {
                true => pool.join(),
                false => pool.abandon(),
            }
            pool.clear();
        }
    }
}

/// The workers of a broker, or of one of its named pools; none for a manual engine.
pub(crate) struct Pool {
    /// Bounded by the number of topics, partitions, lanes, slots and buffers: each is on it at most
    /// once. Entries made stale by a claim or by the end of a loan come on top, and are passed
    /// over.
    ready: Unbounded<Arc<dyn Task>>,
    loans: Loans<Arc<dyn Task>>,
    sleep: Sleep,
    idle: Idle,
    stopping: AtomicBool,
    alive: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    pub(crate) fn new(workers: usize, idle: Idle) -> Self {
        Self {
            ready: Unbounded::new(),
            loans: Loans::new(workers),
            sleep: Sleep::new(),
            idle,
            stopping: AtomicBool::new(false),
            alive: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
        }
    }

    /// Starts the worker threads of all pools.
    pub(crate) fn start_all(
        engine: &Arc<Engine>,
        workers: usize,
        stack_size: Option<usize>,
    ) -> io::Result<()> {
        let name = &engine.thread_name;
        Self::start(engine, Home::DEFAULT, name, workers, stack_size)?;
        for (at, named) in (1..).zip(&engine.pools) {
            let name = format!("{name}-{}", named.name);
            Self::start(engine, Home(at), &name, named.workers, stack_size)?;
        }
        Ok(())
    }

    fn start(
        engine: &Arc<Engine>,
        home: Home,
        name: &str,
        workers: usize,
        stack_size: Option<usize>,
    ) -> io::Result<()> {
        let pool = engine.pool_of(home);
        for number in 0..workers {
            let thread = Thread {
                name: format!("{name}-{number}"),
                stack_size,
            };
            let for_worker = Arc::clone(engine);
            pool.alive.fetch_add(1, Ordering::Relaxed);
            let work = move || for_worker.pool_of(home).work(&for_worker, number);
            match spawn(thread, work) {
                Ok(handle) => pool.threads.lock().push(handle),
                Err(error) => {
                    pool.alive.fetch_sub(1, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts a task on the ready queue and wakes a worker if none is looking.
    pub(crate) fn submit(&self, task: Arc<dyn Task>) {
        self.ready.push(task);
        // ORDERING: `wake` fences. So either this load sees the stop, or the `clear` that comes
        // after it and after the last worker sees the push.
        mutant!(self.sleep.wake(), "pool.submit-wake");
        if self.stopping.load(Ordering::Relaxed) {
            self.clear();
        }
    }

    /// Lets go of tasks that nobody will run any more, after the stop. A task holds its topic,
    /// which holds the engine, which holds this queue. As long as a worker is alive it may be at
    /// work on just these tasks, and then runs them.
    fn clear(&self) {
        // ORDERING: pairs with itself, and with the fence in `submit`, through `wake`. A thread
        // that has stopped looks for workers. A worker that has left looks for the stop. A thread
        // that has pushed looks for both.
        fence(Ordering::SeqCst);
        if self.stopping.load(Ordering::Relaxed) && self.alive() == 0 {
            while self.ready.pop().is_some() {}
        }
    }

    /// Counts the calling thread among the workers of a manual engine.
    pub(crate) fn enter<'e>(&'e self, engine: &'e Engine) -> AtWork<'e> {
        self.alive.fetch_add(1, Ordering::Relaxed);
        AtWork { engine, pool: self }
    }

    /// Returns whether no turn is ready.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Runs turns on the calling thread until none is ready; returns how many. `between` is called
    /// before each, and says whether to go on.
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

    fn work(&self, engine: &Arc<Engine>, number: usize) {
        let _inside = Inside::enter(engine);
        let _at_work = AtWork { engine, pool: self };
        let mut worker = Worker {
            pool: self,
            number: Some(number),
            ..Worker::new(engine)
        };
        let mut from_next = 0;
        while let Some(task) = self.take(&mut worker, &mut from_next) {
            run_turn(task, &mut worker);
        }
    }

    /// Takes the next task to run; `None` at the end.
    fn take(&self, worker: &mut Worker<'_>, from_next: &mut u32) -> Option<Arc<dyn Task>> {
        if *from_next < NEXT_IN_A_ROW {
            *from_next += 1;
            if let Some(task) = worker.next.take().or_else(|| worker.take_news()) {
                return Some(task);
            }
        } else if let Some(next) = worker.next.take() {
            self.submit(next);
        }
        *from_next = 0;
        worker.is_busy = true;
        if let Some(task) = self.ready.pop() {
            // Other tasks wait, so the task it keeps rests, or gets in line.
            worker.settle();
            return Some(task);
        }
        let mut searching = self.sleep.search();
        loop {
            if searching && let Some(task) = self.look_around(worker) {
                self.sleep.found(|| !self.ready.is_empty());
                worker.settle();
                return Some(task);
            }
            if worker.keeps {
                // A turn may take long, and this worker is not in search of any other.
                if std::mem::take(&mut searching) {
                    self.sleep.found(|| !self.ready.is_empty());
                }
                worker.settle();
                if let Some(task) = worker.next.take().or_else(|| self.ready.pop()) {
                    return Some(task);
                }
                if self.idle == Idle::Spin {
                    searching = self.sleep.search();
                    continue;
                }
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
            worker.engine.quiescence.notify();
            self.sleep.sleep(searching, || {
                !self.ready.is_empty() || self.stopping.load(Ordering::Acquire)
            });
            searching = true;
            // Where work is so rare, the watch would cost more than waking others.
            worker.is_busy = false;
        }
    }

    /// Waits for work, and for news of the task that the worker keeps, without sleeping. It waits
    /// for a while, or without end if the broker's workers spin and it keeps nothing.
    fn look_around(&self, worker: &mut Worker<'_>) -> Option<Arc<dyn Task>> {
        if self.idle == Idle::Spin && !worker.keeps {
            return self.spin(worker.engine);
        }
        let looks = match worker.vain_searches % LONG_ONE_IN {
            0 => MORE_LOOKS,
            _ => LOOKS,
        };
        for look in 1..=looks {
            if look % LOOKS_BETWEEN_YIELDS == 0 {
                if self.stopping.load(Ordering::Relaxed) {
                    return None;
                }
                // Others may have waited for this worker's last turn, and for its core.
                worker.engine.quiescence.notify();
                yield_now();
            } else {
                (0..PAUSES).for_each(|_| pause());
            }
            if let Some(task) = self.ready.pop().or_else(|| worker.take_news()) {
                if worker.is_busy {
                    worker.vain_searches = 0;
                }
                return Some(task);
            }
        }
        worker.vain_searches += 1;
        None
    }

    /// Waits for work for as long as it takes.
    fn spin(&self, engine: &Engine) -> Option<Arc<dyn Task>> {
        loop {
            for _ in 0..SPINS_BETWEEN_YIELDS {
                pause();
                if !self.ready.is_empty()
                    && let Some(task) = self.ready.pop()
                {
                    return Some(task);
                }
                if self.stopping.load(Ordering::Relaxed) {
                    return None;
                }
            }
            engine.quiescence.notify();
            yield_now();
        }
    }

    /// Takes tasks that workers have lent for too long, and says when to come again.
    pub(crate) fn watch(&self, engine: &Engine) {
        if self.loans.watch(|task| self.submit(task)) {
            engine.timer.watch(&engine.clock, WATCH_NS);
        }
    }

    fn stop(&self) {
        // ORDERING: pairs with the loads in `take`.
        self.stopping.store(true, Ordering::Release);
        mutant!(self.sleep.wake_all(), "pool.stop-wake");
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A worker contains every panic, so there is none to report here.
            let _ = thread.join();
        }
    }

    fn abandon(&self) {
        self.threads.lock().clear();
    }
}

/// A worker that is counted, until it leaves.
pub(crate) struct AtWork<'e> {
    engine: &'e Engine,
    pool: &'e Pool,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        // ORDERING: release, so that a thread that sees this worker gone sees its last work.
        self.pool.alive.fetch_sub(1, Ordering::Release);
        self.pool.clear();
        self.engine.quiescence.notify();
    }
}

/// Runs one turn. User code is contained where it is called. This is the wall behind that, so that
/// even a bug of ours costs one turn and not a worker.
fn run_turn(task: Arc<dyn Task>, worker: &mut Worker<'_>) {
    let _ = contain(|| task.run(worker));
}
