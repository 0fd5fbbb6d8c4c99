//! How many messages the lanes of a topic have room for.

use crate::engine::parts::dispatcher::DispatcherState;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::pure::words::room::{Phase, Reserved};
use crate::sync::Arc;
use crate::types::config::LaneFull;

/// Stands for the id of messages that every lane wants.
pub(crate) const ALL_WANT: u64 = u64::MAX;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// How many messages every lane that the topic waits for has room for. With zero, a lane is
    /// full or the first one has yet to come, and will notify. The dispatcher looks before it
    /// takes messages, so that messages that can't go on stay where the overflow policy finds
    /// them.
    pub(crate) fn room_in_lanes(
        &self,
        dispatcher: &mut DispatcherState<T>,
        lanes: &Lanes<T>,
    ) -> usize {
        if self.retains(lanes) {
            return 0;
        }
        if self.has_filters() {
            return self.room_behind_filters(dispatcher, lanes);
        }
        self.room_for(ALL_WANT, lanes)
    }

    /// As [`room_in_lanes`](Self::room_in_lanes), but only of the lanes that want this message.
    pub(crate) fn room_for(&self, id: u64, lanes: &Lanes<T>) -> usize {
        let waited_for = |lane: &&Arc<Lane<T>>| topic_waits_for(lane) && lane.wants(id);
        let waited_for = lanes.iter().filter(waited_for);
        let room = waited_for.map(|lane| self.room_of(lane)).min();
        room.unwrap_or(u32::MAX) as usize
    }

    /// How many messages a lane has room for. If there is no room, the lane will notify.
    #[inline(always)]
    pub(crate) fn room_of(&self, lane: &Arc<Lane<T>>) -> u32 {
        match lane.free() {
            0 => self.room_of_full(lane),
            free => free,
        }
    }

    fn room_of_full(&self, lane: &Arc<Lane<T>>) -> u32 {
        if lane.end_expired() {
            return lane.free();
        }
        let _motion = self.books.motions.begin(1);
        match lane.reserve(1, true) {
            Reserved::Granted(granted) => {
                if lane.release(granted) {
                    lane.come_to_end();
                }
                1
            }
            Reserved::Full => {
                // The lane's runner may be in a handler for long.
                lane.call_at_expiry();
                0
            }
            Reserved::Closed => u32::MAX,
        }
    }
}

pub(crate) fn topic_waits_for<T: Send + Sync + 'static>(lane: &Lane<T>) -> bool {
    lane.when_full() == LaneFull::Wait && lane.phase() == Phase::Open
}
