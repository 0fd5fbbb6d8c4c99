//! What ends because its time to live is over.

use millstream::dead_letters::DeadReason;
use millstream::{NoSubscribers, OnExpired};

use super::{Lane, Message, Model, Phase, Tried};

impl Model {
    /// What has expired in the topic's queue makes room. Whether there was any.
    pub fn expire_in_queue(&mut self) -> bool {
        let now = self.now;
        let is_late = |message: &Message| message.expires.is_some_and(|at| now >= at);
        let waiting = std::mem::take(&mut self.queue);
        let (late, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_late);
        self.queue = waiting.into();
        if late.is_empty() {
            return false;
        }
        self.allowance = 0;
        self.short = false;
        late.into_iter().for_each(|late| self.expire_message(late));
        true
    }

    /// A message that expires before it is dispatched does so for those that would have
    /// got it.
    pub fn expire_message(&mut self, late: Message) {
        let retains = self.setup.no_subscribers == NoSubscribers::Retain;
        let is_wanted = self.lanes.iter().any(|lane| lane.wants(&late));
        let gets = |lane: &Lane| {
            lane.phase == Phase::Open && (lane.wants(&late) || (retains && !is_wanted))
        };
        let got: Vec<_> = (0..self.lanes.len())
            .filter(|at| gets(&self.lanes[*at]))
            .collect();
        if got.is_empty() {
            match retains {
                true => self.dropped += 1,
                false => self.unrouted += 1,
            }
            return;
        }
        self.dispatched += 1;
        for at in got {
            self.lanes[at].counts.made += 1;
            if self.lanes[at].shape.is_exact() {
                self.expire(at, Tried::first(late));
            }
        }
    }

    /// What has expired in a lane makes room.
    pub fn expire_in_lane(&mut self, at: usize) {
        let now = self.now;
        let late = |tried: &mut Tried| now >= tried.expires();
        let queue = std::mem::take(&mut self.lanes[at].queue);
        let mut queue: Vec<_> = queue.into_iter().map(Tried::first).collect();
        let mut expired: Vec<_> = queue.extract_if(.., late).collect();
        let lane = &mut self.lanes[at];
        lane.queue = queue.into_iter().map(|tried| tried.message).collect();
        let returns = std::mem::take(&mut lane.returns);
        let (late, returns): (Vec<_>, Vec<_>) = returns
            .into_iter()
            .partition(|tried| now >= tried.expires());
        lane.returns = returns.into();
        expired.extend(late);
        expired.into_iter().for_each(|late| self.expire(at, late));
    }

    pub fn expire(&mut self, at: usize, late: Tried) {
        match self.setup.on_expired {
            OnExpired::DeadLetter => self.bury(at, late, DeadReason::Expired),
            _ => self.lanes[at].counts.expired += 1,
        }
    }
}
