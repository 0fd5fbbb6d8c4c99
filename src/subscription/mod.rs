//! Subscriptions, as users hold them.

pub(crate) mod builder;
#[cfg(feature = "async")]
pub(crate) mod futures;
pub(crate) mod group;
pub(crate) mod lease;
pub(crate) mod lease_batch;
pub(crate) mod pattern;
pub(crate) mod pull;

use std::fmt;
use std::time::Duration;

use crate::engine::base::contain::{SharedPolicy, share_policy};
use crate::engine::registry::drain::MOMENT;
use crate::engine::runtime::{Engine, context};
use crate::engine::state::keyed::ChangeRules;
use crate::engine::state::lane::Lane;
use crate::engine::wait::fire::Tag;
use crate::observe::latency::Latencies;
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::decide::rules::Rules;
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::words::handles::Holders;
use crate::pure::words::room::Phase;
use crate::sync::{Arc, Instant, mutant};
use crate::types::config::{LaneFull, OnExhausted, OnFailure, Unsubscribe};
use crate::types::duration::nanos;
use crate::types::error::InvalidSetting;
use crate::types::range::{in_range, in_range_of_threads};

/// A subscription with a handler of its own.
///
/// Dropping its last handle unsubscribes, without waiting. Queued deliveries are cancelled, and a
/// call of the handler that is running finishes.
#[must_use = "dropping a subscription unsubscribes at once; call `detach` to keep it"]
pub struct Subscription {
    lane: Arc<dyn AnyLane>,
    detached: bool,
}

/// The result of an unsubscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "made once, at the end of a subscription"
)]
#[non_exhaustive]
pub enum Unsubscribed {
    /// No call of the handler runs or will start, and the handler has been dropped. The value has
    /// the last counts of the subscription.
    Ended(SubscriptionMetrics),
    /// The end has only begun, because the call came from inside a handler of this broker, which
    /// never waits.
    ///
    /// No further call will start, and the rest follows by itself.
    Ending,
}

