//! The questions and changes that every kind of subscription takes.

use crate::engine::base::contain::SharedPolicy;
use crate::engine::gates::protection::{ChangeBreaker, ProtectionSettings};
use crate::engine::runtime::Engine;
use crate::engine::state::keyed::ChangeRules;
use crate::message::MessageId;
use crate::observe::metrics::SubscriptionMetrics;
use crate::types::config::LaneFull;
use crate::types::error::SettingError;
use std::time::Duration;

/// A subscription of any kind and any payload type.
pub(crate) trait Control: Send + Sync {
    fn name(&self) -> &str;
    fn engine(&self) -> &Engine;
    fn set_retry(&self, policy: SharedPolicy);
    fn set_rules(&self, change: &ChangeRules) -> Result<(), SettingError>;
    fn set_capacity(&self, capacity: u32) -> Result<(), SettingError>;
    fn set_when_full(&self, policy: LaneFull) -> Result<(), SettingError>;
    /// Returns `false` if its handler is for one call at a time.
    fn set_concurrency(&self, concurrency: usize) -> bool;
    /// Has deliveries that wait for their next attempt come now: those of this message, or all.
    fn retry_now(&self, only: Option<MessageId>) -> usize;
    /// Changes what protects the subscription's dependencies.
    fn set_protection(&self, change: &dyn Fn(&mut ProtectionSettings)) -> Result<(), SettingError>;
    /// Changes the longest time of calls, if they can have one.
    fn set_timeout(&self, timeout_ns: u64) -> Result<(), SettingError>;
    /// Changes the breaker by hand. Returns `false` if there is none.
    fn change_breaker(&self, change: ChangeBreaker) -> bool;
    /// Hands out nothing for this time.
    fn hold_off(&self, time: Duration);
    /// Has the handler called for nothing more, or again.
    fn set_paused(&self, is_paused: bool);
    /// Returns whether the subscription itself is paused.
    fn is_paused(&self) -> bool;
    fn metrics(&self) -> SubscriptionMetrics;
    fn has_ended(&self) -> bool;
}

