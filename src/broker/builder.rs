//! The settings of a broker to be built.

use crate::broker::{Broker, Owner};
use crate::engine::base::cell::Cell;
use crate::engine::base::clock::{Clock, ManualClock};
use crate::engine::base::contain::{share_policy, share_strategy};
use crate::engine::registry::drain::Outcome;
use crate::engine::runtime::Engine;
use crate::engine::runtime::bus::Bus;
#[cfg(feature = "async")]
use crate::engine::runtime::poll_hook::PollHook;
use crate::engine::runtime::pool::{NamedPool, Pool};
use crate::engine::runtime::timer::Timer;
use crate::engine::wait::holds::Holds;
use crate::engine::wait::quiescence::Quiescence;
use crate::pure::policy::retry::Backoff;
use crate::pure::policy::strategy::Immediate;
use crate::pure::words::ending::Ending;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, Map, Mutex, Slot, available_parallelism, random_seed};
use crate::types::config::{Histograms, Idle};
use crate::types::error::{BuildError, SettingError};
use crate::types::name;
use crate::types::range::{MAX_WORKERS, in_range_of_threads};

/// The settings of a [`Broker`] to be built.
///
/// Set the ones that you care about, then call [`build`](Self::build), which checks all of them at
/// once.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct BrokerBuilder {
    workers: Option<usize>,
    pools: Vec<(String, usize)>,
    thread_name: String,
    stack_size: Option<usize>,
    clock: Option<ManualClock>,
    event_buffer: usize,
    idle: Idle,
    histograms: Histograms,
    seed: Option<u64>,
    #[cfg(feature = "async")]
    poll_hook: Option<PollHook>,
    #[cfg(feature = "log")]
    store: Option<crate::log::store::Store>,
}

/// The default number of records that may wait for their observers.
///
/// They are enough for a burst of a few milliseconds, and take half a megabyte, allocated with the
/// first observer. A record that is not of a single published message takes some 140 bytes more. If
/// the ids of its messages don't follow each other, each takes 8 bytes.
const DEFAULT_EVENT_BUFFER: usize = 8_192;
/// The most pools that a broker has, besides its own workers.
const MAX_POOLS: usize = 1_024;
/// The most records that a channel may sensibly hold.
const MAX_EVENT_BUFFER: usize = 1 << 24;

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            workers: None,
            pools: Vec::new(),
            thread_name: "millstream".to_owned(),
            stack_size: None,
            clock: None,
            event_buffer: DEFAULT_EVENT_BUFFER,
            idle: Idle::default(),
            histograms: Histograms::default(),
            seed: None,
            #[cfg(feature = "async")]
            poll_hook: None,
            #[cfg(feature = "log")]
            store: None,
        }
    }
}

impl BrokerBuilder {
    /// Sets the number of worker threads, at most 1,024. The default is one per core.
    ///
    /// With zero there are none, and the caller runs everything with [`Broker::run_until_idle`].
    pub fn workers(self, workers: usize) -> Self {
        Self {
            workers: Some(workers),
            ..self
        }
    }

