//! Subscriptions to patterns of topics, as users hold them.

use std::fmt;

use std::time::Duration;

use crate::engine::base::contain::SharedPolicy;
use crate::engine::gates::protection::{ChangeBreaker, ProtectionSettings};
use crate::engine::patterns::subscription::PatternSub;
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::AnyPatternSub;
use crate::engine::state::keyed::ChangeRules;
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::words::room::Phase;
use crate::subscription::control::{
    Control, concurrency_control, subscription_controls, timeout_control,
};
use crate::subscription::protection::protection_controls;
use crate::subscription::{AnyLane, Unsubscribed, end_all};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::config::{LaneFull, Unsubscribe};
use crate::types::error::{SettingError, SubscribeError, UnknownPatternError};
use crate::types::pattern::Pattern;

/// A subscription to all topics of one payload type that match one of its patterns.
///
/// It covers topics that are open now and topics that are opened later. In each of them it is a
/// subscription like any other, under this one's name. It has a lane, retries, metrics, events and
/// dead letters of its own there. So order is kept per topic, and a topic whose deliveries fail or
/// are slow delays no other. Calls of the handler are one at a time per topic, and may overlap
/// between topics. A topic that carries another type is passed by.
///
/// A topic can be removed while it has no work for this subscription: see
/// [`Broker::remove_topic`](crate::Broker::remove_topic).
///
/// Dropping the subscription unsubscribes, without waiting. Queued deliveries are cancelled, and
/// calls of the handler that are running finish.
#[must_use = "dropping a subscription unsubscribes at once; call `detach` to keep it"]
pub struct PatternSubscription {
    pub(super) pattern_sub: Arc<dyn AnyPatternHandle>,
    /// It stays when this handle is dropped.
    detached: AtomicBool,
}

impl PatternSubscription {
    pub(crate) fn new(pattern_sub: Arc<dyn AnyPatternHandle>) -> Self {
        Self {
            pattern_sub,
            detached: AtomicBool::new(false),
        }
    }

    /// Returns the patterns, in the order in which they were added.
    pub fn patterns(&self) -> Vec<Pattern> {
        self.pattern_sub.patterns()
    }

    /// Returns the names of the topics that it is subscribed to now, sorted.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.pattern_sub.topics()
    }

    /// Adds a pattern while traffic runs.
    ///
    /// Topics that it matches now, and that no other pattern did, are subscribed to when this
    /// returns. Later topics are subscribed to as they are opened. Adding a pattern again changes
    /// nothing. The call does not wait for handlers.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Pattern`], [`SubscribeError::NameTakenOn`] or
    /// [`SubscribeError::Closed`]. Nothing has changed then.
    pub fn add(&self, pattern: &str) -> Result<(), SubscribeError> {
        self.pattern_sub.add(pattern.parse()?)
    }

    /// Removes a pattern while traffic runs, and ends the subscription to topics that no other
    /// pattern matches.
    ///
    /// Their deliveries for it are cancelled, dead-lettered or drained, as `mode` says: queued, in
    /// flight, or waiting for a retry. Messages still in the queues of these topics come too late.
    /// The other topics notice nothing.
    ///
    /// The call waits until no call of the handler for those topics runs or will start. Inside a
    /// handler of the broker it only begins their end. If the pattern is added again before that,
    /// the handler may still be called for older deliveries.
    ///
    /// # Errors
    ///
    /// Returns [`UnknownPatternError`] if the subscription has no such pattern.
    pub fn remove(&self, pattern: &str, mode: Unsubscribe) -> Result<(), UnknownPatternError> {
        let lanes = self.pattern_sub.remove(pattern);
        let lanes = lanes.ok_or_else(|| UnknownPatternError {
            pattern: pattern.to_owned(),
        })?;
        end_all(self.pattern_sub.engine(), &lanes, mode);
        self.pattern_sub.reap_ended();
        Ok(())
    }

    subscription_controls!();
    protection_controls!();
    concurrency_control!();
    timeout_control!();

    pub(crate) fn control(&self) -> &dyn Control {
        &*self.pattern_sub
    }

    /// Keeps the subscription for as long as the broker lives.
    pub fn detach(self) {
        self.detach_all();
    }

    /// Lets the subscription stay without handles. This one may live on.
    pub(crate) fn detach_all(&self) {
        self.detached.store(true, Ordering::Relaxed);
    }

    /// Ends the subscription in all topics at once, and waits until no call of its handler runs or
    /// will start.
    ///
    /// Its remaining deliveries are cancelled, dead-lettered or drained, as `mode` says. The call
    /// waits for a handler even if that never returns.
    ///
    /// Inside any handler of the broker, the call only begins the end and returns
    /// [`Unsubscribed::Ending`].
    pub fn unsubscribe(self, mode: Unsubscribe) -> Unsubscribed {
        self.detach_all();
        self.end_as(mode)
    }

    /// Ends the subscription, by a handle that may live on.
    pub(crate) fn end_as(&self, mode: Unsubscribe) -> Unsubscribed {
        let lanes = self.pattern_sub.begin_end();
        if !end_all(self.pattern_sub.engine(), &lanes, mode) {
            return Unsubscribed::Ending;
        }
        self.pattern_sub.await_end();
        Unsubscribed::Ended(self.pattern_sub.metrics())
    }
}