/// Defines the methods that the handles of all kinds of subscriptions have in common, for types
/// that can lend their [`Control`].
macro_rules! subscription_controls {
    () => {
        /// Returns the subscription's name.
        pub fn name(&self) -> &str {
            self.control().name()
        }

        /// Sets this subscription's own retry policy.
        ///
        /// It decides from the next failure on. Retries already granted stand. A subscription to
        /// patterns uses it in all topics, later ones included.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) if the policy refuses its own
        /// settings.
        pub fn set_retry(
            &self,
            policy: impl crate::pure::policy::retry::RetryPolicy,
        ) -> Result<(), crate::types::error::SettingError> {
            let policy = crate::engine::base::contain::share_policy(policy);
            policy.check()?;
            self.control().set_retry(policy);
            Ok(())
        }

        /// Sets the effect of a failed delivery on later deliveries.
        ///
        /// Waiting deliveries follow the new mode at once, within a turn of the handler. So
        /// switching to [`OnFailure::Reorder`](crate::OnFailure::Reorder) releases all held
        /// deliveries. Deliveries that are already in flight or waiting for a retry keep the effect
        /// they had.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) if the mode clashes with how the
        /// subscription was made, with [`OnExhausted::ParkKey`](crate::OnExhausted::ParkKey), or
        /// with the [credits](crate::Pull::credits) that were asked for. The rules are those of
        /// [`SubscriptionOptions::on_failure`](crate::SubscriptionOptions::on_failure).
        pub fn set_on_failure(
            &self,
            mode: crate::types::config::OnFailure,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control().set_rules(&move |rules, fit| {
                crate::pure::order::rules::Rules {
                    on_failure: mode,
                    ..rules
                }
                .checked(fit)
            })
        }

        /// Sets the fate of a key when a delivery of it goes to the dead letters.
        ///
        /// Switching to [`OnExhausted::FreeKey`](crate::OnExhausted::FreeKey) frees the parked
        /// keys. Their letters stay.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for parking without
        /// [`OnFailure::BlockKey`](crate::OnFailure::BlockKey).
        pub fn set_on_exhausted(
            &self,
            then: crate::types::config::OnExhausted,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control().set_rules(&move |rules, fit| {
                crate::pure::order::rules::Rules {
                    on_exhausted: then,
                    ..rules
                }
                .checked(fit)
            })
        }

        /// Sets how many deliveries may be held back behind blocked keys.
        ///
        /// Deliveries that are held now stay so, even if there are more.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for zero, for more than the lane's
        /// capacity, or for a subscription that never holds deliveries back.
        pub fn set_hold(&self, deliveries: usize) -> Result<(), crate::types::error::SettingError> {
            self.control()
                .set_rules(&move |rules, fit| rules.with_hold(deliveries, fit))
        }

        /// Sets how many deliveries may be in the subscription's lane.
        ///
        /// Nothing is dropped if more are there: new ones find no room until enough have ended.
        /// More room is there at once for a topic that waits. The [hold](Self::set_hold) follows,
        /// if it was the whole capacity. A subscription to patterns has lanes of this capacity in
        /// all topics, later ones included.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for zero or more than 16,777,216. It
        /// also refuses a capacity below the hold, the batch size, or the
        /// [credits](crate::Pull::credits) that were asked for.
        pub fn set_capacity(
            &self,
            deliveries: usize,
        ) -> Result<(), crate::types::error::SettingError> {
            let capacity = crate::types::range::in_range("capacity", Some(deliveries), deliveries)?;
            self.control().set_capacity(capacity as u32)
        }

        /// Sets the policy for the subscription's lane when it is full.
        ///
        /// It holds for the next message that finds the lane full. A topic that waits goes on at
        /// once. A lane that is to drop its oldest may have to ask its handler's worker first. The
        /// topic waits for that, for as long as a running call lasts.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) if the policy clashes with
        /// [`OnFailure`](crate::OnFailure), as
        /// [`SubscriptionOptions::on_failure`](crate::SubscriptionOptions::on_failure) says.
        pub fn set_when_full(
            &self,
            policy: crate::types::config::LaneFull,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control().set_when_full(policy)
        }

        /// Has a delivery that waits for its retry, or for the end of its
        /// [snooze](crate::Nack::snooze), come again now.
        ///
        /// `id` is the message's. Returns whether such a delivery was waiting. If its time comes at the
        /// same moment, it comes once, and the result is `false`. Its attempts and its order are what
        /// they would have been. The ids of topics are independent, so a subscription to patterns has
        /// the deliveries of this id come in all its topics.
        ///
        /// The call looks through all waiting deliveries of the subscription. It doesn't wait.
        ///
        /// ```
        /// use millstream::{Backoff, Broker, ManualClock, Nack};
        /// use std::time::Duration;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let clock = ManualClock::new();
        /// let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
        /// let retry = Backoff::fixed(Duration::from_secs(3_600)).max_attempts(2);
        /// let orders = broker.topic::<u64>("orders").retry(retry).open()?;
        /// let billing = orders.subscribe("billing", |order| match order.attempt() {
        ///     1 => Err(Nack::retry("the bank is down")),
        ///     _ => Ok(()),
        /// })?;
        /// let receipt = orders.publish(7)?;
        /// broker.run_until_idle();
        ///
        /// assert!(billing.retry_now(receipt.id())); // the bank is up again
        /// broker.run_until_idle();
        /// assert_eq!(billing.metrics().counts.delivered, 1);
        /// # Ok(())
        /// # }
        /// ```
        pub fn retry_now(&self, id: crate::message::MessageId) -> bool {
            self.control().retry_now(Some(id)) > 0
        }

        /// Has all deliveries that wait for their retry, or for the end of their
        /// [snooze](crate::Nack::snooze), come again now.
        ///
        /// They go in the order of their messages. Returns their number. It does for all what
        /// [`retry_now`](Self::retry_now) does for one.
        pub fn retry_all_now(&self) -> usize {
            self.control().retry_now(None)
        }

        /// Pauses the subscription: its deliveries wait until [`resume`](Self::resume).
        ///
        /// Calls that run go on, and so does the rest of a few deliveries that a worker has taken at
        /// once. Leases that are out stay so. Retries wait, too, and no attempt is lost. Waiting
        /// deliveries expire as ever. The lane fills up, and then its policy for a
        /// [full lane](Self::set_when_full) holds. A drain waits for a resume until its time is up.
        ///
        /// A subscription to patterns is paused in all topics, later ones included. The pause is
        /// apart from those of the topic and the broker: all of them have to end.
        ///
        /// ```
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let broker = millstream::Broker::builder().workers(0).build()?;
        /// let orders = broker.topic::<u64>("orders").open()?;
        /// let billing = orders.subscribe("billing", |_| Ok(()))?;
        /// billing.pause();
        /// orders.publish(7)?;
        /// broker.run_until_idle();
        /// assert_eq!(billing.metrics().queued, 1);
        /// billing.resume();
        /// broker.run_until_idle();
        /// assert_eq!(billing.metrics().counts.delivered, 1);
        /// # Ok(())
        /// # }
        /// ```
        pub fn pause(&self) {
            self.control().set_paused(true);
        }

        /// Ends the subscription's own pause.
        pub fn resume(&self) {
            self.control().set_paused(false);
        }

        /// Hands out nothing for this time, because a dependency asked for it.
        ///
        /// Leases that are out and calls that run go on. A longer wait that was asked for before stays.
        /// A handler has [`Delivery::hold_off`](crate::Delivery::hold_off).
        pub fn hold_off(&self, time: std::time::Duration) {
            self.control().hold_off(time);
        }

        /// Returns whether the subscription itself is paused, whatever its topic and its broker are.
        pub fn is_paused(&self) -> bool {
            self.control().is_paused()
        }

        /// Returns a snapshot of the subscription's counts.
        ///
        /// For a subscription to patterns they are the sum over all topics. Topics that it has
        /// left, or that were removed, are included. Latencies are of the topics that it has now.
        pub fn metrics(&self) -> crate::observe::metrics::SubscriptionMetrics {
            self.control().metrics()
        }

        /// Returns whether the subscription has ended, by an unsubscribe or with its broker.
        pub fn has_ended(&self) -> bool {
            self.control().has_ended()
        }
    };
}

