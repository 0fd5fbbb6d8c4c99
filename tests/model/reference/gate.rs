//! What holds the deliveries of a lane back, in the written order of the gate.

use millstream::metrics::WaitingFor;

use super::{Lane, Model};
use crate::program::Scope;

#[derive(Default)]
pub struct Gate {
    /// The pauses of the subscription, its topic and its broker, which are apart.
    own_pause: bool,
    others: Pauses,
    /// Nothing goes before this time.
    held_until: u64,
}

/// The pauses of the topic and the broker.
#[derive(Clone, Copy, Default)]
pub struct Pauses {
    topic: bool,
    broker: bool,
}

impl Gate {
    /// The reasons that it may have.
    pub const REASONS: [WaitingFor; 2] = [WaitingFor::Paused, WaitingFor::HoldOff];

    pub fn under(others: Pauses) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    /// Why nothing may go now, if that is so.
    pub fn holds(&self, now: u64) -> Option<WaitingFor> {
        if self.own_pause || self.others.topic || self.others.broker {
            Some(WaitingFor::Paused)
        } else if now < self.held_until {
            Some(WaitingFor::HoldOff)
        } else {
            None
        }
    }

    /// When it opens by itself.
    pub fn opens(&self, now: u64) -> Option<u64> {
        let by_itself = self.holds(now) == Some(WaitingFor::HoldOff);
        by_itself.then_some(self.held_until)
    }

    /// A longer wait that was asked for before stays.
    pub fn hold_off(&mut self, until: u64) {
        self.held_until = self.held_until.max(until);
    }
}

impl Lane {
    /// Whether anything would go but for the gate, so that this is asked. Callers ask by
    /// themselves, and batches when they are due.
    pub fn asks(&self) -> bool {
        let may = self.has_hands() && !self.shape.takes_batches();
        may && (self.ready_return().is_some() || self.ready_new().is_some())
    }
}

impl Model {
    /// Pauses something, or ends its pause. Whoever subscribes later follows.
    pub fn set_paused(&mut self, scope: Scope, is_paused: bool) {
        match scope {
            Scope::Subscription(slot) => {
                let mut lanes = self.lanes.iter_mut();
                if let Some(lane) = lanes.find(|lane| lane.is_open_in(slot)) {
                    lane.gate.own_pause = is_paused;
                }
            }
            Scope::Topic => self.pauses.topic = is_paused,
            Scope::Broker => self.pauses.broker = is_paused,
        }
        for lane in &mut self.lanes {
            lane.gate.others = self.pauses;
        }
    }
}
