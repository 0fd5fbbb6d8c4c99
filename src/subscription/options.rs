//! The settings that subscriptions to topics and to patterns share.

use std::fmt;
use std::time::Duration;

use crate::engine::base::contain::SharedPolicy;
use crate::engine::gates::protection::ProtectionSettings;
use crate::engine::runtime::Engine;
use crate::engine::runtime::pool::Home;
use crate::engine::slots::timed_calls::NO_TIMED_BATCHES;
use crate::engine::state::lane::Calling;
use crate::pure::decide::expiry::NEVER;
use crate::pure::order::rules::{Fit, Nature, Rules};
use crate::pure::protect::priority::Priorities;
use crate::types::config::{LaneFull, OnExhausted, OnFailure};
use crate::types::duration::{Short, nanos};
use crate::types::error::SettingError;
use crate::types::range::in_range_of_threads;

/// Why a handler that is `FnMut` is called for one delivery at a time.
pub(crate) const ONE_CALL_AT_A_TIME: &str =
    "needs a handler that calls can share, as the shared and async ones are";
/// Why a handler that takes batches is called for one batch at a time.
pub(crate) const ONE_BATCH_AT_A_TIME: &str =
    "can't be used with a handler that takes one batch at a time";
/// Why a handler that takes batches can't have the newest values only.
pub(crate) const BATCHES_STAY: &str =
    "can't be used with a handler that takes batches, which are put together as messages come";
/// Why a subscription without a handler has no calls.
pub(crate) const NO_CALLS: &str = "needs a handler; credits bound how much callers pull";

/// Why a subscription without a handler has no pool.
const NO_HANDLER: &str = "needs a handler; callers pull on their own threads";
const NO_SUCH_POOL: &str = "must be a pool that the broker was built with";
const TIMEOUT: &str = "handler_timeout";

