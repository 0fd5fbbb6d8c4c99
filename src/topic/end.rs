//! The end of one topic.

use std::time::Duration;

use crate::engine::runtime::directory::AnyTopic;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::error::DrainError;
use crate::types::report::DrainReport;

impl<T: Send + Sync + 'static> Topic<T> {
    /// Ends this topic in good order, and leaves the rest of the broker running.
    ///
    /// From the first moment on, every publish to the topic is refused with `Closed`, and so is
    /// every subscription. Pending batches are flushed. Messages and deliveries that are queued, or
    /// become due before `deadline`, are handled. The rest is cancelled. Then the topic's
    /// subscriptions have ended. A subscription to patterns has left the topic.
    ///
    /// The topic stays closed for good, and keeps its dead letters. To use the name again, purge
    /// them, drop the handles, [remove](crate::Broker::remove_topic) the topic, and open it anew.
    ///
    /// A handler that publishes here is refused, too, and its failure is one like any other. So
    /// drain the topics of a pipeline in the order in which messages flow, each to its end.
    /// [`Broker::drain_pipeline`](crate::Broker::drain_pipeline) ends a whole broker that way.
    ///
    /// A second call waits for the first and reports the same. With `workers(0)` the drain runs the
    /// broker on the calling thread. With a manual clock it does the work that is due by that clock.
    ///
    /// ```
    /// # use millstream::Broker;
    /// # use std::time::Duration;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u32>("orders").open()?;
    /// let _billing = orders.subscribe("billing", |_| Ok(()))?;
    /// orders.publish(42)?;
    /// let report = orders.drain(Duration::from_secs(5))?;
    /// assert_eq!(report.delivered, 1);
    /// assert!(orders.publish(43).unwrap_err().is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`DrainError::Incomplete`] if work was left when the time was up, or a handler had
    /// not returned shortly after. Returns [`DrainError::InsideHandler`] inside a handler of this
    /// broker: the topic is closed then, and not yet drained. Both carry the report.
    pub fn drain(&self, deadline: Duration) -> Result<DrainReport, DrainError> {
        let topic: Arc<dyn AnyTopic> = Arc::clone(&self.core) as _;
        self.core.engine.drain_topic(&topic, deadline)
    }

    /// Returns whether the topic refuses publishes, because it or its broker is being drained or has
    /// been.
    ///
    /// Publishes of handlers are accepted all the same while
    /// [`drain_pipeline`](crate::Broker::drain_pipeline) lets them.
    pub fn is_closed(&self) -> bool {
        self.core.gate.is_closed()
    }
}
