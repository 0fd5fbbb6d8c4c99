//! What a subscription does with its deliveries.

use std::collections::{BTreeSet, VecDeque};

use millstream::dead_letters::DeadReason;
use millstream::metrics::DeliveryCounts;

use super::leases::{Leased, Settlements};
use super::members::{Ranks, Take};
use super::{Call, Gate, Letter, Message, Model, add};
use crate::answers::{Answer, answer, batch_answer};
use crate::harness::Log;
use crate::program::{Hands, Policy, Shape};

#[derive(Clone, Copy, Debug)]
pub struct Tried {
    pub message: Message,
    pub attempts: u32,
    pub generation: u16,
    /// When the first attempt began.
    pub began: u64,
}

impl Tried {
    pub fn first(message: Message) -> Self {
        Self {
            message,
            attempts: 0,
            generation: 0,
            began: 0,
        }
    }

    /// What was redriven has no time to live any more.
    pub fn expires(&self) -> u64 {
        let own = self.message.expires.filter(|_| self.generation == 0);
        own.unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Open,
    Draining,
    DeadLettering,
    Cancelling,
}

pub struct Lane {
    pub slot: usize,
    pub shape: Shape,
    pub own: Option<Policy>,
    pub phase: Phase,
    pub gate: Gate,
    /// It gets messages with ids greater than this.
    pub after: u64,
    pub queue: VecDeque<Message>,
    pub returns: VecDeque<Tried>,
    pub waiting: Vec<(u64, Tried)>,
    /// Of parked keys, on their way into the dead letters.
    pub strays: VecDeque<Tried>,
    /// What is out on lease, and the numbers of all leases so far.
    pub out: Vec<Leased>,
    pub granted: BTreeSet<u64>,
    pub settlements: Settlements,
    /// The members of a group, and what is known of them.
    pub members: BTreeSet<usize>,
    pub takes: Log<Take>,
    pub ranks: Ranks,
    pub counts: DeliveryCounts,
    /// Messages in the order in which the topic handed them on.
    pub offered: Vec<u64>,
    /// How many of them the topic had kept for it. No publisher waits for their ends.
    pub retained: usize,
    pub calls: Vec<Call>,
    pub log: Log<Call>,
}

impl Lane {
    pub fn new(slot: usize, shape: Shape, after: u64, log: Log<Call>) -> Self {
        Self {
            slot,
            shape,
            own: shape.own,
            phase: Phase::Open,
            gate: Gate::default(),
            after,
            queue: VecDeque::new(),
            returns: VecDeque::new(),
            waiting: Vec::new(),
            strays: VecDeque::new(),
            out: Vec::new(),
            granted: BTreeSet::new(),
            settlements: Settlements::default(),
            members: BTreeSet::new(),
            takes: Log::new(),
            ranks: Ranks::new(),
            counts: DeliveryCounts::default(),
            offered: Vec::new(),
            retained: 0,
            calls: Vec::new(),
            log,
        }
    }

    /// Whether anybody is there to take what may go.
    pub fn has_hands(&self) -> bool {
        match self.shape.hands {
            Hands::Members(_) => !self.members.is_empty(),
            Hands::Callers { .. } => false,
            _ => true,
        }
    }

    pub fn occupied(&self) -> usize {
        self.queue.len()
            + self.returns.len()
            + self.waiting.len()
            + self.strays.len()
            + self.out.len()
    }

    /// Whether it has a delivery of this message.
    pub fn has(&self, id: u64) -> bool {
        let waiting = self.waiting.iter().map(|(_, tried)| tried);
        let out = self.out.iter().map(|leased| &leased.tried);
        let tried = self.returns.iter().chain(waiting).chain(&self.strays);
        let mut messages = tried.chain(out).map(|tried| &tried.message);
        let mut new = self.queue.iter();
        messages.any(|message| message.id == id) || new.any(|message| message.id == id)
    }

    pub fn is_full(&self) -> bool {
        self.occupied() >= self.shape.capacity
    }

