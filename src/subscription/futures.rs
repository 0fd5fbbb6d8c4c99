//! Receiving as futures and streams, for any runtime: feature `async`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;

use crate::engine::wait::wakers::WaiterId;
use crate::subscription::lease::Lease;
use crate::subscription::pull::PullSubscription;
use crate::types::error::RecvError;

/// The next lease: see [`PullSubscription::recv_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct Recv<T: Send + Sync + 'static> {
    subscription: PullSubscription<T>,
    id: WaiterId,
}

impl<T: Send + Sync + 'static> Future for Recv<T> {
    type Output = Result<Lease<T>, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.subscription.poll_recv(&mut this.id, context)
    }
}

impl<T: Send + Sync + 'static> Drop for Recv<T> {
    fn drop(&mut self) {
        self.subscription.leave(&mut self.id);
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Recv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recv")
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}

/// Leases one after the other, until the subscription has ended: see
/// [`PullSubscription::stream`].
#[must_use = "a stream does nothing until it is polled"]
pub struct LeaseStream<T: Send + Sync + 'static> {
    next: Recv<T>,
    ended: bool,
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
            .field("subscription", &self.next.subscription)
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
    /// Leases the next delivery; waits for one without blocking the thread, inside a
    /// handler as well. On a broker without worker threads each poll runs the broker first.
    ///
    /// A lease is taken by the poll that returns it. A message wakes one of those who wait, in the
    /// order in which they came. Dropped before it is ready, the future has taken nothing, and
    /// passes its wake-up on, so a woken future must be polled or dropped.
    ///
    /// # Errors
    ///
    /// [`RecvError::Ended`].
    pub fn recv_async(&self) -> Recv<T> {
        Recv {
            subscription: self.clone(),
            id: WaiterId::default(),
        }
    }

    /// The same as a stream, which ends with the subscription. It is a handle of the
    /// subscription like any clone, and may be sent anywhere.
    pub fn stream(&self) -> LeaseStream<T> {
        LeaseStream {
            next: self.recv_async(),
            ended: false,
        }
    }
}
