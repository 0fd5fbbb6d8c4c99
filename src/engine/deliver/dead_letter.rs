//! Deliveries that go to the dead letters.

#[cfg(feature = "log")]
use crate::engine::outbox::lane_outbox::LaneOutbox;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::dead_letter_store::Letter;
use crate::engine::state::lane::Lane;
#[cfg(feature = "log")]
use crate::log::cursor::{Cursor, NewLetter};
use crate::message::batch::BatchSlice;
use crate::pure::decide::lifecycle::{Status, Step};
#[cfg(feature = "log")]
use crate::pure::log::step;
use crate::sync::Arc;
#[cfg(feature = "log")]
use crate::sync::unix_ms;
use crate::types::reason::DeadReason;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Returns the cursor of a durable subscription.
    #[cfg(feature = "log")]
    pub(crate) fn cursor(&self) -> Option<&Arc<Cursor>> {
        self.stored.as_ref()?.cursor.as_ref()
    }

    /// Returns the outbox of a durable subscription.
    #[cfg(feature = "log")]
    #[inline(always)]
    pub(crate) fn outbox(&self) -> Option<&LaneOutbox> {
        self.stored.as_ref()?.outbox.as_deref()
    }

    /// Returns it for a call that may outlive the lane.
    #[cfg(all(feature = "log", feature = "async"))]
    pub(crate) fn shared_outbox(&self) -> Option<Arc<LaneOutbox>> {
        self.stored.as_ref()?.outbox.clone()
    }

    /// Notes in the log how often a delivery was tried that is to be tried again.
    #[cfg(feature = "log")]
    pub(crate) fn note_failed(&self, failed: &PendingDelivery<T>) {
        if let Some(cursor) = self.cursor() {
            step!(
                "count attempts",
                cursor.failed(failed.id().get(), failed.attempts)
            );
        }
    }

    #[cfg(not(feature = "log"))]
    #[inline(always)]
    pub(crate) fn note_failed(&self, _: &PendingDelivery<T>) {}

    /// Notes a letter in the log, before anybody can see it.
    #[cfg(feature = "log")]
    fn note_letter(&self, letter: &Letter<T>) {
        let Some(cursor) = &letter.cursor else {
            return;
        };
        let error = letter.history.as_ref().map(|failure| &*failure.text);
        cursor.letter(NewLetter {
            seq: letter.id().get(),
            attempts: letter.attempts,
            time_ms: unix_ms(),
            reason: letter.reason.number(),
            error: error.unwrap_or_default().into(),
        });
    }

    /// Sends a delivery whose status is `from` to the dead letters. Returns `false` if the
    /// store did not keep it.
    pub(crate) fn bury(&self, dead: PendingDelivery<T>, from: Status, reason: DeadReason) -> bool {
        let status = self.books.record(from, Step::Bury, 1);
        let tracker = dead.tracker().cloned();
        let is_kept = self.write_letter(dead, reason);
        if let Some(tracker) = tracker {
            tracker.end(status);
        }
        is_kept
    }

    fn write_letter(&self, dead: PendingDelivery<T>, reason: DeadReason) -> bool {
        let parks = self.keyed.get().is_some_and(|keyed| keyed.parks(reason));
        self.topic.bury(self.letter(dead, reason, parks))
    }

    pub(crate) fn letter(
        &self,
        mut dead: PendingDelivery<T>,
        reason: DeadReason,
        parks: bool,
    ) -> Letter<T> {
        dead.remember_latest();
        let letter = Letter {
            parks,
            arrival: 0,
            batch: dead.batch,
            index: dead.index,
            generation: dead.generation,
            attempts: dead.attempts,
            subscription: Arc::clone(&self.name),
            reason,
            history: dead.earlier,
            buried_ns: self.engine().clock.now_ns(),
            #[cfg(feature = "log")]
            cursor: self.cursor().cloned(),
        };
        #[cfg(feature = "log")]
        self.note_letter(&letter);
        letter
    }

    /// Sends queued first attempts to the dead letters.
    pub(crate) fn bury_part(&self, part: &BatchSlice<T>, reason: DeadReason) {
        let count = part.len() as u64;
        let status = self.books.record(Status::Queued, Step::Bury, count);
        self.write_letters(part, reason);
        self.note_end(part, status);
    }

    /// Makes letters of first attempts whose end is on the books.
    pub(crate) fn write_letters(&self, part: &BatchSlice<T>, reason: DeadReason) {
        for index in part.from..part.to {
            let dead = PendingDelivery::first(&part.batch, index as usize, 0);
            self.write_letter(dead, reason);
        }
    }
}