    /// Adds a pool of worker threads of its own, for the handlers of some subscriptions.
    ///
    /// A subscription asks for it by [`pool`](crate::SubscriptionBuilder::pool). Handlers there that
    /// block keep only the workers of their pool. All other handlers, and the dispatch of all
    /// topics, run on the broker's own [`workers`](Self::workers). There is no pool by default.
    ///
    /// The name follows the rules of topics, and each pool needs another. The pool has 1 to 1,024
    /// workers. With `workers(0)` it has 0, because the caller runs everything. A thread's name has
    /// the name of its pool in it, as in `millstream-mail-0`. Idle workers of a pool park, whatever
    /// [`idle`](Self::idle) says.
    ///
    /// ```
    /// use millstream::{Broker, Delivery};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::builder().workers(2).pool("mail", 4).build()?;
    /// let mails = broker.topic::<String>("mails").open()?;
    /// let sender = mails
    ///     .subscription("sender")
    ///     .pool("mail")
    ///     .concurrency(4)
    ///     .subscribe_shared(|mail: &Delivery<'_, String>| {
    ///         std::thread::sleep(std::time::Duration::from_millis(10)); // a slow server
    ///         Ok(println!("sent {}", mail.payload()))
    ///     })?;
    /// mails.publish("hello".to_owned())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn pool(mut self, name: &str, workers: usize) -> Self {
        self.pools.push((name.to_owned(), workers));
        self
    }

    /// Sets the prefix of the threads' names. The default is `millstream`.
    pub fn thread_name(self, prefix: impl Into<String>) -> Self {
        Self {
            thread_name: prefix.into(),
            ..self
        }
    }

    /// Sets the stack size of each worker, in bytes.
    ///
    /// The default is the platform's for threads, which is 2 MiB. The stack must hold about twenty
    /// of the largest payload by value, besides the needs of handlers. Twenty of
    /// [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) take less than half of 2 MiB.
    pub fn stack_size(self, bytes: usize) -> Self {
        Self {
            stack_size: Some(bytes),
            ..self
        }
    }

    /// Sets a clock that is moved by hand, which needs `workers(0)`.
    ///
    /// It makes every retry and linger deterministic. For jitter, set a [`seed`](Self::seed), too.
    pub fn manual_clock(self, clock: &ManualClock) -> Self {
        Self {
            clock: Some(clock.clone()),
            ..self
        }
    }

    /// Sets how many records of events may wait for their observers before some are missed.
    ///
    /// It is at least 1, and 8,192 by default. A record holds one event, or the same event of up to
    /// 64 neighboring messages. Up to 64 more records are in the hands of the observers' thread.
    pub fn event_buffer(self, records: usize) -> Self {
        Self {
            event_buffer: records,
            ..self
        }
    }

    /// Sets what idle workers do: park, or spin for lower latency. The default is [`Idle::Park`].
    pub fn idle(self, idle: Idle) -> Self {
        Self { idle, ..self }
    }

    /// Sets whether latencies are recorded. The default is [`Histograms::On`].
    pub fn histograms(self, histograms: Histograms) -> Self {
        Self { histograms, ..self }
    }

    /// Sets the seed of [`Backoff::jitter`](crate::Backoff::jitter) and
    /// [`FailedAttempt::random`](crate::retry::FailedAttempt::random).
    ///
    /// The default is a random number, so that processes that fail together don't come back
    /// together. With the same seed, the same messages that fail alike get the same delays, on any
    /// number of threads. That is for tests, and to repeat a run.
    pub fn seed(self, seed: u64) -> Self {
        Self {
            seed: Some(seed),
            ..self
        }
    }

    /// Sets a function around the polls of async handlers, which enters a runtime for them.
    ///
    /// The broker's workers poll the futures of
    /// [`subscribe_async`](crate::SubscriptionBuilder::subscribe_async). A timer or socket of tokio
    /// panics there, because its runtime is not entered. With this hook it works:
    ///
    /// ```
    /// use millstream::Broker;
    /// use std::time::Duration;
    ///
    /// # async fn send(_: u32) -> Result<(), std::io::Error> { Ok(()) }
    /// #[tokio::main(flavor = "multi_thread", worker_threads = 1)]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let runtime = tokio::runtime::Handle::current();
    ///     let broker = Broker::builder()
    ///         .around_polls(move |poll| {
    ///             let _entered = runtime.enter();
    ///             poll();
    ///         })
    ///         .build()?;
    ///     let mails = broker.topic::<u32>("mails").open()?;
    ///     let sender = mails.subscription("sender").concurrency(8).subscribe_async(async |mail| {
    ///         tokio::time::timeout(Duration::from_secs(5), send(*mail.payload())).await??;
    ///         Ok(())
    ///     })?;
    ///     sender.detach();
    ///     mails.publish_async(7).await?;
    ///     println!("{}", broker.drain_async(Duration::from_secs(5)).await?);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The hook is called around each call of an async handler, each poll of its future, and the
    /// drop of the future. It must call its argument once, on the same thread. If it panics or
    /// doesn't call it, the attempt has failed, as if the handler had panicked. Other kinds of
    /// handlers are called without it.
    ///
    /// The runtime's own threads must run, because they turn its timers and sockets. A runtime of
    /// the flavor `current_thread` does so only inside its `block_on`.
    ///
    /// By default there is no hook, and nothing is paid for it. Futures of async-std, of smol and of
    /// channels need none.
    #[cfg(feature = "async")]
    pub fn around_polls(self, hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        Self {
            poll_hook: Some(PollHook::new(hook)),
            ..self
        }
    }

    /// Sets the store for the broker's durable topics (feature `log`).
    ///
    /// It is closed when its last clone has gone, and the broker.
    #[cfg(feature = "log")]
    pub fn store(self, store: crate::log::store::Store) -> Self {
        Self {
            store: Some(store),
            ..self
        }
    }

    /// Checks the settings and starts the threads.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Invalid`] for a setting out of range or without effect. Returns
    /// [`BuildError::Spawn`] if the system refuses a thread.
    pub fn build(self) -> Result<Broker, BuildError> {
        self.build_in(std::process::id())
    }

    fn build_in(self, process: u32) -> Result<Broker, BuildError> {
        let workers = self.workers.unwrap_or_else(available_parallelism);
        self.check(workers)?;
        let clock = match self.clock {
            Some(clock) => Clock::Manual(clock),
            None => Clock::monotonic(),
        };
        let pools = self.pools.iter().map(|(name, workers)| NamedPool {
            name: Arc::from(&**name),
            workers: *workers,
            pool: Pool::new(*workers, Idle::Park),
        });
        let pools = pools.collect();
        let engine = Arc::new(Engine {
            timer: Timer::new(&clock),
            clock,
            pool: Pool::new(workers, self.idle),
            pools,
            bus: Bus::new(self.event_buffer),
            quiescence: Quiescence::new(),
            topics: Map::new(),
            pattern_subs: Mutex::new(Vec::new()),
            retired_topics: Mutex::new(Vec::new()),
            pauses: Holds::new(),
            removed: Mutex::new(None),
            strategy: Slot::new(share_strategy(Immediate)),
            retry: share_policy(Backoff::default()),
            seed: self.seed.unwrap_or_else(random_seed),
            next_run: Mutex::new(Vec::new()),
            ending: Cell::new(Ending::Running),
            cancelled_by_end: AtomicU64::new(0),
            process,
            workers,
            histograms: self.histograms,
            thread_name: self.thread_name,
            #[cfg(feature = "async")]
            poll_hook: self.poll_hook,
            #[cfg(feature = "log")]
            store: self.store,
        });
        // From here on, giving up drops the owner, which stops the threads that have started.
        let owner = Owner {
            engine: Arc::clone(&engine),
            outcome: Outcome::default(),
        };
        if workers > 0 {
            Timer::start(&engine).map_err(BuildError::Spawn)?;
            Pool::start_all(&engine, workers, self.stack_size).map_err(BuildError::Spawn)?;
        }
        Ok(Broker {
            owner: Arc::new(owner),
        })
    }

    fn check(&self, workers: usize) -> Result<(), SettingError> {
        if workers > MAX_WORKERS {
            let rule = "must be at most 1024";
            return Err(SettingError::new("workers", workers, rule));
        }
        if workers > 0 && self.clock.is_some() {
            let rule = "must be 0 with a manual clock, which threads can't sleep by";
            return Err(SettingError::new("workers", workers, rule));
        }
        if workers == 0 && self.stack_size.is_some() {
            let rule = "must be at least 1 for a stack size to have an effect";
            return Err(SettingError::new("workers", workers, rule));
        }
        if workers == 0 && self.idle == Idle::Spin {
            let rule = "must be at least 1 for a way to be idle to have an effect";
            return Err(SettingError::new("workers", workers, rule));
        }
        self.check_pools(workers)?;
        if self.thread_name.contains('\0') {
            let rule = "must not contain a NUL";
            return Err(SettingError::new("thread_name", "malformed", rule));
        }
        if !(1..=MAX_EVENT_BUFFER).contains(&self.event_buffer) {
            let rule = "must be between 1 and 16777216";
            return Err(SettingError::new("event_buffer", self.event_buffer, rule));
        }
        Ok(())
    }

    fn check_pools(&self, workers: usize) -> Result<(), SettingError> {
        let refuse = |value: &str, rule| Err(SettingError::new("pool", value, rule));
        if self.pools.len() > MAX_POOLS {
            return refuse("one too many", "must be one of at most 1024");
        }
        for (at, (name, asked)) in self.pools.iter().enumerate() {
            if name::check(name).is_err() {
                return refuse(name, "must have a name as topics do");
            }
            if self.pools.iter().take(at).any(|(other, _)| other == name) {
                return refuse(name, "must have another name than the pools before it");
            }
            if workers > 0 {
                in_range_of_threads("pool", *asked)?;
            } else if *asked > 0 {
                let rule =
                    "must have 0 workers with `workers(0)`, where the caller runs everything";
                return Err(SettingError::new("pool", *asked, rule));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::error::DrainError;

    #[test]
    fn in_a_forked_child_nobody_waits_for_threads_that_stayed_behind() {
        // No process has this number.
        let build = || Broker::builder().workers(1).build_in(u32::MAX);
        let broker = build().expect("there are threads to spare");
        let engine = Arc::clone(&broker.owner.engine);
        drop(broker);
        assert_eq!(engine.alive(), 1, "a drop has ended the parent's thread");

        let broker = build().expect("there are threads to spare");
        let topic = broker.topic::<u32>("t").open().expect("opens");
        topic
            .publish_after(std::time::Duration::MAX, 1)
            .expect("there is room");
        let drained = broker.drain(std::time::Duration::MAX);
        let Err(DrainError::Incomplete(report)) = drained else {
            panic!("{drained:?} of a broker without its threads");
        };
        assert_eq!((report.published, report.cut_off), (1, 1));
        assert_eq!(broker.owner.engine.alive(), 1);
    }
}