impl Subscription {
    pub(crate) fn new<T: Send + Sync + 'static>(lane: Arc<Lane<T>>) -> Self {
        Self {
            lane: Arc::new(lane),
            detached: false,
        }
    }

    /// Returns the subscription's name.
    pub fn name(&self) -> &str {
        self.lane.name()
    }

    /// Keeps the subscription for as long as the broker lives.
    ///
    /// [`Topic::attach`](crate::Topic::attach) takes it up again by its name.
    pub fn detach(self) {
        self.detach_all();
    }

    /// Ends the subscription, and waits until no call of its handler runs or will start.
    ///
    /// Its remaining deliveries are cancelled, dead-lettered or drained, as `mode` says. The call
    /// waits for a handler even if that never returns.
    ///
    /// Inside any handler of this broker, the call only begins the end and returns
    /// [`Unsubscribed::Ending`].
    pub fn unsubscribe(mut self, mode: Unsubscribe) -> Unsubscribed {
        self.detached = true;
        self.end_as(mode)
    }

    /// Lets the subscription stay without handles. This one may live on.
    pub(crate) fn detach_all(&self) {
        self.lane.detach();
    }

    /// Ends the subscription, by a handle that may live on.
    pub(crate) fn end_as(&self, mode: Unsubscribe) -> Unsubscribed {
        match end_all(self.lane.engine(), &[Arc::clone(&self.lane)], mode) {
            true => Unsubscribed::Ended(self.lane.metrics()),
            false => Unsubscribed::Ending,
        }
    }

    /// Sets this subscription's own retry policy.
    ///
    /// It decides from the next failure on. Retries already granted stand.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), InvalidSetting> {
        let policy = share_policy(policy);
        policy.check()?;
        self.lane.set_retry(policy);
        Ok(())
    }

    /// Sets the effect of a failed delivery on later deliveries.
    ///
    /// Waiting deliveries follow the new mode at once, within a turn of the handler. So switching
    /// to [`OnFailure::Reorder`] releases all held deliveries. Deliveries that are already in
    /// flight or waiting for a retry keep the effect they had.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] if the mode clashes with how the subscription was made, with
    /// [`OnExhausted::ParkKey`], or with the [credits](crate::Pull::credits) that were asked for.
    /// The rules are those of
    /// [`SubscriptionBuilder::on_failure`](crate::SubscriptionBuilder::on_failure).
    pub fn set_on_failure(&self, mode: OnFailure) -> Result<(), InvalidSetting> {
        self.lane.set_rules(&move |rules, fit| {
            Rules {
                on_failure: mode,
                ..rules
            }
            .checked(fit)
        })
    }

    /// Sets the fate of a key when a delivery of it goes to the dead letters.
    ///
    /// Switching to [`OnExhausted::FreeKey`] frees the parked keys. Their letters stay.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] for parking without [`OnFailure::BlockKey`].
    pub fn set_on_exhausted(&self, then: OnExhausted) -> Result<(), InvalidSetting> {
        self.lane.set_rules(&move |rules, fit| {
            Rules {
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
    /// Returns [`InvalidSetting`] for zero, for more than the lane's capacity, or for a
    /// subscription that never holds deliveries back.
    pub fn set_hold(&self, deliveries: usize) -> Result<(), InvalidSetting> {
        self.lane
            .set_rules(&move |rules, fit| rules.with_hold(deliveries, fit))
    }

    /// Sets how many deliveries may be in the subscription's lane.
    ///
    /// Nothing is dropped if more are there: new ones find no room until enough have ended. More
    /// room is there at once for a topic that waits. The [hold](Self::set_hold) follows, if it was
    /// the whole capacity.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] for zero or more than 16,777,216. It also refuses a capacity below
    /// the hold, the batch size, or the [credits](crate::Pull::credits) that were asked for.
    pub fn set_capacity(&self, deliveries: usize) -> Result<(), InvalidSetting> {
        let capacity = in_range("capacity", Some(deliveries), deliveries)?;
        self.lane.set_capacity(capacity as u32)
    }

    /// Sets the policy for the subscription's lane when it is full.
    ///
    /// It holds for the next message that finds the lane full. A topic that waits goes on at once.
    /// A lane that is to [drop its oldest](LaneFull::DropOldest) may have to ask its handler's
    /// worker first. The topic waits for that, for as long as a running call lasts.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] if the policy clashes with [`OnFailure`], as
    /// [`SubscriptionBuilder::on_failure`](crate::SubscriptionBuilder::on_failure) says.
    pub fn set_when_full(&self, policy: LaneFull) -> Result<(), InvalidSetting> {
        self.lane.set_when_full(policy)
    }

    /// Sets how many calls of the handler may run at once.
    ///
    /// Running calls finish. If more than `concurrency` are running, no new call starts until fewer
    /// are.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] for zero or more than 1,024. It also refuses a subscription that
    /// was not made by [`subscribe_concurrent`](crate::SubscriptionBuilder::subscribe_concurrent).
    pub fn set_concurrency(&self, concurrency: usize) -> Result<(), InvalidSetting> {
        in_range_of_threads("concurrency", concurrency)?;
        if self.lane.set_concurrency(concurrency) {
            return Ok(());
        }
        let rule = "needs a subscription made by subscribe_concurrent";
        Err(InvalidSetting::new("concurrency", concurrency, rule))
    }

    /// Returns a snapshot of the subscription's counts.
    pub fn metrics(&self) -> SubscriptionMetrics {
        self.lane.metrics()
    }

    /// Returns whether the subscription has ended, by an unsubscribe or with its broker.
    pub fn has_ended(&self) -> bool {
        self.lane.is_retired()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.lane.leave() && !self.detached {
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

/// Ends lanes, all at once, and waits until they have ended.
///
/// It returns `false` inside a handler of this engine, where it has only begun their end.
pub(crate) fn end_all(engine: &Engine, lanes: &[Arc<dyn AnyLane>], mode: Unsubscribe) -> bool {
    if context::is_inside(engine) {
        begin_end_of_all(lanes, mode);
        return false;
    }
    let (phase, timeout) = phase_of(mode);
    for lane in lanes {
        lane.close(phase);
    }
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    for lane in lanes {
        if !lane.end_as(phase, until) {
            lane.end_as(Phase::Cancelling, None);
        }
    }
    true
}

/// Begins the end of lanes, which comes by itself.
fn begin_end_of_all(lanes: &[Arc<dyn AnyLane>], mode: Unsubscribe) {
    let (phase, timeout) = phase_of(mode);
    for lane in lanes {
        lane.close(phase);
    }
    for (lane, timeout) in lanes.iter().zip(timeout.into_iter().cycle()) {
        lane.cancel_after(timeout);
    }
}

/// Returns the phase in which a lane ends, and how long it may last.
fn phase_of(mode: Unsubscribe) -> (Phase, Option<Duration>) {
    match mode {
        Unsubscribe::Cancel => (Phase::Cancelling, None),
        Unsubscribe::DeadLetter => (Phase::DeadLettering, None),
        Unsubscribe::Drain { timeout } => (Phase::Draining, Some(timeout)),
    }
}

/// A lane of any payload type.
pub(crate) trait AnyLane: Send + Sync {
    fn name(&self) -> &str;
    fn engine(&self) -> &Engine;
    fn close(&self, phase: Phase);
    /// Lets the subscription stay without handles.
    fn detach(&self);
    /// Takes a handle off. Returns whether the subscription is to end.
    fn leave(&self) -> bool;
    /// Cancels the deliveries that the lane still has after this time.
    fn cancel_after(&self, timeout: Duration);
    /// Closes the lane, and waits until it has ended or `until` has passed.
    fn end_as(&self, phase: Phase, until: Option<Instant>) -> bool;
    /// Runs the end of a closed lane on this thread, if it may have come.
    #[cfg(feature = "async")]
    fn come_to_end(&self);
    fn is_retired(&self) -> bool;
    fn set_retry(&self, policy: SharedPolicy);
    fn set_rules(&self, change: &ChangeRules) -> Result<(), InvalidSetting>;
    fn set_concurrency(&self, concurrency: usize) -> bool;
    fn set_capacity(&self, capacity: u32) -> Result<(), InvalidSetting>;
    fn set_when_full(&self, policy: LaneFull) -> Result<(), InvalidSetting>;
    fn metrics(&self) -> SubscriptionMetrics;
}

impl<T: Send + Sync + 'static> AnyLane for Arc<Lane<T>> {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &Engine {
        &self.topic.engine
    }

    fn close(&self, phase: Phase) {
        Lane::close(self, phase);
    }

    fn detach(&self) {
        self.holders.update(Holders::detach);
    }

    fn leave(&self) -> bool {
        self.holders.update(Holders::leave)
    }

    fn cancel_after(&self, timeout: Duration) {
        let engine = &self.topic.engine;
        if timeout.is_zero() {
            return Lane::close(self, Phase::Cancelling);
        }
        let key = engine.set_timer(nanos(timeout), Tag::Cancel, Arc::clone(self) as _);
        self.set_end(key);
    }

    fn end_as(&self, phase: Phase, until: Option<Instant>) -> bool {
        let engine = &self.topic.engine;
        Lane::close(self, phase);
        if engine.is_manual() {
            return self.end_by_hand(phase, until);
        }
        if phase.ends_at_once() {
            // The end does not wait for a free worker: all of them may be busy elsewhere.
            self.end(engine);
        }
        engine.quiescence.wait(until, || Lane::is_retired(self))
    }

    #[cfg(feature = "async")]
    fn come_to_end(&self) {
        Lane::come_to_end(self);
    }

    fn is_retired(&self) -> bool {
        Lane::is_retired(self)
    }

    fn set_retry(&self, policy: SharedPolicy) {
        self.retry.swap(Arc::new(Some(policy)));
    }

    fn set_rules(&self, change: &ChangeRules) -> Result<(), InvalidSetting> {
        Lane::set_rules(self, change)
    }

    fn set_concurrency(&self, concurrency: usize) -> bool {
        self.keyed()
            .is_some_and(|keyed| keyed.set_concurrency(concurrency))
    }

    fn set_capacity(&self, capacity: u32) -> Result<(), InvalidSetting> {
        Lane::set_capacity(self, capacity)
    }

    fn set_when_full(&self, policy: LaneFull) -> Result<(), InvalidSetting> {
        Lane::set_when_full(self, policy)
    }

    fn metrics(&self) -> SubscriptionMetrics {
        self.read_metrics(&mut Latencies::new())
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Works on a manual engine until the lane has ended, or `until` has passed, or a drained lane
    /// waits for the clock.
    fn end_by_hand(&self, phase: Phase, until: Option<Instant>) -> bool {
        let engine = &self.topic.engine;
        loop {
            engine.run_until_idle();
            let waits = phase == Phase::Draining && engine.pool.alive() == 0;
            let time_is_up = until.is_some_and(|until| Instant::now() >= until);
            if self.is_retired() || waits || time_is_up {
                return self.is_retired();
            }
            // Another thread has a delivery or a place. Its work may leave the lane ready, and then
            // this thread is the one to run it.
            let soon = Instant::now().checked_add(MOMENT);
            mutant!(
                engine.quiescence.wait(soon, || self.is_retired()),
                "lane.notify-end",
                return true
            );
        }
    }
}