/// Defines the setters of all settings, for types that can lend their [`SubscriptionOptions`].
macro_rules! subscription_setters {
    () => {
        /// Sets how many deliveries may be in the subscription's lane.
        ///
        /// Queued deliveries count, and so do those in flight or waiting for a retry. The range is
        /// 1 to 16,777,216, and the default is the topic's `lane_capacity`. A subscription to
        /// patterns has a lane of this capacity in each topic.
        pub fn capacity(mut self, deliveries: usize) -> Self {
            self.options_mut().capacity = Some(deliveries);
            self
        }

        /// Sets the policy for a full lane. The default is
        /// [`LaneFull::Wait`](crate::LaneFull::Wait).
        pub fn when_full(mut self, policy: crate::types::config::LaneFull) -> Self {
            self.options_mut().when_full = Some(policy);
            self
        }

        /// Has the newest message of a key replace the one that waits. By default all are delivered.
        ///
        /// The newer one takes the older one's place in the lane, and its place in the order. So a key
        /// that changes often neither starves the others nor waits longer than they do. The older
        /// delivery ends as dropped
        /// ([`DropCause::Conflated`](crate::event::DropCause::Conflated)).
        ///
        /// Messages without a key are delivered as ever. A delivery that is in flight, on lease, or
        /// has been tried is not replaced. A lane that is full of other keys follows its
        /// [policy](Self::when_full).
        ///
        /// Handlers of batches are refused, and so are [`OnExhausted::ParkKey`](crate::OnExhausted::ParkKey)
        /// and subscriptions that read from a log.
        pub fn conflate(mut self) -> Self {
            self.options_mut().nature.conflates = true;
            self
        }

        /// Has the subscription hold nobody up: what finds its lane full is skipped.
        ///
        /// The policy for a full lane is then [`LaneFull::DropNewest`](crate::LaneFull::DropNewest), or
        /// [`LaneFull::DropOldest`](crate::LaneFull::DropOldest) if you [set](Self::when_full) that. No
        /// other is possible, now or later. A skipped message is dropped
        /// ([`DropCause::LaneFull`](crate::event::DropCause::LaneFull)), and counted as
        /// [missed](crate::metrics::SubscriptionMetrics::missed).
        /// [`Delivery::missed`](crate::Delivery::missed) tells the handler of a gap.
        ///
        /// A drain still waits for the deliveries that the lane has. Subscriptions that read from a log
        /// are refused: they skip nothing, and hold nobody up.
        pub fn observe_only(mut self) -> Self {
            self.options_mut().nature.observes = true;
            self
        }

        /// Sets the retry policy, which decides about failures. The default is the topic's policy.
        pub fn retry(mut self, policy: impl crate::pure::policy::retry::RetryPolicy) -> Self {
            let policy = crate::engine::base::contain::share_policy(policy);
            self.options_mut().retry = Some(policy);
            self
        }

        /// Sets the effect of a failed delivery on later deliveries. The default is
        /// [`OnFailure::Reorder`](crate::OnFailure::Reorder).
        ///
        /// The other modes need a lane that drops nothing from its middle. So they refuse
        /// [`LaneFull::DropOldest`](crate::LaneFull::DropOldest) and
        /// [`LaneFull::DeadLetter`](crate::LaneFull::DeadLetter).
        pub fn on_failure(mut self, mode: crate::types::config::OnFailure) -> Self {
            self.options_mut().on_failure = mode;
            self
        }

        /// Sets the fate of a key when a delivery of it goes to the dead letters.
        ///
        /// The default is [`OnExhausted::FreeKey`](crate::OnExhausted::FreeKey). Parking needs
        /// [`OnFailure::BlockKey`](crate::OnFailure::BlockKey).
        pub fn on_exhausted(mut self, then: crate::types::config::OnExhausted) -> Self {
            self.options_mut().on_exhausted = then;
            self
        }

        /// Sets how many deliveries may be held back behind blocked keys.
        ///
        /// At the limit the subscription stops taking new deliveries, so all keys wait. Nothing is
        /// dropped. The range is 1 to the lane's capacity, which is the default.
        pub fn hold(mut self, deliveries: usize) -> Self {
            self.options_mut().hold = Some(deliveries);
            self
        }

        /// Sets how many calls of the handler may run at once.
        ///
        /// The range is 1 to 1,024, and the default is 1. More than one needs a handler that calls
        /// can share. Deliveries with the same key are then still handled one after the other, in
        /// accept order, except where [`on_failure`](Self::on_failure) lets later ones pass.
        /// Deliveries without a key have no order.
        ///
        /// Each call of a blocking handler needs a worker of the broker. An async call needs one
        /// only while it is polled. For patterns the number holds in each topic. For a group it is
        /// the default of each member.
        pub fn concurrency(mut self, calls: usize) -> Self {
            self.options_mut().concurrency = Some(calls);
            self
        }

        /// Protects a dependency that fails: deliveries wait while it does. By default none do.
        ///
        /// A subscription to patterns has a breaker of its own in each topic.
        pub fn breaker(mut self, breaker: crate::protect::Breaker) -> Self {
            self.options_mut().protection.breaker = Some(breaker);
            self
        }

        /// Sets how many deliveries may be handed over in a time. By default there is no limit.
        ///
        /// Each attempt counts. Deliveries above the limit wait in the lane. A batch is at most as
        /// large as the limit lets go at once. A subscription to patterns has a limit of its own in
        /// each topic.
        pub fn rate_limit(mut self, limit: crate::protect::RateLimit) -> Self {
            self.options_mut().protection.rate = Some(limit);
            self
        }

        /// Shares a limit on running calls with other subscriptions. By default there is none.
        ///
        /// It needs a handler: callers that pull are bounded by their credits.
        pub fn limiter(mut self, limiter: &crate::protect::Limiter) -> Self {
            self.options_mut().protection.limiter = Some(limiter.clone());
            self
        }

        /// Takes deliveries by the [priorities](crate::Message::priority) of their messages. By
        /// default all are alike.
        ///
        /// A retry keeps its level. Within a level the order is what it is without priorities. So it
        /// is within a key, where deliveries of a key have an order: an urgent message waits for the
        /// earlier ones of its key. A full lane that [drops its
        /// oldest](crate::LaneFull::DropOldest) drops from the lowest level first.
        ///
        /// The lane chooses among the deliveries that it has. So an urgent message waits in the
        /// topic's queue while the lane is full. It can't be used with
        /// [`OnFailure::BlockSubscription`](crate::OnFailure::BlockSubscription), nor with a
        /// [`hold`](Self::hold) below the capacity.
        pub fn priorities(mut self, priorities: crate::protect::Priorities) -> Self {
            self.options_mut().priorities = Some(priorities);
            self
        }

        /// Sets how many retries are made beside first attempts. By default there is no limit.
        ///
        /// A retry over the budget comes later, and is never dead-lettered for it.
        pub fn retry_budget(mut self, budget: crate::protect::RetryBudget) -> Self {
            self.options_mut().protection.budget = Some(budget);
            self
        }

        /// Sets the longest time of a call of the handler. By default there is none.
        ///
        /// At this deadline the attempt has failed with
        /// [`FailureKind::Timeout`](crate::retry::FailureKind::Timeout), and the retry policy
        /// decides. A breaker counts it as a failure. A result that comes at the deadline or later
        /// doesn't count.
        ///
        /// An async call is cancelled: its future is dropped at its `await`. A call that blocks
        /// can't be stopped. It goes on, and its consumer gets no other delivery until it returns.
        /// Its late result is counted as [stale](crate::metrics::SubscriptionMetrics::stale). The
        /// retry may come before that, in another call: in one of several that run at once, or in
        /// another member of a group. To mark an attempt as failed takes a free worker of the
        /// broker. On a broker without workers that is the caller's thread, which first has to come
        /// back from the call.
        ///
        /// The timeout must not be zero. Handlers that take batches have none, and callers that pull
        /// have their [`ack_deadline`](crate::Pull::ack_deadline).
        pub fn handler_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options_mut().timeout = Some(timeout);
            self
        }

        /// Has the handler called by the workers of a pool, which the broker was
        /// [built with](crate::BrokerBuilder::pool).
        ///
        /// The default is the broker's own workers. For a group the pool is that of all members.
        pub fn pool(mut self, name: &str) -> Self {
            self.options_mut().pool = Some(name.to_owned());
            self
        }
    };
}

