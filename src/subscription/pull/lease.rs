//! A delivery that a caller has leased.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "log")]
use crate::engine::outbox::lane_outbox::LaneOutbox;
#[cfg(feature = "log")]
use crate::engine::outbox::staged::Staged;
use crate::engine::parts::outstanding::Granted;
use crate::engine::pull::settle::Failing;
use crate::engine::state::lane::Lane;
use crate::engine::track::replies::Replied;
use crate::message::meta::HeaderValue;
use crate::message::nack::Nack;
use crate::message::{Delivery, MessageId};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::duration::nanos;
use crate::types::error::StaleError;

/// A delivery that was pulled, until it is settled or its deadline passes.
///
/// [`ack`](Self::ack) says that the delivery has been handled. [`nack`](Self::nack) says that it
/// has not, and its [`Nack`] means the same as a handler's. Both take the lease by reference. So a
/// lease can be settled where it lies in a struct, and its payload can be read afterwards.
///
/// A lease that is dropped unsettled is a failed attempt
/// ([`FailureKind::Abandoned`](crate::retry::FailureKind::Abandoned)), so a thread that panics loses
/// nothing.
///
/// A lease whose deadline passes is a failed attempt, too
/// ([`FailureKind::Timeout`](crate::retry::FailureKind::Timeout)). The retry policy decides what follows.
///
/// A lease is settled once. Any later call returns [`StaleError`] and changes nothing;
/// [`is_stale`](Self::is_stale) asks beforehand.
///
/// ```
/// use millstream::{Broker, Lease, Nack, Pull};
/// use millstream::error::StaleError;
/// use std::time::Duration;
///
/// struct Job {
///     lease: Lease<u32>,
///     done: bool,
/// }
///
/// impl Job {
///     fn finish(&self) -> Result<(), StaleError> {
///         if self.done {
///             return self.lease.ack();
///         }
///         self.lease.nack(Nack::retry("not done"))
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let jobs = broker.topic::<u32>("jobs").open()?;
/// let worker = jobs.subscription("worker").pull(Pull::default())?;
/// jobs.publish(7)?;
///
/// let lease = worker.recv_timeout(Duration::from_secs(5))?;
/// let job = Job { lease, done: true };
/// job.finish()?;
/// assert!(job.lease.is_stale());
/// assert!(job.finish().is_err());
/// # Ok(())
/// # }
/// ```
///
/// The leases of a [`LeaseBatch`](crate::pull::LeaseBatch) can be acked together.
#[must_use = "a lease that is dropped unsettled is a failed attempt; ack it or nack it"]
pub struct Lease<T: Send + Sync + 'static> {
    lane: Arc<Lane<T>>,
    granted: Granted<T>,
    /// The holder has settled the lease. The record of the lane knows it, too, and decides; this
    /// spares the drop a look.
    settled: AtomicBool,
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// Makes a lease of a run of one delivery.
    pub(crate) fn new(lane: Arc<Lane<T>>, granted: Granted<T>) -> Self {
        Self {
            lane,
            granted,
            settled: AtomicBool::new(false),
        }
    }

    /// Settles the lease: the delivery has been handled.
    ///
    /// The payload stays in memory until the lease is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`StaleError`] if the lease had already ended. Nothing has changed then.
    pub fn ack(&self) -> Result<(), StaleError> {
        self.note_settled();
        let keyed = self.lane.keyed().ok_or(StaleError)?;
        keyed.ack_leases(std::slice::from_ref(&self.granted))
    }

    /// Settles the lease: the attempt has failed.
    ///
    /// The retry policy decides, on this thread, unless the nack says what is to follow.
    ///
    /// # Errors
    ///
    /// Returns [`StaleError`] if the lease had already ended. Nothing has changed then.
    pub fn nack(&self, nack: Nack) -> Result<(), StaleError> {
        self.note_settled();
        let keyed = self.lane.keyed().ok_or(StaleError)?;
        keyed.fail_lease(&self.granted, Failing::Nack(nack))
    }

    fn note_settled(&self) {
        // ORDERING: relaxed, because only the drop reads it, which has the lease for itself.
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Returns whether the lease has ended: it was settled, its deadline has passed, or its
    /// subscription has ended.
    ///
    /// With `true`, an [`ack`](Self::ack) would be [`StaleError`]. With `false` it may be too late all
    /// the same by then, so what the ack returns is the last word.
    pub fn is_stale(&self) -> bool {
        self.lane
            .keyed()
            .is_none_or(|keyed| !keyed.holds_lease(&self.granted))
    }

    /// Returns the outbox of a durable subscription.
    #[cfg(feature = "log")]
    pub(crate) fn outbox(&self) -> Option<&LaneOutbox> {
        self.lane.outbox()
    }

    /// Stages a message that is published with the ack. Hands it back if the lease has ended.
    #[cfg(feature = "log")]
    pub(crate) fn stage(&self, message: Box<dyn Staged>) -> Result<(), Box<dyn Staged>> {
        let (Some(keyed), Some(outbox)) = (self.lane.keyed(), self.outbox()) else {
            return Err(message);
        };
        let mut message = Some(message);
        let staged = keyed.while_held(&self.granted, || {
            let message = message.take().expect("it is staged once");
            outbox.stage(self.id().get(), None, message)
        });
        staged.unwrap_or(Ok(()))?;
        message.map_or(Ok(()), Err)
    }

    /// Makes the lease good for at least `by` from now.
    ///
    /// It moves the deadline to that time, unless the present deadline is later, which then stays.
    ///
    /// # Errors
    ///
    /// Returns [`StaleError`] if the lease had already ended. Nothing has changed then.
    pub fn extend(&mut self, by: Duration) -> Result<(), StaleError> {
        let keyed = self.lane.keyed().ok_or(StaleError)?;
        keyed.extend_lease(&mut self.granted, nanos(by))
    }

    /// Returns the time left until the deadline, or zero once it has passed.
    pub fn remaining(&self) -> Duration {
        let now_ns = self.lane.topic.engine.clock.timer_ns();
        Duration::from_nanos(self.granted.due_ns.saturating_sub(now_ns))
    }

    /// Returns the delivery, as a handler would see it.
    pub fn delivery(&self) -> Delivery<'_, T> {
        let now_ns = self.lane.topic.engine.clock.now_ns();
        self.granted
            .delivery(self.granted.index(), self.lane.address(), now_ns)
    }

    /// Returns the payload that was published.
    pub fn payload(&self) -> &T {
        self.granted.batch.payload(self.granted.index())
    }

    /// Returns the message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.granted.batch.stamp(self.granted.index()).id
    }

    /// Returns the number of the attempt: 1 for the first lease of this delivery.
    ///
    /// Leases that ended by [`Nack::requeue`](crate::Nack::requeue) or
    /// [`Nack::snooze`](crate::Nack::snooze) are not counted. A redrive begins again at 1.
    pub fn attempt(&self) -> u32 {
        self.granted.attempt
    }

    /// Returns the number of times that the delivery was redriven from the dead letters.
    ///
    /// The number saturates at 65,535.
    pub fn generation(&self) -> u16 {
        self.granted.generation
    }

    /// Returns whether the message was read from the log, and didn't come from its publisher
    /// (feature `log`).
    ///
    /// It may have been published long ago, and a durable subscription may have had it before.
    #[cfg(feature = "log")]
    pub fn is_replayed(&self) -> bool {
        self.granted.batch.replayed_after().is_some()
    }

    /// Returns the topic's name.
    pub fn topic(&self) -> &str {
        &self.lane.topic.name
    }

    /// Returns the subscription's name.
    pub fn subscription(&self) -> &str {
        &self.lane.name
    }

    /// Returns the key that the publisher gave, if any.
    pub fn key(&self) -> Option<&str> {
        self.delivery().key()
    }

    /// Returns the priority that the publisher gave, which is
    /// [`Normal`](crate::protect::Priority::Normal) by default.
    pub fn priority(&self) -> crate::protect::Priority {
        self.delivery().priority()
    }

    /// Returns the [dedup id](crate::Message::dedup_id) that the publisher gave, if any.
    pub fn dedup_id(&self) -> Option<&str> {
        self.delivery().dedup_id()
    }

    /// Returns the text of the first header with this name, or `None` if there is none or it has
    /// bytes.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.delivery().header(name)
    }

    /// Returns the value of the first header with this name as bytes, whether it is text or bytes.
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.delivery().header_bytes(name)
    }

    /// Returns all headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        self.delivery().headers()
    }

    /// Returns whether the message is a [request](crate::Topic::request), as
    /// [`Delivery::is_request`] does.
    pub fn is_request(&self) -> bool {
        self.delivery().is_request()
    }

    /// Replies to the publisher of a [request](crate::Topic::request), as [`Delivery::reply`] does.
    pub fn reply<R: Send + 'static>(&self, reply: R) -> Replied {
        self.delivery().reply(reply)
    }

    /// Returns the time since the message was accepted.
    pub fn age(&self) -> Duration {
        self.delivery().age()
    }
}

impl<T: Send + Sync + 'static> Drop for Lease<T> {
    fn drop(&mut self) {
        if let Some(keyed) = self.lane.keyed()
            && !self.settled.load(Ordering::Relaxed)
        {
            // A stale lease has been settled by its deadline, or by the end.
            let _ = keyed.fail_lease(&self.granted, Failing::Abandon);
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("topic", &self.topic())
            .field("subscription", &self.subscription())
            .field("id", &self.id())
            .field("attempt", &self.attempt())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
