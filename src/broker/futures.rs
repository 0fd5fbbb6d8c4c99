//! The end of a broker as a future, for any runtime (feature `async`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::broker::Broker;
use crate::engine::base::contain::{contain, discard};
use crate::engine::runtime::context;
use crate::pure::words::ending::Refuse;
use crate::sync::{Arc, Mutex, Thread, spawn};
use crate::types::error::DrainError;
use crate::types::report::DrainReport;

/// A future of the report of a drain, made by [`Broker::drain_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct Drain {
    broker: Broker,
    deadline: Duration,
    whom: Refuse,
    /// Shared with the thread that drains, once there is one.
    progress: Option<Arc<Mutex<Progress>>>,
}

/// The state that the future shares with the thread that drains.
#[derive(Default)]
struct Progress {
    outcome: Option<Result<DrainReport, DrainError>>,
    waker: Option<Waker>,
}

impl Broker {
    /// Ends the broker as [`drain`](Self::drain) does, without blocking the thread that polls.
    ///
    /// The first poll begins the drain, on a thread of its own. If the system refuses that thread,
    /// or the broker has no workers, or a handler of this broker polls, the poll calls `drain`
    /// itself. A future that is dropped after its first poll lets the drain go on.
    ///
    /// ```
    /// # async fn shut_down(broker: millstream::Broker) -> Result<(), millstream::DrainError> {
    /// let report = broker.drain_async(std::time::Duration::from_secs(5)).await?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors are those of [`drain`](Self::drain).
    pub fn drain_async(&self, deadline: Duration) -> Drain {
        self.drain_later(deadline, Refuse::All)
    }

    /// Ends the broker as [`drain_pipeline`](Self::drain_pipeline) does, without blocking the
    /// thread that polls. See [`drain_async`](Self::drain_async).
    ///
    /// # Errors
    ///
    /// The errors are those of [`drain`](Self::drain).
    pub fn drain_pipeline_async(&self, deadline: Duration) -> Drain {
        self.drain_later(deadline, Refuse::Outside)
    }

    fn drain_later(&self, deadline: Duration, whom: Refuse) -> Drain {
        Drain {
            broker: self.clone(),
            deadline,
            whom,
            progress: None,
        }
    }
}

impl Drain {
    fn drain(&self) -> Result<DrainReport, DrainError> {
        self.broker.drain_by(self.deadline, self.whom)
    }

    /// Begins the drain on a thread of its own, unless this thread must do it.
    fn begin(&self) -> Option<Arc<Mutex<Progress>>> {
        let engine = &self.broker.owner.engine;
        if engine.is_manual() || context::is_inside(engine) {
            return None;
        }
        let thread = Thread {
            name: format!("{}-drain", engine.thread_name),
            stack_size: None,
        };
        let progress = Arc::new(Mutex::new(Progress::default()));
        let (ours, broker) = (Arc::clone(&progress), self.broker.clone());
        let (deadline, whom) = (self.deadline, self.whom);
        let spawned = spawn(thread, move || {
            let outcome = broker.drain_by(deadline, whom);
            drop(broker);
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
            return Poll::Ready(self.drain());
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
            .field("deadline", &self.deadline)
            .field("begun", &self.progress.is_some())
            .finish_non_exhaustive()
    }
}
