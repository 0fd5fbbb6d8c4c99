//! Building a broker.

use crate::broker::{Broker, Owner};
use crate::engine::base::cell::Cell;
use crate::engine::base::clock::{Clock, ManualClock};
use crate::engine::base::contain::{share_policy, share_strategy};
use crate::engine::registry::drain::Outcome;
use crate::engine::runtime::Engine;
use crate::engine::runtime::bus::Bus;
use crate::engine::runtime::pool::Pool;
use crate::engine::runtime::timer::Timer;
use crate::engine::wait::quiescence::Quiescence;
use crate::pure::decide::retry::Backoff;
use crate::pure::decide::strategy::Immediate;
use crate::pure::words::ending::Ending;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, Map, Mutex, Slot, available_parallelism, random_seed};
use crate::types::config::{Histograms, Idle};
use crate::types::error::{BuildError, InvalidSetting};
use crate::types::range::MAX_WORKERS;

/// Builds a [`Broker`]. A value: set what you care about, then
/// [`build`](Self::build), where everything is checked at once.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct BrokerBuilder {
    workers: Option<usize>,
    thread_name: String,
    stack_size: Option<usize>,
    clock: Option<ManualClock>,
    event_buffer: usize,
    idle: Idle,
    histograms: Histograms,
    seed: Option<u64>,
}

/// Records that may wait for their observers: enough for a burst of a few
/// milliseconds, half a megabyte, allocated with the first observer, and what is not of a
/// message that was published alone: some 140 bytes each, and 8 for each id where those of
/// several don't follow each other.
const DEFAULT_EVENT_BUFFER: usize = 8_192;
/// What a channel of that many records may sensibly take.
const MAX_EVENT_BUFFER: usize = 1 << 24;

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            workers: None,
            thread_name: "millstream".to_owned(),
            stack_size: None,
            clock: None,
            event_buffer: DEFAULT_EVENT_BUFFER,
            idle: Idle::default(),
            histograms: Histograms::default(),
            seed: None,
        }
    }
}

impl BrokerBuilder {
    /// Worker threads; at most 1,024. Default: one per core. Zero: none, the
    /// caller runs everything with [`Broker::run_until_idle`].
    pub fn workers(self, workers: usize) -> Self {
        Self {
            workers: Some(workers),
            ..self
        }
    }

    /// What the threads' names begin with. Default `millstream`.
    pub fn thread_name(self, prefix: impl Into<String>) -> Self {
        Self {
            thread_name: prefix.into(),
            ..self
        }
    }

    /// Stack of each worker, in bytes. Default: the platform's for threads, which is
    /// 2 MiB. It must hold about twenty of the largest payload by value, besides what
    /// handlers need. Twenty of [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) take less than half of
    /// 2 MiB.
    pub fn stack_size(self, bytes: usize) -> Self {
        Self {
            stack_size: Some(bytes),
            ..self
        }
    }

    /// A clock that is moved by hand; only with `workers(0)`, where it makes
    /// every retry and linger deterministic; jitter takes a [`seed`](Self::seed), too.
    pub fn manual_clock(self, clock: &ManualClock) -> Self {
        Self {
            clock: Some(clock.clone()),
            ..self
        }
    }

    /// Records of events that may wait for their observers before some are missed;
    /// at least 1. Default 8,192. A record holds one event, or those of up to 64
    /// neighbors to which the same happened at once. Up to 64 more are in the hands of
    /// the observers' thread.
    pub fn event_buffer(self, records: usize) -> Self {
        Self {
            event_buffer: records,
            ..self
        }
    }

    /// What workers without work do: park, or spin for the sake of latency.
    /// Default [`Idle::Park`].
    pub fn idle(self, idle: Idle) -> Self {
        Self { idle, ..self }
    }

    /// Whether latencies are recorded. Default [`Histograms::On`].
    pub fn histograms(self, histograms: Histograms) -> Self {
        Self { histograms, ..self }
    }

    /// What the delays of [`Backoff::jitter`](crate::Backoff::jitter) are drawn from, and
    /// [`FailedAttempt::random`](crate::FailedAttempt::random). Default: a random
    /// number, so that processes that fail together don't come back together.
    ///
    /// With the same number, the same messages that fail alike get the same delays, on any
    /// number of threads: for tests, and to repeat a run.
    pub fn seed(self, seed: u64) -> Self {
        Self {
            seed: Some(seed),
            ..self
        }
    }

    /// Checks the settings and starts the threads.
    ///
    /// # Errors
    ///
    /// [`BuildError::Invalid`] for a setting out of range or without effect, and
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
        let engine = Arc::new(Engine {
            timer: Timer::new(&clock),
            clock,
            pool: Pool::new(workers),
            bus: Bus::new(self.event_buffer),
            quiescence: Quiescence::new(),
            topics: Map::new(),
            pattern_subs: Mutex::new(Vec::new()),
            retired_topics: Mutex::new(Vec::new()),
            removed: Mutex::new(None),
            strategy: Slot::new(share_strategy(Immediate)),
            retry: share_policy(Backoff::default()),
            seed: self.seed.unwrap_or_else(random_seed),
            next_run: Mutex::new(Vec::new()),
            ending: Cell::new(Ending::Running),
            cancelled_by_end: AtomicU64::new(0),
            process,
            workers,
            idle: self.idle,
            histograms: self.histograms,
            thread_name: self.thread_name,
        });
        // From here on, giving up drops the owner, which stops what has started.
        let owner = Owner {
            engine: Arc::clone(&engine),
            outcome: Outcome::default(),
        };
        if workers > 0 {
            Timer::start(&engine).map_err(BuildError::Spawn)?;
            Pool::start(&engine, workers, self.stack_size).map_err(BuildError::Spawn)?;
        }
        Ok(Broker {
            owner: Arc::new(owner),
        })
    }

    fn check(&self, workers: usize) -> Result<(), InvalidSetting> {
        if workers > MAX_WORKERS {
            let rule = "must be at most 1024";
            return Err(InvalidSetting::new("workers", workers, rule));
        }
        if workers > 0 && self.clock.is_some() {
            let rule = "must be 0 with a manual clock, which threads can't sleep by";
            return Err(InvalidSetting::new("workers", workers, rule));
        }
        if workers == 0 && self.stack_size.is_some() {
            let rule = "must be at least 1 for a stack size to have an effect";
            return Err(InvalidSetting::new("workers", workers, rule));
        }
        if workers == 0 && self.idle == Idle::Spin {
            let rule = "must be at least 1 for a way to be idle to have an effect";
            return Err(InvalidSetting::new("workers", workers, rule));
        }
        if self.thread_name.contains('\0') {
            let rule = "must not contain a NUL";
            return Err(InvalidSetting::new("thread name", "malformed", rule));
        }
        if !(1..=MAX_EVENT_BUFFER).contains(&self.event_buffer) {
            let rule = "must be between 1 and 16777216";
            return Err(InvalidSetting::new("event buffer", self.event_buffer, rule));
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
        assert_eq!(
            engine.pool.alive(),
            1,
            "a drop has ended the parent's thread"
        );

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
        assert_eq!(broker.owner.engine.pool.alive(), 1);
    }
}
