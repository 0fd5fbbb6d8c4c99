//! A delivery in a caller's own hands.

use std::fmt;
use std::time::Duration;

use crate::engine::parts::outstanding::Granted;
use crate::engine::pull::settle::Failing;
use crate::engine::state::lane::Lane;
use crate::message::nack::Nack;
use crate::message::{Delivery, MessageId};
use crate::sync::Arc;
use crate::types::duration::nanos;
use crate::types::error::Stale;

/// A delivery that was pulled, until it is settled or its deadline passes.
///
/// [`ack`](Self::ack) says that it has been handled; [`nack`](Self::nack) that it has
/// not, and what a handler's [`Nack`] says is said by this one. A lease that is dropped
/// is a failed attempt ([`FailureKind::Abandoned`](crate::FailureKind::Abandoned)), so a
/// thread that panics loses nothing. So is one whose deadline passes
/// ([`FailureKind::Timeout`](crate::FailureKind::Timeout)): the retry policy decides what
/// follows, and whatever is done with the lease later is [`Stale`] and changes nothing. The
/// payload can be read all the same.
///
/// Those of a [`LeaseBatch`](crate::LeaseBatch) can be acked together.
#[must_use = "a lease that is dropped is a failed attempt; ack it or nack it"]
pub struct Lease<T: Send + Sync + 'static> {
    lane: Arc<Lane<T>>,
    granted: Granted<T>,
    settled: bool,
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// Of a run of one.
    pub(crate) fn new(lane: Arc<Lane<T>>, granted: Granted<T>) -> Self {
        Self {
            lane,
            granted,
            settled: false,
        }
    }

    /// Settles it: the delivery has been handled.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the lease has ended before; nothing has changed then.
    pub fn ack(mut self) -> Result<(), Stale> {
        self.settled = true;
        let keyed = self.lane.keyed().ok_or(Stale)?;
        keyed.ack_leases(std::slice::from_ref(&self.granted))
    }

    /// Settles it: the attempt has failed. The retry policy is asked, on this thread,
    /// unless the nack says what is to follow.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the lease has ended before; nothing has changed then.
    pub fn nack(mut self, nack: Nack) -> Result<(), Stale> {
        self.settled = true;
        let keyed = self.lane.keyed().ok_or(Stale)?;
        keyed.fail_lease(&self.granted, Failing::Nack(nack))
    }

    /// Makes the lease good for at least `by` from now: moves its deadline there, unless
    /// that is earlier than the present one, which then stays.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the lease has ended before; nothing has changed then.
    pub fn extend(&mut self, by: Duration) -> Result<(), Stale> {
        let keyed = self.lane.keyed().ok_or(Stale)?;
        keyed.extend_lease(&mut self.granted, nanos(by))
    }

    /// The time left until its deadline: zero once it has passed.
    pub fn remaining(&self) -> Duration {
        let now_ns = self.lane.topic.engine.clock.timer_ns();
        Duration::from_nanos(self.granted.due_ns.saturating_sub(now_ns))
    }

    /// The delivery, as a handler would see it.
    pub fn delivery(&self) -> Delivery<'_, T> {
        let now_ns = self.lane.topic.engine.clock.now_ns();
        self.granted
            .delivery(self.granted.index(), self.lane.address(), now_ns)
    }

    /// What was published.
    pub fn payload(&self) -> &T {
        self.granted.batch.payload(self.granted.index())
    }

    /// The message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.granted.batch.stamp(self.granted.index()).id
    }

    /// How often the delivery has been leased: 1 is the first time. Those that ended by
    /// [`Nack::requeue`](crate::Nack::requeue) are not counted. Begins again at 1 after a
    /// redrive.
    pub fn attempt(&self) -> u32 {
        self.granted.attempt
    }

    /// How often the delivery was redriven from the dead letters.
    pub fn generation(&self) -> u16 {
        self.granted.generation
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.lane.topic.name
    }

    /// The subscription's name.
    pub fn subscription(&self) -> &str {
        &self.lane.name
    }

    /// The key the publisher gave, if any.
    pub fn key(&self) -> Option<&str> {
        self.delivery().key()
    }

    /// The value of the first header of this name, if any.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.delivery().header(name)
    }

    /// All headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let meta = self.granted.batch.meta(self.granted.index());
        let headers = meta.map(|meta| &meta.headers[..]).unwrap_or_default();
        headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Time since the message was accepted.
    pub fn age(&self) -> Duration {
        self.delivery().age()
    }
}

impl<T: Send + Sync + 'static> Drop for Lease<T> {
    fn drop(&mut self) {
        if let Some(keyed) = self.lane.keyed()
            && !self.settled
        {
            // A stale one has been settled by its deadline, or by the end.
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