impl Drop for PatternSubscription {
    fn drop(&mut self) {
        if !self.detached.load(Ordering::Relaxed) {
            for lane in self.pattern_sub.begin_end() {
                lane.close(Phase::Cancelling);
            }
        }
    }
}

impl fmt::Debug for PatternSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternSubscription")
            .field("name", &self.name())
            .field("patterns", &self.patterns())
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

/// A pattern subscription of any payload type.
pub(crate) trait AnyPatternHandle: Control {
    fn patterns(&self) -> Vec<Pattern>;
    fn topics(&self) -> Vec<Arc<str>>;
    fn add(&self, pattern: Pattern) -> Result<(), SubscribeError>;
    fn remove(&self, pattern: &str) -> Option<Vec<Arc<dyn AnyLane>>>;
    fn reap_ended(&self);
    /// Returns the lanes that are to end now.
    fn begin_end(&self) -> Vec<Arc<dyn AnyLane>>;
    /// Waits until the handler has been dropped, which the end of the broker may do.
    fn await_end(&self);
}

impl<T: Send + Sync + 'static> Control for PatternSub<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &Engine {
        &self.engine
    }

    fn set_retry(&self, policy: SharedPolicy) {
        PatternSub::set_retry(self, policy);
    }

    fn set_rules(&self, change: &ChangeRules) -> Result<(), SettingError> {
        PatternSub::set_rules(self, change)
    }

    fn set_capacity(&self, capacity: u32) -> Result<(), SettingError> {
        PatternSub::set_capacity(self, capacity)
    }

    fn set_when_full(&self, policy: LaneFull) -> Result<(), SettingError> {
        PatternSub::set_when_full(self, policy)
    }

    fn set_concurrency(&self, concurrency: usize) -> bool {
        PatternSub::set_concurrency(self, concurrency)
    }

    fn retry_now(&self, only: Option<MessageId>) -> usize {
        PatternSub::retry_now(self, only)
    }

    fn set_protection(&self, change: &dyn Fn(&mut ProtectionSettings)) -> Result<(), SettingError> {
        PatternSub::set_protection(self, change)
    }

    fn set_timeout(&self, timeout_ns: u64) -> Result<(), SettingError> {
        PatternSub::set_timeout(self, timeout_ns)
    }

    fn change_breaker(&self, change: ChangeBreaker) -> bool {
        PatternSub::change_breaker(self, change)
    }

    fn hold_off(&self, time: Duration) {
        PatternSub::hold_off(self, time);
    }

    fn set_paused(&self, is_paused: bool) {
        PatternSub::set_paused(self, is_paused);
    }

    fn is_paused(&self) -> bool {
        PatternSub::is_paused(self)
    }

    fn metrics(&self) -> SubscriptionMetrics {
        self.read_metrics()
    }

    fn has_ended(&self) -> bool {
        PatternSub::has_ended(self)
    }
}

impl<T: Send + Sync + 'static> AnyPatternHandle for PatternSub<T> {
    fn patterns(&self) -> Vec<Pattern> {
        PatternSub::patterns(self)
    }

    fn topics(&self) -> Vec<Arc<str>> {
        PatternSub::topics(self)
    }

    fn add(&self, pattern: Pattern) -> Result<(), SubscribeError> {
        PatternSub::add(self, pattern)
    }

    fn remove(&self, pattern: &str) -> Option<Vec<Arc<dyn AnyLane>>> {
        PatternSub::remove(self, pattern).map(of_any_type)
    }

    fn reap_ended(&self) {
        AnyPatternSub::reap_ended(self);
    }

    fn begin_end(&self) -> Vec<Arc<dyn AnyLane>> {
        of_any_type(PatternSub::begin_end(self))
    }

    fn await_end(&self) {
        let quiescence = &self.engine.quiescence;
        quiescence.wait(None, || PatternSub::has_ended(self));
    }
}

fn of_any_type<T: Send + Sync + 'static>(lanes: Vec<Arc<Lane<T>>>) -> Vec<Arc<dyn AnyLane>> {
    let lanes = lanes.into_iter();
    lanes.map(|lane| Arc::new(lane) as _).collect()
}
