//! Subscriptions, as users hold them.

use std::fmt;
use std::time::Duration;

use crate::config::{LaneFull, Unsubscribe};
use crate::delivery_batch::DeliveryBatch;
use crate::engine::contain::{SharedPolicy, share_policy};
use crate::engine::context;
use crate::engine::handler::Handler;
use crate::engine::lane::{Lane, LaneSettings};
use crate::engine::timer::CANCEL;
use crate::engine::topic::TopicCore;
use crate::error::{InvalidSetting, SubscribeError};
use crate::event::EventKind;
use crate::latency::Latencies;
use crate::message::Delivery;
use crate::metrics::SubscriptionMetrics;
use crate::nack::Nack;
use crate::pure::retry::RetryPolicy;
use crate::pure::room::Phase;
use crate::pure::strategy::{Batched, Strategy};
use crate::pure::verdict::nanos;
use crate::shutdown::MOMENT;
use crate::sync::{Arc, Instant, breakable};
use crate::topic_builder::in_range;

/// A subscription. Dropping it unsubscribes, without waiting: what is queued is
/// cancelled, and a call of the handler that is running finishes.
#[must_use = "dropping a subscription unsubscribes at once; call `detach` to keep it"]
pub struct Subscription {
    lane: Arc<dyn AnyLane>,
    detached: bool,
}

/// What became of an unsubscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "made once, at the end of a subscription"
)]
#[non_exhaustive]
pub enum Unsubscribed {
    /// No call of the handler runs or will start, and the handler itself has
    /// been dropped. These are its last counts.
    Ended(SubscriptionMetrics),
    /// Called from inside a handler, which never waits: no further call will
    /// start, and the rest follows by itself.
    Ending,
}

impl Subscription {
    /// Its name.
    pub fn name(&self) -> &str {
        self.lane.name()
    }

    /// Keeps the subscription for as long as the broker lives.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Ends the subscription and waits until no call of its handler runs or will
    /// start. What it still has is cancelled, dead-lettered or drained, as `mode`
    /// says. A handler that never returns is waited for.
    ///
    /// From inside a handler, its own or another's, it only begins the end and
    /// answers [`Unsubscribed::Ending`].
    pub fn unsubscribe(mut self, mode: Unsubscribe) -> Unsubscribed {
        self.detached = true;
        if context::is_inside() {
            match mode {
                Unsubscribe::Cancel => self.lane.close(Phase::Cancelling),
                Unsubscribe::DeadLetter => self.lane.close(Phase::DeadLettering),
                Unsubscribe::Drain { timeout } => {
                    self.lane.close(Phase::Draining);
                    self.lane.cancel_after(timeout);
                }
            }
            return Unsubscribed::Ending;
        }
        match mode {
            Unsubscribe::Cancel => self.lane.end_as(Phase::Cancelling, None),
            Unsubscribe::DeadLetter => self.lane.end_as(Phase::DeadLettering, None),
            Unsubscribe::Drain { timeout } => {
                let until = Instant::now().checked_add(timeout);
                if !self.lane.end_as(Phase::Draining, until) {
                    self.lane.end_as(Phase::Cancelling, None);
                }
                true
            }
        };
        Unsubscribed::Ended(self.lane.metrics())
    }

