//! Telling those who want to know that a delivery has ended: the publisher of its message, and the
//! log. A batch that nobody watches costs one look. Also, the end of messages that found their topic
//! full and become dead letters.

use std::iter;

use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::engine::track::ends::Ends;
use crate::message::MessageId;
use crate::message::batch::{Batch, BatchSlice};
use crate::observe::event::{DropCause, EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Phase;
use crate::sync::Arc;
use crate::types::reason::DeadReason;

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

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Drops deliveries that wait in a lane. Their places are the caller's to give back.
    pub(crate) fn drop_queued(&self, lane: &Arc<Lane<T>>, part: &BatchSlice<T>, cause: DropCause) {
        let count = part.len() as u64;
        let status = lane.books.record(Status::Queued, Step::Drop, count);
        lane.note_gap(part, cause);
        self.tell_dropped(lane, part, status, cause);
        lane.note_end(part, status);
    }

    pub(crate) fn tell_dropped(
        &self,
        lane: &Arc<Lane<T>>,
        part: &BatchSlice<T>,
        status: Status,
        cause: DropCause,
    ) {
        if self.bus().observed() {
            for id in part.ids() {
                let kind = EventKind::Dropped { cause };
                self.tell_of(Subject::of(&lane.name).message(id).status(status), kind);
            }
        }
    }

    /// Ends messages that have tickets, and are not in the queue, as letters of each subscription
    /// that wants them. The caller holds no lock: filters run, and letters may be evicted.
    pub(crate) fn letter_overflow(self: &Arc<Self>, part: &BatchSlice<T>) {
        let count = part.len() as u64;
        let lanes = self.lanes.load();
        let id = part.first().id.get();
        let mut wanting = lanes
            .iter()
            .filter(|lane| lane.phase() == Phase::Open && lane.wants(id))
            .peekable();
        if wanting.peek().is_none() {
            // The last of them has ended since the messages were admitted.
            self.drop_messages(part.ids(), DropCause::Overflow);
            return part.track(|tracker| tracker.end(Status::Dropped));
        }
        let _motion = self.books.motions.begin(count);
        self.books.dispatched.add(count);
        for lane in wanting {
            self.letter_overflow_of(lane, part);
        }
        self.release(count);
        part.track(Ends::hand_on);
        self.engine.quiescence.notify();
    }

    fn letter_overflow_of(&self, lane: &Arc<Lane<T>>, part: &BatchSlice<T>) {
        let bury = |part: &BatchSlice<T>| {
            let status = self.end_without_place(lane, part, Step::Bury);
            lane.write_letters(part, DeadReason::Overflow);
            lane.note_end_without_place(part, status);
        };
        let filter = lane.filter.lock().clone();
        let Some(filter) = filter else {
            return bury(part);
        };
        let now_ns = self.engine.clock.now_ns();
        for index in part.from..part.to {
            let one = part.one(index);
            match self.ask(lane, &filter, &one, index as usize, now_ns) {
                true => self.refuse(lane, &one),
                false => bury(&one),
            }
        }
    }
}