pub(crate) use subscription_setters;

/// The settings of a subscription, as a value that many subscriptions can share.
///
/// The builders of subscriptions have the same settings as methods of their own. They take this
/// value with [`SubscriptionBuilder::options`](crate::SubscriptionBuilder::options) and
/// [`PatternSubscriptionBuilder::options`](crate::PatternSubscriptionBuilder::options). Nothing is
/// checked before a subscription is made.
///
/// ```
/// use millstream::{Broker, OnFailure, SubscriptionOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let by_key = SubscriptionOptions::new()
///     .capacity(4_096)
///     .on_failure(OnFailure::BlockKey)
///     .concurrency(8);
///
/// let orders = broker.topic::<u64>("orders").open()?;
/// let billing = orders
///     .subscription("billing")
///     .options(&by_key)
///     .subscribe_shared(|order| Ok(println!("bill {}", order.payload())))?;
/// let audit = broker
///     .subscription::<u64>("audit")
///     .matching("*")
///     .options(&by_key)
///     .subscribe(|order| Ok(println!("{} in {}", order.payload(), order.topic())))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "options do nothing until a subscription is made with them"]
pub struct SubscriptionOptions {
    pub(crate) capacity: Option<usize>,
    pub(crate) when_full: Option<LaneFull>,
    pub(crate) retry: Option<SharedPolicy>,
    pub(crate) on_failure: OnFailure,
    pub(crate) on_exhausted: OnExhausted,
    pub(crate) hold: Option<usize>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) priorities: Option<Priorities>,
    pub(crate) protection: ProtectionSettings,
    pub(crate) timeout: Option<Duration>,
    pub(crate) pool: Option<String>,
    pub(crate) nature: Nature,
}

impl SubscriptionOptions {
    /// Returns the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    subscription_setters!();

    fn options_mut(&mut self) -> &mut Self {
        self
    }

    /// Returns the policy for a full lane, if one was asked for.
    pub(crate) fn asked_when_full(&self) -> Option<LaneFull> {
        let observers = self.nature.observes.then_some(LaneFull::DropNewest);
        self.when_full.or(observers)
    }

