//! Subscriptions to patterns of topics, as users hold them.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use crate::engine::base::contain::{SharedPolicy, share_policy};
use crate::engine::parts::handler::Handler;
use crate::engine::registry::patterns::{MakeHandler, Order, PatternSub};
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::AnyPatternSub;
use crate::engine::state::lane::Lane;
use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::words::room::Phase;
use crate::subscription::{AnyLane, Unsubscribed, end_all};
use crate::sync::Arc;
use crate::types::config::{LaneFull, OnExhausted, OnFailure, Unsubscribe};
use crate::types::error::{InvalidSetting, SubscribeError, UnknownPattern};
use crate::types::name::InvalidPattern;
use crate::types::pattern::Pattern;
use crate::types::range::in_range;

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
    pub(super) detached: bool,
}

impl PatternSubscription {
    /// Returns the subscription's name.
    pub fn name(&self) -> &str {
        self.pattern_sub.name()
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
    /// Returns [`UnknownPattern`] if the subscription has no such pattern.
    pub fn remove(&self, pattern: &str, mode: Unsubscribe) -> Result<(), UnknownPattern> {
        let lanes = self.pattern_sub.remove(pattern);
        let lanes = lanes.ok_or_else(|| UnknownPattern {
            pattern: pattern.to_owned(),
        })?;
        end_all(self.pattern_sub.engine(), &lanes, mode);
        self.pattern_sub.reap_ended();
        Ok(())
    }

    /// Sets the subscription's own retry policy, for all topics, later ones included.
    ///
    /// It decides from the next failure on. Retries already granted stand.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), InvalidSetting> {
        let policy = share_policy(policy);
        policy.check()?;
        self.pattern_sub.set_retry(policy);
        Ok(())
    }

    /// Sets the effect of a failed delivery on later ones, for all topics, later ones included.
    ///
    /// [`Subscription::set_on_failure`](crate::Subscription::set_on_failure) says more.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] as that does.
    pub fn set_on_failure(&self, mode: OnFailure) -> Result<(), InvalidSetting> {
        self.pattern_sub.set_order(&|order| order.on_failure = mode)
    }

    /// Sets the fate of a key when a delivery of it dies, for all topics, later ones included.
    ///
    /// [`Subscription::set_on_exhausted`](crate::Subscription::set_on_exhausted) says more.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] as that does.
    pub fn set_on_exhausted(&self, then: OnExhausted) -> Result<(), InvalidSetting> {
        self.pattern_sub
            .set_order(&|order| order.on_exhausted = then)
    }

    /// Sets how many deliveries may be in each lane, for all topics, later ones included.
    ///
    /// [`Subscription::set_capacity`](crate::Subscription::set_capacity) says more.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] as that does.
    pub fn set_capacity(&self, deliveries: usize) -> Result<(), InvalidSetting> {
        let capacity = in_range("capacity", Some(deliveries), deliveries)?;
        self.pattern_sub.set_capacity(capacity as u32)
    }

    /// Sets the policy for full lanes, for all topics, later ones included.
    ///
    /// [`Subscription::set_when_full`](crate::Subscription::set_when_full) says more.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] as that does.
    pub fn set_when_full(&self, policy: LaneFull) -> Result<(), InvalidSetting> {
        self.pattern_sub.set_when_full(policy)
    }

    /// Returns the sum of the subscription's counts over all topics.
    ///
    /// Topics that it has left, or that were removed, are included. Latencies are of the topics
    /// that it has now.
    pub fn metrics(&self) -> SubscriptionMetrics {
        self.pattern_sub.metrics()
    }

    /// Returns whether the subscription has ended, by an unsubscribe or with its broker.
    pub fn has_ended(&self) -> bool {
        self.pattern_sub.has_ended()
    }

