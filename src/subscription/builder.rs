//! The settings of a subscription to be made.

use std::fmt;

use crate::engine::base::contain::{SharedPolicy, share_policy};
#[cfg(feature = "async")]
use crate::engine::keyed::async_calls;
use crate::engine::keyed::slots;
use crate::engine::parts::handler::Handler;
use crate::engine::state::keyed::{Consumers, Keyed};
use crate::engine::state::lane::{Lane, LaneSettings};
use crate::engine::state::slots::Shared;
use crate::engine::state::topic::TopicCore;
use crate::message::Delivery;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::nack::Nack;
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::rules::{Fit, Rules, check_batch_size};
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::pure::words::room::Phase;
use crate::subscription::Subscription;
use crate::subscription::group::ConsumerGroup;
use crate::subscription::pull::{Pull, PullSubscription, check_deadline};
use crate::sync::{Arc, mutant};
use crate::types::config::{LaneFull, OnExhausted, OnFailure};
use crate::types::error::{InvalidSetting, SubscribeError};
use crate::types::range::{in_range, in_range_of_threads};

/// The settings of a subscription to be made.
///
/// Set the ones that you care about, then call [`subscribe`](Self::subscribe),
/// [`subscribe_batches`](Self::subscribe_batches), [`pull`](Self::pull) or another of the final
/// methods, which check all of them at once.
#[must_use = "a builder does nothing until it subscribes"]
pub struct SubscriptionBuilder<'t, T: Send + Sync + 'static> {
    topic: &'t Arc<TopicCore<T>>,
    name: String,
    capacity: Option<usize>,
    when_full: LaneFull,
    retry: Option<SharedPolicy>,
    on_failure: OnFailure,
    on_exhausted: OnExhausted,
    hold: Option<usize>,
    /// The number of credits, only for a pull subscription.
    credits: Option<usize>,
}

