//! Subscriptions whose deliveries the caller's own threads take.

#[cfg(feature = "async")]
pub(crate) mod futures;
pub(crate) mod lease;
pub(crate) mod lease_batch;
mod source;

use std::fmt;
use std::iter::FusedIterator;
use std::time::Duration;

use crate::engine::parts::leases::Leasing;
use crate::engine::patterns::subscription::PatternSub;
use crate::engine::pull::sources::Sources;
use crate::engine::state::lane::Lane;
use crate::pure::order::rules::Fit;
use crate::subscription::control::{Control, subscription_controls};
use crate::subscription::pattern::PatternSubscription;
use crate::subscription::protection::protection_controls;
use crate::subscription::pull::lease::Lease;
use crate::subscription::pull::lease_batch::LeaseBatch;
use crate::subscription::pull::source::Source;
use crate::subscription::{Subscription, Unsubscribed};
use crate::sync::{Arc, Instant};
use crate::types::config::Unsubscribe;
use crate::types::duration::nanos;
use crate::types::error::SettingError;
#[cfg(feature = "async")]
use crate::types::error::recv::EndedError;
use crate::types::error::recv::{RecvError, RecvTimeoutError, TryRecvError};

/// The settings of a [`PullSubscription`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until a subscription is made with them"]
pub struct Pull {
    pub(crate) credits: Option<usize>,
    pub(crate) ack_deadline: Duration,
}

impl Default for Pull {
    /// Returns 64 credits, or the lane's capacity if that is less, and an ack deadline of 30
    /// seconds.
    fn default() -> Self {
        Self {
            credits: None,
            ack_deadline: Duration::from_secs(30),
        }
    }
}

impl Pull {
    /// Sets how many leases may be outstanding at once.
    ///
    /// The range is 1 to the lane's capacity. The default is 64, or the lane's capacity if that is
    /// less.
    pub fn credits(mut self, leases: usize) -> Self {
        self.credits = Some(leases);
        self
    }

    /// Sets how long a lease lasts. The default is 30 seconds.
    ///
    /// It should be longer than handling takes, because a lease that is not settled by then has
    /// failed. Use [`Lease::extend`] for deliveries that take longer than most.
    pub fn ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }
}

impl Pull {
    /// Returns the settings of a lane's leases, and the facts that include them.
    pub(crate) fn checked(self, fit: Fit) -> Result<(Leasing, Fit), SettingError> {
        let deadline_ns = check_deadline(self.ack_deadline)?;
        let fit = match self.credits {
            Some(credits) => fit.with_credits(credits)?,
            None => fit,
        };
        let leasing = Leasing {
            credits: fit.credits,
            deadline_ns,
        };
        Ok((leasing, fit))
    }
}

fn check_deadline(deadline: Duration) -> Result<u64, SettingError> {
    if deadline.is_zero() {
        let rule = "must be more than nothing, or every lease would be stale";
        return Err(SettingError::new("ack_deadline", "zero", rule));
    }
    Ok(nanos(deadline))
}

/// A subscription without a handler: the caller's threads take deliveries on lease.
///
/// They settle each lease when they are done with it.
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
/// Clone the handle freely, and receive from any thread: each delivery goes to one of them. Threads
/// that share it take turns of a few dozen leases, so they get about as many. Futures get leases as
/// their runtime polls them. Dropping the last handle unsubscribes, unless it was
/// [detached](Self::detach).
///
/// # Credits and order
///
/// At most [`credits`](Pull::credits) leases are outstanding; further `recv` calls wait until one
/// is settled. A thread that holds every lease and calls `recv` again blocks until a lease expires.
///
/// First leases are taken in accept order. Under
/// [`OnFailure::BlockKey`](crate::OnFailure::BlockKey), one lease of each key is outstanding at a
/// time. Under [`BlockSubscription`](crate::OnFailure::BlockSubscription), it is one lease in all.
/// Later deliveries wait until it has been handled or has ended otherwise.
///
/// # Where it does not wait
///
/// Inside a handler of the broker, and on a broker without worker threads, every call that would
/// block returns at once. In the latter case it runs the broker first, as
/// [`run_until_idle`](crate::Broker::run_until_idle) does. Futures wait in both cases.
///
/// # The end
///
/// The mode of [`unsubscribe`](Self::unsubscribe) decides about outstanding leases. A drain of the
/// broker waits for receivers and leases until its deadline, and then cancels the rest. Every way
/// to receive says that the subscription has [ended](RecvError::Ended) once no delivery can come
/// any more.
#[must_use = "dropping the last handle of a subscription unsubscribes at once"]
pub struct PullSubscription<T> {
    source: Source<T>,
    owner: Arc<Owner>,
}

