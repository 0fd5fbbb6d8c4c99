//! Ends of subscriptions as futures, for any runtime (feature `async`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::engine::runtime::{Engine, context};
use crate::engine::wait::wakers::WaiterId;
use crate::observe::metrics::SubscriptionMetrics;
use crate::subscription::pattern::{AnyPatternHandle, PatternSubscription};
use crate::subscription::{AnyLane, Subscription, Unsubscribed, begin_end_of_all};
use crate::sync::Arc;
use crate::types::config::Unsubscribe;

/// A future of the end of a subscription, made by [`Subscription::unsubscribe_async`].
///
/// The end has begun before the future is polled, and goes on if the future is dropped.
#[must_use = "the end comes without it, but nobody hears of it"]
pub struct UnsubscribeFuture {
    of: Ending,
    lanes: Vec<Arc<dyn AnyLane>>,
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
            Self::Lane(lane) => lane.has_ended(),
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
        Self {
            of,
            lanes: lanes.to_vec(),
            id: WaiterId::default(),
        }
    }
}

impl Future for UnsubscribeFuture {
    type Output = Unsubscribed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Unsubscribed> {
        let Self { of, lanes, id } = &mut *self;
        let engine = of.engine();
        if context::is_inside(engine) && !of.has_come() {
            return Poll::Ready(Unsubscribed::Ending);
        }
        // The time of a drain may be up while all workers are busy elsewhere.
        let has_come = || {
            if !of.has_come() {
                lanes.iter().for_each(|lane| lane.come_to_end());
            }
            of.has_come()
        };
        ready!(engine.quiescence.poll(id, context, has_come));
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

    /// Begins the end, by a handle that may live on.
    pub(crate) fn end_later(&self, mode: Unsubscribe) -> UnsubscribeFuture {
        let of = Ending::Lane(Arc::clone(&self.lane));
        UnsubscribeFuture::begin(of, &[Arc::clone(&self.lane)], mode)
    }
}

impl PatternSubscription {
    /// Ends the subscription in all topics as [`unsubscribe`](Self::unsubscribe) does, without
    /// blocking a thread.
    ///
    /// [`Subscription::unsubscribe_async`] says when the future is ready.
    pub fn unsubscribe_async(self, mode: Unsubscribe) -> UnsubscribeFuture {
        self.detach_all();
        self.end_later(mode)
    }

    /// Begins the end, by a handle that may live on.
    pub(crate) fn end_later(&self, mode: Unsubscribe) -> UnsubscribeFuture {
        let lanes = self.pattern_sub.begin_end();
        let of = Ending::Patterns(Arc::clone(&self.pattern_sub));
        UnsubscribeFuture::begin(of, &lanes, mode)
    }
}
