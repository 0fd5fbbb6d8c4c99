//! The sequential model: it handles one message at a time, with plain lists.

mod breaker;
mod dedup;
mod dispatch;
mod expiry;
mod gate;
mod keys;
mod lane;
mod leases;
mod members;
mod retained;
mod topic;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream::dead_letters::DeadReason;
use millstream::metrics::DeliveryCounts;
use millstream::protect::Priority;

pub use self::gate::Gate;
use self::gate::Pauses;
pub use self::lane::{Lane, Phase, Tried};
pub use self::leases::Settlements;
pub use self::members::Take;
use crate::program::{How, Policy, Setup};

#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub id: u64,
    pub accepted: u64,
    pub expires: Option<u64>,
    pub key: Option<u8>,
    pub weight: u64,
    pub level: Priority,
}

/// One call of a handler: message, attempt, generation.
pub type Call = (u64, u32, u16);

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub slot: usize,
    pub id: u64,
    pub generation: u16,
    pub attempts: u32,
    pub reason: DeadReason,
    /// The subscription parks keys.
    pub of_parking: bool,
}

impl Letter {
    /// What tells it from others.
    pub fn order(&self) -> (usize, u64, u16) {
        (self.slot, self.id, self.generation)
    }

    /// Whether it parks its key.
    pub fn parks(&self) -> bool {
        use DeadReason::{Exhausted, KeyParked, Rejected};
        self.of_parking && matches!(self.reason, Exhausted | KeyParked | Rejected)
    }
}

pub struct Model {
    pub setup: Setup,
    pub now: u64,
    pub how: How,
    pub policy: Policy,
    pub lanes: Vec<Lane>,
    pub ended: DeliveryCounts,
    /// A lane whose counts the model doesn't know has ended.
    pub lossy_ended: bool,
    pub letters: Vec<Letter>,
    pub messages: BTreeMap<u64, Message>,
    /// The pauses of the topic and the broker.
    pub pauses: Pauses,
    pub queue: VecDeque<Message>,
    pub delayed: Vec<(u64, Message)>,
    pub has_delayed: bool,
    /// A message was turned away for its weight, and nothing has left since.
    pub short: bool,
    /// What the last plan still allows to be handed on.
    pub allowance: usize,
    pub flush_to: u64,
    pub issued: u64,
    /// Messages that had left the topic when a publisher last looked: a batch may
    /// be cut into smaller chunks than there is room for, but none is refused.
    pub seen: u64,
    pub rejected: u64,
    pub duplicates: u64,
    /// The dedup ids that are remembered, each with its message and when that was accepted.
    pub ids: VecDeque<(u8, u64, u64)>,
    /// Messages that were handed on and are kept, oldest first.
    pub kept: Vec<Message>,
    pub dropped: u64,
    pub unrouted: u64,
    pub dispatched: u64,
    /// What was in the partitions when their number changed.
    pub before_change: BTreeSet<u64>,
    /// Leases that were ever granted.
    pub leases: u64,
}

pub enum Admitted {
    Queued { count: usize, evicted: usize },
    Dropped { count: usize },
    Lettered { count: usize },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    NoSubscribers,
    TooHeavy,
}

impl Model {
    pub fn new(setup: Setup) -> Self {
        Self {
            now: 0,
            how: setup.how,
            policy: setup.policy,
            lanes: Vec::new(),
            ended: DeliveryCounts::default(),
            lossy_ended: false,
            letters: Vec::new(),
            messages: BTreeMap::new(),
            pauses: Pauses::default(),
            queue: VecDeque::new(),
            delayed: Vec::new(),
            has_delayed: false,
            short: false,
            allowance: 0,
            flush_to: 0,
            issued: 0,
            seen: 0,
            rejected: 0,
            duplicates: 0,
            ids: VecDeque::new(),
            kept: Vec::new(),
            dropped: 0,
            unrouted: 0,
            dispatched: 0,
            before_change: BTreeSet::new(),
            leases: 0,
            setup,
        }
    }

    pub fn open(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(|lane| lane.phase == Phase::Open)
    }

    /// Whether messages are left in partitions that there are no more.
    pub fn is_changing(&self) -> bool {
        let mut waiting = self.queue.iter();
        waiting.any(|message| self.before_change.contains(&message.id))
    }

    /// Runs everything that is ready and due.
    pub fn run(&mut self) {
        loop {
            // What comes back is judged when it is its turn, unless it has to wait for that.
            (0..self.lanes.len()).for_each(|at| self.expire_in_lane(at));
            self.fire();
            self.end_overdue();
            self.expire_in_queue();
            self.work();
            self.dispatch();
            let now = self.now;
            if !self.lanes.iter().any(|lane| lane.is_due(now)) {
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
        let leases = self.lanes.iter().flat_map(|lane| &lane.out);
        let leases = leases.map(|leased| leased.due);
        let held = self.lanes.iter().filter(|lane| lane.asks());
        let gates = held.filter_map(|lane| lane.gate.opens(self.now));
        retries.chain(delayed).chain(leases).chain(gates).min()
    }
}

pub fn add(sum: &mut DeliveryCounts, counts: &DeliveryCounts) {
    sum.made += counts.made;
    sum.attempts += counts.attempts;
    sum.delivered += counts.delivered;
    sum.failed += counts.failed;
    sum.snoozed += counts.snoozed;
    sum.retried += counts.retried;
    sum.dead_lettered += counts.dead_lettered;
    sum.filtered += counts.filtered;
    sum.dropped += counts.dropped;
    sum.expired += counts.expired;
    sum.cancelled += counts.cancelled;
    sum.redriven += counts.redriven;
}
