//! The end of a message, for its publisher.

use std::fmt;
#[cfg(feature = "async")]
use std::future::Future;
#[cfg(feature = "async")]
use std::pin::Pin;
#[cfg(feature = "async")]
use std::task::{Context, Poll};
use std::time::Duration;

use crate::engine::runtime::{Engine, context};
use crate::engine::track::tracker::{Outcome, Tracker};
use crate::message::Receipt;
use crate::sync::{Arc, Instant};
use crate::topic::publishing::message::MessageBuilder;
use crate::types::error::{PublishError, UnsettledError};

/// A published message whose end can be awaited, made by
/// [`MessageBuilder::publish_tracked`].
///
/// The message has ended when each of its deliveries has: handled, a dead letter, dropped, expired
/// or cancelled. A delivery that waits for its retry has not ended. A dead letter has, and a redrive
/// doesn't reopen it. Dropping this value changes nothing about the message.
///
/// With the feature `async` it is a future of the [`Outcome`], which may be polled anywhere.
pub struct Tracked {
    receipt: Receipt,
    tracker: Arc<Tracker>,
    engine: Arc<Engine>,
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Publishes the message, and returns a value that waits until all its deliveries have ended.
    ///
    /// It waits for room as [`publish`](Self::publish) does. A tracked message costs one allocation
    /// more, and a short lock for each delivery. Others pay nothing.
    ///
    /// ```
    /// use millstream::Broker;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let _billing = orders.subscribe("billing", |_| Ok(()))?;
    /// let _audit = orders.subscribe("audit", |_| Ok(()))?;
    ///
    /// let order = orders.message(42).publish_tracked()?;
    /// let outcome = order.wait_timeout(Duration::from_secs(5))?;
    /// assert!(outcome.is_delivered());
    /// assert_eq!(outcome.delivered, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish).
    pub fn publish_tracked(mut self) -> Result<Tracked, PublishError<T>> {
        let tracker = self.message.track();
        let engine = Arc::clone(&self.topic.core.engine);
        let receipt = self.publish()?;
        Ok(Tracked {
            receipt,
            tracker,
            engine,
        })
    }
}

impl Tracked {
    /// Returns the receipt of the message.
    pub fn receipt(&self) -> Receipt {
        self.receipt
    }

    /// Returns the outcome if all deliveries have ended. It never waits.
    pub fn outcome(&self) -> Option<Outcome> {
        self.tracker.outcome()
    }

    /// Waits until all deliveries have ended, and returns the outcome.
    ///
    /// A handler that never returns lets it wait for ever. So does a message that a topic retains
    /// for its first subscription, until the broker ends.
    ///
    /// # Errors
    ///
    /// Returns [`UnsettledError`] at once where it may not wait: inside a handler of the broker, and on a
    /// broker without worker threads.
    pub fn wait(&self) -> Result<Outcome, UnsettledError> {
        self.wait_until(None)
    }

    /// Waits up to `timeout` until all deliveries have ended, and returns the outcome.
    ///
    /// # Errors
    ///
    /// Returns [`UnsettledError`] if the time is up first. Where [`wait`](Self::wait) may not wait, this
    /// returns it at once.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Outcome, UnsettledError> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&self, until: Option<Instant>) -> Result<Outcome, UnsettledError> {
        let may_wait = !self.engine.is_manual() && !context::is_inside(&self.engine);
        let outcome = match may_wait {
            true => self.tracker.wait(until),
            false => self.tracker.outcome(),
        };
        outcome.ok_or(UnsettledError)
    }
}

#[cfg(feature = "async")]
impl Future for Tracked {
    type Output = Outcome;

    /// Returns the outcome, or has the task woken when all deliveries have ended.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        self.tracker.poll(context)
    }
}

#[cfg(feature = "async")]
impl Drop for Tracked {
    fn drop(&mut self) {
        self.tracker.forget_waker();
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked")
            .field("receipt", &self.receipt)
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}