    /// Keeps the subscription for as long as the broker lives.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Ends the subscription in all topics at once, and waits until no call of its handler runs or
    /// will start.
    ///
    /// Its remaining deliveries are cancelled, dead-lettered or drained, as `mode` says. The call
    /// waits for a handler even if that never returns.
    ///
    /// Inside any handler of the broker, the call only begins the end and returns
    /// [`Unsubscribed::Ending`].
    pub fn unsubscribe(mut self, mode: Unsubscribe) -> Unsubscribed {
        self.detached = true;
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
        if !self.detached {
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
pub(super) trait AnyPatternHandle: Send + Sync {
    fn name(&self) -> &str;
    fn engine(&self) -> &Engine;
    fn patterns(&self) -> Vec<Pattern>;
    fn topics(&self) -> Vec<Arc<str>>;
    fn add(&self, pattern: Pattern) -> Result<(), SubscribeError>;
    fn remove(&self, pattern: &str) -> Option<Vec<Arc<dyn AnyLane>>>;
    fn reap_ended(&self);
    fn set_retry(&self, policy: SharedPolicy);
    fn set_order(&self, change: &dyn Fn(&mut Order)) -> Result<(), InvalidSetting>;
    fn set_capacity(&self, capacity: u32) -> Result<(), InvalidSetting>;
    fn set_when_full(&self, policy: LaneFull) -> Result<(), InvalidSetting>;
    fn metrics(&self) -> SubscriptionMetrics;
    fn has_ended(&self) -> bool;
    /// Returns the lanes that are to end now.
    fn begin_end(&self) -> Vec<Arc<dyn AnyLane>>;
    /// Waits until the handler has been dropped, which the end of the broker may do.
    fn await_end(&self);
}

impl<T: Send + Sync + 'static> AnyPatternHandle for PatternSub<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &Engine {
        &self.engine
    }

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

    fn set_retry(&self, policy: SharedPolicy) {
        PatternSub::set_retry(self, policy);
    }

    fn set_order(&self, change: &dyn Fn(&mut Order)) -> Result<(), InvalidSetting> {
        PatternSub::set_order(self, change)
    }

    fn set_capacity(&self, capacity: u32) -> Result<(), InvalidSetting> {
        PatternSub::set_capacity(self, capacity)
    }

    fn set_when_full(&self, policy: LaneFull) -> Result<(), InvalidSetting> {
        PatternSub::set_when_full(self, policy)
    }

    fn metrics(&self) -> SubscriptionMetrics {
        self.read_metrics()
    }

    fn has_ended(&self) -> bool {
        PatternSub::has_ended(self)
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

/// The settings of a pattern subscription to be made.
///
/// Set the ones that you care about, then call [`subscribe`](Self::subscribe), which checks all of
/// them at once.
#[must_use = "a builder does nothing until it subscribes"]
pub struct PatternSubscriptionBuilder<'b, T> {
    engine: &'b Arc<Engine>,
    name: String,
    patterns: Vec<String>,
    capacity: Option<usize>,
    when_full: LaneFull,
    retry: Option<SharedPolicy>,
    order: Order,
    carries: PhantomData<fn(T) -> T>,
}

impl<'b, T: Send + Sync + 'static> PatternSubscriptionBuilder<'b, T> {
    pub(crate) fn new(engine: &'b Arc<Engine>, name: &str) -> Self {
        Self {
            engine,
            name: name.to_owned(),
            patterns: Vec::new(),
            capacity: None,
            when_full: LaneFull::default(),
            retry: None,
            order: Order::default(),
            carries: PhantomData,
        }
    }

    /// Adds a [`Pattern`] of topics. At least one is needed.
    ///
    /// A topic that several patterns match is subscribed to once.
    pub fn matching(mut self, pattern: &str) -> Self {
        self.patterns.push(pattern.to_owned());
        self
    }

    /// Sets how many deliveries may be in the subscription's lane, in each topic.
    ///
    /// Queued deliveries count, and so do those in flight or waiting for a retry. The range is 1 to
    /// 16,777,216, and the default is the topic's `lane_capacity`.
    pub fn capacity(mut self, deliveries: usize) -> Self {
        self.capacity = Some(deliveries);
        self
    }

    /// Sets the policy for such a lane when it is full. The default is [`LaneFull::Wait`].
    pub fn when_full(mut self, policy: LaneFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Sets the retry policy, which decides about failures. The default is the policy of each
    /// topic.
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.retry = Some(share_policy(policy));
        self
    }

    /// Sets the effect of a failed delivery on later deliveries, in each topic.
    ///
    /// [`SubscriptionBuilder::on_failure`](crate::SubscriptionBuilder::on_failure) says more.
    pub fn on_failure(mut self, mode: OnFailure) -> Self {
        self.order.on_failure = mode;
        self
    }

    /// Sets the fate of a key, in its topic, when a delivery of it goes to the dead letters.
    ///
    /// [`SubscriptionBuilder::on_exhausted`](crate::SubscriptionBuilder::on_exhausted) says more.
    pub fn on_exhausted(mut self, then: OnExhausted) -> Self {
        self.order.on_exhausted = then;
        self
    }

    /// Subscribes with a handler that is called for each delivery.
    ///
    /// [`Delivery::topic`] tells the topic. Calls are one at a time per topic, with first attempts
    /// in accept order. They may overlap between topics, so the handler is `Fn` and `Sync`.
    ///
    /// The handler gets every message that a matching topic accepts after this has returned, and no
    /// earlier message. [`Topic::subscribe`](crate::Topic::subscribe) says more. From a topic that
    /// is opened later, it gets every message from the first on. This call does not wait for
    /// handlers.
    ///
    /// The name must be free in all matching topics, and among the pattern subscriptions. From then
    /// on it is taken in each matching topic: a [`Topic::subscribe`](crate::Topic::subscribe) with
    /// this name is refused there.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid or taken name, an invalid pattern or setting, or
    /// a closed broker. Nothing has been subscribed to then.
    pub fn subscribe<F>(self, handler: F) -> Result<PatternSubscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        let name = crate::types::name::parse(&self.name)?;
        if self.patterns.is_empty() {
            let rule = "must have at least one, or it would match nothing";
            return Err(InvalidSetting::new("list of patterns", "empty", rule).into());
        }
        let patterns = self.patterns.iter().map(|pattern| pattern.parse());
        let patterns = patterns.collect::<Result<_, InvalidPattern>>()?;
        let capacity = match self.capacity {
            None => None,
            asked => Some(in_range("capacity", asked, 0)? as u32),
        };
        if let Some(retry) = &self.retry {
            retry.check()?;
        }
        self.order.check(self.when_full)?;
        let handler = Arc::new(handler);
        let make: MakeHandler<T> = Box::new(move || {
            let handler = Arc::clone(&handler);
            Handler::Each(Box::new(move |delivery: &Delivery<'_, T>| {
                handler(delivery)
            }))
        });
        let engine = Arc::clone(self.engine);
        let pattern_sub = PatternSub::new(
            name,
            engine,
            capacity,
            self.when_full,
            self.retry,
            self.order,
            make,
        );
        let pattern_sub = Arc::new(pattern_sub);
        pattern_sub.join(patterns)?;
        Ok(PatternSubscription {
            pattern_sub,
            detached: false,
        })
    }
}

impl<T> fmt::Debug for PatternSubscriptionBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternSubscriptionBuilder")
            .field("name", &self.name)
            .field("payload", &type_name::<T>())
            .field("patterns", &self.patterns)
            .field("capacity", &self.capacity)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}
