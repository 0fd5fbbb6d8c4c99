//! Several deliveries in the hands of one handler call.

use std::collections::BTreeMap;
use std::fmt;

use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::sync::Arc;

/// What a batch handler gets: deliveries in order, and a way to nack single ones.
///
/// Returning `Ok` acks every element that was not nacked; returning an error, or
/// panicking, fails them all. What failed comes back alone, in a batch of one, so
/// that one bad element can't fail its neighbors again.
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
    /// Shared with iterators.
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

    /// How many deliveries there are; at least one.
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// The delivery at this place.
    pub fn get(&self, at: usize) -> Option<Delivery<'a, T>> {
        self.deliveries.get(at).copied()
    }

    /// The deliveries in order. The iterator doesn't borrow the batch, so that
    /// elements can be nacked on the way.
    pub fn iter(&self) -> impl Iterator<Item = Delivery<'a, T>> + use<'a, T> {
        let deliveries = Arc::clone(&self.deliveries);
        (0..deliveries.len()).map(move |at| deliveries[at])
    }

    /// Refuses the delivery at this place; the last word on a place counts.
    /// Returns whether there is such a place.
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
