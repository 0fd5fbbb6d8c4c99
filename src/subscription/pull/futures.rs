//! Receiving as futures and streams, for any runtime (feature `async`).

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;

use crate::engine::wait::wakers::WaiterId;
use crate::subscription::pull::PullSubscription;
use crate::subscription::pull::lease::Lease;
use crate::subscription::pull::lease_batch::LeaseBatch;
use crate::types::error::recv::EndedError;

/// A handle of a pull subscription, with a place among those that wait for a lease.
struct Receiver<T: Send + Sync + 'static> {
    subscription: PullSubscription<T>,
    id: WaiterId,
}

impl<T: Send + Sync + 'static> Receiver<T> {
    fn new(subscription: &PullSubscription<T>) -> Self {
        Self {
            subscription: subscription.clone(),
            id: WaiterId::default(),
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.subscription.leave(&mut self.id);
    }
}

/// A future of the next lease, made by [`PullSubscription::recv_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct Recv<T: Send + Sync + 'static>(Receiver<T>);

impl<T: Send + Sync + 'static> Future for Recv<T> {
    type Output = Result<Lease<T>, EndedError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Receiver { subscription, id } = &mut self.0;
        subscription.poll_recv(id, context)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Recv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recv")
            .field("subscription", &self.0.subscription)
            .finish_non_exhaustive()
    }
}

/// A future of the next leases, made by [`PullSubscription::recv_batch_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct RecvBatch<T: Send + Sync + 'static> {
    receiver: Receiver<T>,
    max: usize,
}

impl<T: Send + Sync + 'static> Future for RecvBatch<T> {
    type Output = Result<LeaseBatch<T>, EndedError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let max = self.max;
        let Receiver { subscription, id } = &mut self.receiver;
        subscription.poll_recv_batch(max, id, context)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for RecvBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch")
            .field("subscription", &self.receiver.subscription)
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

/// A stream of leases, until the subscription has ended, made by [`PullSubscription::stream`].
///
/// [`next`](Self::next) needs no other crate. As a [`Stream`], it takes part in combinators.
#[must_use = "a stream does nothing until it is polled"]
pub struct LeaseStream<T: Send + Sync + 'static> {
    next: Recv<T>,
    ended: bool,
}

impl<T: Send + Sync + 'static> LeaseStream<T> {
    /// Leases the next delivery. It waits for one without blocking the thread, and returns `None`
    /// once the subscription has ended.
    ///
    /// The future may be dropped before it is ready, as in `select!`: it has taken nothing. The
    /// stream keeps its place among those that wait, so go on with it or drop it.
    ///
    /// ```
    /// use millstream::{Broker, Pull};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let payments = broker.topic::<u64>("payments").open()?;
    /// let mut placed = orders.subscription("clerk").pull(Pull::default())?.stream();
    /// let mut paid = payments.subscription("clerk").pull(Pull::default())?.stream();
    /// orders.publish(7)?;
    /// payments.publish(7)?;
    ///
    /// for _ in 0..2 {
    ///     tokio::select! {
    ///         Some(order) = placed.next() => order.ack()?,
    ///         Some(payment) = paid.next() => payment.ack()?,
    ///         else => break, // both subscriptions have ended
    ///     }
    /// }
    /// # assert_eq!(broker.metrics().deliveries().delivered, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Lease<T>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<T: Send + Sync + 'static> Stream for LeaseStream<T> {
    type Item = Lease<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Lease<T>>> {
        let lease = ready!(Pin::new(&mut self.next).poll(context)).ok();
        self.ended = lease.is_none();
        Poll::Ready(lease)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for LeaseStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseStream")
            .field("subscription", &self.next.0.subscription)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> FusedStream for LeaseStream<T> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl<T: Send + Sync + 'static> PullSubscription<T> {
    /// Leases the next delivery, and waits for one without blocking the thread.
    ///
    /// It waits inside a handler as well. On a broker without worker threads each poll runs the
    /// broker first.
    ///
    /// The poll that returns a lease takes it. A message wakes one waiting future, in the order in
    /// which they came. A future that is dropped before it is ready has taken nothing. It passes
    /// its wake-up on, so a woken future must be polled or dropped.
    ///
    /// # Errors
    ///
    /// Returns [`EndedError`] once the subscription has ended.
    pub fn recv_async(&self) -> Recv<T> {
        Recv(Receiver::new(self))
    }

    /// Leases up to `max` deliveries, and waits for the first one without blocking the thread.
    ///
    /// It is [`recv_batch`](Self::recv_batch) as a future, without a limit to the wait: your
    /// runtime has timeouts. It returns at least one lease, unless `max` is zero. It waits, and may
    /// be dropped, as [`recv_async`](Self::recv_async).
    ///
    /// # Errors
    ///
    /// Returns [`EndedError`] once the subscription has ended.
    pub fn recv_batch_async(&self, max: usize) -> RecvBatch<T> {
        RecvBatch {
            receiver: Receiver::new(self),
            max,
        }
    }

    /// Returns a stream of leases, which ends with the subscription.
    ///
    /// The stream is a handle of the subscription like any clone, and may be sent anywhere.
    pub fn stream(&self) -> LeaseStream<T> {
        LeaseStream {
            next: self.recv_async(),
            ended: false,
        }
    }
}
