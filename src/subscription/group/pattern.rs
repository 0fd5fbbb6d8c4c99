//! Consumer groups that are subscribed to patterns of topics.

use std::fmt;

use crate::engine::base::contain::Contained;
use crate::engine::patterns::members::PatternMember;
use crate::engine::patterns::subscription::PatternSub;
use crate::engine::runtime::Engine;
#[cfg(feature = "async")]
use crate::engine::slots::async_calls;
use crate::engine::slots::slot;
use crate::engine::state::slots::{MakeSlots, Slots};
use crate::message::Delivery;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::nack::Nack;
use crate::observe::metrics::MemberMetrics;
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::subscription::Unsubscribed;
use crate::subscription::group::member::{AnyMember, Member};
use crate::subscription::options::{BATCHES_STAY, ONE_BATCH_AT_A_TIME, check_one_at_a_time};
use crate::subscription::pattern::PatternSubscription;
use crate::sync::Arc;
use crate::types::config::Unsubscribe;
use crate::types::error::SubscribeError;
use crate::types::range::in_range_of_threads;

/// A [`ConsumerGroup`](crate::ConsumerGroup) in each topic that matches a pattern.
///
/// A member is one in every topic, those that are opened later included. Its handler may be called
/// for several topics at once. Dropping the group unsubscribes, and its members with it.
///
/// ```
/// # use millstream::Broker;
/// # use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let group = broker.subscription::<u64>("audit").matching("orders.*").group()?;
/// let _one = group.join("one", |order| {
///     Ok(println!("{} of {}", order.payload(), order.topic()))
/// })?;
/// broker.topic::<u64>("orders.eu").open()?.publish(42)?;
/// broker.drain(Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a group unsubscribes at once; call `detach` to keep it"]
pub struct PatternGroup<T> {
    subscription: PatternSubscription,
    pattern_sub: Arc<PatternSub<T>>,
    /// The concurrency of members that don't say otherwise.
    concurrency: usize,
}

impl<T: Send + Sync + 'static> PatternGroup<T> {
    pub(crate) fn new(pattern_sub: Arc<PatternSub<T>>, concurrency: usize) -> Self {
        Self {
            subscription: PatternSubscription::new(Arc::clone(&pattern_sub) as _),
            pattern_sub,
            concurrency,
        }
    }

    /// Returns the subscription, with its patterns, topics, settings and metrics.
    ///
    /// The metrics of a member are the sum over all topics.
    pub fn subscription(&self) -> &PatternSubscription {
        &self.subscription
    }

    /// Adds a member, whose handler is called for one delivery at a time in each topic.
    ///
    /// If the group has a concurrency, that is the number of calls instead.
    /// [`member`](Self::member) begins members of other kinds.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid name, one that another member has, or a group
    /// that has ended.
    pub fn join<F>(&self, name: &str, handler: F) -> Result<Member, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        self.member(name).join(handler)
    }

    /// Begins a member with a concurrency of its own, or whose handler is async or takes batches.
    pub fn member<'g>(&'g self, name: &'g str) -> PatternMemberBuilder<'g, T> {
        PatternMemberBuilder {
            group: self,
            name,
            concurrency: self.concurrency,
        }
    }

    /// Ends the group in all topics at once, as [`PatternSubscription::unsubscribe`] does.
    ///
    /// Deliveries are drained only while there are members to handle them.
    pub fn unsubscribe(self, mode: Unsubscribe) -> Unsubscribed {
        self.subscription.unsubscribe(mode)
    }

    /// Ends the group in all topics as [`unsubscribe`](Self::unsubscribe) does, without blocking a
    /// thread.
    ///
    /// [`Subscription::unsubscribe_async`](crate::Subscription::unsubscribe_async) says when the
    /// future is ready.
    #[cfg(feature = "async")]
    pub fn unsubscribe_async(
        self,
        mode: Unsubscribe,
    ) -> crate::subscription::ends::UnsubscribeFuture {
        self.subscription.unsubscribe_async(mode)
    }

    /// Keeps the group, with its members, for as long as the broker lives.
    pub fn detach(self) {
        self.subscription.detach();
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for PatternGroup<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternGroup")
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}

/// A member of a [`PatternGroup`], to be made.
#[must_use = "a builder does nothing until the member joins"]
pub struct PatternMemberBuilder<'g, T: Send + Sync + 'static> {
    group: &'g PatternGroup<T>,
    name: &'g str,
    concurrency: usize,
}

