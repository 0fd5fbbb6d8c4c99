//! Many promises at once: whatever a program does, the engine ends up where a
//! simple sequential model of it does.
//!
//! Random programs publish, subscribe, unsubscribe, fail, swap, flush, redrive, purge and
//! move the clock on an engine that runs on the test's thread. The model below handles
//! one message at a time, with plain lists. After every step the books must
//! balance and agree with the model.
//!
//! What the model predicts exactly: all counts of the topic; all counts, every
//! call and the order of first attempts of subscriptions whose lane makes the
//! topic wait ([`LaneFull::Wait`]); what a redrive and a purge come to.
//!
//! The programs have one topic and one thread. They use no order by key, groups, concurrency,
//! pull, patterns, partitions, async handlers or observers: other tests do.
//!
//! What it doesn't predict: which deliveries a lane drops or dead-letters when it is full.
//! That depends on how many messages travel together, which nobody promises. For
//! those lanes the test checks what must hold all the same: as many deliveries as
//! messages dispatched, never more than the capacity at once, first attempts in
//! accept order, attempts without gaps and only after failures. The same goes for
//! batch handlers with a linger: which messages share a batch, and so which one
//! begins the next, is nobody's to know, only that none lingers too long. They
//! never retry here, so that the topic never waits for them. Which letters a full
//! dead-letter store keeps is checked as an invariant, too.

