//! Telling those who want to know that a delivery has ended: the publisher of its message, and the
//! log. A batch that nobody watches costs one look.

use std::iter;

use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::message::batch::{Batch, BatchSlice};
use crate::pure::decide::lifecycle::Status;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Notes how deliveries have ended that had a place.
    #[inline(always)]
    pub(crate) fn note_end(&self, part: &BatchSlice<T>, end: Status) {
        if part.batch.is_watched() {
            part.track(|tracker| tracker.end(end));
            self.note_in_log(part.ids(), end);
        }
    }

    /// Notes how deliveries have ended that never had a place.
    #[inline(always)]
    pub(crate) fn note_end_without_place(&self, part: &BatchSlice<T>, end: Status) {
        if part.batch.is_watched() {
            part.track(|tracker| tracker.count(end));
            self.note_in_log(part.ids(), end);
        }
    }

    /// Notes how deliveries of the messages at these places have ended. A redriven one was counted
    /// for its publisher when it became a letter.
    #[cold]
    pub(crate) fn note_ends(
        &self,
        batch: &Batch<T>,
        places: impl Iterator<Item = usize>,
        generation: u16,
        end: Status,
    ) {
        for place in places {
            if generation == 0 {
                batch.track_end(place, end);
            }
            self.note_in_log(iter::once(batch.stamp(place).id), end);
        }
    }

    /// Notes how one delivery has ended.
    #[inline]
    pub(crate) fn note_end_of(&self, pending: &PendingDelivery<T>, end: Status) {
        if let Some(tracker) = pending.tracker() {
            tracker.end(end);
        }
        if pending.batch.is_watched() {
            self.note_in_log(iter::once(pending.id()), end);
        }
    }

    /// Moves the cursor of a durable subscription past deliveries that have ended for good.
    ///
    /// A cancelled one has not, and comes again when the subscription does. A dead letter is noted where
    /// it is made.
    #[cfg(feature = "log")]
    fn note_in_log(&self, ids: impl Iterator<Item = MessageId>, end: Status) {
        let is_done = matches!(
            end,
            Status::Delivered | Status::Dropped | Status::Expired | Status::Filtered
        );
        let numbers = ids.map(MessageId::get);
        match (end, self.outbox()) {
            (Status::Delivered, Some(outbox)) => outbox.commit(numbers),
            (_, Some(_)) if is_done && let Some(cursor) = self.cursor() => cursor.done(numbers),
            _ => {}
        }
    }

    /// Drops what an attempt has published that has not succeeded.
    #[cfg(feature = "log")]
    pub(crate) fn roll_back(&self, id: MessageId) {
        if let Some(outbox) = self.outbox() {
            outbox.roll_back(id.get());
        }
    }

    #[cfg(not(feature = "log"))]
    #[inline(always)]
    pub(crate) fn roll_back(&self, _: MessageId) {}

    #[cfg(not(feature = "log"))]
    #[inline(always)]
    fn note_in_log(&self, _: impl Iterator<Item = MessageId>, _: Status) {}
}
