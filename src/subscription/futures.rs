//! Receiving as futures and streams, and ends as futures, for any runtime (feature `async`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;

use crate::engine::runtime::{Engine, context};
use crate::engine::wait::wakers::WaiterId;
use crate::observe::metrics::SubscriptionMetrics;
use crate::subscription::group::ConsumerGroup;
use crate::subscription::lease::Lease;
use crate::subscription::lease_batch::LeaseBatch;
use crate::subscription::pattern::{AnyPatternHandle, PatternSubscription};
use crate::subscription::pull::PullSubscription;
use crate::subscription::{AnyLane, Subscription, Unsubscribed, begin_end_of_all};
use crate::sync::Arc;
use crate::types::config::Unsubscribe;
use crate::types::error::RecvError;

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
    type Output = Result<Lease<T>, RecvError>;

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
    type Output = Result<LeaseBatch<T>, RecvError>;

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
    /// Returns [`RecvError::Ended`] once the subscription has ended.
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
    /// Returns [`RecvError::Ended`] once the subscription has ended.
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

/// A future of the end of a subscription, made by [`Subscription::unsubscribe_async`].
///
/// The end has begun before the future is polled, and goes on if the future is dropped.
#[must_use = "the end comes without it, but nobody hears of it"]
pub struct UnsubscribeFuture {
    of: Ending,
    id: WaiterId,
}

/// The subscription that ends.
enum Ending {
    Lane(Arc<dyn AnyLane>),
    Patterns(Arc<dyn AnyPatternHandle>),
}

impl Ending {
    fn engine(&self) -> &Engine {
        match self {
            Self::Lane(lane) => lane.engine(),
            Self::Patterns(pattern_sub) => pattern_sub.engine(),
        }
    }

    fn has_come(&self) -> bool {
        match self {
            Self::Lane(lane) => lane.is_retired(),
            Self::Patterns(pattern_sub) => pattern_sub.has_ended(),
        }
    }

    fn metrics(&self) -> SubscriptionMetrics {
        match self {
            Self::Lane(lane) => lane.metrics(),
            Self::Patterns(pattern_sub) => pattern_sub.metrics(),
        }
    }
}

impl UnsubscribeFuture {
    fn begin(of: Ending, lanes: &[Arc<dyn AnyLane>], mode: Unsubscribe) -> Self {
        begin_end_of_all(lanes, mode);
        if !context::is_inside(of.engine()) {
            // The end does not wait for a free worker: all of them may be busy elsewhere.
            lanes.iter().for_each(|lane| lane.come_to_end());
        }
        let id = WaiterId::default();
        Self { of, id }
    }
}

impl Future for UnsubscribeFuture {
    type Output = Unsubscribed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Unsubscribed> {
        let Self { of, id } = &mut *self;
        let engine = of.engine();
        if context::is_inside(engine) && !of.has_come() {
            return Poll::Ready(Unsubscribed::Ending);
        }
        ready!(engine.quiescence.poll(id, context, || of.has_come()));
        Poll::Ready(Unsubscribed::Ended(of.metrics()))
    }
}

impl Drop for UnsubscribeFuture {
    fn drop(&mut self) {
        self.of.engine().quiescence.leave(&mut self.id);
    }
}

impl fmt::Debug for UnsubscribeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnsubscribeFuture")
            .field("ended", &self.of.has_come())
            .finish_non_exhaustive()
    }
}

impl Subscription {
    /// Ends the subscription as [`unsubscribe`](Self::unsubscribe) does, without blocking a thread.
    ///
    /// The end begins with this call, and comes whether or not the future is polled. The future is
    /// ready when no call of the handler runs or will start. On a broker without workers somebody
    /// has to run the broker meanwhile.
    ///
    /// Inside a handler of this broker, an async one as well, the future is ready at once with
    /// [`Unsubscribed::Ending`]. A handler that waited for itself would wait for ever.
    ///
    /// ```
    /// # async fn end(subscription: millstream::Subscription) {
    /// use millstream::{Unsubscribe, Unsubscribed};
    /// use std::time::Duration;
    ///
    /// let mode = Unsubscribe::Drain { timeout: Duration::from_secs(5) };
    /// if let Unsubscribed::Ended(metrics) = subscription.unsubscribe_async(mode).await {
    ///     println!("{} delivered", metrics.counts.delivered);
    /// }
    /// # }
    /// ```
    pub fn unsubscribe_async(mut self, mode: Unsubscribe) -> UnsubscribeFuture {
        self.detached = true;
        self.end_later(mode)
    }

    fn end_later(&self, mode: Unsubscribe) -> UnsubscribeFuture {
        let of = Ending::Lane(Arc::clone(&self.lane));
        UnsubscribeFuture::begin(of, &[Arc::clone(&self.lane)], mode)
    }
}

impl<T: Send + Sync + 'static> PullSubscription<T> {
    /// Ends the subscription as [`unsubscribe`](Self::unsubscribe) does, without blocking a thread.
    ///
    /// [`Subscription::unsubscribe_async`] says when the future is ready.
    pub fn unsubscribe_async(&self, mode: Unsubscribe) -> UnsubscribeFuture {
        self.owner.end_later(mode)
    }
}

impl<T: Send + Sync + 'static> ConsumerGroup<T> {
    /// Ends the group as [`unsubscribe`](Self::unsubscribe) does, without blocking a thread.
    ///
    /// [`Subscription::unsubscribe_async`] says when the future is ready.
    pub fn unsubscribe_async(self, mode: Unsubscribe) -> UnsubscribeFuture {
        self.subscription.unsubscribe_async(mode)
    }
}

impl PatternSubscription {
    /// Ends the subscription in all topics as [`unsubscribe`](Self::unsubscribe) does, without
    /// blocking a thread.
    ///
    /// [`Subscription::unsubscribe_async`] says when the future is ready.
    pub fn unsubscribe_async(mut self, mode: Unsubscribe) -> UnsubscribeFuture {
        self.detached = true;
        let lanes = self.pattern_sub.begin_end();
        let of = Ending::Patterns(Arc::clone(&self.pattern_sub));
        UnsubscribeFuture::begin(of, &lanes, mode)
    }
}
