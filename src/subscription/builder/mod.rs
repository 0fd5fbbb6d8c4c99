//! Making a subscription to a topic.

pub(crate) mod pattern;
#[cfg(feature = "log")]
pub(crate) mod stored;

use std::fmt;

use crate::engine::base::contain::Contained;
use crate::engine::parts::handler::{Handler, SharedFilter};
#[cfg(feature = "parallel")]
use crate::engine::parts::parallel::Parallel;
use crate::engine::registry::equip::{Equipment, LanePlan};
#[cfg(feature = "async")]
use crate::engine::slots::async_calls;
use crate::engine::slots::slot;
use crate::engine::state::keyed::Consumers;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::message::Delivery;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::nack::Nack;
use crate::observe::event::{EventKind, Subject};
use crate::pure::order::rules::{Fit, check_batch_size};
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::pure::words::room::Phase;
use crate::subscription::Subscription;
#[cfg(feature = "log")]
use crate::subscription::builder::stored::StoredStart;
use crate::subscription::group::ConsumerGroup;
use crate::subscription::options::{
    BATCHES_STAY, NO_CALLS, ONE_BATCH_AT_A_TIME, ONE_CALL_AT_A_TIME, SubscriptionOptions,
    subscription_setters,
};
use crate::subscription::pull::{Pull, PullSubscription};
use crate::sync::{Arc, mutant};
use crate::types::config::LaneFull;
use crate::types::error::{SettingError, SubscribeError};
use crate::types::range::in_range;

/// A subscription to be made.
///
/// Set what you care about, then call [`subscribe`](Self::subscribe),
/// [`subscribe_batches`](Self::subscribe_batches), [`pull`](Self::pull) or another of the final
/// methods, which check all settings at once.
#[must_use = "a builder does nothing until it subscribes"]
pub struct SubscriptionBuilder<'t, T: Send + Sync + 'static> {
    topic: &'t Arc<TopicCore<T>>,
    name: String,
    options: SubscriptionOptions,
    filter: Option<SharedFilter<T>>,
    #[cfg(feature = "log")]
    stored: StoredStart,
}

