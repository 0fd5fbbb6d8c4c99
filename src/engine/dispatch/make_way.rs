//! Making room in a full lane that has levels of priority and drops its oldest deliveries.
//!
//! Deliveries that wait make way for newcomers of their own level or a higher one, the lowest level
//! first. Newcomers that find nobody to make way for them are lost, the lowest level first, too. So
//! it is as if all of them had been there, and the lane dropped from the lowest level.

use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::message::batch::BatchSlice;
use crate::pure::protect::priority::Priority;
use crate::pure::words::room::Reserved;
use crate::sync::Arc;
use crate::types::config::LaneFull;

impl<T: Send + Sync + 'static> Lane<T> {
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
                self.drop_queued(lane, evicted);
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
            self.put_into(lane, one(part, place));
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
