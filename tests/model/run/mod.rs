//! Takes the steps of a program on the engine and on the model.

mod leases;
mod letters;
mod members;
mod partitions;
mod publish;
mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use millstream::{Broker, Immediate, ManualClock, OnFailure, Overflow, Topic};

use crate::harness::manual;
use crate::program::{Hands, How, OneByOne, Panics, SLOTS, Setup, Shape, Step, batched, ticks};
use crate::reference::{Lane, Model, Phase};
use leases::Held;
use letters::slot_of;
use members::Present;
pub use subscribe::{Handle, Script};

pub struct Pair {
    pub broker: Broker,
    pub clock: ManualClock,
    pub topic: Topic<u64>,
    pub handles: [Option<Handle>; SLOTS],
    /// The members of groups, by slot.
    pub members: [Vec<Present>; SLOTS],
    /// Members that have ever joined.
    pub joined: usize,
    /// Leases that were not settled yet.
    pub held: Vec<Held>,
    pub model: Model,
    /// Held by every handler.
    pub captured: Arc<()>,
    /// Letters taken out by redrives and purges.
    pub taken: usize,
}

impl Pair {
    pub fn new(setup: Setup) -> Self {
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
        if let Some(partitions) = setup.partitions {
            builder = builder.partitions(partitions);
        }
        let topic = builder.open().expect("the settings are sound");
        let mut pair = Self {
            broker,
            clock,
            topic,
            handles: [None, None, None],
            members: Default::default(),
            joined: 0,
            held: Vec::new(),
            model: Model::new(setup),
            captured: Arc::new(()),
            taken: 0,
        };
        pair.swap(pair.model.how);
        pair
    }

    pub fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish(key, ttl) => {
                // Which of what lingers shares a batch with what expires is nobody's to
                // know, and so what a redrive finds: no time to live together with those.
                let ttl = ttl.filter(|_| !self.has_lingers());
                self.publish(key, ttl);
            }
            Step::PublishBatch(count) => self.publish_batch(count),
            Step::PublishAfter(delay) => {
                // See `swap`.
                // The delayed one stands behind younger ones in a lane, and before them in a line.
                let shapes = &self.model.setup.shapes;
                let files = |shape: &Shape| {
                    let blocks = shape.on_failure == OnFailure::BlockSubscription;
                    blocks || matches!(shape.hands, Hands::Callers { .. })
                };
                if !matches!(self.model.how, How::Batched { .. }) && !shapes.iter().any(files) {
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
                    .any(|shape| shape.is_exact() && shape.takes_batches())
                {
                    return;
                }
                self.topic.flush();
                self.model.flush_to = self.model.issued;
            }
            Step::Split(partitions) => self.split(partitions),
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
                    let set = handle.subscription().set_retry(policy.real());
                    set.expect("a sound policy");
                    self.lane(slot).own = Some(policy);
                }
            }
            Step::Subscribe(slot) => self.subscribe(slot),
            Step::Unsubscribe(slot, mode) => self.unsubscribe(slot, mode),
            Step::Forget(slot) => self.forget(slot),
            Step::Join(slot, name) => self.join(slot, name),
            Step::Leave(slot, name) => self.leave(slot, name),
            Step::Receive(slot, most) => self.receive(slot, most),
            Step::Settle(place, settle) => self.settle(place, settle),
            Step::Redrive(slot) => self.redrive(slot),
            Step::Purge(slot) => {
                let chosen = |other: usize| slot.is_none_or(|slot| slot == other);
                let letters = self.topic.dead_letters();
                let expected = self
                    .letters()
                    .iter()
                    .filter(|letter| chosen(letter.slot))
                    .count();
                let purged = letters.purge(|letter| chosen(slot_of(letter.subscription())));
                assert_eq!(purged, expected);
                self.taken += purged;
                self.model.letters.retain(|letter| !chosen(letter.slot));
            }
        }
        self.check();
    }

    pub fn has_lingers(&self) -> bool {
        let mut shapes = self.model.setup.shapes.iter();
        shapes.any(|shape| shape.linger().is_some())
    }

    /// The open lane of a slot.
    pub fn lane(&mut self, slot: usize) -> &mut Lane {
        let at = self.place_of(slot);
        &mut self.model.lanes[at]
    }

    pub fn place_of(&self, slot: usize) -> usize {
        let mut lanes = self.model.lanes.iter();
        lanes
            .position(|lane| lane.slot == slot && lane.phase == Phase::Open)
            .expect("a handle has an open lane")
    }

    pub fn swap(&mut self, how: How) {
        // An eviction takes away what a plan has counted, and a delayed message
        // fills the topic without waiting in it. Whether a plan had been made by
        // then depends on who has looked while lanes were full: no batches of the
        // topic's together with these, but in the tests below.
        let model = &self.model;
        let unsure = model.setup.overflow == Overflow::DropOldest
            || !model.delayed.is_empty()
            || model.setup.partitions.is_some();
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

    /// A drain accounts for every message, and nothing of the handlers' is left.
    pub fn finish(self) {
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