impl<'t, T: Send + Sync + 'static> SubscriptionBuilder<'t, T> {
    pub(crate) fn new(topic: &'t Arc<TopicCore<T>>, name: &str) -> Self {
        Self {
            topic,
            name: name.to_owned(),
            options: SubscriptionOptions::new(),
            filter: None,
            #[cfg(feature = "log")]
            stored: StoredStart::default(),
        }
    }

    /// Takes all settings from a value. Settings made before are replaced.
    pub fn options(mut self, options: &SubscriptionOptions) -> Self {
        self.options = options.clone();
        self
    }

    subscription_setters!();

    fn options_mut(&mut self) -> &mut SubscriptionOptions {
        &mut self.options
    }

    /// Sets which messages the subscription wants. By default it wants all.
    ///
    /// The filter is asked before a message takes a place in the lane. So what it refuses holds
    /// nobody up, however full the lane is. A refused message is counted as
    /// [filtered](crate::metrics::DeliveryCounts::filtered), for this subscription alone. A letter
    /// that is redriven is not asked about again.
    ///
    /// The filter runs on the worker that dispatches the topic, so it must be quick, and must not
    /// wait. It is asked about each message once, even if the message has to wait for room. If it
    /// panics, the message is delivered, and observers hear of
    /// [`Hook::Filter`](crate::event::Hook::Filter).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = millstream::Broker::builder().workers(0).build()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let eu = orders
    ///     .subscription("eu")
    ///     .filter(|order| order.header("region") == Some("eu"))
    ///     .subscribe(|_| Ok(()))?;
    /// orders.message(7).header("region", "eu").publish()?;
    /// orders.message(8).header("region", "us").publish()?;
    /// broker.run_until_idle();
    /// let counts = eu.metrics().counts;
    /// assert_eq!((counts.delivered, counts.filtered), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn filter<F>(mut self, wanted: F) -> Self
    where
        F: Fn(&Delivery<'_, T>) -> bool + Send + Sync + 'static,
    {
        self.filter = Some(Arc::new(Contained::new(Box::new(wanted))));
        self
    }

    /// Subscribes with a handler that is called for each delivery, one call at a time.
    ///
    /// First attempts come in accept order. [`on_failure`](Self::on_failure) sets the effect of a
    /// failure on later deliveries.
    ///
    /// The handler may panic, publish, subscribe, unsubscribe itself, swap strategies and drain the
    /// broker. No lock is held while it runs.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid or taken name, an invalid setting, or a closed
    /// broker. A [`concurrency`](Self::concurrency) above one is such a setting, because the calls
    /// of this handler can't overlap.
    pub fn subscribe<F>(self, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.options.check_one_at_a_time(ONE_CALL_AT_A_TIME)?;
        let handler = || Ok(Equipment::Runner(Handler::Each(Box::new(handler))));
        Ok(Subscription::new(self.finish(Consumers::Runner, handler)?))
    }

    /// Subscribes with a handler that several calls share.
    ///
    /// Up to [`concurrency`](Self::concurrency) of them run at once, each on a worker of the
    /// broker. This is for handlers that wait. [`Subscription::set_concurrency`] changes the
    /// number.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), and a concurrency that is zero or
    /// above 1,024. [`OnFailure::BlockSubscription`](crate::OnFailure::BlockSubscription) is
    /// refused, because it leaves nothing to do at once.
    pub fn subscribe_shared<F>(self, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        let concurrency = self.options.checked_concurrency()?;
        let handler = Arc::new(Contained::new(handler));
        let slots = || Ok(Equipment::Slots(slot::share(&handler, concurrency)));
        Ok(Subscription::new(self.finish(Consumers::Slots, slots)?))
    }

    /// Subscribes with an async function as the handler.
    ///
    /// Up to [`concurrency`](Self::concurrency) of its calls are in flight at once. Deliveries with
    /// the same key are handled one after the other. [`Subscription::set_concurrency`] changes the
    /// number.
    ///
    /// No runtime is needed: the broker's workers poll the calls. A call that waits occupies no
    /// worker. Timers and sockets of tokio work if the broker has a hook that enters tokio:
    /// [`BrokerBuilder::around_polls`](crate::BrokerBuilder::around_polls). When the subscription is cancelled or the broker stops, a call
    /// in flight is dropped at its `await`. Its delivery then ends as queued ones do.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe_shared`](Self::subscribe_shared).
    #[cfg(feature = "async")]
    pub fn subscribe_async<F, R>(self, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: Fn(crate::OwnedDelivery<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Nack>> + Send + 'static,
    {
        let concurrency = self.options.checked_concurrency()?;
        let handler = Arc::new(Contained::new(handler));
        let hook = self.topic.engine.poll_hook.clone();
        let slots = || {
            Ok(Equipment::Slots(async_calls::share(
                hook,
                &handler,
                concurrency,
            )))
        };
        Ok(Subscription::new(self.finish(Consumers::Slots, slots)?))
    }

    /// Subscribes with a handler that takes batches.
    ///
    /// A batch has as many deliveries as `batches` says, or fewer once the oldest has lingered
    /// since it was accepted. Retries come alone, in batches of one.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), and batches larger than the lane.
    pub fn subscribe_batches<F>(
        self,
        batches: Batched,
        handler: F,
    ) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&mut DeliveryBatch<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.options.check_one_at_a_time(ONE_BATCH_AT_A_TIME)?;
        self.options.check_untimed()?;
        self.check_batches(batches)?;
        let handler = || {
            Ok(Equipment::Runner(Handler::Batch(
                Box::new(handler),
                batches,
            )))
        };
        Ok(Subscription::new(self.finish(Consumers::Runner, handler)?))
    }

    /// Subscribes with a handler whose calls for one batch run side by side.
    ///
    /// They run on [`concurrency`](Self::concurrency) threads of the subscription's own, in a
    /// private rayon pool. Without that setting, the pool has a thread for each core. This is for
    /// handlers that compute. Batches are handled one after the other, and within a batch there is
    /// no order. Each call succeeds or fails by itself, and retries come alone.
    ///
    /// The worker that hands over a batch waits for it. Handlers that take less than a few
    /// microseconds gain nothing.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe_batches`](Self::subscribe_batches), and a concurrency
    /// that is zero or above 1,024. [`SubscribeError::Spawn`] means that the system refused a
    /// thread.
    #[cfg(feature = "parallel")]
    pub fn subscribe_parallel<F>(
        self,
        batches: Batched,
        handler: F,
    ) -> Result<Subscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        self.options.check_untimed()?;
        self.check_batches(batches)?;
        let threads = self.options.checked_threads()?;
        let engine = self.topic.engine.id();
        let name = self.name.clone();
        let handler = move || {
            let handler = Parallel::new(handler, threads, &name, engine)
                .map_err(|error| SubscribeError::Spawn(error.to_string()))?;
            let handler = Arc::new(Contained::new(handler));
            Ok(Equipment::Runner(Handler::Batch(
                Box::new(handler),
                batches,
            )))
        };
        Ok(Subscription::new(self.finish(Consumers::Runner, handler)?))
    }

    /// Subscribes as a consumer group, which members join with their handlers.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe_shared`](Self::subscribe_shared).
    pub fn group(self) -> Result<ConsumerGroup<T>, SubscribeError> {
        let calls = self.options.checked_concurrency()? as u16;
        let members = || Ok(Equipment::Members(calls));
        let lane = self.finish(Consumers::Members(calls), members)?;
        Ok(ConsumerGroup::new(lane))
    }

    /// Subscribes without a handler: the caller's own threads take the deliveries.
    ///
    /// They settle each delivery when they are done with it; see [`PullSubscription`].
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), and invalid settings of `pull`.
    /// Credits must be at least one, and at most the lane's capacity, or one under
    /// [`OnFailure::BlockSubscription`](crate::OnFailure::BlockSubscription). The ack deadline must
    /// not be zero.
    pub fn pull(self, pull: Pull) -> Result<PullSubscription<T>, SubscribeError> {
        self.options.check_one_at_a_time(NO_CALLS)?;
        self.options.check_without_handler()?;
        let fit = self.fit(Consumers::Callers)?;
        let (leasing, fit) = pull.checked(fit)?;
        self.options.rules(fit)?;
        let equipment = || Ok(Equipment::Callers(leasing, Arc::default()));
        Ok(PullSubscription::of_topic(
            self.finish(Consumers::Callers, equipment)?,
        ))
    }

    fn check_batches(&self, batches: Batched) -> Result<(), SettingError> {
        batches.check()?;
        self.options.nature.check_conflates_not(BATCHES_STAY)?;
        let capacity = self.checked_capacity()? as u32;
        check_batch_size(Some(batches.size()), capacity)
    }

    fn checked_capacity(&self) -> Result<usize, SettingError> {
        let default = self.topic.live.lane_capacity.get() as usize;
        in_range("capacity", self.options.capacity, default)
    }

    #[cfg(feature = "log")]
    fn checked_when_full(&self) -> Result<LaneFull, SettingError> {
        self.stored.check(self.options.nature)?;
        self.stored.when_full(self.options.asked_when_full())
    }

    #[cfg(not(feature = "log"))]
    fn checked_when_full(&self) -> Result<LaneFull, SettingError> {
        Ok(self.options.asked_when_full().unwrap_or_default())
    }

    fn fit(&self, consumers: Consumers) -> Result<Fit, SettingError> {
        Ok(Fit {
            when_full: self.checked_when_full()?,
            capacity: self.checked_capacity()? as u32,
            is_shared: consumers.share(),
            credits: None,
        })
    }

    /// Checks the settings that all kinds of consumers share, and makes the lane.
    ///
    /// Only then is its equipment made, which may start threads.
    fn finish(
        self,
        consumers: Consumers,
        equipment: impl FnOnce() -> Result<Equipment<T>, SubscribeError>,
    ) -> Result<Arc<Lane<T>>, SubscribeError> {
        let name = crate::types::name::parse(&self.name)?;
        let fit = self.fit(consumers)?;
        if let Some(retry) = &self.options.retry {
            retry.check()?;
        }
        self.options.protection.check(consumers.pull())?;
        let rules = self.options.rules(fit)?;
        let calling = self.options.calling(&self.topic.engine)?;
        let plan = LanePlan {
            capacity: fit.capacity,
            when_full: fit.when_full,
            rules,
            retry: self.options.retry,
            protection: self.options.protection,
            calling,
            filter: self.filter,
            by_pattern: false,
            #[cfg(feature = "log")]
            stored: self.stored.open(self.topic, &name, rules.parks())?,
        };
        let engine = &self.topic.engine;
        if engine.is_ending() || self.topic.gate.is_sealed() {
            return Err(SubscribeError::Closed);
        }
        let lane = Lane::equipped(name, Arc::clone(self.topic), plan, equipment()?);
        let names = mutant!(Some(engine.pattern_subs.lock()), "patterns.name-lock", None);
        let joined = self.topic.join(&lane);
        drop(names);
        if !joined {
            return Err(SubscribeError::NameTaken { name: self.name });
        }
        let kind = EventKind::SubscriptionAdded;
        self.topic.tell_of(Subject::of(&lane.name), kind);
        self.topic.welcome(&lane);
        if self.topic.has_stopped() {
            // The end may have passed by before the lane was on the list.
            lane.close(Phase::Cancelling);
            lane.end(engine);
            self.topic.leave(&lane);
            return Err(SubscribeError::Closed);
        }
        #[cfg(feature = "log")]
        if let Some(stored) = &lane.stored {
            lane.count_restored(stored);
            lane.schedule_feeder(stored);
        }
        Ok(lane)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for SubscriptionBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionBuilder")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
