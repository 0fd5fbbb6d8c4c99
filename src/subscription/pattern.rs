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
use crate::pure::decide::retry::RetryPolicy;
use crate::pure::words::room::Phase;
use crate::subscription::{AnyLane, Unsubscribed, end_all};
use crate::sync::Arc;
use crate::types::config::{LaneFull, OnExhausted, OnFailure, Unsubscribe};
use crate::types::error::{InvalidSetting, SubscribeError, UnknownPattern};
use crate::types::name::InvalidPattern;
use crate::types::pattern::Pattern;
use crate::types::range::in_range;

/// A subscription to all topics of one payload type whose names match one of its
/// patterns, present and future.
///
/// In each of these topics it is a subscription like any other: with a lane, retries,
/// metrics, events and dead letters of its own, under this one's name. So order is
/// kept per topic, and a topic whose deliveries fail or are slow delays no other.
/// Calls of the handler are one at a time per topic, and may overlap between topics.
/// A topic that carries another type is passed by.
///
/// A topic can be removed while it has nothing for this subscription to do: see
/// [`Broker::remove_topic`](crate::Broker::remove_topic).
///
/// Dropping it unsubscribes, without waiting: what is queued is cancelled, and calls
/// of the handler that are running finish.
#[must_use = "dropping a subscription unsubscribes at once; call `detach` to keep it"]
pub struct PatternSubscription {
    pattern_sub: Arc<dyn AnyPatternHandle>,
    detached: bool,
}

impl PatternSubscription {
    /// Its name.
    pub fn name(&self) -> &str {
        self.pattern_sub.name()
    }

    /// Its patterns, in the order in which they were added.
    pub fn patterns(&self) -> Vec<Pattern> {
        self.pattern_sub.patterns()
    }

    /// The names of the topics it is subscribed to now, sorted.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.pattern_sub.topics()
    }

    /// Adds a pattern while traffic runs. The topics that it matches now, and that
    /// none did before, are subscribed to when this returns; those opened later, as
    /// they are opened. One that it has already changes nothing. Doesn't wait for
    /// handlers.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Pattern`], [`SubscribeError::NameTakenOn`] or
    /// [`SubscribeError::Closed`]; nothing has changed then.
    pub fn add(&self, pattern: &str) -> Result<(), SubscribeError> {
        self.pattern_sub.add(pattern.parse()?)
    }

    /// Removes a pattern while traffic runs, and ends the subscription to the topics
    /// that none of the others matches. What they have queued for it, in flight, or
    /// awaiting a retry is cancelled, dead-lettered or drained, as `mode` says, and
    /// messages still in their queues come too late. The other topics notice nothing.
    ///
    /// It waits until no call of the handler for those topics runs or will start. From
    /// inside a handler of the broker it doesn't: it only begins their end. A pattern that is added
    /// again before that may find the handler still being called for what it had
    /// before.
    ///
    /// # Errors
    ///
    /// [`UnknownPattern`] if it has no such pattern.
    pub fn remove(&self, pattern: &str, mode: Unsubscribe) -> Result<(), UnknownPattern> {
        let lanes = self.pattern_sub.remove(pattern);
        let lanes = lanes.ok_or_else(|| UnknownPattern {
            pattern: pattern.to_owned(),
        })?;
        end_all(self.pattern_sub.engine(), &lanes, mode);
        self.pattern_sub.reap_ended();
        Ok(())
    }

    /// Sets its own retry policy, for all topics, those that it will meet included.
    /// It decides from the next failure on; retries already granted stand.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), InvalidSetting> {
        let policy = share_policy(policy);
        policy.check()?;
        self.pattern_sub.set_retry(policy);
        Ok(())
    }

    /// As [`Subscription::set_on_failure`](crate::Subscription::set_on_failure), for all
    /// topics, those that it will meet included.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] as there.
    pub fn set_on_failure(&self, mode: OnFailure) -> Result<(), InvalidSetting> {
        self.pattern_sub.set_order(&|order| order.on_failure = mode)
    }

    /// As [`Subscription::set_on_exhausted`](crate::Subscription::set_on_exhausted), for
    /// all topics, those that it will meet included.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] as there.
    pub fn set_on_exhausted(&self, then: OnExhausted) -> Result<(), InvalidSetting> {
        self.pattern_sub
            .set_order(&|order| order.on_exhausted = then)
    }

    /// The sum of its counts over all topics, those that it has left or that were
    /// removed included. Latencies are of the topics it has now.
    pub fn metrics(&self) -> SubscriptionMetrics {
        self.pattern_sub.metrics()
    }

    /// Whether it has ended: by an unsubscribe, or with its broker.
    pub fn has_ended(&self) -> bool {
        self.pattern_sub.has_ended()
    }

    /// Keeps the subscription for as long as the broker lives.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Ends the subscription, in all topics at once, and waits until no call of its
    /// handler runs or will start. What it still has is cancelled, dead-lettered or
    /// drained, as `mode` says. A handler that never returns is waited for.
    ///
    /// From inside a handler of the broker, its own or another's, it only begins the end and
    /// returns [`Unsubscribed::Ending`].
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

