//! What holds the deliveries of a lane back, in the written order of the gate.

use millstream::metrics::WaitingFor;

use super::breaker::Breaker;
use super::{Lane, Model};
use crate::answers::Answer;
use crate::program::{Breaking, Rate, Scope};

#[derive(Default)]
pub struct Gate {
    /// The pauses of the subscription, its topic and its broker, which are apart.
    own_pause: bool,
    others: Pauses,
    breaker: Option<Breaker>,
    rate: Option<Rate>,
    /// All that went is paid for by then, at one interval of the rate each. One more may go as
    /// soon as a burst less one is still to be paid.
    paid: u64,
    /// Somebody asked for the wait.
    pub is_held_off: bool,
}

/// The pauses of the topic and the broker.
#[derive(Clone, Copy, Default)]
pub struct Pauses {
    topic: bool,
    broker: bool,
}

impl Gate {
    /// The reasons that it may have.
    pub const REASONS: [WaitingFor; 4] = [
        WaitingFor::Paused,
        WaitingFor::Breaker,
        WaitingFor::Rate,
        WaitingFor::HoldOff,
    ];

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
        } else if self.breaker.as_ref().is_some_and(|breaker| breaker.is_open) {
            Some(WaitingFor::Breaker)
        } else if now + self.credit() >= self.paid {
            None
        } else if self.is_held_off {
            Some(WaitingFor::HoldOff)
        } else {
            Some(WaitingFor::Rate)
        }
    }

    fn credit(&self) -> u64 {
        let credit = |rate: Rate| rate.interval * u64::from(rate.burst - 1);
        self.rate.map_or(0, credit)
    }

    /// Whether it counts what goes.
    pub fn counts(&self) -> bool {
        self.rate.is_some() || self.breaker.is_some()
    }

    /// What is done to its breaker. Whether there was one.
    pub fn change_breaker(&mut self, how: Breaking) -> bool {
        let breaker = self.breaker.take();
        let was_there = breaker.is_some();
        self.breaker = Breaker::change(breaker, how);
        was_there
    }

    /// An attempt ends.
    pub fn note(&mut self, said: Answer) {
        if let Some(breaker) = &mut self.breaker {
            breaker.note(said);
        }
    }

    /// Something goes.
    pub fn spend(&mut self, now: u64) {
        let paid = |rate: Rate| self.paid.max(now) + rate.interval;
        self.paid = self.rate.map_or(0, paid);
        self.is_held_off = false;
    }

    /// What is spent stays spent, as far as the new burst goes.
    pub fn set_rate(&mut self, rate: Option<Rate>, now: u64) {
        if rate == self.rate {
            return;
        }
        let ahead = self.paid.saturating_sub(now);
        let spent = self.rate.map_or(0, |rate| ahead.div_ceil(rate.interval));
        let paid = |rate: Rate| now + spent.min(rate.burst.into()) * rate.interval;
        self.paid = rate.map_or(0, paid);
        self.rate = rate;
    }

    /// When it opens by itself.
    pub fn opens(&self, now: u64) -> Option<u64> {
        let holds = self.holds(now);
        let by_itself = [WaitingFor::Rate, WaitingFor::HoldOff];
        holds
            .filter(|reason| by_itself.contains(reason))
            .map(|_| self.paid - self.credit())
    }

    /// Nothing goes before this time, and the burst is spent by then. A longer wait stays.
    pub fn hold_off(&mut self, until: u64) {
        let paid = until + self.credit();
        self.is_held_off |= paid > self.paid;
        self.paid = self.paid.max(paid);
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