    /// Returns the number of calls that may run at once.
    pub(crate) fn checked_concurrency(&self) -> Result<usize, SettingError> {
        let concurrency = self.concurrency.unwrap_or(1);
        in_range_of_threads("concurrency", concurrency)?;
        Ok(concurrency)
    }

    /// Returns the number of threads that calls run on, which is a thread for each core unless set.
    #[cfg(feature = "parallel")]
    pub(crate) fn checked_threads(&self) -> Result<usize, SettingError> {
        match self.concurrency {
            Some(_) => self.checked_concurrency(),
            None => Ok(crate::sync::available_parallelism()),
        }
    }

    /// Checks that no more than one call at a time was asked for, where the `rule` says why.
    pub(crate) fn check_one_at_a_time(&self, rule: &'static str) -> Result<(), SettingError> {
        check_one_at_a_time(self.concurrency.unwrap_or(1), rule)
    }

    /// Checks that no timeout was asked for, because the handler takes batches.
    pub(crate) fn check_untimed(&self) -> Result<(), SettingError> {
        match self.timeout {
            None => Ok(()),
            Some(timeout) => {
                let value = Short(timeout);
                Err(SettingError::new(TIMEOUT, value, NO_TIMED_BATCHES))
            }
        }
    }

    /// Checks that nothing was asked for that needs a handler.
    pub(crate) fn check_without_handler(&self) -> Result<(), SettingError> {
        if let Some(timeout) = self.timeout {
            let rule = "needs a handler; callers that pull have an ack deadline";
            return Err(SettingError::new(TIMEOUT, Short(timeout), rule));
        }
        match &self.pool {
            None => Ok(()),
            Some(name) => Err(SettingError::new("pool", name, NO_HANDLER)),
        }
    }

    /// Returns how the handlers are called.
    pub(crate) fn calling(&self, engine: &Engine) -> Result<Calling, SettingError> {
        let home = match &self.pool {
            None => Home::DEFAULT,
            Some(name) => engine
                .home_named(name)
                .ok_or_else(|| SettingError::new("pool", name, NO_SUCH_POOL))?,
        };
        Ok(Calling {
            timeout_ns: checked_timeout(self.timeout)?,
            is_timed: self.timeout.is_some(),
            home,
        })
    }

    /// Returns the rules of such a lane, if they make sense for it.
    pub(crate) fn rules(&self, fit: Fit) -> Result<Rules, SettingError> {
        let rules = Rules {
            on_failure: self.on_failure,
            on_exhausted: self.on_exhausted,
            hold: fit.capacity,
            priorities: self.priorities,
            nature: self.nature,
        };
        let rules = rules.checked(fit)?;
        self.hold
            .map_or(Ok(rules), |hold| rules.with_hold(hold, fit))
    }
}

impl fmt::Debug for SubscriptionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionOptions")
            .field("capacity", &self.capacity)
            .field("when_full", &self.when_full)
            .field("on_failure", &self.on_failure)
            .field("on_exhausted", &self.on_exhausted)
            .field("hold", &self.hold)
            .field("concurrency", &self.concurrency)
            .field("priorities", &self.priorities)
            .field("protection", &self.protection)
            .field("handler_timeout", &self.timeout)
            .field("pool", &self.pool)
            .field("nature", &self.nature)
            .finish_non_exhaustive()
    }
}

/// Returns the longest time of a call in nanoseconds, or `NEVER`. It refuses zero.
pub(crate) fn checked_timeout(timeout: Option<Duration>) -> Result<u64, SettingError> {
    match timeout {
        None => Ok(NEVER),
        Some(timeout) if timeout.is_zero() => {
            let rule = "must be longer, or every call would time out";
            Err(SettingError::new(TIMEOUT, "zero", rule))
        }
        Some(timeout) => Ok(nanos(timeout)),
    }
}

/// Refuses a concurrency other than one, where the `rule` says why.
pub(crate) fn check_one_at_a_time(
    concurrency: usize,
    rule: &'static str,
) -> Result<(), SettingError> {
    in_range_of_threads("concurrency", concurrency)?;
    match concurrency {
        1 => Ok(()),
        many => Err(SettingError::new("concurrency", many, rule)),
    }
}