#[path = "../harness/mod.rs"]
mod harness;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use harness::{Log, manual};
use millstream::{
    Backlog, Backoff, Batched, Broker, DeadLetterOverflow, DeliveryCounts, Immediate, LaneFull,
    ManualClock, Nack, NoSubscribers, OnExpired, Overflow, Plan, PublishError, Redrive,
    Subscription, Topic, Unsubscribe, Unsubscribed,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// The model counts time in ticks of the timer wheel.
const TICK: Duration = Duration::from_micros(100);
const SLOTS: usize = 3;
const NAMES: [&str; SLOTS] = ["a", "b", "c"];

// What a program is made of.

#[derive(Clone, Copy, Debug)]
struct Policy {
    base: u64,
    shape: u8,
    max: u32,
    /// What the cap exceeds the base by.
    cap: Option<u64>,
    limit: Option<u64>,
}

impl Policy {
    /// The delay before the next attempt, or none. The handler may have asked for one.
    fn decide(self, attempt: u32, elapsed: u64, asked: Option<u64>) -> Option<u64> {
        let own = match self.shape {
            0 => self.base,
            1 => self.base * u64::from(attempt),
            _ => self.base << (attempt - 1),
        };
        let cap = self.cap.map_or(u64::MAX, |more| self.base + more);
        let delay = asked.unwrap_or(own).min(cap);
        let is_in_time = elapsed + delay <= self.limit.unwrap_or(u64::MAX);
        (attempt < self.max && is_in_time).then_some(delay)
    }

    fn real(self) -> Backoff {
        let base = ticks(self.base);
        let backoff = match self.shape {
            0 => Backoff::fixed(base),
            1 => Backoff::linear(base),
            _ => Backoff::exponential(base),
        };
        let backoff = backoff.max_attempts(self.max);
        let capped = self
            .cap
            .into_iter()
            .fold(backoff, |backoff, more| backoff.cap(base + ticks(more)));
        self.limit
            .into_iter()
            .fold(capped, |backoff, limit| backoff.max_elapsed(ticks(limit)))
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Immediate,
    OneByOne,
    Panics,
    Batched { size: usize, linger: Option<u64> },
}

struct OneByOne;

impl millstream::Strategy for OneByOne {
    fn plan(&self, _: &Backlog) -> Plan {
        Plan::Deliver { at_most: 0 }
    }

    fn name(&self) -> &str {
        "one by one"
    }
}

struct Panics;

impl millstream::Strategy for Panics {
    fn plan(&self, _: &Backlog) -> Plan {
        // Unwinds like any panic, but without a word from the panic hook.
        std::panic::resume_unwind(Box::new("a strategy without a plan"))
    }

    fn name(&self) -> &str {
        "panics"
    }
}

fn batched(size: usize, linger: Option<u64>) -> Batched {
    match linger {
        Some(linger) => Batched::of(size).linger(ticks(linger)),
        None => Batched::of(size).until_full(),
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    capacity: usize,
    when_full: LaneFull,
    /// Takes batches of this size and linger.
    batches: Option<(usize, Option<u64>)>,
    own: Option<Policy>,
}

impl Shape {
    fn is_exact(&self) -> bool {
        self.when_full == LaneFull::Wait && self.linger().is_none()
    }

    /// How long the lane's batches linger, if they do.
    fn linger(&self) -> Option<u64> {
        self.batches.and_then(|(_, linger)| linger)
    }
}

#[derive(Clone, Debug)]
struct Setup {
    capacity: usize,
    overflow: Overflow,
    no_subscribers: NoSubscribers,
    ttl: Option<u64>,
    on_expired: OnExpired,
    letters: usize,
    letter_overflow: DeadLetterOverflow,
    how: How,
    policy: Policy,
    shapes: [Shape; SLOTS],
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    PublishKeyed { ttl: Option<u64> },
    PublishBatch(usize),
    PublishAfter(u64),
    Run,
    Advance(u64),
    Flush,
    Swap(How),
    SetRetry(Policy),
    SetOwnRetry(usize, Policy),
    Subscribe(usize),
    Unsubscribe(usize, Unsubscribe),
    Forget(usize),
    Redrive(Option<usize>),
    Purge(Option<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ack,
    Retry,
    RetryAfter(u64),
    DeadLetter,
    Discard,
    Panic,
}

/// What a handler answers: a pure function of message, subscription and attempt.
fn answer(id: u64, slot: usize, attempt: u32) -> Answer {
    let mut hash = id * 0x9e37_79b9 + slot as u64 * 0x85eb_ca6b + u64::from(attempt) * 0xc2b2_ae35;
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x2c1b_3c6d_297a_2d39);
    hash ^= hash >> 29;
    match hash % 20 {
        0..=9 => Answer::Ack,
        10..=13 => Answer::Retry,
        14 => Answer::RetryAfter(hash / 20 % 9),
        15 => Answer::DeadLetter,
        16 => Answer::Discard,
        _ => Answer::Panic,
    }
}

fn ticks(count: u64) -> Duration {
    TICK * count as u32
}

// The model.

#[derive(Clone, Copy, Debug)]
struct Message {
    id: u64,
    accepted: u64,
    expires: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Tried {
    message: Message,
    attempts: u32,
    generation: u16,
    /// When the first attempt began.
    began: u64,
}

impl Tried {
    fn first(message: Message) -> Self {
        Self {
            message,
            attempts: 0,
            generation: 0,
            began: 0,
        }
    }

    /// What was redriven has no time to live any more.
    fn expires(&self) -> u64 {
        let own = self.message.expires.filter(|_| self.generation == 0);
        own.unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    Draining,
    DeadLettering,
    Cancelling,
}

/// One call of a handler: message, attempt, generation.
type Call = (u64, u32, u16);
/// One letter: slot, message, generation, attempts.
type LetterKey = (usize, u64, u16, u32);

struct Lane {
    slot: usize,
    shape: Shape,
    own: Option<Policy>,
    phase: Phase,
    /// It gets messages with ids greater than this.
    after: u64,
    queue: VecDeque<Message>,
    returns: VecDeque<Tried>,
    waiting: Vec<(u64, Tried)>,
    counts: DeliveryCounts,
    /// Messages in the order in which the topic handed them on.
    offered: Vec<u64>,
    calls: Vec<Call>,
    log: Log<Call>,
}

impl Lane {
    fn occupied(&self) -> usize {
        self.queue.len() + self.returns.len() + self.waiting.len()
    }

    fn is_full(&self) -> bool {
        self.occupied() >= self.shape.capacity
    }

    fn wants(&self, message: &Message) -> bool {
        self.phase == Phase::Open && self.after < message.id
    }
}

struct Model {
    setup: Setup,
    now: u64,
    how: How,
    policy: Policy,
    lanes: Vec<Lane>,
    ended: DeliveryCounts,
    /// A lane whose counts the model doesn't know has ended.
    lossy_ended: bool,
    letters: Vec<LetterKey>,
    messages: BTreeMap<u64, Message>,
    queue: VecDeque<Message>,
    delayed: Vec<(u64, Message)>,
    /// What the last plan still allows to be handed on.
    allowance: usize,
    flush_to: u64,
    issued: u64,
    /// Messages that had left the topic when a publisher last looked: a batch may
    /// be cut into smaller chunks than there is room for, but none is refused.
    seen: u64,
    rejected: u64,
    dropped: u64,
    unrouted: u64,
    dispatched: u64,
}

enum Admitted {
    Queued { count: usize, evicted: usize },
    Dropped { count: usize },
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Full,
    NoSubscribers,
}

impl Model {
    fn open(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(|lane| lane.phase == Phase::Open)
    }

    fn admit(&mut self, wanted: usize) -> Result<Admitted, Refused> {
        if self.setup.no_subscribers == NoSubscribers::Reject && self.open().next().is_none() {
            self.rejected += wanted as u64;
            return Err(Refused::NoSubscribers);
        }
        let mut evicted = 0;
        loop {
            let inside = (self.queue.len() + self.delayed.len()) as u64;
            let capacity = self.setup.capacity as u64;
            if self.issued - self.seen >= capacity {
                self.seen = self.issued - inside;
            }
            let room = capacity - (self.issued - self.seen);
            let count = wanted.min(room as usize);
            if count > 0 {
                return Ok(Admitted::Queued { count, evicted });
            }
            if self.expire_in_queue() {
                continue;
            }
            match self.setup.overflow {
                Overflow::DropNewest => {
                    self.dropped += wanted as u64;
                    return Ok(Admitted::Dropped { count: wanted });
                }
                Overflow::DropOldest if !self.queue.is_empty() => evicted += self.evict(wanted),
                _ => {
                    self.rejected += wanted as u64;
                    return Err(Refused::Full);
                }
            }
        }
    }

    /// What has expired in the topic's queue makes room. Whether there was any.
    fn expire_in_queue(&mut self) -> bool {
        let now = self.now;
        let is_late = |message: &Message| message.expires.is_some_and(|at| now >= at);
        let waiting = std::mem::take(&mut self.queue);
        let (late, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_late);
        self.queue = waiting.into();
        if late.is_empty() {
            return false;
        }
        self.allowance = 0;
        late.into_iter().for_each(|late| self.expire_message(late));
        true
    }

    /// A message that expires before it is dispatched does so for those that would have
    /// got it.
    fn expire_message(&mut self, late: Message) {
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

    /// What has expired in a lane makes room. What comes back is judged when it is its
    /// turn, if the lane still is there then.
    fn expire_in_lane(&mut self, at: usize) {
        let now = self.now;
        let late = |tried: &mut Tried| now >= tried.expires();
        let queue = std::mem::take(&mut self.lanes[at].queue);
        let mut queue: Vec<_> = queue.into_iter().map(Tried::first).collect();
        let expired: Vec<_> = queue.extract_if(.., late).collect();
        let lane = &mut self.lanes[at];
        lane.queue = queue.into_iter().map(|tried| tried.message).collect();
        expired.into_iter().for_each(|late| self.expire(at, late));
    }

    fn expire(&mut self, at: usize, late: Tried) {
        match self.setup.on_expired {
            OnExpired::DeadLetter => self.bury(at, late),
            _ => self.lanes[at].counts.expired += 1,
        }
    }

    /// Drops the oldest, no more than there shall be room for.
    fn evict(&mut self, wanted: usize) -> usize {
        let count = wanted.min(self.queue.len());
        self.queue.drain(..count);
        self.dropped += count as u64;
        count
    }

    fn accept(&mut self, delay: u64, ttl: Option<u64>) -> Message {
        self.issued += 1;
        let accepted = self.now + delay;
        let message = Message {
            id: self.issued,
            accepted,
            expires: ttl.or(self.setup.ttl).map(|ttl| accepted + ttl),
        };
        self.messages.insert(message.id, message);
        message
    }

    /// Runs everything that is ready and due.
    fn run(&mut self) {
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

    fn fire(&mut self) {
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

    fn plan(&self, first: &Message) -> Option<usize> {
        let waiting = self.queue.len();
        let planned = match self.how {
            How::Immediate | How::Panics => Some(waiting),
            How::OneByOne => Some(1),
            How::Batched { size, .. } if waiting >= size => Some(size),
            How::Batched { linger, .. } => linger
                .is_some_and(|linger| self.now - first.accepted >= linger)
                .then_some(waiting),
        };
        if planned.is_some() {
            planned
        } else if first.id <= self.flush_to {
            Some(waiting.min((self.flush_to - first.id + 1) as usize))
        } else {
            let is_full = waiting + self.delayed.len() >= self.setup.capacity;
            is_full.then_some(waiting)
        }
    }

    /// Hands messages on, one at a time, each handled before the next.
    fn dispatch(&mut self) {
        loop {
            let nobody = self.open().next().is_none();
            let retains = self.setup.no_subscribers == NoSubscribers::Retain;
            let blocks = |lane: &Lane| lane.shape.is_exact() && lane.is_full();
            let Some(first) = self.queue.front().copied() else {
                self.allowance = 0;
                return;
            };
            if self.allowance == 0 {
                match self.plan(&first) {
                    Some(allowed) => self.allowance = allowed,
                    None => return,
                }
            }
            if nobody && retains || self.open().any(blocks) {
                return;
            }
            self.allowance -= 1;
            self.queue.pop_front();
            let is_wanted = self.lanes.iter().any(|lane| lane.wants(&first));
            if !is_wanted && !retains {
                self.unrouted += 1;
                continue;
            }
            // What is retained and wanted by nobody goes to those that are there.
            let gets =
                |lane: &Lane| lane.phase == Phase::Open && (!is_wanted || lane.wants(&first));
            self.dispatched += 1;
            for lane in self.lanes.iter_mut().filter(|lane| gets(lane)) {
                lane.counts.made += 1;
                lane.offered.push(first.id);
                if lane.shape.is_exact() {
                    lane.queue.push_back(first);
                }
            }
            self.work();
        }
    }

    /// Lets every lane do what it can.
    fn work(&mut self) {
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

    fn work_on(&mut self, at: usize) -> bool {
        let lane = &mut self.lanes[at];
        if lane.phase > Phase::Draining {
            self.end(at);
            return false;
        }
        if let Some(tried) = lane.returns.pop_front() {
            let said = answer(tried.message.id, lane.slot, tried.attempts + 1);
            self.attempt(at, tried, said);
            return true;
        }
        let Some(first) = lane.queue.front() else {
            return false;
        };
        let slot = lane.slot;
        let take = match lane.shape.batches {
            None => 1,
            Some((size, linger)) => {
                assert_eq!(linger, None, "that would be for nobody to know");
                let forced =
                    first.id <= self.flush_to || lane.phase != Phase::Open || lane.is_full();
                if lane.queue.len() < size && !forced {
                    return false;
                }
                size.min(lane.queue.len())
            }
        };
        let taken: Vec<_> = lane.queue.drain(..take).collect();
        let is_batch = lane.shape.batches.is_some();
        for message in taken {
            let said = match is_batch {
                false => answer(message.id, slot, 1),
                true => batch_answer(message.id, slot),
            };
            self.attempt(at, Tried::first(message), said);
        }
        true
    }

    fn attempt(&mut self, at: usize, mut tried: Tried, said: Answer) {
        let (now, topics) = (self.now, self.policy);
        let lane = &mut self.lanes[at];
        let expires = tried.expires();
        if now >= expires {
            return self.expire(at, tried);
        }
        if tried.attempts == 0 {
            tried.began = now;
        }
        tried.attempts += 1;
        lane.counts.attempts += 1;
        let call = (tried.message.id, tried.attempts, tried.generation);
        lane.calls.push(call);
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
            (Answer::DeadLetter, _) | (_, None) => self.bury(at, tried),
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

    fn bury(&mut self, at: usize, tried: Tried) {
        let lane = &mut self.lanes[at];
        lane.counts.dead_lettered += 1;
        let id = tried.message.id;
        let letter = (lane.slot, id, tried.generation, tried.attempts);
        self.letters.push(letter);
    }

    /// Ends what a lane still has, as its phase says.
    fn end(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let mut left: Vec<_> = lane.queue.drain(..).map(Tried::first).collect();
        left.extend(lane.waiting.drain(..).map(|(_, tried)| tried));
        left.extend(lane.returns.drain(..));
        lane.counts.awaiting_retry = 0;
        if lane.phase == Phase::Cancelling {
            lane.counts.cancelled += left.len() as u64;
        } else {
            left.into_iter().for_each(|tried| self.bury(at, tried));
        }
    }

    /// The earliest time at which something has to happen.
    fn next_deadline(&self) -> Option<u64> {
        let retries = self.lanes.iter().flat_map(|lane| &lane.waiting);
        let retries = retries.map(|(due, _)| *due);
        let delayed = self.delayed.iter().map(|(due, _)| *due);
        retries.chain(delayed).min()
    }
}

/// What becomes of one element of a batch. It is nacked alone: which messages
/// share a batch is not the model's to know, so none may suffer for another.
fn batch_answer(id: u64, slot: usize) -> Answer {
    match answer(id, slot, 1) {
        Answer::Panic => Answer::Retry,
        said => said,
    }
}

fn add(sum: &mut DeliveryCounts, counts: &DeliveryCounts) {
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

// The engine beside the model.

struct Pair {
    broker: Broker,
    clock: ManualClock,
    topic: Topic<u64>,
    handles: [Option<Subscription>; SLOTS],
    model: Model,
    /// Held by every handler.
    captured: Arc<()>,
    /// Letters taken out by redrives and purges.
    taken: usize,
}

fn nack(said: Answer) -> Result<(), Nack> {
    match said {
        Answer::Ack => Ok(()),
        Answer::Retry => Err(Nack::retry("again")),
        Answer::RetryAfter(after) => Err(Nack::retry_after(ticks(after), "again, later")),
        Answer::DeadLetter => Err(Nack::dead_letter("never")),
        Answer::Discard => Err(Nack::discard("never mind")),
        Answer::Panic => std::panic::resume_unwind(Box::new("no")),
    }
}

impl Pair {
    fn new(setup: Setup) -> Self {
        let (broker, clock) = manual();
        let mut builder = broker
            .topic("t")
            .capacity(setup.capacity)
            .overflow(setup.overflow)
            .no_subscribers(setup.no_subscribers)
            .dead_letter_capacity(setup.letters)
            .dead_letter_overflow(setup.letter_overflow)
            .on_expired(setup.on_expired)
            .retry(setup.policy.real());
        if let Some(ttl) = setup.ttl {
            builder = builder.ttl(ticks(ttl));
        }
        let topic = builder.open().expect("the settings are sound");
        let model = Model {
            now: 0,
            how: setup.how,
            policy: setup.policy,
            lanes: Vec::new(),
            ended: DeliveryCounts::default(),
            lossy_ended: false,
            letters: Vec::new(),
            messages: BTreeMap::new(),
            queue: VecDeque::new(),
            delayed: Vec::new(),
            allowance: 0,
            flush_to: 0,
            issued: 0,
            seen: 0,
            rejected: 0,
            dropped: 0,
            unrouted: 0,
            dispatched: 0,
            setup,
        };
        let mut pair = Self {
            broker,
            clock,
            topic,
            handles: [None, None, None],
            model,
            captured: Arc::new(()),
            taken: 0,
        };
        pair.swap(pair.model.how);
        pair
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish => self.publish(None),
            Step::PublishKeyed { ttl } => {
                // Which of what lingers shares a batch with what expires is nobody's to
                // know, and so what a redrive finds: no time to live together with those.
                let ttl = ttl.filter(|_| !self.has_lingers());
                self.publish(Some(ttl));
            }
            Step::PublishBatch(count) => self.publish_batch(count),
            Step::PublishAfter(delay) => {
                // See `swap`.
                if !matches!(self.model.how, How::Batched { .. }) {
                    self.publish_after(delay);
                }
            }
            Step::Run => {
                self.broker.run_until_idle();
                self.model.run();
                self.check();
                self.check_deadline();
                self.check_lingers();
            }
            Step::Advance(by) => {
                self.clock.advance(ticks(by));
                self.model.now += by;
                // A delayed message that enters late stands behind younger ones,
                // and a strategy looks at the first only. Not on purpose here.
                let now = self.model.now;
                if self.model.delayed.iter().any(|(due, _)| *due <= now) {
                    self.broker.run_until_idle();
                    self.model.run();
                }
            }
            Step::Flush => {
                // What is accepted after a flush may share a lane's batch with what
                // was accepted before: not for the model to know.
                let shapes = &self.model.setup.shapes;
                if shapes
                    .iter()
                    .any(|shape| shape.is_exact() && shape.batches.is_some())
                {
                    return;
                }
                self.topic.flush();
                self.model.flush_to = self.model.issued;
            }
            Step::Swap(how) => self.swap(how),
            Step::SetRetry(policy) => {
                let set = self.topic.set_retry(policy.real());
                set.expect("a sound policy");
                self.model.policy = policy;
            }
            Step::SetOwnRetry(slot, policy) => {
                let lingers = self.model.setup.shapes[slot].linger().is_some();
                if let Some(handle) = &self.handles[slot]
                    && !lingers
                {
                    handle.set_retry(policy.real()).expect("a sound policy");
                    self.lane(slot).own = Some(policy);
                }
            }
            Step::Subscribe(slot) => self.subscribe(slot),
            Step::Unsubscribe(slot, mode) => self.unsubscribe(slot, mode),
            Step::Forget(slot) => {
                if let Some(handle) = self.handles[slot].take() {
                    drop(handle);
                    self.lane(slot).phase = Phase::Cancelling;
                }
            }
            Step::Redrive(slot) => self.redrive(slot),
            Step::Purge(slot) => {
                let chosen = |other: usize| slot.is_none_or(|slot| slot == other);
                let letters = self.topic.dead_letters();
                let expected = self.letters().iter().filter(|key| chosen(key.0)).count();
                let purged = letters.purge(|letter| chosen(slot_of(letter.subscription())));
                assert_eq!(purged, expected);
                self.taken += purged;
                self.model.letters.retain(|letter| !chosen(letter.0));
            }
        }
        self.check();
    }

    fn has_lingers(&self) -> bool {
        let mut shapes = self.model.setup.shapes.iter();
        shapes.any(|shape| shape.linger().is_some())
    }

    /// The open lane of a slot.
    fn lane(&mut self, slot: usize) -> &mut Lane {
        let mut lanes = self.model.lanes.iter_mut();
        lanes
            .find(|lane| lane.slot == slot && lane.phase == Phase::Open)
            .expect("a handle has an open lane")
    }

    fn publish(&mut self, keyed: Option<Option<u64>>) {
        let real = match keyed {
            None => self.topic.publish(7),
            Some(ttl) => {
                let message = self.topic.message(7).key("k").header("h", "v");
                match ttl {
                    None => message.publish(),
                    Some(ttl) => message.ttl(ticks(ttl)).publish(),
                }
            }
        };
        match (self.model.admit(1), real) {
            (Ok(admitted), Ok(receipt)) => {
                let message = self.model.accept(0, keyed.flatten());
                assert_eq!(receipt.id().get(), message.id);
                match admitted {
                    Admitted::Dropped { .. } => assert!(receipt.is_dropped()),
                    Admitted::Queued { evicted, .. } => {
                        assert!(!receipt.is_dropped());
                        assert_eq!(receipt.evicted() as usize, evicted);
                        self.model.queue.push_back(message);
                    }
                }
            }
            (Err(refused), Err(error)) => assert_refusal(&refused, &error),
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    fn publish_after(&mut self, delay: u64) {
        let real = self.topic.publish_after(ticks(delay), 7);
        match (self.model.admit(1), real) {
            (Ok(Admitted::Dropped { .. }), Ok(receipt)) => {
                assert!(receipt.is_dropped());
                self.model.accept(0, None);
            }
            (Ok(Admitted::Queued { evicted, .. }), Ok(receipt)) => {
                let message = self.model.accept(delay, None);
                assert_eq!(receipt.id().get(), message.id);
                assert_eq!(receipt.evicted() as usize, evicted);
                if delay == 0 {
                    self.model.queue.push_back(message);
                } else {
                    let due = self.model.now + delay;
                    self.model.delayed.push((due, message));
                }
            }
            (Err(refused), Err(error)) => assert_refusal(&refused, &error),
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    fn publish_batch(&mut self, count: usize) {
        let real = self.topic.publish_batch((0..count).map(|at| at as u64));
        let (mut accepted, mut dropped, mut evicted) = (0, 0, 0);
        let mut refusal = None;
        while accepted < count {
            match self.model.admit(count - accepted) {
                Err(refused) => {
                    refusal = Some(refused);
                    break;
                }
                Ok(Admitted::Dropped { count }) => {
                    accepted += count;
                    dropped += count;
                    for _ in 0..count {
                        self.model.accept(0, None);
                    }
                }
                Ok(Admitted::Queued { count, evicted: n }) => {
                    accepted += count;
                    evicted += n;
                    for _ in 0..count {
                        let message = self.model.accept(0, None);
                        self.model.queue.push_back(message);
                    }
                }
            }
        }
        match (refusal, real) {
            (None, Ok(receipt)) => {
                assert_eq!(receipt.accepted(), count);
                assert_eq!((receipt.evicted(), receipt.dropped()), (evicted, dropped));
                let last = (count > 0).then_some(self.model.issued);
                assert_eq!(receipt.last().map(|id| id.get()), last);
            }
            (Some(refused), Err(partial)) => {
                assert_eq!(partial.accepted, accepted);
                assert_refusal(&refused, &partial.error);
                let rest: Vec<u64> = (accepted..count).map(|at| at as u64).collect();
                assert_eq!(partial.into_rest(), rest, "the rest comes back in order");
            }
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    fn swap(&mut self, how: How) {
        // An eviction takes away what a plan has counted, and a delayed message
        // fills the topic without waiting in it. Whether a plan had been made by
        // then depends on who has looked while lanes were full: no batches of the
        // topic's together with these, but in the tests below.
        let model = &self.model;
        let unsure = model.setup.overflow == Overflow::DropOldest || !model.delayed.is_empty();
        let how = match how {
            How::Batched { .. } if unsure => How::OneByOne,
            how => how,
        };
        let swapped = match how {
            How::Immediate => self.topic.set_strategy(Immediate),
            How::OneByOne => self.topic.set_strategy(OneByOne),
            How::Panics => self.topic.set_strategy(Panics),
            How::Batched { size, linger } => self.topic.set_strategy(batched(size, linger)),
        };
        swapped.expect("a sound strategy");
        self.model.how = how;
        // What waits is judged by the new strategy at once.
        self.model.allowance = 0;
    }

    fn subscribe(&mut self, slot: usize) {
        let shape = self.model.setup.shapes[slot];
        let log = Log::new();
        let builder = self.topic.subscription(NAMES[slot]);
        let mut builder = builder.capacity(shape.capacity).when_full(shape.when_full);
        if let Some(policy) = shape.own {
            builder = builder.retry(policy.real());
        }
        let (calls, captured) = (log.clone(), Arc::clone(&self.captured));
        let real = match shape.batches {
            None => builder.subscribe(move |delivery| {
                let _ = &captured;
                let (id, attempt) = (delivery.id().get(), delivery.attempt());
                calls.push((id, attempt, delivery.generation()));
                nack(answer(id, slot, attempt))
            }),
            Some((size, linger)) => {
                builder.subscribe_batches(batched(size, linger), move |batch| {
                    let _ = &captured;
                    for delivery in batch.iter() {
                        let (id, attempt) = (delivery.id().get(), delivery.attempt());
                        calls.push((id, attempt, delivery.generation()));
                    }
                    let first = batch.get(0).expect("no batch is empty");
                    let (first_id, attempt) = (first.id().get(), first.attempt());
                    if attempt > 1 || first.generation() > 0 {
                        assert_eq!(batch.len(), 1, "what comes back comes alone");
                        return nack(answer(first_id, slot, attempt));
                    }
                    for (at, delivery) in batch.iter().enumerate() {
                        if let Err(nack) = nack(batch_answer(delivery.id().get(), slot)) {
                            batch.nack(at, nack);
                        }
                    }
                    Ok(())
                })
            }
        };
        if self.handles[slot].is_some() {
            real.expect_err("the name is taken");
            return;
        }
        self.handles[slot] = Some(real.expect("the name is free"));
        let is_first = self.model.open().next().is_none();
        let retains = self.model.setup.no_subscribers == NoSubscribers::Retain;
        self.model.lanes.push(Lane {
            after: match retains && is_first {
                true => 0,
                false => self.model.issued,
            },
            slot,
            shape,
            own: shape.own,
            phase: Phase::Open,
            queue: VecDeque::new(),
            returns: VecDeque::new(),
            waiting: Vec::new(),
            counts: DeliveryCounts::default(),
            offered: Vec::new(),
            calls: Vec::new(),
            log,
        });
    }

    fn unsubscribe(&mut self, slot: usize, mode: Unsubscribe) {
        let Some(handle) = self.handles[slot].take() else {
            return;
        };
        let lane = self.lane(slot);
        let (log, exact) = (lane.log.clone(), lane.shape.is_exact());
        let unsubscribed = handle.unsubscribe(mode);
        lane.phase = match mode {
            Unsubscribe::Cancel => Phase::Cancelling,
            Unsubscribe::DeadLetter => Phase::DeadLettering,
            _ => Phase::Draining,
        };
        self.model.run();
        // By a clock that only a hand can move nothing more will come.
        for lane in &mut self.model.lanes {
            if lane.slot == slot && lane.phase == Phase::Draining {
                lane.phase = Phase::Cancelling;
            }
        }
        let before = self.model.ended;
        self.model.run();
        let Unsubscribed::Ended(last) = unsubscribed else {
            panic!("this was not called by a handler");
        };
        assert_eq!(last.queued + last.counts.in_flight, 0);
        assert_eq!(last.counts.made, last.counts.ended());
        if exact && before != self.model.ended {
            assert!(last.counts.cancelled > 0);
        }
        log.take();
        self.broker.run_until_idle();
        assert_eq!(log.len(), 0, "no call after the unsubscribe");
    }

    /// The letters in the store, oldest first.
    fn letters(&self) -> Vec<LetterKey> {
        let list = self.topic.dead_letters().list();
        let key = |letter: &millstream::DeadLetter<u64>| {
            (
                slot_of(letter.subscription()),
                letter.id().get(),
                letter.generation(),
                letter.attempts(),
            )
        };
        list.iter().map(key).collect()
    }

    fn redrive(&mut self, slot: Option<usize>) {
        let chosen = |other: usize| slot.is_none_or(|slot| slot == other);
        let mut before = self.letters();
        before.sort_by_key(|(_, id, ..)| *id);
        let metrics = self.topic.metrics();
        let real = self
            .topic
            .dead_letters()
            .redrive(|letter| chosen(slot_of(letter.subscription())));
        let mut expected = Redrive::default();
        let mut redriven = [0; SLOTS];
        for key in before.into_iter().filter(|key| chosen(key.0)) {
            let (slot, id, generation, _) = key;
            let mut lanes = self.model.lanes.iter_mut();
            let Some(lane) = lanes.find(|lane| lane.slot == slot && lane.phase == Phase::Open)
            else {
                expected.no_subscription += 1;
                continue;
            };
            if lane.shape.is_exact() && lane.is_full() {
                let slot = lane.slot;
                let is_it = |lane: &Lane| lane.slot == slot && lane.phase == Phase::Open;
                let at = self.model.lanes.iter().position(is_it);
                self.model.expire_in_lane(at.expect("it is open"));
            }
            let message = self.model.messages[&id];
            let lane = self.lane(slot);
            let occupied = match lane.shape.is_exact() {
                true => lane.occupied(),
                false => {
                    // Lanes that are ending may have the same name.
                    let mut lanes = metrics.subscriptions.iter().rev();
                    let real = lanes.find(|lane| lane.name == NAMES[slot]);
                    let counts = real.expect("it is open").counts;
                    (counts.made - counts.ended()) as usize + redriven[slot]
                }
            };
            if occupied >= lane.shape.capacity {
                expected.no_room += 1;
                continue;
            }
            expected.redriven += 1;
            redriven[slot] += 1;
            lane.counts.made += 1;
            lane.counts.redriven += 1;
            if lane.shape.is_exact() {
                lane.returns.push_back(Tried {
                    generation: generation + 1,
                    ..Tried::first(message)
                });
                let letters = &mut self.model.letters;
                let at = letters.iter().position(|letter| *letter == key);
                letters.remove(at.expect("the store has what the model has"));
            }
        }
        assert_eq!(real, expected);
        self.taken += real.redriven;
    }

    /// The engine's answers agree with the model's.
    fn check(&mut self) {
        let metrics = self.broker.metrics();
        metrics.balance().expect("the books balance");
        let topic = metrics.topic("t").expect("it is open");
        let model = &mut self.model;
        let real = [
            ("published", topic.published, model.issued),
            ("rejected", topic.rejected, model.rejected),
            ("dropped", topic.dropped, model.dropped),
            ("unrouted", topic.unrouted, model.unrouted),
            ("dispatched", topic.dispatched, model.dispatched),
            ("delayed", topic.delayed, model.delayed.len() as u64),
            (
                "queued",
                topic.queued,
                (model.queue.len() + model.delayed.len()) as u64,
            ),
        ];
        for (what, real, model) in real {
            assert_eq!(real, model, "{what}");
        }
        assert_eq!(topic.subscriptions.len(), model.lanes.len());
        for (real, lane) in topic.subscriptions.iter().zip(&mut model.lanes) {
            assert_eq!(real.name, NAMES[lane.slot]);
            lane.check(real.queued, &real.counts);
        }
        if model.lossy_ended {
            assert_eq!(topic.ended.made, model.ended.made);
        } else {
            assert_eq!(topic.ended, model.ended);
        }
        let buried = topic.deliveries().dead_lettered as usize;
        let gone = self.taken + topic.letters_evicted as usize;
        assert_eq!(topic.dead_letters, buried - gone, "letters are conserved");
        assert!(topic.dead_letters <= model.setup.letters);
        let evicted = topic.letters_evicted;
        self.check_letters(evicted);
    }

    fn check_letters(&mut self, evicted: u64) {
        let shapes = self.model.setup.shapes;
        let mut real = self.letters();
        real.retain(|letter| shapes[letter.0].is_exact());
        real.sort_unstable();
        self.model.letters.sort_unstable();
        if evicted == 0 {
            assert_eq!(real, self.model.letters);
        }
        for letter in &real {
            assert!(self.model.letters.contains(letter), "who wrote {letter:?}?");
        }
        self.model.letters = real;
    }

    /// The engine knows when it must next be run: never later than the model.
    fn check_deadline(&self) {
        if let Some(at) = self.model.next_deadline() {
            let wait = ticks(at - self.model.now);
            let real = self.broker.next_deadline();
            assert!(real.is_some_and(|real| real <= wait), "{real:?} > {wait:?}");
        }
    }

    /// The first message of a batch lingers no longer than it should.
    fn check_lingers(&self) {
        for lane in &self.model.lanes {
            let Some(linger) = lane.shape.linger() else {
                continue;
            };
            let called = |id: u64| lane.calls.iter().any(|call| call.0 == id);
            if let Some(first) = lane.offered.iter().find(|id| !called(**id)) {
                let age = self.model.now - self.model.messages[first].accepted;
                assert!(age < linger, "message {first} lingers for {age} ticks");
            }
        }
    }

    /// A drain accounts for every message, and nothing of the handlers' is left.
    fn finish(self) {
        let published = self.model.issued;
        let report = match self.broker.drain(Duration::ZERO) {
            Ok(report) => {
                assert!(report.is_complete());
                report
            }
            Err(error) => {
                assert!(!error.report().is_complete());
                *error.report()
            }
        };
        assert_eq!(report.published, published);
        assert_eq!(report.remaining, 0);
        let ended = report.dispatched + report.unrouted + report.messages_dropped;
        assert_eq!(published, ended);
        let ended = report.delivered + report.dead_lettered + report.dropped;
        assert_eq!(report.made, ended + report.expired + report.cancelled);
        self.broker.metrics().balance().expect("the books balance");
        let captured = Arc::downgrade(&self.captured);
        drop(self);
        assert_eq!(captured.strong_count(), 0, "a handler was leaked");
    }
}

impl Lane {
    fn check(&mut self, queued: u64, real: &DeliveryCounts) {
        let calls = self.log.take();
        if self.shape.is_exact() {
            let firsts = |calls: &[Call]| -> Vec<Call> {
                let calls = calls.iter();
                calls
                    .filter(|call| (call.1, call.2) == (1, 0))
                    .copied()
                    .collect()
            };
            assert_eq!(firsts(&calls), firsts(&self.calls), "first attempts");
            let mut calls = calls;
            calls.sort_unstable();
            self.calls.sort_unstable();
            assert_eq!(calls, self.calls, "calls of {}", NAMES[self.slot]);
            self.calls.clear();
            assert_eq!(*real, self.counts, "counts of {}", NAMES[self.slot]);
            let waiting = (self.occupied() - self.waiting.len()) as u64;
            assert_eq!(queued, waiting, "queued for {}", NAMES[self.slot]);
            return;
        }
        assert_eq!(real.made, self.counts.made);
        assert_eq!(real.redriven, self.counts.redriven);
        assert!(real.made - real.ended() <= self.shape.capacity as u64);
        // The log goes on from check to check.
        self.calls.extend(calls);
        assert_eq!(real.attempts, self.calls.len() as u64);
        let mut offered = self.offered.iter();
        let mut last = BTreeMap::new();
        let mut acked = 0;
        for &(id, attempt, generation) in &self.calls {
            if (attempt, generation) == (1, 0) {
                assert!(
                    offered.any(|other| *other == id),
                    "first attempts in accept order, no message twice"
                );
            }
            let before = last.insert((id, generation), attempt).unwrap_or(0);
            assert_eq!(attempt, before + 1, "attempts without gaps");
            let said = |attempt| match (self.shape.batches, attempt, generation) {
                (Some(_), 1, 0) => batch_answer(id, self.slot),
                _ => answer(id, self.slot, attempt),
            };
            if before > 0 {
                let said = said(before);
                assert!(!matches!(
                    said,
                    Answer::Ack | Answer::DeadLetter | Answer::Discard
                ));
            }
            acked += u64::from(said(attempt) == Answer::Ack);
        }
        assert_eq!(real.delivered, acked);
        assert_eq!(real.failed, real.attempts - acked);
    }
}

fn assert_refusal<T>(refused: &Refused, error: &PublishError<T>) {
    let real = match error {
        PublishError::Full(_) => Refused::Full,
        PublishError::NoSubscribers(_) => Refused::NoSubscribers,
        other => panic!("{other:?}"),
    };
    assert_eq!(*refused, real);
}

fn slot_of(name: &str) -> usize {
    let at = NAMES.iter().position(|other| *other == name);
    at.expect("nobody else subscribed")
}

// Random programs.

fn policies() -> impl Strategy<Value = Policy> {
    let shape = (0..6_u64, 0..3_u8, 1..4_u32);
    let cap = prop::option::weighted(0.3, 0..6_u64);
    let limit = prop::option::weighted(0.3, 1..12_u64);
    (shape, cap, limit).prop_map(|((base, shape, max), cap, limit)| Policy {
        base,
        shape,
        max,
        cap,
        limit,
    })
}

fn hows() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Immediate),
        1 => Just(How::OneByOne),
        1 => Just(How::Panics),
        4 => (1..6_usize, prop::option::of(0..12_u64))
            .prop_map(|(size, linger)| How::Batched { size, linger }),
    ]
}

fn shapes(batches: bool) -> impl Strategy<Value = Shape> {
    let when_full = prop_oneof![
        4 => Just(LaneFull::Wait),
        1 => Just(LaneFull::DropOldest),
        1 => Just(LaneFull::DropNewest),
        1 => Just(LaneFull::DeadLetter),
    ];
    let own = prop::option::weighted(0.3, policies());
    let batch = prop::option::weighted(0.4, (1..4_usize, prop::option::of(0..8_u64)));
    let shapes =
        (1..5_usize, when_full, batch, own).prop_map(move |(capacity, when_full, batch, own)| {
            Shape {
                capacity,
                when_full,
                batches: batch
                    .filter(|_| batches && when_full == LaneFull::Wait)
                    .map(|(size, linger)| (size.min(capacity), linger)),
                own,
            }
        });
    // The topic would wait for the retries of a lane that the model doesn't know.
    shapes.prop_map(|shape| Shape {
        own: match shape.linger() {
            Some(_) => Some(Policy {
                base: 0,
                shape: 0,
                max: 1,
                cap: None,
                limit: None,
            }),
            None => shape.own,
        },
        ..shape
    })
}

fn setups() -> impl Strategy<Value = Setup> {
    let overflow = prop_oneof![
        Just(Overflow::Reject),
        Just(Overflow::DropOldest),
        Just(Overflow::DropNewest),
    ];
    let no_subscribers = prop_oneof![
        Just(NoSubscribers::Discard),
        Just(NoSubscribers::Retain),
        Just(NoSubscribers::Reject),
    ];
    let letters = prop_oneof![1..4_usize, Just(1_000)];
    let evict = prop_oneof![
        Just(DeadLetterOverflow::EvictOldest),
        Just(DeadLetterOverflow::EvictNewest),
    ];
    any::<bool>().prop_flat_map(move |batches| {
        let shapes = [shapes(batches), shapes(batches), shapes(batches)];
        (
            (1..8_usize, overflow.clone(), no_subscribers.clone()),
            prop::option::weighted(0.3, 1..12_u64),
            prop_oneof![2 => Just(OnExpired::Drop), 1 => Just(OnExpired::DeadLetter)],
            (letters.clone(), evict.clone()),
            (hows(), policies()),
            shapes,
        )
            .prop_map(
                move |(
                    (capacity, overflow, no_subscribers),
                    ttl,
                    on_expired,
                    letters,
                    (how, policy),
                    shapes,
                )| {
                    Setup {
                        capacity,
                        overflow,
                        no_subscribers,
                        ttl: ttl.filter(|_| shapes.iter().all(|shape| shape.linger().is_none())),
                        on_expired,
                        letters: letters.0,
                        letter_overflow: letters.1,
                        how,
                        policy,
                        shapes,
                    }
                },
            )
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    let modes = prop_oneof![
        Just(Unsubscribe::Cancel),
        Just(Unsubscribe::DeadLetter),
        Just(Unsubscribe::Drain { timeout: TICK }),
    ];
    let some_slot = prop::option::of(slot.clone());
    prop_oneof![
        8 => Just(Step::Publish),
        3 => prop::option::of(1..8_u64).prop_map(|ttl| Step::PublishKeyed { ttl }),
        4 => (0..7_usize).prop_map(Step::PublishBatch),
        3 => (0..12_u64).prop_map(Step::PublishAfter),
        10 => Just(Step::Run),
        6 => (0..9_u64).prop_map(Step::Advance),
        1 => (1_000..100_000_u64).prop_map(Step::Advance),
        2 => Just(Step::Flush),
        2 => hows().prop_map(Step::Swap),
        1 => policies().prop_map(Step::SetRetry),
        1 => (slot.clone(), policies()).prop_map(|(slot, policy)| Step::SetOwnRetry(slot, policy)),
        5 => slot.clone().prop_map(Step::Subscribe),
        1 => (slot.clone(), modes).prop_map(|(slot, mode)| Step::Unsubscribe(slot, mode)),
        1 => slot.prop_map(Step::Forget),
        2 => some_slot.clone().prop_map(Step::Redrive),
        1 => some_slot.prop_map(Step::Purge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_engine_does_what_the_model_does(
        setup in setups(),
        steps in prop::collection::vec(steps(), 1..60),
    ) {
        let mut pair = Pair::new(setup);
        pair.step(&Step::Subscribe(0));
        for step in &steps {
            pair.step(step);
        }
        pair.step(&Step::Run);
        pair.finish();
    }
}

// What the model has found.

#[test]
fn a_message_retained_for_nobody_makes_room_for_one_and_not_for_many() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .capacity(4)
        .overflow(Overflow::DropOldest)
        .no_subscribers(NoSubscribers::Retain)
        .open()
        .unwrap();
    (1..=4).for_each(|payload| {
        topic.publish(payload).unwrap();
    });
    broker.run_until_idle();
    let receipt = topic.publish(5).unwrap();
    assert_eq!(receipt.evicted(), 1, "one place was needed");
    let log = Log::new();
    let calls = log.clone();
    let _s = topic.subscribe("s", move |d| {
        calls.push(*d.payload());
        Ok(())
    });
    broker.run_until_idle();
    assert_eq!(log.take(), [2, 3, 4, 5]);
    broker.metrics().balance().unwrap();
}

#[test]
fn a_longer_linger_set_while_a_batch_waits_still_ends() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.set_strategy(batched(10, Some(50))).unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    topic.set_strategy(batched(10, Some(200))).unwrap();
    harness::advance(&broker, &clock, ticks(50));
    harness::advance(&broker, &clock, ticks(150));
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 1, "nobody would ever look again");
}

#[test]
fn a_batch_whose_first_message_was_evicted_still_ends_its_linger() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .capacity(4)
        .overflow(Overflow::DropOldest)
        .strategy(batched(10, Some(50)))
        .open()
        .unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.publish(1).unwrap();
    broker.run_until_idle();
    clock.advance(ticks(30));
    topic.publish_batch(2..=4).unwrap();
    assert_eq!(topic.publish(5).unwrap().evicted(), 1);
    broker.run_until_idle();
    harness::advance(&broker, &clock, ticks(20));
    harness::advance(&broker, &clock, ticks(30));
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 4, "nobody would ever look again");
}

#[test]
fn a_swap_judges_what_an_earlier_plan_had_let_through_but_a_full_lane_held_back() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic
        .subscription("s")
        .capacity(1)
        .retry(Backoff::fixed(TICK))
        .subscribe(|d| match (d.id().get(), d.attempt()) {
            (1, 1) => Err(Nack::retry("hold the lane")),
            _ => Ok(()),
        });
    (1..=4).for_each(|payload| {
        topic.publish(payload).unwrap();
    });
    broker.run_until_idle();
    assert_eq!(topic.metrics().queued, 3);
    topic.set_strategy(batched(10, None)).unwrap();
    harness::advance(&broker, &clock, TICK);
    assert_eq!(topic.metrics().queued, 3, "three are no batch of ten");
    topic.flush();
    broker.run_until_idle();
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 4);
}

#[test]
fn a_batch_goes_when_delayed_messages_leave_it_no_room_to_grow() {
    let fill: [fn(&Topic<u64>); 2] = [
        |topic| {
            topic.publish_after(ticks(50), 0).unwrap();
            topic.publish(0).unwrap();
        },
        |topic| {
            topic.publish(0).unwrap();
            topic.publish_after(ticks(50), 0).unwrap();
        },
    ];
    for fill in fill {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u64>("t").capacity(3);
        let topic = topic.strategy(batched(3, None)).open().unwrap();
        let _s = topic.subscribe("s", |_| Ok(()));
        topic.publish(0).unwrap();
        broker.run_until_idle();
        fill(&topic);
        assert!(matches!(topic.publish(0), Err(PublishError::Full(0))));
        broker.run_until_idle();
        let counts = harness::assert_balanced(&broker).deliveries();
        assert_eq!(counts.delivered, 2, "publishers are refused meanwhile");
    }
}

#[test]
fn after_a_swap_to_smaller_batches_none_is_larger_than_the_new_size() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .capacity(8)
        .no_subscribers(NoSubscribers::Retain)
        .strategy(batched(3, None))
        .open()
        .unwrap();
    for payload in 1..=3 {
        topic.publish(payload).unwrap();
    }
    broker.run_until_idle();
    topic.set_strategy(batched(2, None)).unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    broker.run_until_idle();
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 2, "a batch of two, and one waits");
}

#[test]
fn a_message_that_expires_in_the_middle_of_a_batch_is_not_handled() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let calls = log.clone();
    let _s = topic
        .subscription("s")
        .subscribe_batches(batched(9, Some(10)), move |batch| {
            batch.iter().for_each(|d| calls.push(*d.payload()));
            Ok(())
        });
    topic.publish(1).unwrap();
    topic.message(2).ttl(ticks(5)).publish().unwrap();
    topic.publish(3).unwrap();
    broker.run_until_idle();
    harness::advance(&broker, &clock, ticks(10));
    assert_eq!(log.take(), [1, 3]);
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.expired), (2, 1));
}