    /// An attempt begins.
    pub fn begin(&mut self, tried: &mut Tried, now: u64) {
        if tried.attempts == 0 {
            tried.began = now;
        }
        tried.attempts += 1;
        self.counts.attempts += 1;
        let call = (tried.message.id, tried.attempts, tried.generation);
        self.calls.push(call);
    }

    /// Whether a retry is due, or the time to live of something that waits is over.
    pub fn is_due(&self, now: u64) -> bool {
        let is_late = |tried: &Tried| tried.expires() <= now;
        self.waiting.iter().any(|(due, _)| *due <= now)
            || self
                .queue
                .iter()
                .any(|message| is_late(&Tried::first(*message)))
            || self.returns.iter().any(is_late)
            || self.out.iter().any(|leased| leased.due <= now)
    }

    /// All that waits on the timer wheel is due, in the order of its messages: so many.
    pub fn retry_all_now(&mut self, real: usize) {
        let waiting = self.waiting.iter_mut().filter(|(due, _)| *due > 0);
        let called = waiting.map(|(due, _)| *due = 0).count();
        self.waiting
            .sort_by_key(|(due, tried)| (*due, tried.message.id));
        assert!(!self.shape.is_exact() || called == real, "called back");
    }

    /// Whether this is the open lane of a slot.
    pub fn is_open_in(&self, slot: usize) -> bool {
        self.slot == slot && self.phase == Phase::Open
    }

    pub fn wants(&self, message: &Message) -> bool {
        self.phase == Phase::Open && self.after < message.id
    }
}

impl Model {
    /// Lets every lane do what it can.
    pub fn work(&mut self) {
        for at in 0..self.lanes.len() {
            while self.work_on(at) {}
        }
        let ended = |lane: &Lane| lane.phase != Phase::Open && lane.occupied() == 0;
        while let Some(at) = self.lanes.iter().position(ended) {
            let lane = self.lanes.remove(at);
            self.lossy_ended |= !lane.shape.is_exact();
            add(&mut self.ended, &lane.counts);
        }
    }

    pub fn work_on(&mut self, at: usize) -> bool {
        let lane = &mut self.lanes[at];
        if lane.phase > Phase::Draining {
            self.end(at);
            return false;
        }
        if !lane.has_hands() {
            return false;
        }
        if self.judge_strays(at) {
            return true;
        }
        if self.lanes[at].gate.holds(self.now).is_some() {
            return false;
        }
        if self.park(at) {
            return true;
        }
        let lane = &mut self.lanes[at];
        if lane.gate.counts() || lane.shape.by_level {
            return self.follow(at);
        }
        if let Some(tried) = lane
            .ready_return()
            .and_then(|place| lane.returns.remove(place))
        {
            let said = answer(tried.message.id, lane.slot, tried.attempts + 1);
            self.attempt(at, tried, said);
            return true;
        }
        if let Hands::Batches { size, .. } = lane.shape.hands {
            return self.work_on_batch(at, size);
        }
        let ready = lane.ready_new();
        let Some(message) = ready.and_then(|place| lane.queue.remove(place)) else {
            return false;
        };
        let said = answer(message.id, lane.slot, 1);
        self.attempt(at, Tried::first(message), said);
        true
    }

    /// Where not all may go, whether what came back or what is new goes next is not the model's
    /// to say: it follows the engine, and judges whether that one could go.
    fn follow(&mut self, at: usize) -> bool {
        self.expire_in_lane(at);
        // A delayed message that has to wait is filed by its id.
        let has_order = self.setup.partitions.is_none() && !self.has_delayed;
        let now = self.now;
        let lane = &mut self.lanes[at];
        let next = lane.log.get(lane.calls.len());
        let Some(tried) = next.and_then(|call| lane.take_called(call, has_order)) else {
            return false;
        };
        lane.gate.spend(now);
        let said = answer(tried.message.id, lane.slot, tried.attempts + 1);
        self.attempt(at, tried, said);
        true
    }

