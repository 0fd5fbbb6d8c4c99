//! Subscriptions that are taken up again by their names.

use crate::engine::state::keyed::Consumers;
use crate::engine::state::lane::Lane;
use crate::pure::words::handles::Holders;
use crate::subscription::Subscription;
use crate::subscription::group::ConsumerGroup;
use crate::subscription::pull::PullSubscription;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::error::AttachError;

impl<T: Send + Sync + 'static> Topic<T> {
    /// Makes one more handle of a subscription, whatever its kind.
    ///
    /// It is meant for one that was [detached](Subscription::detach). The new handle owns it again:
    /// if it is the last to be dropped, and nobody detaches it, the subscription ends. A handle of a
    /// subscription that somebody still holds shares it.
    ///
    /// ```
    /// # use millstream::{Broker, Unsubscribe};
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u32>("orders").open()?;
    /// orders.subscribe("billing", |_| Ok(()))?.detach();
    /// orders.attach("billing")?.unsubscribe(Unsubscribe::Cancel);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`AttachError::Unknown`] if the topic has no open subscription of this name. A
    /// subscription to patterns is none of the topic's.
    pub fn attach(&self, name: &str) -> Result<Subscription, AttachError> {
        self.take_up(name, |_| true).map(Subscription::new)
    }

    /// Makes one more handle of a pull subscription, as [`attach`](Self::attach) does of any.
    ///
    /// # Errors
    ///
    /// The errors are those of [`attach`](Self::attach), and [`AttachError::WrongKind`].
    pub fn attach_pull(&self, name: &str) -> Result<PullSubscription<T>, AttachError> {
        let lane = self.take_up(name, |consumers| consumers == Consumers::Callers);
        lane.map(PullSubscription::of_topic)
    }

    /// Makes one more handle of a consumer group, as [`attach`](Self::attach) does of any
    /// subscription.
    ///
    /// # Errors
    ///
    /// The errors are those of [`attach`](Self::attach), and [`AttachError::WrongKind`].
    pub fn attach_group(&self, name: &str) -> Result<ConsumerGroup<T>, AttachError> {
        let lane = self.take_up(name, |consumers| matches!(consumers, Consumers::Members(_)));
        lane.map(ConsumerGroup::new)
    }

    fn take_up(
        &self,
        name: &str,
        suits: impl FnOnce(Consumers) -> bool,
    ) -> Result<Arc<Lane<T>>, AttachError> {
        let found = self.core.find_open(name).filter(|lane| !lane.by_pattern);
        if let Some(lane) = &found
            && !suits(lane.consumers)
        {
            let existing = match lane.consumers {
                Consumers::Callers => "a pull subscription",
                Consumers::Members(_) => "a consumer group",
                Consumers::Runner | Consumers::Slot | Consumers::Slots => {
                    "a subscription with a handler"
                }
            };
            let name = name.to_owned();
            return Err(AttachError::WrongKind { name, existing });
        }
        let attached = found.filter(|lane| lane.holders.update(Holders::attach));
        let name = name.to_owned();
        attached.ok_or(AttachError::Unknown { name })
    }
}
