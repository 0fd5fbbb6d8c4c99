//! The ends of messages, for their publisher.

use std::fmt;
#[cfg(feature = "async")]
use std::future::Future;
#[cfg(feature = "async")]
use std::pin::Pin;
#[cfg(feature = "async")]
use std::task::{Context, Poll};
use std::time::Duration;

use crate::engine::runtime::{Engine, context};
use crate::engine::track::ends::{Ends, Outcome};
use crate::message::outgoing::Message;
use crate::sync::{Arc, Instant};
use crate::topic::Topic;
use crate::topic::publishing::message::MessageBuilder;
use crate::types::error::UnsettledError;

/// A publisher's view of how its messages end, made by [`Topic::tracker`].
///
/// A message has ended when each of its deliveries has: handled, a dead letter, dropped, expired or
/// cancelled. A delivery that waits for its retry has not ended. A dead letter has, and a redrive
/// doesn't reopen it.
///
/// One tracker may have any number of messages, of any topics, and sums their ends up. It begins to
/// count a message when the message is accepted. So a refused message counts for nothing, keeps its
/// tracker, and may be published again. Dropping a tracker changes nothing about its messages.
///
/// With the feature `async` it is a future of the [`Outcome`], which may be polled anywhere. To go
/// on with the tracker afterwards, await `&mut tracker`.
///
/// ```
/// use millstream::{Broker, Message};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let orders = broker.topic::<u64>("orders").open()?;
/// let _billing = orders.subscribe("billing", |_| Ok(()))?;
/// let _audit = orders.subscribe("audit", |_| Ok(()))?;
///
/// let tracker = orders.tracker();
/// orders.message(42).key("ada").tracked(&tracker).publish()?;
/// let batch = [7, 1].map(|total| Message::new(total).tracked(&tracker));
/// orders.publish_messages(batch)?;
///
/// let outcome = tracker.wait_timeout(Duration::from_secs(5))?;
/// assert!(outcome.is_delivered());
/// assert_eq!(outcome.delivered, 6); // three orders for two subscriptions
/// # Ok(())
/// # }
/// ```
#[must_use = "only this says how its messages end"]
pub struct Tracker {
    ends: Arc<Ends>,
    engine: Arc<Engine>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Makes a tracker, which says how the messages that [get it](Message::tracked) end.
    ///
    /// Messages of other topics may get it, too.
    pub fn tracker(&self) -> Tracker {
        Tracker {
            ends: Ends::new(),
            engine: Arc::clone(&self.core.engine),
        }
    }
}

impl<T> Message<T> {
    /// Has this tracker count the ends of the message's deliveries, in place of any other tracker.
    ///
    /// However the message is published, the tracker has it from its acceptance on. A tracked
    /// message costs one allocation more, and a short lock for each delivery. Others pay nothing.
    #[must_use]
    pub fn tracked(self, tracker: &Tracker) -> Self {
        self.track(&tracker.ends)
    }
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Has this tracker count the ends of the message's deliveries, as [`Message::tracked`] does.
    pub fn tracked(self, tracker: &Tracker) -> Self {
        self.with(|message| message.tracked(tracker))
    }
}

impl Tracker {
    /// Returns the outcome if all messages that were accepted so far have ended. It never waits.
    ///
    /// Before the first message that is an outcome without ends.
    pub fn outcome(&self) -> Option<Outcome> {
        self.ends.outcome()
    }

    /// Waits until all messages that were accepted so far have ended, and returns the outcome.
    ///
    /// So publish first, and then wait. A handler that never returns lets it wait for ever. So does
    /// a message that a topic retains for its first subscription, until the broker ends.
    ///
    /// # Errors
    ///
    /// Returns [`UnsettledError`] at once where it may not wait: inside a handler of the broker, and
    /// on a broker without worker threads.
    pub fn wait(&self) -> Result<Outcome, UnsettledError> {
        self.wait_until(None)
    }

    /// Waits as [`wait`](Self::wait) does, for no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// Returns [`UnsettledError`] if the time is up first. Where `wait` may not wait, this returns it
    /// at once.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Outcome, UnsettledError> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&self, until: Option<Instant>) -> Result<Outcome, UnsettledError> {
        let may_wait = !self.engine.is_manual() && !context::is_inside(&self.engine);
        let outcome = match may_wait {
            true => self.ends.wait(until),
            false => self.ends.outcome(),
        };
        outcome.ok_or(UnsettledError)
    }
}

#[cfg(feature = "async")]
impl Future for Tracker {
    type Output = Outcome;

    /// Returns the outcome, or has the task woken when all messages have ended.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        self.ends.poll(context)
    }
}

#[cfg(feature = "async")]
impl Drop for Tracker {
    fn drop(&mut self) {
        self.ends.forget_waker();
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker")
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}
