//! The end of a broker or of a topic as a future, for any runtime (feature `async`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::engine::base::contain::{contain, discard};
use crate::engine::runtime::{Engine, context};
use crate::sync::{Arc, Mutex, Thread, spawn};
use crate::topic::Topic;
use crate::types::error::DrainError;
use crate::types::report::DrainReport;

/// A future of the report of a drain, made by [`Broker::drain_async`](crate::Broker::drain_async) and
/// [`Topic::drain_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct Drain {
    engine: Arc<Engine>,
    drain: Arc<Job>,
    /// Shared with the thread that drains, once there is one.
    progress: Option<Arc<Mutex<Progress>>>,
}

/// The call that drains.
type Job = dyn Fn() -> Result<DrainReport, DrainError> + Send + Sync;

/// The state that the future shares with the thread that drains.
#[derive(Default)]
struct Progress {
    outcome: Option<Result<DrainReport, DrainError>>,
    waker: Option<Waker>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Ends the topic as [`drain`](Self::drain) does, without blocking the thread that polls.
    ///
    /// The first poll begins the drain, on a thread of its own. If the system refuses that thread,
    /// or the broker has no workers, or a handler of this broker polls, the poll calls `drain`
    /// itself. A future that is dropped after its first poll lets the drain go on.
    ///
    /// # Errors
    ///
    /// The errors are those of [`drain`](Self::drain).
    pub fn drain_async(&self, deadline: Duration) -> Drain {
        let topic = self.clone();
        Drain::new(&self.core.engine, move || topic.drain(deadline))
    }
}

impl Drain {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        drain: impl Fn() -> Result<DrainReport, DrainError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            drain: Arc::new(drain),
            progress: None,
        }
    }

    /// Begins the drain on a thread of its own, unless this thread must do it.
    fn begin(&self) -> Option<Arc<Mutex<Progress>>> {
        let engine = &self.engine;
        if engine.is_manual() || context::is_inside(engine) {
            return None;
        }
        let thread = Thread {
            name: format!("{}-drain", engine.thread_name),
            stack_size: None,
        };
        let progress = Arc::new(Mutex::new(Progress::default()));
        let (ours, drain) = (Arc::clone(&progress), Arc::clone(&self.drain));
        let spawned = spawn(thread, move || {
            let outcome = drain();
            drop(drain);
            let mut progress = ours.lock();
            progress.outcome = Some(outcome);
            let waker = progress.waker.take();
            drop(progress);
            if let Some(waker) = waker {
                // A waker is the user's, and may panic.
                let _ = contain(|| waker.wake());
            }
        });
        spawned.is_ok().then_some(progress)
    }
}

impl Future for Drain {
    type Output = Result<DrainReport, DrainError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.progress.is_none() {
            self.progress = self.begin();
        }
        let Some(progress) = &self.progress else {
            return Poll::Ready((self.drain)());
        };
        // Cloned before the lock, and dropped after it: both run the user's code.
        let waker = context.waker().clone();
        let mut progress = progress.lock();
        if let Some(outcome) = &progress.outcome {
            return Poll::Ready(outcome.clone());
        }
        let before = progress.waker.replace(waker);
        drop(progress);
        discard(before);
        Poll::Pending
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("begun", &self.progress.is_some())
            .finish_non_exhaustive()
    }
}
