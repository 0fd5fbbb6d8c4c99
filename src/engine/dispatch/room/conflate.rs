//! Lanes that conflate: the newest message of a key takes the place of the older one that waits.
//!
//! Such a message needs no place of its own. So the room that a lane has depends on the messages,
//! and the dispatcher cuts its batch behind the last one that fits. If none fits, the next one
//! follows the policy of the full lane, alone. Where places are short, the older deliveries end when
//! places are *reserved*, and theirs go to the newer ones. Otherwise they end when the newer ones are
//! *pushed*, and their places are given back. A consumer may take an older one in between. Then the
//! newer one needs a place, or the lane is full for it.

use crate::engine::dispatch::room::topic_waits_for;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::message::batch::BatchSlice;
use crate::observe::event::DropCause;
use crate::pure::words::room::{Phase, Reserved};
use crate::sync::Arc;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Returns how many of the first `most` messages of a part can go to the lanes that conflate.
    pub(crate) fn room_by_key(
        &self,
        id: u64,
        lanes: &Lanes<T>,
        part: &BatchSlice<T>,
        most: u32,
    ) -> u32 {
        let mut room = most;
        let conflating = lanes.iter().filter(|lane| lane.conflates());
        for lane in conflating.filter(|lane| lane.wants(id) && lane.phase() == Phase::Open) {
            let fitting = |free| lane.fitting(part, room, free);
            room = match fitting(lane.free()) {
                0 if topic_waits_for(lane) => fitting(self.room_of(lane)),
                // It follows the policy.
                0 => room.min(1),
                fits => fits,
            };
        }
        room
    }

    /// Makes up for places that a lane was short of: ends deliveries that the first `wanted` messages
    /// are about to replace.
    pub(crate) fn replace_for_room(
        &self,
        lane: &Arc<Lane<T>>,
        part: &BatchSlice<T>,
        wanted: u32,
        reserved: Reserved,
    ) -> Reserved {
        let granted = match reserved {
            Reserved::Granted(granted) => granted,
            Reserved::Full => 0,
            Reserved::Closed => return reserved,
        };
        let evicted = lane.evict_conflated(part, wanted, granted);
        for older in &evicted {
            self.drop_queued(lane, older, DropCause::Conflated);
        }
        match granted + evicted.len() as u32 {
            0 => Reserved::Full,
            granted => Reserved::Granted(granted),
        }
    }

    /// Pushes deliveries that hold a place.
    #[inline(always)]
    pub(crate) fn push_to(&self, lane: &Arc<Lane<T>>, kept: BatchSlice<T>) {
        match lane.conflates() {
            false => lane.push(kept),
            true => self.push_conflated(lane, &kept),
        }
    }

    #[cold]
    fn push_conflated(&self, lane: &Arc<Lane<T>>, kept: &BatchSlice<T>) {
        let replaced = lane.push_conflated(kept);
        if replaced.is_empty() {
            return;
        }
        let count = replaced.len() as u32;
        let _motion = self.books.motions.begin(u64::from(count));
        for older in &replaced {
            self.drop_queued(lane, older, DropCause::Conflated);
        }
        if lane.release(count) {
            lane.come_to_end();
        }
    }
}
