//! Topics, as users hold them.

pub(crate) mod attach;
pub(crate) mod builder;
#[cfg(feature = "async")]
pub(crate) mod draining;
pub(crate) mod end;
pub(crate) mod letters;
pub(crate) mod live;
pub(crate) mod options;
pub(crate) mod publishing;
pub(crate) mod requests;
pub(crate) mod schedules;
#[cfg(feature = "log")]
pub(crate) mod stored;

use std::any::type_name;
use std::fmt;

use crate::engine::base::contain::{share_policy, share_strategy};
use crate::engine::runtime::directory::AnyTopic;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::holds::Hold;
use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::observe::metrics::TopicMetrics;
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::policy::strategy::Strategy;
use crate::subscription::Subscription;
use crate::subscription::builder::SubscriptionBuilder;
use crate::sync::{Arc, mutant};
use crate::topic::options::check_partitions;
use crate::types::error::{PartitionsError, SettingError, SubscribeError};

/// A handle to a typed topic. Clone it freely, and publish from any thread.
///
/// # When the queue is full, and when the broker closes
///
/// The topic's [`Overflow`](crate::Overflow) policy decides about a publish into a full queue.
/// After the broker's drain has begun, every publish returns [`PublishError::Closed`](crate::PublishError).
/// Every [`PublishError`](crate::PublishError) hands the payload back.
///
/// # Cost
///
/// A publish reads the clock and takes one short lock. Under the lock, the message is admitted and
/// written into the queue's open batch. A publish looks up no map. It allocates for every 64th
/// message, and for keys and headers.
pub struct Topic<T> {
    pub(crate) core: Arc<TopicCore<T>>,
}

impl<T> Topic<T> {
    /// Makes one more handle, unless the topic has been removed.
    pub(crate) fn join(core: Arc<TopicCore<T>>) -> Option<Self> {
        let joined = core.handles.update(|handles| handles.join());
        let joined = mutant!(joined, "handles.removed", true);
        joined.then(|| Self { core })
    }

    /// Returns the topic's name.
    pub fn name(&self) -> &str {
        &self.core.name
    }
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Subscribes with the default settings: `handler` is called for each delivery.
    ///
    /// Only one call runs at a time, in accept order. The subscription starts now. It gets every
    /// message that is accepted after this call has returned. It gets no message that was accepted
    /// before the call, even if that is still queued or [delayed](Self::publish_after). A successor
    /// of the same name gets none of its predecessor's deliveries.
    ///
    /// Under [`NoSubscribers::Retain`](crate::NoSubscribers::Retain), a subscription that comes
    /// while no other is open also gets the waiting messages. A topic with
    /// [`retain_last`](crate::TopicBuilder::retain_last) gives each subscription its last messages, and
    /// those that wait.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid or taken name, or a closed broker.
    pub fn subscribe<F>(&self, name: &str, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.subscription(name).subscribe(handler)
    }

    /// Begins a subscription with settings of its own.
    pub fn subscription(&self, name: &str) -> SubscriptionBuilder<'_, T> {
        SubscriptionBuilder::new(&self.core, name)
    }

    /// Sets the strategy while traffic runs.
    ///
    /// The new strategy judges waiting messages at once. No message is lost, reordered or made
    /// younger.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] if the strategy refuses its own settings.
    pub fn set_strategy(&self, strategy: impl Strategy) -> Result<(), SettingError> {
        // The strategy is shared first: a value that panics when dropped must not unwind through
        // us.
        let strategy = share_strategy(strategy);
        strategy.check()?;
        Arc::clone(&self.core).swap_strategy(strategy);
        Ok(())
    }

    /// Sets the retry policy of the subscriptions that have none of their own.
    ///
    /// It decides from the next failure on. Retries already granted stand.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), SettingError> {
        let policy = share_policy(policy);
        policy.check()?;
        self.core.retry.swap(policy);
        Ok(())
    }

    /// Pauses all subscriptions of the topic, later ones included, until [`resume`](Self::resume).
    ///
    /// The topic goes on to accept and to dispatch messages. Each subscription waits as after
    /// [`Subscription::pause`](crate::Subscription::pause), whose own pause is apart from this one.
    pub fn pause(&self) {
        self.core.pause_lanes(Hold::Topic, true);
    }

    /// Ends the topic's own pause.
    pub fn resume(&self) {
        self.core.pause_lanes(Hold::Topic, false);
    }

    /// Returns whether the topic itself is paused, whatever its broker is.
    pub fn is_paused(&self) -> bool {
        self.core.pauses.has(Hold::Topic)
    }

    /// Returns the number of partitions that the topic is split into, or one if it isn't.
    pub fn partitions(&self) -> usize {
        let split = self.core.split.as_deref();
        split.map_or(1, |split| split.count())
    }

    /// Returns the partition to which messages with this key go now, counted from zero.
    pub fn partition_of(&self, key: &str) -> usize {
        let split = self.core.split.as_deref();
        split.map_or(0, |split| split.place_of(key))
    }

    /// Changes the number of partitions while traffic runs.
    ///
    /// Only a topic that was opened with [`partitions`](crate::TopicBuilder::partitions) can be
    /// changed; `partitions(1)` suffices. Nothing is lost, and each key keeps its order, though it
    /// may move to another partition.
    ///
    /// Messages accepted before the change are dispatched first, from their old partitions, as if
    /// by a [`flush`](Self::flush). Messages published from now on wait in the new partitions until
    /// that is done. Retries and deliveries that are already in their lanes are not affected. A
    /// delayed message goes to its new partition when it is due. This call does not wait for any of
    /// that.
    ///
    /// # Errors
    ///
    /// Returns a [`PartitionsError`]. `Invalid` is for a number out of range, or a topic opened
    /// without partitions. `Underway` is for a change before the last one has ended. A full lane
    /// can delay that end. So can the lack of a subscription under
    /// [`NoSubscribers::Retain`](crate::NoSubscribers::Retain).
    pub fn set_partitions(&self, partitions: usize) -> Result<(), PartitionsError> {
        let Some(split) = &self.core.split else {
            let rule = "can't be set for a topic that was opened without";
            return Err(SettingError::new("partitions", partitions, rule).into());
        };
        let _changing = self.core.changing.lock();
        check_partitions(partitions, self.core.live.capacity.get())?;
        split.change(&self.core, partitions)
    }

    /// Hands on everything accepted so far, whatever the strategy says.
    ///
    /// Subscriptions that accumulate batches hand it on as well. This call does not wait.
    pub fn flush(&self) {
        self.core.flush();
    }

    /// Returns a snapshot of this topic's counts.
    pub fn metrics(&self) -> TopicMetrics {
        self.core.read_metrics()
    }
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self::join(Arc::clone(&self.core)).expect("a topic with a handle can't be removed")
    }
}

impl<T> Drop for Topic<T> {
    fn drop(&mut self) {
        self.core.handles.update(|handles| handles.leave());
    }
}

impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.core.name)
            .field("payload", &type_name::<T>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;

    #[test]
    fn a_handle_that_is_refused_because_the_topic_was_removed_counts_for_nothing() {
        let broker = Broker::builder().workers(0).build().expect("valid");
        let topic = broker.topic::<()>("t").open().expect("opens");
        let core = Arc::clone(&topic.core);
        drop(topic);
        let removed = core.handles.update(|handles| handles.remove());
        assert_eq!(removed, Ok(()));
        assert!(Topic::join(Arc::clone(&core)).is_none());
        core.handles.update(|handles| handles.restore());
        assert_eq!(broker.remove_topic("t"), Ok(()));
    }
}