/// The handle whose drop unsubscribes.
enum Owner {
    Topic(Subscription),
    Patterns(PatternSubscription),
}

impl<T: Send + Sync + 'static> PullSubscription<T> {
    pub(crate) fn of_topic(lane: Arc<Lane<T>>) -> Self {
        Self {
            owner: Arc::new(Owner::Topic(Subscription::new(Arc::clone(&lane)))),
            source: Source::Topic(lane),
        }
    }

    pub(crate) fn of_patterns(sub: Arc<PatternSub<T>>, sources: Arc<Sources<T>>) -> Self {
        Self {
            owner: Arc::new(Owner::Patterns(PatternSubscription::new(
                Arc::clone(&sub) as _
            ))),
            source: Source::Patterns(sub, sources),
        }
    }

    /// Returns the subscription to patterns whose deliveries these are.
    ///
    /// It has the patterns and topics, and can change them. `None` means that the subscription is
    /// to one topic.
    pub fn pattern_subscription(&self) -> Option<&PatternSubscription> {
        match &*self.owner {
            Owner::Topic(_) => None,
            Owner::Patterns(subscription) => Some(subscription),
        }
    }

    subscription_controls!();
    protection_controls!();

    fn control(&self) -> &dyn Control {
        match &*self.owner {
            Owner::Topic(subscription) => subscription.control(),
            Owner::Patterns(subscription) => subscription.control(),
        }
    }

    /// Leases the next delivery, and waits for one as long as it takes.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError::Ended`] once the subscription has ended. Where it may not wait, it
    /// returns [`RecvError::WouldBlock`].
    pub fn recv(&self) -> Result<Lease<T>, RecvError> {
        let received = self.receive_one(None);
        received.expect("a wait without an end has an outcome")
    }

    /// Leases the next delivery, and waits for one until `timeout` has passed.
    ///
    /// # Errors
    ///
    /// Returns [`RecvTimeoutError::TimedOut`], or [`RecvTimeoutError::Ended`] once the subscription
    /// has ended. Where it may not wait, it returns [`RecvTimeoutError::WouldBlock`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Lease<T>, RecvTimeoutError> {
        let received = self.receive_one(Instant::now().checked_add(timeout));
        Ok(received.ok_or(RecvTimeoutError::TimedOut)??)
    }

    /// Leases the next delivery if there is one now. It never waits.
    ///
    /// # Errors
    ///
    /// Returns [`TryRecvError::Empty`] if there is none, or [`TryRecvError::Ended`] once the
    /// subscription has ended.
    pub fn try_recv(&self) -> Result<Lease<T>, TryRecvError> {
        let mut lease = None;
        let take = |lane: &_, granted| lease = Some(Lease::new(Arc::clone(lane), granted));
        self.source.try_receive(1, take).transpose()?;
        lease.ok_or(TryRecvError::Empty)
    }

    /// Leases up to `max` deliveries, as far as there are credits.
    ///
    /// It takes the deliveries that are there, and waits for the first one until `wait` has passed.
    /// It returns at least one lease, unless `max` is zero. All of them share one deadline. They
    /// can be [acked together](LeaseBatch::ack_all), which is the fastest way to pull.
    ///
    /// # Errors
    ///
    /// The errors are those of [`recv_timeout`](Self::recv_timeout).
    pub fn recv_batch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<LeaseBatch<T>, RecvTimeoutError> {
        let mut batch = LeaseBatch::EMPTY;
        if max > 0 {
            let until = Instant::now().checked_add(wait);
            let take = |lane: &_, granted| batch.push(lane, granted);
            let received = self.source.receive(max, until, take);
            received.ok_or(RecvTimeoutError::TimedOut)??;
        }
        Ok(batch)
    }

    /// Leases one delivery after the other, as [`recv`](Self::recv) does.
    ///
    /// The iterator ends when the subscription has ended. Where `recv` may not wait, it ends when
    /// there is no delivery.
    pub fn iter(&self) -> Leases<'_, T> {
        Leases {
            subscription: self,
            ended: false,
        }
    }

    /// Sets how many leases may be outstanding at once.
    ///
    /// Outstanding leases stay, even if there are more. The next lease is taken when there are
    /// fewer.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero, or for more than the lane's capacity. Under
    /// [`OnFailure::BlockSubscription`](crate::OnFailure::BlockSubscription), one is the most.
    pub fn set_credits(&self, leases: usize) -> Result<(), SettingError> {
        self.source.set_credits(leases)
    }

    /// Sets how long leases last that are taken from now on. Outstanding leases keep their
    /// deadline.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero.
    pub fn set_ack_deadline(&self, deadline: Duration) -> Result<(), SettingError> {
        self.source.set_ack_deadline(check_deadline(deadline)?)
    }

    /// Lets the subscription stay when the last of its handles has gone, with its deliveries.
    ///
    /// [`Topic::attach_pull`](crate::Topic::attach_pull) takes it up again by its name. Leases that
    /// are out stay so until their deadline. A pull by pattern can't be taken up again.
    ///
    /// ```
    /// # use millstream::{Broker, Pull};
    /// # let broker = Broker::new()?;
    /// let jobs = broker.topic::<u32>("jobs").open()?;
    /// jobs.subscription("worker").pull(Pull::default())?.detach();
    /// jobs.publish(42)?;
    ///
    /// let worker = jobs.attach_pull("worker")?; // another thread, some time later
    /// worker.recv()?.ack()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detach(self) {
        match &*self.owner {
            Owner::Topic(subscription) => subscription.detach_all(),
            Owner::Patterns(subscription) => subscription.detach_all(),
        }
    }

    /// Ends the subscription, and waits until it has ended; see [`Subscription::unsubscribe`].
    ///
    /// If the mode cancels or dead-letters, outstanding leases become stale at once. Their
    /// deliveries end with the others. If the mode drains, receivers go on and leases can be
    /// settled. That lasts until nothing is left or the time is up, and the rest is cancelled then.
    /// A caller that drains while it holds a lease itself waits for the whole time.
    pub fn unsubscribe(&self, mode: Unsubscribe) -> Unsubscribed {
        match &*self.owner {
            Owner::Topic(subscription) => subscription.end_as(mode),
            Owner::Patterns(subscription) => subscription.end_as(mode),
        }
    }

    /// Ends the subscription as [`unsubscribe`](Self::unsubscribe) does, without blocking a thread.
    ///
    /// [`Subscription::unsubscribe_async`] says when the future is ready.
    #[cfg(feature = "async")]
    pub fn unsubscribe_async(
        &self,
        mode: Unsubscribe,
    ) -> crate::subscription::ends::UnsubscribeFuture {
        match &*self.owner {
            Owner::Topic(subscription) => subscription.end_later(mode),
            Owner::Patterns(subscription) => subscription.end_later(mode),
        }
    }

    #[cfg(feature = "async")]
    pub(crate) fn poll_recv(
        &self,
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<Lease<T>, EndedError>> {
        let mut lease = None;
        let take = |lane: &_, granted| lease = Some(Lease::new(Arc::clone(lane), granted));
        std::task::ready!(self.source.poll_receive(1, take, id, context))?;
        std::task::Poll::Ready(Ok(lease.expect("it is ready with a lease")))
    }

    #[cfg(feature = "async")]
    pub(crate) fn poll_recv_batch(
        &self,
        max: usize,
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<LeaseBatch<T>, EndedError>> {
        let mut batch = LeaseBatch::EMPTY;
        if max > 0 {
            let take = |lane: &_, granted| batch.push(lane, granted);
            std::task::ready!(self.source.poll_receive(max, take, id, context))?;
        }
        std::task::Poll::Ready(Ok(batch))
    }

    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, id: &mut crate::engine::wait::wakers::WaiterId) {
        self.source.leave(id);
    }

    /// Leases the next delivery. Returns `None` if the time is up.
    fn receive_one(&self, until: Option<Instant>) -> Option<Result<Lease<T>, RecvError>> {
        let mut lease = None;
        let take = |lane: &_, granted| lease = Some(Lease::new(Arc::clone(lane), granted));
        match self.source.receive(1, until, take)? {
            Ok(()) => lease.map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

impl<T> Clone for PullSubscription<T> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            owner: Arc::clone(&self.owner),
        }
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

/// An iterator over leases, made by [`PullSubscription::iter`].
pub struct Leases<'s, T> {
    subscription: &'s PullSubscription<T>,
    ended: bool,
}

impl<T: Send + Sync + 'static> fmt::Debug for Leases<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("subscription", self.subscription)
            .field("ended", &self.ended)
            .finish()
    }
}

impl<T: Send + Sync + 'static> Iterator for Leases<'_, T> {
    type Item = Lease<T>;

    fn next(&mut self) -> Option<Lease<T>> {
        let lease = match self.ended {
            true => None,
            false => self.subscription.recv().ok(),
        };
        self.ended = lease.is_none();
        lease
    }
}

impl<T: Send + Sync + 'static> FusedIterator for Leases<'_, T> {}

impl<'s, T: Send + Sync + 'static> IntoIterator for &'s PullSubscription<T> {
    type Item = Lease<T>;
    type IntoIter = Leases<'s, T>;

    fn into_iter(self) -> Leases<'s, T> {
        self.iter()
    }
}
