//! Pausing a subscription, a topic, or the broker.
//!
//! A pause is a bit in the word of each lane's gate. A topic sets it in all its lanes under the lock
//! under which lanes join, and they join with the bits that the topic has. The broker sets it in all
//! its topics under the lock under which topics are put on the map. So a lane that comes meanwhile
//! has the bit, too.

use crate::engine::runtime::Engine;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::holds::Hold;
use crate::pure::protect::gate::WaitingFor;
use crate::sync::Arc;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Pauses the lane, or ends that pause. Calls that run go on.
    pub(crate) fn set_paused(self: &Arc<Self>, by: Hold, is_paused: bool) {
        if !self.gate.holds.set(by, is_paused) {
            return;
        }
        if self.gate.holds.is_paused() {
            self.note_waiting(Some(WaitingFor::Paused));
        } else {
            self.note_waiting(None);
            self.schedule();
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Pauses all present and future lanes, or ends that pause.
    pub(crate) fn pause_lanes(&self, by: Hold, is_paused: bool) {
        let joining = self.ended.lock();
        self.pauses.set(by, is_paused);
        let lanes = self.lanes.load();
        for lane in lanes.iter() {
            lane.set_paused(by, is_paused);
        }
        drop(joining);
    }
}

impl Engine {
    /// Pauses all present and future topics, or ends that pause.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        let opening = self.pattern_subs.lock();
        self.pauses.set(Hold::Broker, is_paused);
        let topics = self.topics.values();
        for topic in &topics {
            topic.set_paused(Hold::Broker, is_paused);
        }
        drop(opening);
        // The last reference to a topic may go with them.
        drop(topics);
    }
}
