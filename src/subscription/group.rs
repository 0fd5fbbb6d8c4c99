//! Consumer groups: several members share the deliveries of one subscription.

use std::fmt;
use std::ops::Deref;

use crate::engine::keyed::slots;
use crate::engine::registry::drain::MOMENT;
use crate::engine::runtime::context;
use crate::engine::state::lane::Lane;
use crate::engine::state::slots::{Make, Member as MemberCore, Work};
use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::observe::event::EventKind;
use crate::observe::metrics::MemberMetrics;
use crate::pure::words::room::Phase;
use crate::subscription::{Subscription, Unsubscribed};
use crate::sync::{Arc, Instant};
use crate::types::config::Unsubscribe;
use crate::types::error::{InvalidSetting, SubscribeError};
use crate::types::range::in_range_of_threads;

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
/// [`hold`](crate::SubscriptionBuilder::hold), while the other members go on. The stall shows in
/// [`MemberMetrics::busy_for`]. Let the member leave, and its keys move on, except those in flight.
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
/// let two = billing.join("two", |order| Ok(println!("two has {}", order.payload())))?;
/// orders.message(42).key("customer-7").publish()?;
/// two.leave(); // its keys go to the first
/// broker.drain(Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a group unsubscribes at once; call `detach` to keep it"]
pub struct ConsumerGroup<T: Send + Sync + 'static> {
    pub(super) subscription: Subscription,
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
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid name, one that another member has, or a group
    /// that has ended.
    pub fn join<F>(&self, name: &str, handler: F) -> Result<Member, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.join_with(name, vec![slots::own(handler)], None)
    }

    /// Adds a member, whose handler is called for up to `concurrency` deliveries at once.
    ///
    /// Deliveries in flight at once never have the same key.
    ///
    /// # Errors
    ///
    /// The errors are those of [`join`](Self::join), and a concurrency that is zero or above 1,024.
    pub fn join_concurrent<F>(
        &self,
        name: &str,
        concurrency: usize,
        handler: F,
    ) -> Result<Member, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        in_range_of_threads("concurrency", concurrency)?;
        let (slots, make) = slots::share(handler, concurrency);
        self.join_with(name, slots, Some(make))
    }

    fn join_with(
        &self,
        name: &str,
        slots: Vec<Box<dyn Work<T>>>,
        make: Option<Make<T>>,
    ) -> Result<Member, SubscribeError> {
        let name = crate::types::name::parse(name)?;
        let Some(keyed) = self.lane.keyed() else {
            return Err(SubscribeError::Closed);
        };
        let member = keyed
            .add_member(Arc::clone(&name), slots, make)
            .ok_or_else(|| SubscribeError::MemberTaken {
                name: name.to_string(),
            })?;
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
        Ok(Member {
            joined: Arc::new(joined),
            detached: false,
        })
    }

    /// Ends the group, as [`Subscription::unsubscribe`] does. Deliveries are drained only while
    /// there are members to handle them.
    pub fn unsubscribe(self, mode: Unsubscribe) -> Unsubscribed {
        self.subscription.unsubscribe(mode)
    }

    /// Keeps the group, with its members, for as long as the broker lives.
    ///
    /// [`Topic::attach_group`](crate::Topic::attach_group) takes it up again by its name.
    pub fn detach(self) {
        self.subscription.detach();
    }
}

/// A group has the settings and metrics of any subscription.
impl<T: Send + Sync + 'static> Deref for ConsumerGroup<T> {
    type Target = Subscription;

    fn deref(&self) -> &Subscription {
        &self.subscription
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

/// A member of a [`ConsumerGroup`].
///
/// Dropping it leaves the group, without waiting for a running call of its handler.
#[must_use = "dropping a member leaves the group at once; call `detach` to stay"]
pub struct Member {
    joined: Arc<dyn AnyMember>,
    detached: bool,
}

impl Member {
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
        self.joined.wait();
    }

    /// Keeps the member in the group for as long as the group lives.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Sets how many calls of the member's handler may run at once. Running calls finish.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSetting`] for zero or more than 1,024. It also refuses a member that
    /// [joined](ConsumerGroup::join) with a handler for one delivery at a time.
    pub fn set_concurrency(&self, concurrency: usize) -> Result<(), InvalidSetting> {
        in_range_of_threads("concurrency", concurrency)?;
        if self.joined.resize(concurrency) {
            return Ok(());
        }
        let rule = "needs a member that joined with join_concurrent";
        Err(InvalidSetting::new("concurrency", concurrency, rule))
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
trait AnyMember: Send + Sync {
    fn name(&self) -> &str;
    fn begin_to_leave(&self);
    /// Waits until the member has left, unless the thread is inside a handler of its broker.
    fn wait(&self);
    fn has_left(&self) -> bool;
    fn resize(&self, concurrency: usize) -> bool;
    fn metrics(&self) -> MemberMetrics;
}

struct Joined<T: Send + Sync + 'static> {
    lane: Arc<Lane<T>>,
    member: Arc<MemberCore<T>>,
}

impl<T: Send + Sync + 'static> AnyMember for Joined<T> {
    fn name(&self) -> &str {
        &self.member.name
    }

    fn begin_to_leave(&self) {
        if let Some(keyed) = self.lane.keyed() {
            keyed.remove_member(&self.member);
        }
    }

    fn wait(&self) {
        let engine = &self.lane.topic.engine;
        while !self.has_left() && !context::is_inside(engine) {
            // On a manual engine another thread may have left the work to this one.
            engine.run_until_idle();
            let soon = engine.is_manual().then(Instant::now);
            let soon = soon.and_then(|now| now.checked_add(MOMENT));
            engine.quiescence.wait(soon, || self.has_left());
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
        self.member
            .read_metrics(self.lane.topic.engine.clock.now_ns())
    }
}
