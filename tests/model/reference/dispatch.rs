//! How many messages leave the topic, when and to whom.

use millstream::NoSubscribers;

use super::{Lane, Message, Model, Phase};
use crate::program::How;

impl Model {
    pub fn plan(&self, first: &Message) -> Option<usize> {
        let waiting = self.queue.len();
        let planned = match self.how {
            How::Immediate | How::Panics => Some(waiting),
            How::OneByOne => Some(1),
            How::Batched { size, .. } if waiting >= size => Some(size),
            How::Batched { linger, .. } => linger
                .is_some_and(|linger| self.now - first.accepted >= linger)
                .then_some(waiting),
        };
        if planned.is_some() {
            planned
        } else if first.id <= self.flush_to {
            Some(waiting.min((self.flush_to - first.id + 1) as usize))
        } else {
            let is_full = waiting + self.delayed.len() >= self.setup.capacity;
            (is_full || self.short).then_some(waiting)
        }
    }

    /// Hands messages on, one at a time, each handled before the next.
    pub fn dispatch(&mut self) {
        loop {
            let nobody = self.open().next().is_none();
            let retains = self.setup.no_subscribers == NoSubscribers::Retain;
            let Some(first) = self.queue.front().copied() else {
                self.allowance = 0;
                return;
            };
            if self.allowance == 0 {
                match self.plan(&first) {
                    Some(allowed) => self.allowance = allowed,
                    None => return,
                }
            }
            let is_wanted = self.lanes.iter().any(|lane| lane.wants(&first));
            // What is retained and wanted by nobody goes to those that are there.
            let gets = |lane: &Lane| {
                lane.phase == Phase::Open && (lane.wants(&first) || (retains && !is_wanted))
            };
            // A lane holds up what it is to get, and no others.
            let blocks = |lane: &Lane| {
                let takes = gets(lane) && !lane.shape.refuses(first.id);
                takes && lane.shape.is_exact() && lane.is_full()
            };
            if nobody && retains || self.lanes.iter().any(blocks) {
                return;
            }
            self.allowance -= 1;
            self.queue.pop_front();
            self.short = false;
            self.keep(first);
            if !is_wanted && !retains {
                self.unrouted += 1;
                continue;
            }
            self.dispatched += 1;
            for lane in self.lanes.iter_mut().filter(|lane| gets(lane)) {
                lane.counts.made += 1;
                if lane.shape.refuses(first.id) {
                    lane.counts.filtered += 1;
                    continue;
                }
                lane.offered.push(first.id);
                if lane.shape.is_exact() {
                    lane.queue.push_back(first);
                }
            }
            self.work();
        }
    }
}