    /// Sets this subscription's own retry policy. It decides from the next
    /// failure on; retries already granted stand.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), InvalidSetting> {
        policy.check()?;
        self.lane.set_retry(share_policy(policy));
        Ok(())
    }

    /// A snapshot of its counts.
    pub fn metrics(&self) -> SubscriptionMetrics {
        self.lane.metrics()
    }

    /// Whether it has ended: by an unsubscribe, or with its broker.
    pub fn has_ended(&self) -> bool {
        self.lane.is_retired()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.detached {
            self.lane.close(Phase::Cancelling);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("name", &self.name())
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

/// A lane of any payload type.
trait AnyLane: Send + Sync {
    fn name(&self) -> &str;
    fn close(&self, phase: Phase);
    /// Cancels what the lane still has after this time.
    fn cancel_after(&self, timeout: Duration);
    /// Closes the lane and waits until it has ended, or `until`.
    fn end_as(&self, phase: Phase, until: Option<Instant>) -> bool;
    fn is_retired(&self) -> bool;
    fn set_retry(&self, policy: SharedPolicy);
    fn metrics(&self) -> SubscriptionMetrics;
}

impl<T: Send + Sync + 'static> AnyLane for Arc<Lane<T>> {
    fn name(&self) -> &str {
        &self.name
    }

    fn close(&self, phase: Phase) {
        Lane::close(self, phase);
    }

    fn cancel_after(&self, timeout: Duration) {
        let engine = &self.topic.engine;
        let key = engine.set_timer(nanos(timeout), CANCEL, Arc::clone(self) as _);
        self.set_end(key);
    }

    fn end_as(&self, phase: Phase, until: Option<Instant>) -> bool {
        let engine = &self.topic.engine;
        Lane::close(self, phase);
        if engine.is_manual() {
            return self.end_by_hand(phase, until);
        }
        if phase > Phase::Draining {
            // Don't wait for a free worker: they may all be busy elsewhere.
            self.end(engine);
        }
        engine.stillness.wait(until, || Lane::is_retired(self))
    }

    fn is_retired(&self) -> bool {
        Lane::is_retired(self)
    }

    fn set_retry(&self, policy: SharedPolicy) {
        self.retry.swap(Arc::new(Some(policy)));
    }

    fn metrics(&self) -> SubscriptionMetrics {
        self.read_metrics(&mut Latencies::new())
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Works on a manual engine until the lane has ended, or `until`, or until what
    /// it drains waits for the clock.
    fn end_by_hand(&self, phase: Phase, until: Option<Instant>) -> bool {
        let engine = &self.topic.engine;
        loop {
            engine.run_until_idle();
            let waits = phase == Phase::Draining && engine.pool.alive() == 0;
            let time_is_up = until.is_some_and(|until| Instant::now() >= until);
            if self.is_retired() || waits || time_is_up {
                return self.is_retired();
            }
            // Another thread has a delivery or a place in hand. What it does with
            // it may leave the lane ready, and this thread is the one to run it.
            let soon = Instant::now().checked_add(MOMENT);
            breakable!(
                "lane: an end that nobody waits for",
                engine.stillness.wait(soon, || self.is_retired()),
                return true
            );
        }
    }
}

/// Makes a subscription. A value: set what you care about, then
/// [`subscribe`](Self::subscribe) or [`subscribe_batches`](Self::subscribe_batches),
/// where everything is checked at once.
#[must_use = "a builder does nothing until it subscribes"]
pub struct SubscriptionBuilder<'t, T: Send + Sync + 'static> {
    topic: &'t Arc<TopicCore<T>>,
    name: String,
    capacity: Option<usize>,
    when_full: LaneFull,
    retry: Option<SharedPolicy>,
}

impl<'t, T: Send + Sync + 'static> SubscriptionBuilder<'t, T> {
    pub(crate) fn new(topic: &'t Arc<TopicCore<T>>, name: &str) -> Self {
        Self {
            topic,
            name: name.to_owned(),
            capacity: None,
            when_full: LaneFull::default(),
            retry: None,
        }
    }

    /// Deliveries that may be in its lane: queued, in hand or awaiting a retry.
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

    /// Subscribes: `handler` is called for each delivery, one call at a time.
    /// First attempts come in accept order; a retry may come after its successors.
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
        self.finish(|_| Ok(Handler::Each(Box::new(handler))))
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
        self.finish(|_| Ok(Handler::Batch(Box::new(handler), batches)))
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
        if !(1..=crate::broker_builder::MAX_WORKERS).contains(&threads) {
            let rule = "must be between 1 and 1024";
            return Err(InvalidSetting::new("threads", threads, rule).into());
        }
        self.finish(|name| {
            let handler = crate::engine::parallel::Parallel::new(handler, threads, name)
                .map_err(|error| SubscribeError::Spawn(error.to_string()))?;
            Ok(Handler::Batch(Box::new(handler), batches))
        })
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

    /// Checks what all kinds of handlers have in common, and only then has the
    /// handler made, which may start threads that bear the name.
    fn finish(
        self,
        handler: impl FnOnce(&str) -> Result<Handler<T>, SubscribeError>,
    ) -> Result<Subscription, SubscribeError> {
        let name = crate::name::parse(&self.name)?;
        let capacity = self.checked_capacity()?;
        if let Some(retry) = &self.retry {
            retry.check()?;
        }
        if self.topic.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        let handler = handler(&name)?;
        let settings = LaneSettings {
            capacity: capacity as u32,
            when_full: self.when_full,
            retry: self.retry,
        };
        let lane = Arc::new(Lane::new(name, Arc::clone(self.topic), settings, handler));
        if !self.topic.join(&lane) {
            return Err(SubscribeError::NameTaken { name: self.name });
        }
        let kind = EventKind::SubscriberAdded;
        self.topic.tell_of(Some(&lane.name), None, 0, None, kind);
        if self.topic.engine.has_stopped() {
            // The end may have passed by before the lane was on the list.
            lane.close(Phase::Cancelling);
            lane.end(&self.topic.engine);
            self.topic.leave(&lane);
            return Err(SubscribeError::Closed);
        }
        Ok(Subscription {
            lane: Arc::new(lane),
            detached: false,
        })
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
