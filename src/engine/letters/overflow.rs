//! Messages that found their topic full, and become dead letters of its subscriptions.

use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::engine::track::ends::Ends;
use crate::message::batch::BatchSlice;
use crate::observe::event::DropCause;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Phase;
use crate::sync::Arc;
use crate::types::reason::DeadReason;

impl<T: Send + Sync + 'static> TopicCore<T> {
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
