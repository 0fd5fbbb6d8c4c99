//! Deliveries in a caller's own hands that were leased together.

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::time::Duration;

use crate::engine::parts::outstanding::Granted;
use crate::engine::state::lane::Lane;
use crate::message::Delivery;
use crate::subscription::lease::Lease;
use crate::sync::Arc;
use crate::types::error::Stale;

/// Leases that were taken at once: see
/// [`PullSubscription::recv_batch`](crate::PullSubscription::recv_batch).
///
/// [`ack_all`](Self::ack_all) settles them together, for little more than the price of one. What
/// has failed is taken out before, by [`extract_if`](Self::extract_if), and settled by itself; to
/// settle each by itself, iterate. Whatever is left when the batch is dropped is abandoned, as a
/// [`Lease`] that is dropped.
///
/// ```
/// use millstream::{Broker, Nack, Pull};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # fn store(order: &u32) -> bool { *order > 0 }
/// let broker = Broker::new()?;
/// let orders = broker.topic::<u32>("orders").open()?;
/// let worker = orders.subscription("worker").pull(Pull::default())?;
/// orders.publish_batch([7, 0, 42])?;
///
/// let mut batch = worker.recv_batch(64, Duration::from_secs(5))?;
/// let failed = batch.extract_if(|order| !store(order.payload()));
/// batch.ack_all()?;
/// for lease in failed {
///     lease.nack(Nack::dead_letter("an order of nothing"))?;
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "leases that are dropped are failed attempts; ack them or nack them"]
pub struct LeaseBatch<T: Send + Sync + 'static> {
    lane: Arc<Lane<T>>,
    /// None of them is empty.
    runs: VecDeque<Granted<T>>,
}

impl<T: Send + Sync + 'static> LeaseBatch<T> {
    pub(crate) fn new(lane: &Arc<Lane<T>>) -> Self {
        Self {
            lane: Arc::clone(lane),
            runs: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, granted: Granted<T>) {
        self.runs.push_back(granted);
    }

    /// How many leases are in it.
    pub fn len(&self) -> usize {
        self.runs.iter().map(Granted::len).sum()
    }

    /// Whether there are none (any more).
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The time left until the deadline that they share: zero once it has passed, or if there
    /// are none.
    pub fn remaining(&self) -> Duration {
        let due_ns = self.runs.front().map_or(0, |run| run.due_ns);
        let now_ns = self.lane.topic.engine.clock.timer_ns();
        Duration::from_nanos(due_ns.saturating_sub(now_ns))
    }

    /// The deliveries, in the order in which they were leased.
    pub fn iter(&self) -> impl Iterator<Item = Delivery<'_, T>> {
        let now_ns = self.lane.topic.engine.clock.now_ns();
        let each = |run| Granted::indices(run).map(move |index| (run, index));
        let each = self.runs.iter().flat_map(each);
        each.map(move |(run, index)| run.delivery(index, self.lane.address(), now_ns))
    }

    /// Settles all of them: they have been handled. Books, credits, keys and those who wait are
    /// seen to once for all. Never waits, and may be called anywhere.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the leases have ended before; nothing has changed then. They have one
    /// deadline, so that all of them have, or none.
    pub fn ack_all(mut self) -> Result<(), Stale> {
        let mut runs = std::mem::take(&mut self.runs);
        let keyed = self.lane.keyed().ok_or(Stale)?;
        keyed.ack_leases(runs.make_contiguous())
    }

    /// Takes those out that are `chosen`, in order: to nack, to extend, or to keep them beyond
    /// the others. Asks for each once, before any is taken out.
    pub fn extract_if(
        &mut self,
        mut chosen: impl FnMut(&Delivery<'_, T>) -> bool,
    ) -> Vec<Lease<T>> {
        let lane = &self.lane;
        let now_ns = lane.topic.engine.clock.now_ns();
        let mut choose = |run: &Granted<T>| {
            run.choose(|index| chosen(&run.delivery(index, lane.address(), now_ns)))
        };
        let chosen: Vec<_> = self.runs.iter().map(&mut choose).collect();
        let mut leases = Vec::new();
        for (run, chosen) in self.runs.iter_mut().zip(chosen) {
            let taken = run.take_chosen(chosen);
            leases.extend(taken.map(|granted| Lease::new(Arc::clone(lane), granted)));
        }
        self.runs.retain(|run| run.len() > 0);
        leases
    }

    fn pop(&mut self) -> Option<Lease<T>> {
        let (first, others) = self.runs.pop_front()?.take_first();
        if let Some(others) = others {
            self.runs.push_front(others);
        }
        Some(Lease::new(Arc::clone(&self.lane), first))
    }
}

impl<T: Send + Sync + 'static> Drop for LeaseBatch<T> {
    fn drop(&mut self) {
        while let Some(lease) = self.pop() {
            drop(lease);
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for LeaseBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseBatch")
            .field("topic", &self.lane.topic.name)
            .field("subscription", &self.lane.name)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The leases of a [`LeaseBatch`] one by one, in order. Those that are left when it is dropped
/// are abandoned.
pub struct IntoLeases<T: Send + Sync + 'static>(LeaseBatch<T>);

impl<T: Send + Sync + 'static> fmt::Debug for IntoLeases<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntoLeases").field(&self.0).finish()
    }
}

impl<T: Send + Sync + 'static> IntoIterator for LeaseBatch<T> {
    type Item = Lease<T>;
    type IntoIter = IntoLeases<T>;

    fn into_iter(self) -> IntoLeases<T> {
        IntoLeases(self)
    }
}

impl<T: Send + Sync + 'static> Iterator for IntoLeases<T> {
    type Item = Lease<T>;

    fn next(&mut self) -> Option<Lease<T>> {
        self.0.pop()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.0.len();
        (len, Some(len))
    }
}

impl<T: Send + Sync + 'static> ExactSizeIterator for IntoLeases<T> {}

impl<T: Send + Sync + 'static> FusedIterator for IntoLeases<T> {}
