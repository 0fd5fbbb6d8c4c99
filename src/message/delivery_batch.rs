//! Several deliveries in one handler call.

use std::collections::BTreeMap;
use std::fmt;

use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::sync::Arc;

/// The deliveries of one call of a batch handler, in order.
///
/// Returning `Ok` acks every element that was not nacked. Returning an error, or panicking, fails
/// them all. A failed element comes back alone, in a batch of one, so it can't fail its neighbors
/// again.
///
/// ```
/// use millstream::{DeliveryBatch, Nack};
///
/// fn store(batch: &mut DeliveryBatch<'_, i64>) -> Result<(), Nack> {
///     for (at, delivery) in batch.iter().enumerate() {
///         if *delivery.payload() < 0 {
///             batch.nack(at, Nack::dead_letter("negative"));
///         }
///     }
///     Ok(())
/// }
/// ```
pub struct DeliveryBatch<'a, T> {
    /// The deliveries, shared with iterators.
    deliveries: Arc<Vec<Delivery<'a, T>>>,
    nacks: BTreeMap<usize, Nack>,
}

impl<'a, T> DeliveryBatch<'a, T> {
    pub(crate) fn new(deliveries: Vec<Delivery<'a, T>>) -> Self {
        Self {
            deliveries: Arc::new(deliveries),
            nacks: BTreeMap::new(),
        }
    }

    /// Returns the number of deliveries, which is at least one.
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Returns whether there are no deliveries, which is never the case.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Returns the delivery at this place, if there is one.
    pub fn get(&self, at: usize) -> Option<Delivery<'a, T>> {
        self.deliveries.get(at).copied()
    }

    /// Returns the deliveries in order.
    ///
    /// The iterator doesn't borrow the batch, so elements can be nacked on the way.
    pub fn iter(&self) -> impl Iterator<Item = Delivery<'a, T>> + use<'a, T> {
        let deliveries = Arc::clone(&self.deliveries);
        (0..deliveries.len()).map(move |at| deliveries[at])
    }

    /// Nacks the delivery at this place, and returns whether there is such a place.
    ///
    /// If a place is nacked again, the last nack counts.
    pub fn nack(&mut self, at: usize, nack: Nack) -> bool {
        let exists = at < self.deliveries.len();
        if exists {
            self.nacks.insert(at, nack);
        }
        exists
    }

    pub(crate) fn into_nacks(self) -> impl Iterator<Item = (usize, Nack)> {
        self.nacks.into_iter()
    }
}

impl<T> fmt::Debug for DeliveryBatch<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryBatch")
            .field("deliveries", &self.deliveries)
            .field("nacks", &self.nacks)
            .finish()
    }
}
