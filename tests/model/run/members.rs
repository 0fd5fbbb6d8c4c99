//! Members join groups and leave them.

use std::sync::Arc;

use millstream::{Delivery, Member};

use super::{Handle, Pair, Script};
use crate::program::MEMBERS;
use crate::reference::Take;

/// A member that is there.
pub struct Present {
    /// Which of the names it has.
    name: usize,
    /// What tells it from all others of all times.
    number: usize,
    handle: Member,
}

impl Pair {
    pub fn join(&mut self, slot: usize, name: usize) {
        if !matches!(self.handles[slot], Some(Handle::Group(_))) {
            return;
        }
        self.settle_down();
        let number = self.joined;
        let lane = self.lane(slot);
        let (calls, takes) = (lane.log.clone(), lane.takes.clone());
        let script = Script {
            slot,
            calls,
            _captured: Arc::clone(&self.captured),
        };
        let Some(Handle::Group(group)) = &self.handles[slot] else {
            return;
        };
        let joined = group.join(MEMBERS[name], move |delivery: &Delivery<'_, u64>| {
            takes.push(Take {
                member: number,
                key: delivery.key().map(str::to_owned),
            });
            script.one(delivery)
        });
        if self.members[slot].iter().any(|other| other.name == name) {
            joined.expect_err("the name is taken");
            return;
        }
        let handle = joined.expect("the name is free");
        self.members[slot].push(Present {
            name,
            number,
            handle,
        });
        self.lane(slot).members.insert(number);
        self.joined += 1;
    }

    pub fn leave(&mut self, slot: usize, name: usize) {
        self.settle_down();
        let members = &mut self.members[slot];
        let Some(at) = members.iter().position(|other| other.name == name) else {
            return;
        };
        let gone = members.remove(at);
        gone.handle.leave();
        self.lane(slot).members.remove(&gone.number);
    }

    /// Everything that is due is done, and who has done it is compared, before others may.
    fn settle_down(&mut self) {
        self.broker.run_until_idle();
        self.model.run();
        self.check();
    }
}