impl<T: Send + Sync + 'static> PatternMemberBuilder<'_, T> {
    /// Sets how many calls of the member's handler may run at once in each topic.
    ///
    /// The range is 1 to 1,024. The default is the concurrency of the group, which is 1 unless set.
    /// Deliveries in flight at once never have the same key, in the same topic.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Adds the member, with a handler that several calls share.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid name, one that another member has, an invalid
    /// concurrency, or a group that has ended.
    pub fn join<F>(self, handler: F) -> Result<Member, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        let handler = Arc::new(Contained::new(handler));
        let slots = move |concurrency| slot::share(&handler, concurrency).into();
        self.join_calls(Box::new(slots))
    }

    /// Adds the member, with an async function as its handler.
    ///
    /// [`SubscriptionBuilder::subscribe_async`](crate::SubscriptionBuilder::subscribe_async) says
    /// who polls its calls.
    ///
    /// # Errors
    ///
    /// The errors are those of [`join`](Self::join).
    #[cfg(feature = "async")]
    pub fn join_async<F, R>(self, handler: F) -> Result<Member, SubscribeError>
    where
        F: Fn(crate::OwnedDelivery<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Nack>> + Send + 'static,
    {
        let handler = Arc::new(Contained::new(handler));
        let hook = self.group.pattern_sub.engine.poll_hook.clone();
        let slots =
            move |concurrency| async_calls::share(hook.clone(), &handler, concurrency).into();
        self.join_calls(Box::new(slots))
    }

    /// Adds the member, with a handler that takes batches, each of them from one topic.
    ///
    /// [`MemberBuilder::join_batches`](crate::group::MemberBuilder::join_batches) says more. In a topic
    /// whose lanes are smaller than a batch, a full lane makes a batch.
    ///
    /// # Errors
    ///
    /// The errors are those of [`join`](Self::join), and a concurrency above one.
    pub fn join_batches<F>(self, batches: Batched, handler: F) -> Result<Member, SubscribeError>
    where
        F: Fn(&mut DeliveryBatch<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        check_one_at_a_time(self.concurrency, ONE_BATCH_AT_A_TIME)?;
        batches.check()?;
        let nature = self.group.pattern_sub.nature();
        nature.check_conflates_not(BATCHES_STAY)?;
        let handler = Arc::new(Contained::new(handler));
        let slots = move |_| {
            let handler = Arc::clone(&handler);
            let call = move |batch: &mut DeliveryBatch<'_, T>| (**handler)(batch);
            Slots::batches(slot::own_batches(batches, call))
        };
        self.join_with(None, Box::new(slots))
    }

    fn join_calls(self, make: MakeSlots<T>) -> Result<Member, SubscribeError> {
        in_range_of_threads("concurrency", self.concurrency)?;
        let concurrency = Some(self.concurrency);
        self.join_with(concurrency, make)
    }

    fn join_with(
        self,
        concurrency: Option<usize>,
        make: MakeSlots<T>,
    ) -> Result<Member, SubscribeError> {
        let name = crate::types::name::parse(self.name)?;
        let member = PatternMember::new(name, concurrency, make);
        let pattern_sub = &self.group.pattern_sub;
        let member = pattern_sub.add_member(member)?;
        Ok(Member::new(Arc::new(JoinedAll {
            pattern_sub: Arc::clone(pattern_sub),
            member,
        })))
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for PatternMemberBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternMemberBuilder")
            .field("name", &self.name)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// A member in all topics.
struct JoinedAll<T> {
    pattern_sub: Arc<PatternSub<T>>,
    member: Arc<PatternMember<T>>,
}

impl<T: Send + Sync + 'static> AnyMember for JoinedAll<T> {
    fn name(&self) -> &str {
        &self.member.name
    }

    fn engine(&self) -> &Engine {
        &self.pattern_sub.engine
    }

    fn begin_to_leave(&self) {
        self.pattern_sub.remove_member(&self.member);
    }

    fn has_left(&self) -> bool {
        self.member.has_left()
    }

    fn resize(&self, concurrency: usize) -> bool {
        self.member.resize(concurrency)
    }

    fn metrics(&self) -> MemberMetrics {
        self.member.read_metrics()
    }
}
