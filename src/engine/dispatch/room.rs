//! How many messages the lanes of a topic have room for. A full lane holds back the messages that it
//! is to get, and no others.

mod conflate;
mod make_way;

use crate::engine::parts::dispatcher::DispatcherState;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::message::MessageId;
use crate::message::batch::BatchSlice;
use crate::pure::words::room::{Phase, Reserved};
use crate::pure::words::start::Starts;
use crate::sync::Arc;
use crate::types::config::{LaneFull, NoSubscribers};

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
        if self.may_pass_lanes() {
            return self.room_by_message(dispatcher, lanes);
        }
        self.room_for(ALL_WANT, lanes)
    }

    /// Whether a message may be for some of the lanes only.
    fn may_pass_lanes(&self) -> bool {
        self.has_filters() || self.conflates() || self.starts.load() != Starts::NONE
    }

    /// How many of the messages that the dispatcher would take next have room in every lane that
    /// the topic waits for. A message needs no room in a lane that is not to get it, nor where it
    /// takes the place of an older one.
    #[cold]
    fn room_by_message(&self, dispatcher: &mut DispatcherState<T>, lanes: &Lanes<T>) -> usize {
        let DispatcherState { shelf, sieve, .. } = dispatcher;
        let Some(part) = shelf.front() else {
            return 0;
        };
        let is_open = |lane: &&Arc<Lane<T>>| lane.phase() == Phase::Open;
        let is_wanted = |id| lanes.iter().filter(is_open).any(|lane| lane.wants(id));
        // What is retained and wanted by nobody goes to those that are there.
        let retains = self.settings.no_subscribers == NoSubscribers::Retain;
        let mut least = usize::MAX;
        for lane in lanes.iter().filter(|lane| topic_waits_for(lane)) {
            let gets = |id: MessageId| lane.wants(id.get()) || (retains && !is_wanted(id.get()));
            let Some(first) = part.ids().position(gets) else {
                continue;
            };
            let asked = BatchSlice {
                batch: Arc::clone(&part.batch),
                from: part.from + first as u32,
                to: part.to,
            };
            let filter = lane.filter.lock().clone();
            let refused = match &filter {
                None => &[][..],
                Some(filter) => self.answers(sieve, lane, filter, &asked),
            };
            let takes_place = |(at, id): &(usize, MessageId)| {
                let is_refused = refused.get(*at).is_some_and(|is_refused| *is_refused);
                gets(*id) && !is_refused && !lane.would_replace(&asked, asked.from + *at as u32)
            };
            let mut places = asked.ids().enumerate().filter(takes_place);
            let fits = places.nth(self.room_of(lane) as usize);
            least = least.min(fits.map_or(usize::MAX, |(at, _)| first + at));
        }
        least
    }

    /// Has publishers notify nobody while the next message has no room. Where a message may pass
    /// lanes, each notifies: one that drops the oldest messages may leave one first that needs no
    /// room.
    pub(crate) fn rest_without_room(&self, at: &QueueRef<'_, T>) {
        match self.may_pass_lanes() {
            true => at.be_notified_from(0, || true),
            false => at.stay_quiet(),
        }
    }

    /// As [`room_in_lanes`](Self::room_in_lanes), but only of the lanes that want this message, and
    /// not of those that conflate.
    pub(crate) fn room_for(&self, id: u64, lanes: &Lanes<T>) -> usize {
        let waited_for =
            |lane: &&Arc<Lane<T>>| topic_waits_for(lane) && lane.wants(id) && !lane.conflates();
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
