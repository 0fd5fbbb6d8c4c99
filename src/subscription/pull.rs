//! Subscriptions whose deliveries the caller's own threads take.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use crate::engine::parts::outstanding::Granted;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::subscription::lease::Lease;
use crate::subscription::lease_batch::LeaseBatch;
use crate::subscription::{Subscription, Unsubscribed};
use crate::sync::{Arc, Instant};
use crate::types::config::Unsubscribe;
use crate::types::duration::nanos;
use crate::types::error::{InvalidSetting, RecvError};

/// Settings of a [`PullSubscription`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until a subscription is made with them"]
pub struct Pull {
    pub(crate) credits: Option<usize>,
    pub(crate) ack_deadline: Duration,
}

impl Default for Pull {
    /// 64 credits, or the lane's capacity if that is less, and 30 seconds to ack.
    fn default() -> Self {
        Self {
            credits: None,
            ack_deadline: Duration::from_secs(30),
        }
    }
}

impl Pull {
    /// Leases that may be out at once: 1 to the lane's capacity. Default 64.
    pub fn credits(mut self, leases: usize) -> Self {
        self.credits = Some(leases);
        self
    }

    /// How long a lease is good for. Longer than handling takes, because what is not
    /// settled by then is tried again; [`Lease::extend`] is for those that take longer
    /// than most. Default 30 seconds.
    pub fn ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }
}

pub(crate) fn check_deadline(deadline: Duration) -> Result<u64, InvalidSetting> {
    if deadline.is_zero() {
        let rule = "must be more than nothing, or every lease would be stale";
        return Err(InvalidSetting::new("ack_deadline", "zero", rule));
    }
    Ok(nanos(deadline))
}

/// A subscription without a handler: the caller's threads take deliveries on lease, and
/// settle each when they are done with it.
///
/// ```
/// use millstream::{Broker, Nack, Pull};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let jobs = broker.topic::<u32>("jobs").open()?;
/// let pull = Pull::default().credits(8).ack_deadline(Duration::from_secs(10));
/// let worker = jobs.subscription("worker").pull(pull)?;
///
/// jobs.publish(42)?;
/// let lease = worker.recv_timeout(Duration::from_secs(5))?;
/// match *lease.payload() {
///     0 => lease.nack(Nack::dead_letter("nothing to do"))?,
///     _ => lease.ack()?,
/// }
/// println!("{}", broker.drain(Duration::from_secs(5))?);
/// # Ok(())
/// # }
/// ```
///
/// Clone it freely, receive from any thread: each delivery goes to one of them. Threads that
/// share it take turns of a few dozen leases, so that they get about as many; futures get
/// theirs as their runtime polls them. The
/// last handle that is dropped unsubscribes, as dropping a [`Subscription`] does; its
/// settings and metrics are here by dereference.
///
/// # Credits and order
///
/// At most so many leases are out as there are [credits](Pull::credits); a receiver waits for
/// the next one to be settled. So a thread that keeps all of them and receives again waits
/// for their deadlines. First leases are taken in accept order; under
/// [`OnFailure::BlockKey`](crate::OnFailure::BlockKey) one of each key is out at a time, under
/// [`BlockSubscription`](crate::OnFailure::BlockSubscription) one in all, and those behind it
/// wait until it has been handled or has ended otherwise.
///
/// # Where it doesn't wait
///
/// Inside a handler of the broker, and on one without worker threads, every way to receive
/// returns at once. In the latter case it runs the broker first, as
/// [`run_until_idle`](crate::Broker::run_until_idle) does.
///
/// # The end
///
/// [`unsubscribe`](Self::unsubscribe) says what becomes of leases that are out. A drain of the
/// broker waits for receivers and leases until its deadline, and then cancels what is left. Every
/// way to receive returns [`RecvError::Ended`] once nothing more can come.
#[must_use = "dropping the last handle of a subscription unsubscribes at once"]
pub struct PullSubscription<T: Send + Sync + 'static> {
    lane: Arc<Lane<T>>,
    owner: Arc<Subscription>,
}

