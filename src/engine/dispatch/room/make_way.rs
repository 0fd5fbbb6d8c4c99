//! Making room in a full lane that drops its oldest deliveries.
//!
//! With levels of priority, deliveries that wait make way for newcomers of their own level or a
//! higher one, the lowest level first. Newcomers that find nobody to make way for them are lost, the
//! lowest level first, too. So it is as if all of them had been there, and the lane dropped from the
//! lowest level.

use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::message::batch::BatchSlice;
use crate::observe::event::DropCause;
use crate::pure::protect::priority::Priority;
use crate::pure::words::room::Reserved;
use crate::sync::Arc;
use crate::types::config::LaneFull;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Takes the oldest deliveries that wait and were never tried, at most `most`, to be dropped.
    /// It looks at a resting turn's prefetched ones first, then at filed ones, then at queued ones.
    pub(crate) fn pop_oldest(&self, most: u32) -> Vec<BatchSlice<T>> {
        let in_turn = self
            .turn
            .lock()
            .as_mut()
            .and_then(|turn| turn.pop_some(most));
        if let Some(part) = in_turn {
            return vec![part];
        }
        // Held over both looks, or deliveries that a consumer files in between would be missed.
        let mut state = self.keyed.get().map(|keyed| keyed.state.lock());
        let filed = state.as_mut().map_or_else(Vec::new, |state| {
            state.sequencer.take_oldest_new(most as usize)
        });
        if filed.is_empty() {
            return self.pop_some(most).into_iter().collect();
        }
        filed.into_iter().map(PendingDelivery::into_part).collect()
    }

    /// Returns whether it has levels of priority.
    #[cold]
    pub(crate) fn has_levels(&self) -> bool {
        let keyed = self.keyed.get();
        keyed.is_some_and(|keyed| keyed.state.lock().sequencer.has_levels())
    }

    /// Takes the oldest deliveries that wait and were never tried, of the lowest level that has any
    /// and none above `highest`. Takes at most `most`, to be dropped.
    fn pop_oldest_below(&self, highest: Priority, most: usize) -> Vec<BatchSlice<T>> {
        let Some(keyed) = self.keyed.get() else {
            return Vec::new();
        };
        let mut state = keyed.state.lock();
        keyed.file_all(self, &mut state);
        let oldest = state.sequencer.take_oldest_below(highest, most);
        oldest.into_iter().map(PendingDelivery::into_part).collect()
    }

    /// Takes out waiting deliveries until `missing` more of these newcomers have room, given as their
    /// places by level. Removes the newcomers that nobody makes way for, and returns their places.
    fn make_way(
        &self,
        newcomers: &mut Vec<(Priority, u32)>,
        missing: usize,
    ) -> (Vec<BatchSlice<T>>, Vec<u32>) {
        let (mut evicted, mut lost) = (Vec::new(), Vec::new());
        let mut missing = missing;
        for level in Priority::ALL {
            let oldest = self.pop_oldest_below(level, missing);
            missing -= oldest.len();
            evicted.extend(oldest);
            let is_lost = |newcomer: &mut (Priority, u32)| {
                let is_lost = newcomer.0 == level && missing > 0;
                missing -= usize::from(is_lost);
                is_lost
            };
            lost.extend(newcomers.extract_if(.., is_lost).map(|(_, place)| place));
        }
        (evicted, lost)
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Hands messages to a lane that has places for `granted` of them, and makes room for the others.
    pub(crate) fn overflow_by_level(
        self: &Arc<Self>,
        lane: &Arc<Lane<T>>,
        part: &BatchSlice<T>,
        mut granted: usize,
    ) {
        let places = part.from..part.to;
        let newcomers = places.map(|place| (part.batch.priority(place as usize), place));
        let mut newcomers: Vec<_> = newcomers.collect();
        while granted < newcomers.len() {
            let missing = newcomers.len() - granted;
            let (evicted, lost) = lane.make_way(&mut newcomers, missing);
            for lost in &lost {
                self.lose(lane, LaneFull::DropOldest, &one(part, *lost));
            }
            for evicted in &evicted {
                self.drop_queued(lane, evicted, DropCause::LaneFull);
            }
            if !evicted.is_empty() && lane.release(evicted.len() as u32) {
                lane.come_to_end();
            }
            let missing = newcomers.len() - granted;
            if missing > 0 {
                match lane.reserve(missing as u32, false) {
                    Reserved::Granted(more) => granted += more as usize,
                    // Another dispatcher came first, and its deliveries are queued by now.
                    Reserved::Full => {}
                    Reserved::Closed => {
                        for (_, late) in newcomers.drain(granted..) {
                            self.lose(lane, LaneFull::DropOldest, &one(part, late));
                        }
                    }
                }
            }
        }
        for (_, place) in newcomers {
            self.place_in(lane, one(part, place));
        }
        lane.schedule();
        if lane.phase().ends_at_once() {
            // See `hand_to`.
            lane.come_to_end();
        }
    }
}

/// Returns the message at this place of the batch.
fn one<T>(part: &BatchSlice<T>, place: u32) -> BatchSlice<T> {
    BatchSlice {
        batch: Arc::clone(&part.batch),
        from: place,
        to: place + 1,
    }
}