    fn work_on_batch(&mut self, at: usize, size: usize) -> bool {
        let lane = &mut self.lanes[at];
        let Some(first) = lane.queue.front() else {
            return false;
        };
        assert_eq!(
            lane.shape.linger(),
            None,
            "that would be for nobody to know"
        );
        let forced = first.id <= self.flush_to || lane.phase != Phase::Open || lane.is_full();
        if lane.queue.len() < size && !forced {
            return false;
        }
        let (slot, take) = (lane.slot, size.min(lane.queue.len()));
        let taken: Vec<_> = lane.queue.drain(..take).collect();
        for message in taken {
            let said = batch_answer(message.id, slot);
            self.attempt(at, Tried::first(message), said);
        }
        true
    }

    pub fn attempt(&mut self, at: usize, mut tried: Tried, said: Answer) {
        if self.now >= tried.expires() {
            return self.expire(at, tried);
        }
        self.lanes[at].begin(&mut tried, self.now);
        self.conclude(at, tried, said);
    }

    /// What becomes of a delivery after an attempt.
    pub fn conclude(&mut self, at: usize, tried: Tried, said: Answer) {
        if let Answer::Snooze(delay) = said {
            return self.snooze(at, tried, delay);
        }
        let (now, topics) = (self.now, self.policy);
        let (lane, expires) = (&mut self.lanes[at], tried.expires());
        lane.gate.note(said);
        if said == Answer::Ack {
            lane.counts.delivered += 1;
            return;
        }
        lane.counts.failed += 1;
        let asked = match said {
            Answer::RetryAfter(asked) => Some(asked),
            _ => None,
        };
        let policy = lane.own.unwrap_or(topics);
        let granted = policy.decide(tried.attempts, now - tried.began, asked);
        match (said, granted) {
            (Answer::Discard, _) => lane.counts.dropped += 1,
            (Answer::DeadLetter, _) => self.bury(at, tried, DeadReason::Rejected),
            (_, None) => self.bury(at, tried, DeadReason::Exhausted),
            (_, Some(delay)) => {
                if now + delay >= expires {
                    self.expire(at, tried);
                } else {
                    lane.counts.retried += 1;
                    if delay == 0 {
                        lane.returns.push_back(tried);
                    } else {
                        lane.counts.awaiting_retry += 1;
                        lane.waiting.push((now + delay, tried));
                    }
                }
            }
        }
    }

    /// A delivery is put off: that was no attempt.
    fn snooze(&mut self, at: usize, mut tried: Tried, delay: u64) {
        tried.attempts -= 1;
        let due = self.now + delay;
        if due >= tried.expires() {
            return self.expire(at, tried);
        }
        let lane = &mut self.lanes[at];
        lane.counts.snoozed += 1;
        lane.counts.awaiting_retry += 1;
        lane.waiting.push((due, tried));
    }

    pub fn bury(&mut self, at: usize, tried: Tried, reason: DeadReason) {
        let lane = &mut self.lanes[at];
        lane.counts.dead_lettered += 1;
        let letter = Letter {
            slot: lane.slot,
            id: tried.message.id,
            generation: tried.generation,
            attempts: tried.attempts,
            reason,
            of_parking: lane.shape.parks(),
        };
        if letter.parks() && tried.message.key.is_some() {
            lane.set_aside_behind(&tried.message);
        }
        self.letters.push(letter);
    }

    /// Ends what a lane still has, as its phase says.
    pub fn end(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let mut left: Vec<_> = lane.queue.drain(..).map(Tried::first).collect();
        left.extend(lane.waiting.drain(..).map(|(_, tried)| tried));
        left.extend(lane.returns.drain(..));
        left.extend(lane.strays.drain(..));
        left.extend(lane.out.drain(..).map(|leased| leased.tried));
        lane.counts.awaiting_retry = 0;
        if lane.phase == Phase::Cancelling {
            lane.counts.cancelled += left.len() as u64;
        } else {
            for tried in left {
                self.bury(at, tried, DeadReason::Unsubscribed);
            }
        }
    }
}
