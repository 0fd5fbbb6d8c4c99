//! Changes of settings while messages wait, and of the hands that hold a subscription.

use millstream::Overflow;

use super::{Handle, Pair};
use crate::program::{NAMES, remembers};

impl Pair {
    pub fn set_capacity(&mut self, messages: usize) {
        let set = self.topic.set_capacity(messages);
        set.expect("it is in range");
        self.model.setup.capacity = messages;
    }

    pub fn set_overflow(&mut self, overflow: Overflow) {
        let set = self.topic.set_overflow(overflow);
        set.expect("nobody waits by it");
        self.model.setup.overflow = overflow;
    }

    pub fn set_weight_limit(&mut self, limit: u64) {
        let set = self.topic.set_weight_limit(limit);
        assert_eq!(set.is_ok(), self.model.setup.weight_limit.is_some());
        if set.is_ok() {
            self.model.setup.weight_limit = Some(limit);
            self.model.short = false;
        }
    }

    pub fn set_dedup(&mut self, dedup: (u64, usize)) {
        let set = self.topic.set_dedup(remembers(dedup));
        assert_eq!(set.is_ok(), self.model.setup.dedup.is_some());
        if set.is_ok() {
            self.model.setup.dedup = Some(dedup);
            self.model.forget_the_oldest();
        }
    }

    pub fn widen(&mut self, slot: usize, by: usize) {
        if self.handles[slot].is_none() {
            return;
        }
        let shape = &mut self.lane(slot).shape;
        let capacity = shape.capacity + by;
        // A hold that is all of it follows.
        shape.hold = shape.hold.filter(|hold| *hold < shape.capacity);
        shape.capacity = capacity;
        if let Some(handle) = &self.handles[slot] {
            let set = handle.set_capacity(capacity);
            set.expect("more is never too little");
        }
    }

    /// Nothing of it changes.
    pub fn reattach(&mut self, slot: usize) {
        let Some(handle) = self.handles[slot].take() else {
            return;
        };
        let (topic, name) = (&self.topic, NAMES[slot]);
        let attached = match handle {
            Handle::Handler(handler) => {
                handler.detach();
                topic.attach(name).map(Handle::Handler)
            }
            Handle::Group(group) => {
                group.detach();
                topic.attach_group(name).map(Handle::Group)
            }
            Handle::Pull(pull) => {
                pull.detach();
                topic.attach_pull(name).map(Handle::Pull)
            }
        };
        self.handles[slot] = Some(attached.expect("it stays"));
    }
}