/// Defines the setter of the concurrency, for handles of subscriptions with a handler.
macro_rules! concurrency_control {
    () => {
        /// Sets how many calls of the handler may run at once.
        ///
        /// Running calls finish. If more than `concurrency` are running, no new call starts until
        /// fewer are. For a subscription to patterns the number holds in each topic.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for zero or more than 1,024. It also
        /// refuses a handler that is for one call at a time. Others are made by
        /// [`subscribe_shared`](crate::SubscriptionBuilder::subscribe_shared) or
        /// `subscribe_async`, or for patterns with
        /// [`concurrency`](crate::PatternSubscriptionBuilder::concurrency).
        pub fn set_concurrency(
            &self,
            concurrency: usize,
        ) -> Result<(), crate::types::error::SettingError> {
            crate::types::range::in_range_of_threads("concurrency", concurrency)?;
            if self.control().set_concurrency(concurrency) {
                return Ok(());
            }
            let rule = "needs a subscription whose handler can be called several times at once";
            Err(crate::types::error::SettingError::new(
                "concurrency",
                concurrency,
                rule,
            ))
        }
    };
}

/// Defines the setter of the handler's timeout, for handles of subscriptions with a handler.
macro_rules! timeout_control {
    () => {
        /// Sets the longest time of a call of the handler, or removes it.
        ///
        /// It holds for calls that begin from now on. `handler_timeout` of the builder says what
        /// happens to a call that takes longer. A subscription to patterns has it in all topics,
        /// later ones included.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for zero, and for a handler that
        /// takes batches. It also refuses a handler for one call at a time that was subscribed
        /// without a timeout.
        pub fn set_handler_timeout(
            &self,
            timeout: Option<std::time::Duration>,
        ) -> Result<(), crate::types::error::SettingError> {
            let timeout_ns = crate::subscription::options::checked_timeout(timeout)?;
            self.control().set_timeout(timeout_ns)
        }
    };
}

pub(crate) use {concurrency_control, subscription_controls, timeout_control};
