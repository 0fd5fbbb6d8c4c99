//! Settings of a topic that change while traffic runs.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::pure::policy::dedup::Dedup;
use crate::pure::protect::rate::RateLimit;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::topic::options::{check_conflate, check_overflow, check_partitions, check_weight_limit};
#[cfg(feature = "log")]
use crate::topic::stored::check_lossless;
use crate::types::config::Overflow;
use crate::types::duration::check_ttl;
use crate::types::error::SettingError;
use crate::types::range::in_range;

impl<T: Send + Sync + 'static> Topic<T> {
    /// Sets how many messages may wait for dispatch, while traffic runs.
    ///
    /// Nothing is dropped if more wait: new ones find no room until enough have gone. Publishers
    /// that wait for room get what there is more at once. The memory of the queue follows the
    /// messages that wait, beyond what the capacity it was opened with needs.
    ///
    /// ```
    /// # use millstream::Broker;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u32>("orders").capacity(1).open()?;
    /// orders.publish(1)?;
    /// assert!(orders.publish(2).is_err());
    /// orders.set_capacity(1_000)?;
    /// orders.publish(2)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero, for more than 16,777,216, or for less than the number of
    /// [partitions](Self::partitions).
    pub fn set_capacity(&self, messages: usize) -> Result<(), SettingError> {
        let capacity = in_range("capacity", Some(messages), messages)? as u64;
        let check = || check_partitions(self.partitions(), capacity).map(drop);
        self.core.set_capacity(capacity, check)
    }

    /// Sets how much the waiting messages may weigh, while traffic runs.
    ///
    /// Nothing is dropped if they weigh more: new ones find no room until enough have gone. A
    /// publisher that waits with a message heavier than the new limit is refused.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero, and for a topic that was opened without
    /// [`weight_limit`](crate::TopicBuilder::weight_limit).
    pub fn set_weight_limit(&self, limit: u64) -> Result<(), SettingError> {
        check_weight_limit(limit)?;
        self.core.set_weight_limit(limit)
    }

    /// Sets the capacity of the lanes of later subscriptions that don't set their own.
    ///
    /// [`Subscription::set_capacity`](crate::Subscription::set_capacity) changes that of one that is
    /// there.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero or more than 16,777,216.
    pub fn set_lane_capacity(&self, deliveries: usize) -> Result<(), SettingError> {
        let capacity = in_range("lane_capacity", Some(deliveries), deliveries)?;
        self.core.live.lane_capacity.set(capacity as u32);
        Ok(())
    }

    /// Sets the policy for a publish into the full topic, while traffic runs.
    ///
    /// It holds for publishes from now on. A publisher that waits already goes on waiting, until
    /// there is room or its time is up.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for [`Overflow::Block`] on a broker without worker threads, and for
    /// [`Overflow::Conflate`] in a topic with partitions or a weight limit. A durable topic refuses
    /// policies that lose messages.
    pub fn set_overflow(&self, overflow: Overflow) -> Result<(), SettingError> {
        check_overflow(overflow, &self.core.engine)?;
        let core = &self.core;
        check_conflate(overflow, core.split.is_some(), core.weights.is_some())?;
        #[cfg(feature = "log")]
        if self.core.is_stored() {
            check_lossless(overflow)?;
        }
        self.core.set_overflow(overflow);
        Ok(())
    }

    /// Sets the rate at which the topic accepts messages, while traffic runs, or lifts the limit.
    ///
    /// It holds for publishes from now on. Permits that are spent stay spent, as far as the new burst
    /// goes. Publishers that wait look again at once. Nothing that was accepted is touched.
    ///
    /// ```
    /// # use millstream::Broker;
    /// use millstream::protect::RateLimit;
    /// use std::time::Duration;
    ///
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u32>("orders").open()?;
    /// orders.set_rate_limit(Some(RateLimit::new(1, Duration::from_secs(60))))?;
    /// orders.publish(1)?;
    /// assert!(orders.publish(2).is_err());
    /// orders.set_rate_limit(None)?;
    /// orders.publish(2)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for a limit that is out of range.
    pub fn set_rate_limit(&self, limit: Option<RateLimit>) -> Result<(), SettingError> {
        limit.map_or(Ok(()), RateLimit::check)?;
        self.core.set_rate_limit(limit);
        Ok(())
    }

    /// Sets how long and how many dedup ids the topic remembers, while traffic runs.
    ///
    /// Ids that are remembered stay, as far as they are within the new bounds.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for a window of zero, for a number of ids out of range, and for a
    /// topic that was opened without [`dedup`](crate::TopicBuilder::dedup).
    pub fn set_dedup(&self, dedup: Dedup) -> Result<(), SettingError> {
        dedup.check()?;
        self.core.set_dedup(dedup)
    }

    /// Sets the time to live of messages that are accepted from now on, or removes it.
    ///
    /// Messages accepted before keep the one that they have. A delayed message gets the one that the
    /// topic has when it is due. A message with a time to live of its own keeps that.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero.
    pub fn set_ttl(&self, ttl: Option<Duration>) -> Result<(), SettingError> {
        let ttl_ns = ttl.map(check_ttl).transpose()?;
        Arc::clone(&self.core).set_ttl(ttl_ns.and_then(NonZeroU64::new));
        Ok(())
    }
}
