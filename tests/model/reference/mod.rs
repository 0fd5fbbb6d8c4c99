//! The sequential model: it handles one message at a time, with plain lists.

mod dispatch;
mod expiry;
mod lane;
mod topic;

use std::collections::{BTreeMap, VecDeque};

use millstream::DeliveryCounts;

pub use self::lane::{Lane, Phase, Tried};
use crate::program::{How, Policy, Setup};

#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub id: u64,
    pub accepted: u64,
    pub expires: Option<u64>,
}

/// One call of a handler: message, attempt, generation.
pub type Call = (u64, u32, u16);
/// One letter: slot, message, generation, attempts.
pub type LetterKey = (usize, u64, u16, u32);

pub struct Model {
    pub setup: Setup,
    pub now: u64,
    pub how: How,
    pub policy: Policy,
    pub lanes: Vec<Lane>,
    pub ended: DeliveryCounts,
    /// A lane whose counts the model doesn't know has ended.
    pub lossy_ended: bool,
    pub letters: Vec<LetterKey>,
    pub messages: BTreeMap<u64, Message>,
    pub queue: VecDeque<Message>,
    pub delayed: Vec<(u64, Message)>,
    /// What the last plan still allows to be handed on.
    pub allowance: usize,
    pub flush_to: u64,
    pub issued: u64,
    /// Messages that had left the topic when a publisher last looked: a batch may
    /// be cut into smaller chunks than there is room for, but none is refused.
    pub seen: u64,
    pub rejected: u64,
    pub dropped: u64,
    pub unrouted: u64,
    pub dispatched: u64,
}

pub enum Admitted {
    Queued { count: usize, evicted: usize },
    Dropped { count: usize },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    NoSubscribers,
}

impl Model {
    pub fn open(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(|lane| lane.phase == Phase::Open)
    }

    /// Runs everything that is ready and due.
    pub fn run(&mut self) {
        loop {
            self.fire();
            self.expire_in_queue();
            (0..self.lanes.len()).for_each(|at| self.expire_in_lane(at));
            self.work();
            self.dispatch();
            let now = self.now;
            let due = |lane: &Lane| lane.waiting.iter().any(|(due, _)| *due <= now);
            if !self.lanes.iter().any(due) {
                return;
            }
        }
    }

    pub fn fire(&mut self) {
        let now = self.now;
        self.delayed.sort_by_key(|(due, _)| *due);
        while self.delayed.first().is_some_and(|(due, _)| *due <= now) {
            let (_, message) = self.delayed.remove(0);
            self.queue.push_back(message);
        }
        for lane in &mut self.lanes {
            lane.waiting.sort_by_key(|(due, _)| *due);
            while lane.waiting.first().is_some_and(|(due, _)| *due <= now) {
                let (_, tried) = lane.waiting.remove(0);
                lane.counts.awaiting_retry -= 1;
                lane.returns.push_back(tried);
            }
        }
    }

    /// The earliest time at which something has to happen.
    pub fn next_deadline(&self) -> Option<u64> {
        let retries = self.lanes.iter().flat_map(|lane| &lane.waiting);
        let retries = retries.map(|(due, _)| *due);
        let delayed = self.delayed.iter().map(|(due, _)| *due);
        retries.chain(delayed).min()
    }
}

pub fn add(sum: &mut DeliveryCounts, counts: &DeliveryCounts) {
    sum.made += counts.made;
    sum.attempts += counts.attempts;
    sum.delivered += counts.delivered;
    sum.failed += counts.failed;
    sum.retried += counts.retried;
    sum.dead_lettered += counts.dead_lettered;
    sum.dropped += counts.dropped;
    sum.expired += counts.expired;
    sum.cancelled += counts.cancelled;
    sum.redriven += counts.redriven;
}
