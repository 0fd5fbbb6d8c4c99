//! The members of a consumer group.

use std::fmt;

use crate::engine::base::contain::Contained;
use crate::engine::registry::drain::MOMENT;
use crate::engine::runtime::{Engine, context};
#[cfg(feature = "async")]
use crate::engine::slots::async_calls;
use crate::engine::slots::slot;
use crate::engine::state::lane::Lane;
use crate::engine::state::slots::{Member as MemberCore, Slots};
use crate::message::Delivery;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::nack::Nack;
use crate::observe::metrics::MemberMetrics;
use crate::pure::order::rules::check_batch_size;
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::subscription::group::ConsumerGroup;
use crate::subscription::options::{
    BATCHES_STAY, ONE_BATCH_AT_A_TIME, ONE_CALL_AT_A_TIME, check_one_at_a_time,
};
use crate::sync::{Arc, Instant};
use crate::types::error::{SettingError, SubscribeError};
use crate::types::range::in_range_of_threads;

/// A member of a [`ConsumerGroup`], to be made.
#[must_use = "a builder does nothing until the member joins"]
pub struct MemberBuilder<'g, T: Send + Sync + 'static> {
    group: &'g ConsumerGroup<T>,
    name: &'g str,
    concurrency: usize,
}

impl<'g, T: Send + Sync + 'static> MemberBuilder<'g, T> {
    pub(crate) fn new(group: &'g ConsumerGroup<T>, name: &'g str, concurrency: usize) -> Self {
        Self {
            group,
            name,
            concurrency,
        }
    }

    /// Sets how many calls of the member's handler may run at once.
    ///
    /// The range is 1 to 1,024. The default is the concurrency of the group, which is 1 unless set.
    /// Deliveries in flight at once never have the same key.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Adds the member, whose handler is called for one delivery at a time.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid name, one that another member has, a
    /// concurrency other than one, or a group that has ended.
    pub fn join<F>(self, handler: F) -> Result<Member, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        check_one_at_a_time(self.concurrency, ONE_CALL_AT_A_TIME)?;
        self.group
            .join_with(self.name, Slots::one(slot::own(handler)))
    }

    /// Adds the member, with a handler that several calls share.
    ///
    /// # Errors
    ///
    /// The errors are those of [`join`](Self::join), except that the concurrency may be up to
    /// 1,024.
    pub fn join_shared<F>(self, handler: F) -> Result<Member, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        in_range_of_threads("concurrency", self.concurrency)?;
        let handler = Arc::new(Contained::new(handler));
        let slots = slot::share(&handler, self.concurrency);
        self.group.join_with(self.name, slots.into())
    }

    /// Adds the member, with an async function as its handler.
    ///
    /// [`SubscriptionBuilder::subscribe_async`](crate::SubscriptionBuilder::subscribe_async) says
    /// who polls its calls.
    ///
    /// # Errors
    ///
    /// The errors are those of [`join_shared`](Self::join_shared).
    #[cfg(feature = "async")]
    pub fn join_async<F, R>(self, handler: F) -> Result<Member, SubscribeError>
    where
        F: Fn(crate::OwnedDelivery<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Nack>> + Send + 'static,
    {
        in_range_of_threads("concurrency", self.concurrency)?;
        let handler = Arc::new(Contained::new(handler));
        let hook = self.group.poll_hook();
        let slots = async_calls::share(hook, &handler, self.concurrency);
        self.group.join_with(self.name, slots.into())
    }

    /// Adds the member, with a handler that takes batches.
    ///
    /// A batch has deliveries that are the member's: with its keys, or without a key. It has as
    /// many as `batches` says, or fewer once the oldest has lingered since it was accepted. While
    /// the lane is full, the member takes what there is. Retries come alone, in batches of one.
    ///
    /// # Errors
    ///
    /// The errors are those of [`join`](Self::join), and batches larger than the lane. A group with a
    /// [`handler_timeout`](crate::SubscriptionBuilder::handler_timeout) has no such members.
    pub fn join_batches<F>(self, batches: Batched, handler: F) -> Result<Member, SubscribeError>
    where
        F: FnMut(&mut DeliveryBatch<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        check_one_at_a_time(self.concurrency, ONE_BATCH_AT_A_TIME)?;
        batches.check()?;
        self.group.nature().check_conflates_not(BATCHES_STAY)?;
        check_batch_size(Some(batches.size()), self.group.lane_capacity())?;
        let work = slot::own_batches(batches, handler);
        self.group.join_with(self.name, Slots::batches(work))
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for MemberBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberBuilder")
            .field("name", &self.name)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// A member of a [`ConsumerGroup`] or of a [`PatternGroup`](crate::group::PatternGroup).
///
/// Dropping it leaves the group, without waiting for a running call of its handler.
#[must_use = "dropping a member leaves the group at once; call `detach` to stay"]
pub struct Member {
    joined: Arc<dyn AnyMember>,
    detached: bool,
}

impl Member {
    pub(crate) fn new(joined: Arc<dyn AnyMember>) -> Self {
        Self {
            joined,
            detached: false,
        }
    }

    /// Returns the member's name.
    pub fn name(&self) -> &str {
        self.joined.name()
    }

    /// Leaves the group, and waits until no call of the member's handler runs or will start.
    ///
    /// The handler has been dropped then. Deliveries that the member has taken and not tried go
    /// back to their place; that is no attempt. Its keys go to the other members, each when no call
    /// for it runs any more.
    ///
    /// Inside a handler of this broker, the member only begins to leave.
    pub fn leave(mut self) {
        self.detached = true;
        self.joined.begin_to_leave();
        await_leave(&*self.joined);
    }

    /// Keeps the member in the group for as long as the group lives.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Sets how many calls of the member's handler may run at once. Running calls finish.
    ///
    /// For a group that is subscribed to patterns the number holds in each topic.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero or more than 1,024. It also refuses a member whose
    /// handler is for one call at a time.
    pub fn set_concurrency(&self, concurrency: usize) -> Result<(), SettingError> {
        in_range_of_threads("concurrency", concurrency)?;
        if self.joined.resize(concurrency) {
            return Ok(());
        }
        let rule = "needs a member whose handler can be called several times at once";
        Err(SettingError::new("concurrency", concurrency, rule))
    }

    /// Returns a snapshot of the member's work.
    pub fn metrics(&self) -> MemberMetrics {
        self.joined.metrics()
    }

    /// Returns whether the member has left, so that no call of its handler runs or will start.
    pub fn has_left(&self) -> bool {
        self.joined.has_left()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.detached {
            self.joined.begin_to_leave();
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name())
            .field("left", &self.has_left())
            .finish_non_exhaustive()
    }
}

/// A member of a group of any payload type.
pub(crate) trait AnyMember: Send + Sync {
    fn name(&self) -> &str;
    fn engine(&self) -> &Engine;
    fn begin_to_leave(&self);
    fn has_left(&self) -> bool;
    /// Returns `false` if its handler is for one call at a time.
    fn resize(&self, concurrency: usize) -> bool;
    fn metrics(&self) -> MemberMetrics;
}

/// Waits until the member has left, unless the thread is inside a handler of its broker.
fn await_leave(member: &dyn AnyMember) {
    let engine = member.engine();
    while !member.has_left() && !context::is_inside(engine) {
        // On a manual engine another thread may have left the work to this one.
        engine.run_until_idle();
        let soon = engine.is_manual().then(Instant::now);
        let soon = soon.and_then(|now| now.checked_add(MOMENT));
        engine.quiescence.wait(soon, || member.has_left());
    }
}

/// A member of the group of one lane.
pub(crate) struct Joined<T: Send + Sync + 'static> {
    pub(crate) lane: Arc<Lane<T>>,
    pub(crate) member: Arc<MemberCore<T>>,
}

impl<T: Send + Sync + 'static> AnyMember for Joined<T> {
    fn name(&self) -> &str {
        &self.member.name
    }

    fn engine(&self) -> &Engine {
        self.lane.engine()
    }

    fn begin_to_leave(&self) {
        if let Some(keyed) = self.lane.keyed() {
            keyed.remove_member(&self.member);
        }
    }

    fn has_left(&self) -> bool {
        self.member.has_left()
    }

    fn resize(&self, concurrency: usize) -> bool {
        let keyed = self.lane.keyed();
        keyed.is_some_and(|keyed| keyed.resize(&self.member, concurrency))
    }

    fn metrics(&self) -> MemberMetrics {
        self.member.read_metrics(self.engine().clock.now_ns())
    }
}
