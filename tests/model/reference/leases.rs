//! What is out on lease.
//!
//! Whether what has come back or what is new goes next the model does not predict: it
//! follows the engine, and judges whether that delivery could go.

use super::{Call, Lane, Model, Phase, Tried};
use crate::answers::Answer;
use crate::program::Hands;

/// A delivery that somebody has leased.
#[derive(Clone, Copy, Debug)]
pub struct Leased {
    /// What tells the lease from all others of all times.
    pub number: u64,
    pub tried: Tried,
    pub due: u64,
}

/// What pulls count besides deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settlements {
    pub stale: u64,
    pub timed_out: u64,
    pub abandoned: u64,
}

impl Lane {
    /// How many more leases may be out.
    pub fn credit(&self) -> usize {
        match self.shape.hands {
            Hands::Callers { credits, .. } => credits.saturating_sub(self.out.len()),
            _ => 0,
        }
    }

    pub fn has_something_to_lease(&self, now: u64) -> bool {
        let may = self.credit() > 0 && self.gate.holds(now).is_none();
        may && (self.ready_return().is_some() || self.ready_new().is_some())
    }

    /// Takes what the engine has taken, if it is there. It has to be one of those that may go.
    pub fn take_called(&mut self, call: Call, has_order: bool) -> Option<Tried> {
        let (id, attempt, generation) = call;
        let is_it = |tried: &Tried| {
            (tried.message.id, tried.attempts + 1, tried.generation) == (id, attempt, generation)
        };
        let mut queue = self.queue.iter();
        if let Some(place) = queue.position(|new| is_it(&Tried::first(*new))) {
            // Between partitions there is no order, nor between several hands.
            let is_next = match has_order && !self.shape.is_shared() {
                true if self.shape.by_level => self.is_first_by_level(place),
                true => self.ready_new() == Some(place),
                // By level, only those that wait for each other have an order.
                false => {
                    let may_go = self.may_go(&self.queue[place]);
                    may_go && (self.shape.by_level || self.is_first_of_key(place))
                }
            };
            assert!(is_next, "{call:?} may not go");
            return self.queue.remove(place).map(Tried::first);
        }
        let back = self.returns.iter().position(is_it)?;
        let may_go = self.may_go(&self.returns[back].message);
        assert!(may_go, "{call:?} may not go");
        self.returns.remove(back)
    }

    /// Whether none of a higher level, nor one before it of its own, might go instead. Where keys
    /// wait for each other, a few are taken before it is known which of them may.
    fn is_first_by_level(&self, place: usize) -> bool {
        let level = self.queue[place].level;
        let has_keys = self.shape.blocks();
        let mut before = self.queue.iter().enumerate();
        let is_first = !before.any(|(at, other)| (other.level, place) > (level, at));
        self.may_go(&self.queue[place]) && (has_keys || is_first)
    }

    fn is_first_of_key(&self, place: usize) -> bool {
        let key = self.queue[place].key;
        let mut before = self.queue.iter().take(place);
        key.is_none() || !before.any(|other| other.key == key)
    }
}

impl Model {
    /// The engine has leased this; the answer is the number of the lease.
    pub fn lease(&mut self, at: usize, call: Call, deadline: u64) -> u64 {
        let has_order = self.setup.partitions.is_none();
        let lane = &mut self.lanes[at];
        assert!(lane.credit() > 0, "no more are out than credits");
        assert_eq!(lane.gate.holds(self.now), None, "it is held");
        let taken = lane.take_called(call, has_order);
        let mut tried = taken.unwrap_or_else(|| panic!("{call:?} is not there"));
        lane.gate.spend(self.now);
        assert!(self.now < tried.expires(), "{call:?} comes too late");
        lane.begin(&mut tried, self.now);
        self.leases += 1;
        lane.granted.insert(self.leases);
        lane.out.push(Leased {
            number: self.leases,
            tried,
            due: self.now + deadline,
        });
        self.leases
    }

    /// The lane in which a lease is out, and its place there; none if it is stale.
    fn find_lease(&self, number: u64) -> Option<(usize, usize)> {
        let find = |lane: &Lane| lane.out.iter().position(|leased| leased.number == number);
        let mut lanes = self.lanes.iter().enumerate();
        let (at, place) = lanes.find_map(|(at, lane)| Some((at, find(lane)?)))?;
        (self.now < self.lanes[at].out[place].due).then_some((at, place))
    }

    pub fn is_stale(&self, number: u64) -> bool {
        self.find_lease(number).is_none()
    }

    /// Settles a lease. `false`: it was stale.
    pub fn settle(&mut self, number: u64, said: Answer) -> bool {
        let Some((at, place)) = self.find_lease(number) else {
            self.note_stale(number);
            return false;
        };
        let leased = self.lanes[at].out.remove(place);
        self.conclude(at, leased.tried, said);
        true
    }

    /// A lease is dropped: a failed attempt, unless it is stale.
    pub fn abandon(&mut self, number: u64) {
        if let Some((at, _)) = self.find_lease(number) {
            self.lanes[at].settlements.abandoned += 1;
            self.settle(number, Answer::Retry);
        }
    }

    fn note_stale(&mut self, number: u64) {
        let mut lanes = self.lanes.iter_mut();
        if let Some(lane) = lanes.find(|lane| lane.granted.contains(&number)) {
            lane.settlements.stale += 1;
        }
    }

    /// A lease is good for at least so long from now. `false`: it was stale.
    pub fn extend(&mut self, number: u64, by: u64) -> bool {
        let Some((at, place)) = self.find_lease(number) else {
            self.note_stale(number);
            return false;
        };
        let due = &mut self.lanes[at].out[place].due;
        *due = (*due).max(self.now + by);
        true
    }

    /// A lease whose deadline has passed is a failed attempt.
    pub fn end_overdue(&mut self) {
        let now = self.now;
        for at in 0..self.lanes.len() {
            if self.lanes[at].phase > Phase::Draining {
                continue;
            }
            let late = |leased: &mut Leased| now >= leased.due;
            let late: Vec<_> = self.lanes[at].out.extract_if(.., late).collect();
            self.lanes[at].settlements.timed_out += late.len() as u64;
            for leased in late {
                self.conclude(at, leased.tried, Answer::Retry);
            }
        }
    }
}
