//! Subscriptions, as users hold them.

pub(crate) mod builder;
pub(crate) mod control;
#[cfg(feature = "async")]
pub(crate) mod ends;
pub(crate) mod group;
pub(crate) mod options;
pub(crate) mod pattern;
pub(crate) mod protection;
pub(crate) mod pull;

use std::fmt;
use std::time::Duration;

use crate::engine::base::contain::SharedPolicy;
use crate::engine::gates::protection::{ChangeBreaker, ProtectionSettings};
use crate::engine::registry::drain::MOMENT;
use crate::engine::runtime::{Engine, context};
use crate::engine::state::keyed::ChangeRules;
use crate::engine::state::lane::Lane;
use crate::engine::wait::fire::Tag;
use crate::engine::wait::holds::Hold;
use crate::message::{HoldOff, MessageId};
use crate::observe::latency::Latencies;
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::words::handles::Holders;
use crate::pure::words::room::Phase;
use crate::subscription::control::{
    Control, concurrency_control, subscription_controls, timeout_control,
};
use crate::subscription::protection::protection_controls;
use crate::sync::{Arc, Instant, mutant};
use crate::types::config::{LaneFull, Unsubscribe};
use crate::types::duration::nanos;
use crate::types::error::SettingError;

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

    subscription_controls!();
    protection_controls!();
    concurrency_control!();
    timeout_control!();

    pub(crate) fn control(&self) -> &dyn Control {
        &*self.lane
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
pub(crate) trait AnyLane: Control {
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
}

impl<T: Send + Sync + 'static> Control for Arc<Lane<T>> {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &Engine {
        &self.topic.engine
    }

    fn set_retry(&self, policy: SharedPolicy) {
        self.retry.swap(Arc::new(Some(policy)));
    }

    fn set_rules(&self, change: &ChangeRules) -> Result<(), SettingError> {
        Lane::set_rules(self, change)
    }

    fn set_capacity(&self, capacity: u32) -> Result<(), SettingError> {
        Lane::set_capacity(self, capacity)
    }

    fn set_when_full(&self, policy: LaneFull) -> Result<(), SettingError> {
        Lane::set_when_full(self, policy)
    }

    fn set_concurrency(&self, concurrency: usize) -> bool {
        self.keyed()
            .is_some_and(|keyed| keyed.set_concurrency(concurrency))
    }

    fn retry_now(&self, only: Option<MessageId>) -> usize {
        Lane::retry_now(self, only)
    }

    fn set_protection(&self, change: &dyn Fn(&mut ProtectionSettings)) -> Result<(), SettingError> {
        Lane::change_protection(self, change)
    }

    fn set_timeout(&self, timeout_ns: u64) -> Result<(), SettingError> {
        Lane::set_timeout(self, timeout_ns)
    }

    fn change_breaker(&self, change: ChangeBreaker) -> bool {
        Lane::change_breaker(self, change)
    }

    fn hold_off(&self, time: Duration) {
        HoldOff::hold_off(&**self, time);
    }

    fn set_paused(&self, is_paused: bool) {
        Lane::set_paused(self, Hold::Subscription, is_paused);
    }

    fn is_paused(&self) -> bool {
        self.gate.holds.has(Hold::Subscription)
    }

    fn metrics(&self) -> SubscriptionMetrics {
        self.read_metrics(&mut Latencies::new())
    }

    fn has_ended(&self) -> bool {
        self.is_retired()
    }
}

impl<T: Send + Sync + 'static> AnyLane for Arc<Lane<T>> {
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
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Works on a manual engine until the lane has ended, or `until` has passed, or a drained lane
    /// waits for the clock.
    fn end_by_hand(&self, phase: Phase, until: Option<Instant>) -> bool {
        let engine = &self.topic.engine;
        loop {
            engine.run_until_idle();
            let waits = phase == Phase::Draining && engine.alive() == 0;
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