impl<T: Send + Sync + 'static> PullSubscription<T> {
    pub(crate) fn new(lane: Arc<Lane<T>>) -> Self {
        Self {
            owner: Arc::new(Subscription::new(Arc::clone(&lane))),
            lane,
        }
    }

    /// Leases the next delivery; waits for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError::Ended`], and where it may not wait, [`RecvError::Empty`].
    pub fn recv(&self) -> Result<Lease<T>, RecvError> {
        self.receive_one(None)
    }

    /// Leases the next delivery; waits for one at most so long.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`], [`RecvError::Ended`], and where it may not wait,
    /// [`RecvError::Empty`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Lease<T>, RecvError> {
        self.receive_one(Instant::now().checked_add(timeout))
    }

    /// Leases the next delivery if there is one now.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] and [`RecvError::Ended`].
    pub fn try_recv(&self) -> Result<Lease<T>, RecvError> {
        let mut lease = None;
        self.keyed()?
            .try_receive(1, &mut |granted| lease = Some(self.lease(granted)))?;
        lease.ok_or(RecvError::Empty)
    }

    /// Leases what there is, at most `max` and as many as there are credits for; waits for the
    /// first one at most so long. At least one, unless `max` is zero. All of them have one
    /// deadline, and may be [acked together](LeaseBatch::ack_all), which is the fastest way
    /// to pull.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_batch(&self, max: usize, wait: Duration) -> Result<LeaseBatch<T>, RecvError> {
        let mut batch = LeaseBatch::new(&self.lane);
        if max > 0 {
            let until = Instant::now().checked_add(wait);
            self.keyed()?
                .receive(max, until, |granted| batch.push(granted))?;
        }
        Ok(batch)
    }

    /// Leases one delivery after the other, as [`recv`](Self::recv) does, until the
    /// subscription has ended. Where that may not wait it ends when there is nothing.
    pub fn iter(&self) -> Leases<'_, T> {
        Leases(self)
    }

    /// Sets how many leases may be out. Those that are stay so, even if there are more;
    /// the next is taken when there are fewer.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] for zero, more than the lane's capacity, or more than one under
    /// [`OnFailure::BlockSubscription`](crate::OnFailure::BlockSubscription), as where it was
    /// made.
    pub fn set_credits(&self, leases: usize) -> Result<(), InvalidSetting> {
        let keyed = self.lane.keyed();
        keyed.map_or(Ok(()), |keyed| keyed.set_credits(Some(leases)))
    }

    /// Sets how long leases are good for that are taken from now on. Those that are out
    /// keep their deadline.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] for zero.
    pub fn set_ack_deadline(&self, deadline: Duration) -> Result<(), InvalidSetting> {
        let deadline_ns = check_deadline(deadline)?;
        if let Some(keyed) = self.lane.keyed() {
            keyed.set_ack_deadline(deadline_ns);
        }
        Ok(())
    }

    /// Ends the subscription and waits until it has ended; see
    /// [`Subscription::unsubscribe`].
    ///
    /// Cancelled or dead-lettered, leases that are out become stale at once, and their
    /// deliveries end with the others. Drained, receivers go on and leases can be
    /// settled until there is nothing left or the time is up; what is left then is
    /// cancelled. A caller that drains while it holds a lease itself waits for the
    /// whole time.
    pub fn unsubscribe(&self, mode: Unsubscribe) -> Unsubscribed {
        self.owner.end_as(mode)
    }

    #[cfg(feature = "async")]
    pub(crate) fn poll_recv(
        &self,
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<Lease<T>, RecvError>> {
        let granted = self.keyed()?.poll_receive(id, context);
        granted.map_ok(|granted| self.lease(granted))
    }

    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, id: &mut crate::engine::wait::wakers::WaiterId) {
        if let Ok(keyed) = self.keyed() {
            keyed.leave_receivers(id);
        }
    }

    fn receive_one(&self, until: Option<Instant>) -> Result<Lease<T>, RecvError> {
        let mut lease = None;
        self.keyed()?
            .receive(1, until, |granted| lease = Some(self.lease(granted)))?;
        lease.ok_or(RecvError::Empty)
    }

    fn keyed(&self) -> Result<KeyedLane<'_, T>, RecvError> {
        self.lane.keyed().ok_or(RecvError::Ended)
    }

    fn lease(&self, granted: Granted<T>) -> Lease<T> {
        Lease::new(Arc::clone(&self.lane), granted)
    }
}

impl<T: Send + Sync + 'static> Clone for PullSubscription<T> {
    fn clone(&self) -> Self {
        Self {
            lane: Arc::clone(&self.lane),
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<T: Send + Sync + 'static> Deref for PullSubscription<T> {
    type Target = Subscription;

    fn deref(&self) -> &Subscription {
        &self.owner
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for PullSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSubscription")
            .field("name", &self.name())
            .field("leased", &self.metrics().leased)
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

/// Leases one after the other: see [`PullSubscription::iter`].
pub struct Leases<'s, T: Send + Sync + 'static>(&'s PullSubscription<T>);

impl<T: Send + Sync + 'static> fmt::Debug for Leases<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leases").field(self.0).finish()
    }
}

impl<T: Send + Sync + 'static> Iterator for Leases<'_, T> {
    type Item = Lease<T>;

    fn next(&mut self) -> Option<Lease<T>> {
        self.0.recv().ok()
    }
}

impl<'s, T: Send + Sync + 'static> IntoIterator for &'s PullSubscription<T> {
    type Item = Lease<T>;
    type IntoIter = Leases<'s, T>;

    fn into_iter(self) -> Leases<'s, T> {
        self.iter()
    }
}
