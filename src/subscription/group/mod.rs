//! Consumer groups: several members share the deliveries of one subscription.

pub(crate) mod member;
pub(crate) mod pattern;

use std::fmt;

#[cfg(feature = "async")]
use crate::engine::runtime::poll_hook::PollHook;
use crate::engine::slots::timed_calls::check_timeout;
use crate::engine::state::keyed::Consumers;
use crate::engine::state::lane::Lane;
use crate::engine::state::slots::Slots;
use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::observe::event::EventKind;
use crate::pure::order::rules::Nature;
use crate::pure::words::room::Phase;
use crate::subscription::control::{Control, subscription_controls, timeout_control};
#[cfg(feature = "async")]
use crate::subscription::ends::UnsubscribeFuture;
use crate::subscription::group::member::{AnyMember, Joined, Member, MemberBuilder};
use crate::subscription::protection::protection_controls;
use crate::subscription::{Subscription, Unsubscribed};
use crate::sync::Arc;
use crate::types::config::Unsubscribe;
use crate::types::error::SubscribeError;

/// A subscription that gives each delivery to one of its members.
///
/// Dropping it unsubscribes, and its members with it.
///
/// # Which member gets a delivery
///
/// Deliveries without a key go to any member that has a free slot, the oldest first. Deliveries
/// with the same key go to the same member, chosen by rendezvous hashing. They are handled one
/// after the other, in order, except where [`OnFailure`](crate::OnFailure) lets later ones pass.
///
/// A member that joins takes over about its share of the keys. When a member leaves, the others
/// take over its keys. No other key moves. A key whose delivery is in flight moves when that has
/// ended.
///
/// # A member that stalls
///
/// A stalled member keeps its keys. They wait, up to the subscription's
/// [`hold`](crate::SubscriptionOptions::hold), while the other members go on. The stall shows in
/// [`MemberMetrics::busy_for`](crate::metrics::MemberMetrics::busy_for). Let the member leave, and its keys
/// move on, except those in flight.
///
/// Without members, deliveries wait in the lane, up to its capacity.
///
/// ```
/// # use millstream::{Broker, Delivery};
/// # use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let orders = broker.topic::<u64>("orders").open()?;
/// let billing = orders.subscription("billing").group()?;
/// let _one = billing.join("one", |order| Ok(println!("one has {}", order.payload())))?;
/// let two = billing
///     .member("two")
///     .concurrency(4)
///     .join_shared(|order| Ok(println!("two has {}", order.payload())))?;
/// orders.message(42).key("customer-7").publish()?;
/// two.leave(); // its keys go to the first
/// broker.drain(Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a group unsubscribes at once; call `detach` to keep it"]
pub struct ConsumerGroup<T> {
    subscription: Subscription,
    lane: Arc<Lane<T>>,
}

impl<T: Send + Sync + 'static> ConsumerGroup<T> {
    pub(crate) fn new(lane: Arc<Lane<T>>) -> Self {
        Self {
            subscription: Subscription::new(Arc::clone(&lane)),
            lane,
        }
    }

    /// Adds a member, whose handler is called for one delivery at a time.
    ///
    /// [`member`](Self::member) begins members of other kinds.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid name, one that another member has, or a group
    /// that has ended.
    pub fn join<F>(&self, name: &str, handler: F) -> Result<Member, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.member(name).concurrency(1).join(handler)
    }

    /// Begins a member whose handler is shared by several calls, is async, or takes batches.
    pub fn member<'g>(&'g self, name: &'g str) -> MemberBuilder<'g, T> {
        let calls = match self.lane.consumers {
            Consumers::Members(calls) => usize::from(calls),
            _ => 1,
        };
        MemberBuilder::new(self, name, calls)
    }

    #[cfg(feature = "async")]
    pub(crate) fn poll_hook(&self) -> Option<PollHook> {
        self.lane.engine().poll_hook.clone()
    }

    pub(crate) fn lane_capacity(&self) -> u32 {
        self.lane.capacity.get()
    }

    pub(crate) fn nature(&self) -> Nature {
        self.lane.nature
    }

    /// Adds a member with these slots.
    pub(crate) fn join_with(&self, name: &str, slots: Slots<T>) -> Result<Member, SubscribeError> {
        let name = crate::types::name::parse(name)?;
        let Some(keyed) = self.lane.keyed() else {
            return Err(SubscribeError::Closed);
        };
        let takes_batches = slots.takes_batches;
        let Some(member) = keyed.add_member(Arc::clone(&name), slots) else {
            check_timeout(self.lane.timeout_ns.get(), takes_batches, true)?;
            let name = name.to_string();
            return Err(SubscribeError::MemberTaken { name });
        };
        let joined = Joined {
            lane: Arc::clone(&self.lane),
            member,
        };
        self.lane
            .tell_of_member(EventKind::MemberJoined { member: name });
        if self.lane.phase() != Phase::Open {
            // The group's end may have passed by before the member was there.
            joined.begin_to_leave();
            return Err(SubscribeError::Closed);
        }
        Ok(Member::new(Arc::new(joined)))
    }

    /// Ends the group, as [`Subscription::unsubscribe`] does.
    ///
    /// Deliveries are drained only while there are members to handle them.
    pub fn unsubscribe(self, mode: Unsubscribe) -> Unsubscribed {
        self.subscription.unsubscribe(mode)
    }

    /// Ends the group as [`unsubscribe`](Self::unsubscribe) does, without blocking a thread.
    ///
    /// [`Subscription::unsubscribe_async`] says when the future is ready.
    #[cfg(feature = "async")]
    pub fn unsubscribe_async(self, mode: Unsubscribe) -> UnsubscribeFuture {
        self.subscription.unsubscribe_async(mode)
    }

    /// Keeps the group, with its members, for as long as the broker lives.
    ///
    /// [`Topic::attach_group`](crate::Topic::attach_group) takes it up again by its name.
    pub fn detach(self) {
        self.subscription.detach();
    }

    subscription_controls!();
    protection_controls!();
    timeout_control!();

    fn control(&self) -> &dyn Control {
        self.subscription.control()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for ConsumerGroup<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerGroup")
            .field("name", &self.name())
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}