/// A pattern_sub of topics of any payload type.
trait AnyPatternHandle: Send + Sync {
    fn name(&self) -> &str;
    fn engine(&self) -> &Engine;
    fn patterns(&self) -> Vec<Pattern>;
    fn topics(&self) -> Vec<Arc<str>>;
    fn add(&self, pattern: Pattern) -> Result<(), SubscribeError>;
    fn remove(&self, pattern: &str) -> Option<Vec<Arc<dyn AnyLane>>>;
    fn reap_ended(&self);
    fn set_retry(&self, policy: SharedPolicy);
    fn set_order(&self, change: &dyn Fn(&mut Order)) -> Result<(), InvalidSetting>;
    fn metrics(&self) -> SubscriptionMetrics;
    fn has_ended(&self) -> bool;
    /// Returns the lanes that are to end now.
    fn begin_end(&self) -> Vec<Arc<dyn AnyLane>>;
    /// Waits for whoever else lets go of the handler: the end of the broker.
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

/// Makes a subscription to patterns. A value: set what you care about, then
/// [`subscribe`](Self::subscribe), where everything is checked at once.
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

    /// A [`Pattern`] of topics, once or several times: a topic that any of them
    /// matches is subscribed to, once. At least one is needed.
    pub fn matching(mut self, pattern: &str) -> Self {
        self.patterns.push(pattern.to_owned());
        self
    }

    /// Deliveries that may be in its lane, in each topic: queued, in flight or awaiting
    /// a retry. 1 to 16,777,216. Default: the topic's `lane_capacity`.
    pub fn capacity(mut self, deliveries: usize) -> Self {
        self.capacity = Some(deliveries);
        self
    }

    /// What happens when such a lane is full. Default [`LaneFull::Wait`].
    pub fn when_full(mut self, policy: LaneFull) -> Self {
        self.when_full = policy;
        self
    }

    /// What follows a failure. Default: the policy of the topic.
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.retry = Some(share_policy(policy));
        self
    }

    /// What the failure of one delivery means for those behind it, in each topic:
    /// see [`SubscriptionBuilder::on_failure`](crate::SubscriptionBuilder::on_failure).
    pub fn on_failure(mut self, mode: OnFailure) -> Self {
        self.order.on_failure = mode;
        self
    }

    /// What follows for its key, in its topic, when a delivery goes to the dead
    /// letters: see
    /// [`SubscriptionBuilder::on_exhausted`](crate::SubscriptionBuilder::on_exhausted).
    pub fn on_exhausted(mut self, then: OnExhausted) -> Self {
        self.order.on_exhausted = then;
        self
    }

    /// Subscribes: `handler` is called for each delivery, and
    /// [`Delivery::topic`] says of which topic. Calls are one at a time per topic,
    /// with first attempts in accept order, and may overlap between topics: hence
    /// `Fn` and `Sync`.
    ///
    /// It gets every message that a matching topic accepts after this has returned, and
    /// none that was accepted before, as [`Topic::subscribe`](crate::Topic::subscribe)
    /// says; of topics that are opened later it gets every message from the first on.
    /// Doesn't wait for handlers.
    ///
    /// The name must be free in all matching topics, and among the subscriptions to
    /// patterns. From then on it is taken in each topic that matches: a
    /// [`Topic::subscribe`](crate::Topic::subscribe) of this name is refused there.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] for an invalid or taken name, an invalid pattern or setting,
    /// or a closed broker. Nothing has been subscribed to then.
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