impl<'t, T: Send + Sync + 'static> SubscriptionBuilder<'t, T> {
    pub(crate) fn new(topic: &'t Arc<TopicCore<T>>, name: &str) -> Self {
        Self {
            topic,
            name: name.to_owned(),
            capacity: None,
            when_full: LaneFull::default(),
            retry: None,
            on_failure: OnFailure::default(),
            on_exhausted: OnExhausted::default(),
            hold: None,
            credits: None,
        }
    }

    /// Sets how many deliveries may be in the subscription's lane.
    ///
    /// Queued deliveries count, and so do those in flight or waiting for a retry. The range is 1 to
    /// 16,777,216, and the default is the topic's `lane_capacity`.
    pub fn capacity(mut self, deliveries: usize) -> Self {
        self.capacity = Some(deliveries);
        self
    }

    /// Sets the policy for a full lane. The default is [`LaneFull::Wait`].
    pub fn when_full(mut self, policy: LaneFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Sets the retry policy, which decides about failures. The default is the topic's policy.
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.retry = Some(share_policy(policy));
        self
    }

    /// Sets the effect of a failed delivery on later deliveries. The default is
    /// [`OnFailure::Reorder`].
    ///
    /// The other modes need a lane that drops nothing from its middle. So they refuse
    /// [`LaneFull::DropOldest`] and [`LaneFull::DeadLetter`].
    pub fn on_failure(mut self, mode: OnFailure) -> Self {
        self.on_failure = mode;
        self
    }

    /// Sets the fate of a key when a delivery of it goes to the dead letters.
    ///
    /// The default is [`OnExhausted::FreeKey`]. Parking needs [`OnFailure::BlockKey`].
    pub fn on_exhausted(mut self, then: OnExhausted) -> Self {
        self.on_exhausted = then;
        self
    }

    /// Sets how many deliveries may be held back behind blocked keys.
    ///
    /// At the limit the subscription stops taking new deliveries, so all keys wait. Nothing is
    /// dropped. The range is 1 to the lane's capacity, which is the default.
    pub fn hold(mut self, deliveries: usize) -> Self {
        self.hold = Some(deliveries);
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
    /// broker.
    pub fn subscribe<F>(self, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        let lane = self.finish(Consumers::Runner, |_| Ok(Handler::Each(Box::new(handler))))?;
        Ok(Subscription::new(lane))
    }

    /// Subscribes without a handler: the caller's own threads take the deliveries.
    ///
    /// They settle each delivery when they are done with it; see [`PullSubscription`].
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), and invalid settings of `pull`.
    /// Credits must be at least one, and at most the lane's capacity, or one under
    /// [`OnFailure::BlockSubscription`]. The ack deadline must not be zero.
    pub fn pull(mut self, pull: Pull) -> Result<PullSubscription<T>, SubscribeError> {
        let deadline_ns = check_deadline(pull.ack_deadline)?;
        self.credits = pull.credits;
        let lane = self.finish(Consumers::Callers, |_| Ok(Handler::External))?;
        if let Some(keyed) = lane.keyed() {
            keyed.set_ack_deadline(deadline_ns);
            keyed.set_credits(pull.credits)?;
        }
        Ok(PullSubscription::new(lane))
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
        self.check_batches(batches)?;
        let handler = |_: &str| Ok(Handler::Batch(Box::new(handler), batches));
        Ok(Subscription::new(self.finish(Consumers::Runner, handler)?))
    }

    /// Subscribes with a handler whose calls for one batch run side by side.
    ///
    /// They run on `threads` threads of the subscription's own, in a private rayon pool. This is
    /// for handlers that compute. Batches are handled one after the other, and within a batch there
    /// is no order. Each call succeeds or fails by itself, and retries come alone.
    ///
    /// The worker that hands over a batch waits for it. Handlers that take less than a few
    /// microseconds gain nothing.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe_batches`](Self::subscribe_batches), and a number of
    /// threads that is zero or above 1,024. [`SubscribeError::Spawn`] means that the system refused
    /// a thread.
    #[cfg(feature = "parallel")]
    pub fn subscribe_parallel<F>(
        self,
        threads: usize,
        batches: Batched,
        handler: F,
    ) -> Result<Subscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        self.check_batches(batches)?;
        in_range_of_threads("threads", threads)?;
        let engine = self.topic.engine.id();
        let lane = self.finish(Consumers::Runner, |name| {
            let handler =
                crate::engine::parts::parallel::Parallel::new(handler, threads, name, engine)
                    .map_err(|error| SubscribeError::Spawn(error.to_string()))?;
            Ok(Handler::Batch(Box::new(handler), batches))
        })?;
        Ok(Subscription::new(lane))
    }

    /// Subscribes with a handler that is called for up to `concurrency` deliveries at once.
    ///
    /// Each call needs a worker of the broker. This is for handlers that wait. Deliveries with the
    /// same key are handled one after the other, in accept order, except where
    /// [`on_failure`](Self::on_failure) lets later ones pass. Others have no order.
    ///
    /// [`Subscription::set_concurrency`] changes the number.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), and a concurrency that is zero or
    /// above 1,024. [`OnFailure::BlockSubscription`] is refused, because it leaves nothing to do at
    /// once.
    pub fn subscribe_concurrent<F>(
        self,
        concurrency: usize,
        handler: F,
    ) -> Result<Subscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        self.with_slots(concurrency, || slots::share(handler, concurrency))
    }

    /// Subscribes with an async function as the handler.
    ///
    /// Up to `concurrency` of its calls are in flight at once. Deliveries with the same key are
    /// handled one after the other.
    ///
    /// No runtime is needed: the broker's workers poll the calls. A call that waits occupies no
    /// worker. A call that needs its runtime's reactor or timers runs there and is awaited here:
    /// `handle.spawn(work).await`. When the subscription is cancelled or the broker stops, a call
    /// in flight is dropped at its `await`. Its delivery then ends as queued ones do.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe_concurrent`](Self::subscribe_concurrent).
    #[cfg(feature = "async")]
    pub fn subscribe_async<F, R>(
        self,
        concurrency: usize,
        handler: F,
    ) -> Result<Subscription, SubscribeError>
    where
        F: Fn(crate::OwnedDelivery<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Nack>> + Send + 'static,
    {
        self.with_slots(concurrency, || async_calls::share(handler, concurrency))
    }

    /// Subscribes as a consumer group, which members join with their handlers.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe). [`OnFailure::BlockSubscription`] is
    /// refused, because one member would do under it.
    pub fn group(self) -> Result<ConsumerGroup<T>, SubscribeError> {
        let lane = self.finish(Consumers::Members, |_| Ok(Handler::External))?;
        Ok(ConsumerGroup::new(lane))
    }

    fn with_slots(
        self,
        concurrency: usize,
        share: impl FnOnce() -> Shared<T>,
    ) -> Result<Subscription, SubscribeError> {
        in_range_of_threads("concurrency", concurrency)?;
        let lane = self.finish(Consumers::Slots, |_| Ok(Handler::External))?;
        let (slots, make) = share();
        if let Some(keyed) = lane.keyed() {
            keyed.take_slots(slots, make);
        }
        Ok(Subscription::new(lane))
    }

    fn check_batches(&self, batches: Batched) -> Result<(), InvalidSetting> {
        batches.check()?;
        let capacity = self.checked_capacity()? as u32;
        check_batch_size(Some(batches.size()), capacity)
    }

    fn checked_capacity(&self) -> Result<usize, InvalidSetting> {
        let default = self.topic.live.lane_capacity.get() as usize;
        in_range("capacity", self.capacity, default)
    }

    fn rules(&self, capacity: u32, is_shared: bool) -> Result<Rules, InvalidSetting> {
        let mut fit = Fit {
            when_full: self.when_full,
            capacity,
            is_shared,
            credits: None,
        };
        if let Some(credits) = self.credits {
            fit = fit.with_credits(credits)?;
        }
        let rules = Rules {
            on_failure: self.on_failure,
            on_exhausted: self.on_exhausted,
            hold: capacity,
        };
        let rules = rules.checked(fit)?;
        self.hold
            .map_or(Ok(rules), |hold| rules.with_hold(hold, fit))
    }

    /// Checks the settings that all kinds of handlers share, and makes the lane.
    ///
    /// Only then is the handler made, which may start threads that bear the name.
    fn finish(
        self,
        consumers: Consumers,
        handler: impl FnOnce(&str) -> Result<Handler<T>, SubscribeError>,
    ) -> Result<Arc<Lane<T>>, SubscribeError> {
        let name = crate::types::name::parse(&self.name)?;
        let capacity = self.checked_capacity()?;
        if let Some(retry) = &self.retry {
            retry.check()?;
        }
        let rules = self.rules(capacity as u32, consumers.share())?;
        let is_plain = consumers == Consumers::Runner && rules.on_failure == OnFailure::Reorder;
        if self.topic.engine.is_ending() || self.topic.gate.is_sealed() {
            return Err(SubscribeError::Closed);
        }
        let handler = handler(&name)?;
        let settings = LaneSettings {
            capacity: capacity as u32,
            when_full: self.when_full,
            retry: self.retry,
            by_pattern: false,
            consumers,
            keyed: (!is_plain).then(|| Keyed::new(rules, consumers, self.when_full)),
        };
        let lane = Arc::new(Lane::new(name, Arc::clone(self.topic), settings, handler));
        if let Some(keyed) = lane.keyed() {
            keyed.park_by_letters();
        }
        let names = mutant!(
            Some(self.topic.engine.pattern_subs.lock()),
            "patterns.name-lock",
            None
        );
        let joined = self.topic.join(&lane);
        drop(names);
        if !joined {
            return Err(SubscribeError::NameTaken { name: self.name });
        }
        let kind = EventKind::SubscriptionAdded;
        self.topic.tell_of(Subject::of(&lane.name), kind);
        if self.topic.has_stopped() {
            // The end may have passed by before the lane was on the list.
            lane.close(Phase::Cancelling);
            lane.end(&self.topic.engine);
            self.topic.leave(&lane);
            return Err(SubscribeError::Closed);
        }
        Ok(lane)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for SubscriptionBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionBuilder")
            .field("name", &self.name)
            .field("capacity", &self.capacity)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}
