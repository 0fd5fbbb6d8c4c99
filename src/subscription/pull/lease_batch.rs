//! Deliveries that a caller has leased together.

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::time::Duration;

use crate::engine::parts::outstanding::Granted;
use crate::engine::state::lane::Lane;
use crate::message::Delivery;
use crate::subscription::pull::lease::Lease;
use crate::sync::Arc;
use crate::types::error::StaleError;

/// Leases that were taken at once by
/// [`PullSubscription::recv_batch`](crate::PullSubscription::recv_batch).
///
/// [`ack_all`](Self::ack_all) settles them together, for little more than the price of one. Before
/// that, [`extract_if`](Self::extract_if) takes out failed ones, to be settled one by one. To
/// settle each lease by itself, iterate. Leases that are left when the batch is dropped are
/// abandoned, as a dropped [`Lease`] is.
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
    /// The lane of the leases, or `None` if there were none from the start.
    lane: Option<Arc<Lane<T>>>,
    /// Runs of leases, none of which is empty.
    runs: VecDeque<Granted<T>>,
}

impl<T: Send + Sync + 'static> LeaseBatch<T> {
    pub(crate) const EMPTY: Self = Self {
        lane: None,
        runs: VecDeque::new(),
    };

    /// Adds leases, which are of the same lane as those before.
    pub(crate) fn push(&mut self, lane: &Arc<Lane<T>>, granted: Granted<T>) {
        self.lane.get_or_insert_with(|| Arc::clone(lane));
        self.runs.push_back(granted);
    }

    /// Returns the number of leases in the batch.
    pub fn len(&self) -> usize {
        self.runs.iter().map(Granted::len).sum()
    }

    /// Returns whether the batch has no leases, or none any more.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the time left until the deadline that the leases share.
    ///
    /// It is zero once the deadline has passed, or if there are no leases.
    pub fn remaining(&self) -> Duration {
        let (Some(lane), Some(run)) = (&self.lane, self.runs.front()) else {
            return Duration::ZERO;
        };
        let now_ns = lane.engine().clock.timer_ns();
        Duration::from_nanos(run.due_ns.saturating_sub(now_ns))
    }

    /// Returns the deliveries, in the order in which they were leased.
    pub fn iter(&self) -> impl Iterator<Item = Delivery<'_, T>> {
        let lane = self.lane.as_deref();
        let now_ns = lane.map_or(0, |lane| lane.engine().clock.now_ns());
        let address = lane.map(Lane::address);
        let each = |run| Granted::indices(run).map(move |index| (run, index));
        let each = self.runs.iter().flat_map(each);
        each.filter_map(move |(run, index)| Some(run.delivery(index, address?, now_ns)))
    }

    /// Settles all leases: their deliveries have been handled.
    ///
    /// Counts, credits, keys and waiters are updated once for all of them. The call never waits,
    /// and may be made anywhere.
    ///
    /// # Errors
    ///
    /// Returns [`StaleError`] if the leases had already ended. Nothing has changed then. They share one
    /// deadline, so either all of them have ended, or none.
    pub fn ack_all(mut self) -> Result<(), StaleError> {
        let mut runs = std::mem::take(&mut self.runs);
        match &self.lane {
            Some(lane) => lane
                .keyed()
                .ok_or(StaleError)?
                .ack_leases(runs.make_contiguous()),
            None => Ok(()),
        }
    }

    /// Takes out the leases that `chosen` selects, in order.
    ///
    /// They can be nacked, extended, or kept longer than the others. `chosen` is called once for
    /// each lease, before any is taken out.
    pub fn extract_if(
        &mut self,
        mut chosen: impl FnMut(&Delivery<'_, T>) -> bool,
    ) -> Vec<Lease<T>> {
        let Some(lane) = &self.lane else {
            return Vec::new();
        };
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
        let lane = self.lane.as_ref()?;
        let (first, others) = self.runs.pop_front()?.take_first();
        if let Some(others) = others {
            self.runs.push_front(others);
        }
        Some(Lease::new(Arc::clone(lane), first))
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
            .field("topic", &self.lane.as_ref().map(|lane| &lane.topic.name))
            .field("subscription", &self.lane.as_ref().map(|lane| &lane.name))
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The leases of a [`LeaseBatch`] one by one, in order.
///
/// Leases that are left when the iterator is dropped are abandoned.
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
