//! Making a subscription.

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
use crate::pure::decide::retry::RetryPolicy;
use crate::pure::decide::rules::{Fit, Rules};
use crate::pure::decide::strategy::{Batched, Strategy};
use crate::pure::words::room::Phase;
use crate::subscription::Subscription;
use crate::subscription::group::ConsumerGroup;
use crate::subscription::pull::{Pull, PullSubscription, check_deadline};
use crate::sync::{Arc, mutant};
use crate::types::config::{LaneFull, OnExhausted, OnFailure};
use crate::types::error::{InvalidSetting, SubscribeError};
use crate::types::range::{in_range, in_range_of_threads};

/// Makes a subscription. A value: set what you care about, then
/// [`subscribe`](Self::subscribe), [`subscribe_batches`](Self::subscribe_batches) or
/// [`pull`](Self::pull), where everything is checked at once.
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
    /// Only where it is pulled.
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

    /// Deliveries that may be in its lane: queued, in flight or awaiting a retry.
    /// 1 to 16,777,216. Default: the topic's `lane_capacity`.
    pub fn capacity(mut self, deliveries: usize) -> Self {
        self.capacity = Some(deliveries);
        self
    }

    /// What happens when the lane is full. Default [`LaneFull::Wait`].
    pub fn when_full(mut self, policy: LaneFull) -> Self {
        self.when_full = policy;
        self
    }

    /// What follows a failure. Default: the topic's policy.
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.retry = Some(share_policy(policy));
        self
    }

    /// What the failure of one delivery means for those behind it. Default
    /// [`OnFailure::Reorder`]. The others need a lane that drops nothing from its
    /// middle: [`LaneFull::DropOldest`] and [`LaneFull::DeadLetter`] are refused.
    pub fn on_failure(mut self, mode: OnFailure) -> Self {
        self.on_failure = mode;
        self
    }

    /// What follows for its key when a delivery goes to the dead letters. Default
    /// [`OnExhausted::FreeKey`]. Parking needs [`OnFailure::BlockKey`].
    pub fn on_exhausted(mut self, then: OnExhausted) -> Self {
        self.on_exhausted = then;
        self
    }

    /// Deliveries that may be set aside before their first attempt because they wait for
    /// their key: 1 to the lane's capacity, which is the default. Past it the subscription
    /// takes no more until one of those keys goes on: then all keys wait, and nothing is
    /// lost.
    pub fn hold(mut self, deliveries: usize) -> Self {
        self.hold = Some(deliveries);
        self
    }

    /// Subscribes: `handler` is called for each delivery, one call at a time.
    /// First attempts come in accept order; what a failure means for those behind
    /// it is for [`on_failure`](Self::on_failure) to say.
    ///
    /// The handler may panic, publish, subscribe, unsubscribe itself, swap
    /// strategies and drain the broker; no lock is held while it runs.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] for an invalid or taken name, an invalid setting, or a
    /// closed broker.
    pub fn subscribe<F>(self, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        let lane = self.finish(Consumers::Runner, |_| Ok(Handler::Each(Box::new(handler))))?;
        Ok(Subscription::new(lane))
    }

    /// Subscribes without a handler: the caller's own threads take the deliveries, and
    /// settle each when they are done with it; see [`PullSubscription`].
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe), and for settings of `pull` that can't take
    /// effect: no credits, more than the lane's capacity, more than one under
    /// [`OnFailure::BlockSubscription`], or an ack deadline of zero.
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

    /// Subscribes with a handler that takes batches: as many deliveries as
    /// `batches` says, or fewer once the oldest has lingered since it was
    /// accepted. Retries come alone, in batches of one.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe), and for batches larger than the lane.
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

    /// Subscribes with a handler whose calls for one batch run side by side, on
    /// `threads` threads of the subscription's own (a private rayon pool): for
    /// handlers that compute. Batches are handled one after the other; within a
    /// batch there is no order. Each call succeeds or fails for itself, and
    /// retries come alone.
    ///
    /// The worker that hands a batch over waits for it. Nothing is gained for
    /// handlers of less than a few microseconds.
    ///
    /// # Errors
    ///
    /// As [`subscribe_batches`](Self::subscribe_batches), for no thread at all or
    /// more than 1,024, and [`SubscribeError::Spawn`] if the system refuses one.
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

    /// Subscribes with a handler that is called for up to `concurrency` deliveries at
    /// once, as far as the broker has workers: for handlers that wait. Those of one
    /// key are handled one after the other, in accept order but for what
    /// [`on_failure`](Self::on_failure) lets pass; others in no order.
    ///
    /// [`Subscription::set_concurrency`] changes it.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe), for a concurrency of zero or above 1,024, and
    /// for [`OnFailure::BlockSubscription`], which leaves nothing to do at once.
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

    /// Subscribes with an async function as the handler: up to `concurrency` of its
    /// calls are under way at once, those of one key one after the other.
    ///
    /// No runtime is needed: the broker's workers poll the calls, and none is
    /// occupied by one that waits. A call that needs its runtime's reactor or timers
    /// runs there and is awaited here: `handle.spawn(work).await`. A call that is under
    /// way when the subscription is cancelled, or the broker stops, is dropped at its
    /// `await`, and its delivery ends as those that are queued.
    ///
    /// # Errors
    ///
    /// As [`subscribe_concurrent`](Self::subscribe_concurrent).
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
    /// As [`subscribe`](Self::subscribe), and for [`OnFailure::BlockSubscription`],
    /// under which one member would do.
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
        if batches.size() > self.checked_capacity()? {
            let rule = "must not exceed the lane's capacity, or it would never fill";
            return Err(InvalidSetting::new("batch size", batches.size(), rule));
        }
        Ok(())
    }

    fn checked_capacity(&self) -> Result<usize, InvalidSetting> {
        let default = self.topic.settings.lane_capacity as usize;
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

    /// Checks what all kinds of handlers have in common, and only then has the
    /// handler made, which may start threads that bear the name.
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
        if self.topic.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        let handler = handler(&name)?;
        let settings = LaneSettings {
            capacity: capacity as u32,
            when_full: self.when_full,
            retry: self.retry,
            by_pattern: false,
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
        if self.topic.engine.has_stopped() {
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
