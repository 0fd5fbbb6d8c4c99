//! Several deliveries in one handler call.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

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
    pub fn iter(&self) -> Deliveries<'a, T> {
        Deliveries {
            deliveries: Arc::clone(&self.deliveries),
            places: 0..self.len(),
        }
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

/// An iterator over the deliveries of a [`DeliveryBatch`], in order, which doesn't borrow the batch.
pub struct Deliveries<'a, T> {
    deliveries: Arc<Vec<Delivery<'a, T>>>,
    places: Range<usize>,
}

impl<'a, T> Iterator for Deliveries<'a, T> {
    type Item = Delivery<'a, T>;

    fn next(&mut self) -> Option<Delivery<'a, T>> {
        self.places.next().map(|at| self.deliveries[at])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl<T> ExactSizeIterator for Deliveries<'_, T> {}

impl<T> FusedIterator for Deliveries<'_, T> {}

impl<'a, T> IntoIterator for &DeliveryBatch<'a, T> {
    type Item = Delivery<'a, T>;
    type IntoIter = Deliveries<'a, T>;

    fn into_iter(self) -> Deliveries<'a, T> {
        self.iter()
    }
}

impl<T> fmt::Debug for Deliveries<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries")
            .field("left", &self.places.len())
            .finish_non_exhaustive()
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
