//! Closes and opens what holds deliveries back.

use super::Pair;
use crate::program::{Breaking, Rate, Scope, ticks};

impl Pair {
    pub fn set_paused(&mut self, scope: Scope, is_paused: bool) {
        match (scope, is_paused) {
            (Scope::Subscription(slot), _) => {
                let handle = &self.handles[slot];
                handle
                    .iter()
                    .for_each(|handle| handle.set_paused(is_paused));
            }
            (Scope::Topic, true) => self.topic.pause(),
            (Scope::Topic, false) => self.topic.resume(),
            (Scope::Broker, true) => self.broker.pause(),
            (Scope::Broker, false) => self.broker.resume(),
        }
        self.model.set_paused(scope, is_paused);
    }

    pub fn change_breaker(&mut self, slot: usize, how: Breaking) {
        if let Some(handle) = &self.handles[slot] {
            let real = handle.change_breaker(how);
            let was_there = self.lane(slot).gate.change_breaker(how);
            let is_set = matches!(how, Breaking::Set(_) | Breaking::Remove);
            assert_eq!(real, is_set || was_there, "there is a breaker");
        }
    }

    pub fn set_rate(&mut self, slot: usize, rate: Option<Rate>) {
        if let Some(handle) = &self.handles[slot] {
            let set = handle.set_rate(rate.map(Rate::real));
            set.expect("a sound rate");
            let now = self.model.now;
            self.lane(slot).gate.set_rate(rate, now);
        }
    }

    pub fn hold_off(&mut self, slot: usize, time: u64) {
        if let Some(handle) = &self.handles[slot] {
            handle.hold_off(ticks(time));
            let until = self.model.now + time;
            self.lane(slot).gate.hold_off(until);
        }
    }
}
