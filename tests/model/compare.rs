//! What has to agree, after each step.

use std::collections::{BTreeMap, BTreeSet};

use millstream::metrics::{SubscriptionMetrics, WaitingFor};

use crate::answers::{Answer, answer, batch_answer};
use crate::program::{LINES, NAMES, ticks};
use crate::reference::{Call, Gate, Lane, Letter, Message, Phase, Settlements};
use crate::run::Pair;

/// What the order depends on.
pub struct Order<'m> {
    messages: &'m BTreeMap<u64, Message>,
    /// Some message was delayed, and stands behind younger ones.
    delayed: bool,
    /// The topic is split, so that only keys have an order.
    split: bool,
}

impl Pair {
    /// The engine's answers agree with the model's.
    pub fn check(&mut self) {
        let metrics = self.broker.metrics();
        metrics.balance().expect("the books balance");
        let topic = metrics.topic("t").expect("it is open");
        let model = &mut self.model;
        let real = [
            ("published", topic.published, model.issued),
            ("rejected", topic.rejected, model.rejected),
            ("duplicates", topic.duplicates, model.duplicates),
            ("dropped", topic.dropped, model.dropped),
            ("unrouted", topic.unrouted, model.unrouted),
            ("dispatched", topic.dispatched, model.dispatched),
            ("weight", topic.weight, model.held()),
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
        let parked: Vec<_> = model
            .lanes
            .iter()
            .map(|lane| model.parked_lines(lane.slot))
            .collect();
        let order = Order {
            messages: &model.messages,
            delayed: model.has_delayed,
            split: model.setup.partitions.is_some(),
        };
        let lanes = model.lanes.iter_mut().zip(parked);
        for (real, (lane, parked)) in topic.subscriptions.iter().zip(lanes) {
            assert_eq!(real.name, NAMES[lane.slot]);
            lane.check(&order, real);
            let settlements = Settlements {
                stale: real.stale,
                timed_out: real.timed_out,
                abandoned: real.abandoned,
            };
            assert_eq!(settlements, lane.settlements);
            assert_eq!(real.leased, lane.out.len() as u64);
            assert_eq!(real.blocked_keys, lane.held_lines() as u64);
            assert_eq!(real.parked_keys, parked as u64);
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

    pub fn check_letters(&mut self, evicted: u64) {
        let shapes = self.model.setup.shapes;
        let mut real = self.letters();
        real.retain(|letter| shapes[letter.slot].is_exact());
        real.sort_by_key(Letter::order);
        self.model.letters.sort_by_key(Letter::order);
        if evicted == 0 {
            assert_eq!(real, self.model.letters);
        }
        for letter in &real {
            assert!(self.model.letters.contains(letter), "who wrote {letter:?}?");
        }
        self.model.letters = real;
    }

    /// The engine knows when it must next be run: never later than the model.
    pub fn check_deadline(&self) {
        if let Some(at) = self.model.next_deadline() {
            let wait = ticks(at - self.model.now);
            let real = self.broker.next_deadline();
            assert!(real.is_some_and(|real| real <= wait), "{real:?} > {wait:?}");
        }
    }

    /// Each lane says why it waits.
    pub fn check_gates(&self) {
        let now = self.model.now;
        let topic = self.topic.metrics();
        for (lane, real) in self.model.lanes.iter().zip(topic.subscriptions) {
            let told = real.waiting_for.map(|waiting| waiting.reason);
            let told = told.filter(|reason| Gate::REASONS.contains(reason));
            let holds = lane.gate.holds(now);
            let is_told = told == holds || told.is_none() && !lane.asks();
            // A lane is told of a longer wait when the one that it waits for is over.
            let is_told = is_told || told == Some(WaitingFor::Rate) && lane.gate.is_held_off;
            let follows = lane.gate.counts() || lane.shape.by_level;
            let went = !follows || holds.is_some() || !lane.asks();
            assert!(went, "something may go to {}", real.name);
            assert!(is_told, "{} waits for {holds:?}, not {told:?}", real.name);
        }
    }

    /// Where the newest of a key takes the place of the one that waits, that one is handled, or
    /// waits as long as the lane is held.
    pub fn check_conflation(&self) {
        let topic = self.topic.metrics();
        for (lane, real) in self.model.lanes.iter().zip(topic.subscriptions) {
            if !lane.shape.conflates || lane.phase != Phase::Open {
                continue;
            }
            let again = lane.calls.iter().filter(|call| call.2 > 0).count() as u64;
            let redriven = lane.counts.redriven - again;
            let left = match lane.gate.holds(self.model.now) {
                Some(_) => self.left_to_handle(lane) + redriven,
                None => {
                    assert_eq!(self.left_to_handle(lane), 0, "the newest are handled");
                    0
                }
            };
            assert_eq!(real.queued, left, "one of each key waits in {}", real.name);
        }
    }

    /// How many were not handled that no other has replaced.
    fn left_to_handle(&self, lane: &Lane) -> u64 {
        let key = |id: &u64| self.model.messages[id].key;
        let expires = |id: &u64| self.model.messages[id].expires;
        let offered = lane.offered.iter().enumerate();
        let unreplaced = offered.filter(|(at, id)| {
            let mut later = lane.offered[at + 1..].iter();
            key(id).is_none() || !later.any(|other| key(other) == key(id))
        });
        let called = |id: u64| lane.calls.iter().any(|call| call.0 == id && call.2 == 0);
        let is_over = |id: &u64| expires(id).is_some_and(|at| at <= self.model.now);
        let left = unreplaced.filter(|(_, id)| !called(**id) && !is_over(id));
        left.count() as u64
    }

    /// The first message of a batch lingers no longer than it should.
    pub fn check_lingers(&self) {
        for lane in &self.model.lanes {
            let Some(linger) = lane.shape.linger() else {
                continue;
            };
            let called = |id: u64| lane.calls.iter().any(|call| call.0 == id);
            if lane.gate.holds(self.model.now).is_some() {
                continue;
            }
            if let Some(first) = lane.offered.iter().find(|id| !called(**id)) {
                let age = self.model.now - self.model.messages[first].accepted;
                assert!(age < linger, "message {first} lingers for {age} ticks");
            }
        }
    }
}

impl Lane {
    /// What is tried in order: first attempts, and under a policy that blocks all attempts of
    /// what waits for each other.
    fn check_order(&self, real: &[Call], order: &Order<'_>) {
        let is_first = |call: &Call| (call.1, call.2) == (1, 0);
        let lines = (0..LINES).map(Some);
        let line_of = |call: &Call| match (order.split, order.messages[&call.0].key) {
            (true, key) => key,
            (false, key) => self.shape.line_of(key),
        };
        let has_order = !order.split && !self.shape.is_shared();
        // A delayed message that has to wait is filed by its id.
        let has_order = has_order && !(self.shape.blocks() && order.delayed);
        for line in lines.chain([None]) {
            if line.is_none() && !has_order {
                continue;
            }
            let all = self.shape.blocks() && line.is_some();
            let chosen = |calls: &[Call]| -> Vec<Call> {
                let calls = calls.iter().filter(|call| line_of(call) == line);
                calls
                    .filter(|call| all || is_first(call))
                    .copied()
                    .collect()
            };
            let (real, model) = (chosen(real), chosen(&self.calls));
            assert_eq!(real, model, "order of {line:?} in {}", NAMES[self.slot]);
        }
    }

    /// First attempts are in accept order, and no message has two: all together or, where one may
    /// take the place of another, those of each key.
    fn check_first_attempts(&self, order: &Order<'_>) {
        let line_of = |id: &u64| self.shape.conflates.then(|| order.messages[id].key);
        let lines: BTreeSet<_> = self.offered.iter().map(line_of).collect();
        for line in lines {
            let mut offered = self.offered.iter().filter(|id| line_of(id) == line);
            let first = self.calls.iter().filter(|call| (call.1, call.2) == (1, 0));
            let mut first = first.filter(|call| line_of(&call.0) == line);
            let in_order = first.all(|call| offered.any(|id| *id == call.0));
            assert!(in_order, "first attempts in accept order, no message twice");
        }
    }

    pub fn check(&mut self, order: &Order<'_>, real: &SubscriptionMetrics) {
        let (queued, real) = (real.queued, &real.counts);
        let calls = self.log.take();
        self.check_takes();
        if self.shape.is_exact() {
            self.check_order(&calls, order);
            let mut calls = calls;
            calls.sort_unstable();
            self.calls.sort_unstable();
            assert_eq!(calls, self.calls, "calls of {}", NAMES[self.slot]);
            self.calls.clear();
            self.counts.in_flight = self.out.len() as u64;
            assert_eq!(*real, self.counts, "counts of {}", NAMES[self.slot]);
            let waiting = (self.occupied() - self.waiting.len() - self.out.len()) as u64;
            assert_eq!(queued, waiting, "queued for {}", NAMES[self.slot]);
            return;
        }
        assert_eq!(real.made, self.counts.made);
        assert_eq!(real.filtered, self.counts.filtered);
        assert_eq!(real.redriven, self.counts.redriven);
        assert!(real.made - real.ended() <= self.shape.capacity as u64);
        // The log goes on from check to check.
        self.calls.extend(calls);
        assert_eq!(real.attempts, self.calls.len() as u64);
        self.check_first_attempts(order);
        let mut last = BTreeMap::new();
        let mut acked = 0;
        for &(id, attempt, generation) in &self.calls {
            let before = last.insert((id, generation), attempt).unwrap_or(0);
            // A message that is kept for late subscriptions may become a letter of one name twice.
            let begins_again = attempt == 1 && generation > 0;
            let before = if begins_again { 0 } else { before };
            assert_eq!(attempt, before + 1, "attempts without gaps");
            let said = |attempt| match (self.shape.takes_batches(), attempt, generation) {
                (true, 1, 0) => batch_answer(id, self.slot),
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
