//! Takes the steps of a program on the engine and on the model.

mod changes;
mod gates;
mod handle;
mod leases;
mod letters;
mod members;
mod partitions;
mod publish;
mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use millstream::{Broker, Immediate, ManualClock, MessageId, Topic, Tracker};

use crate::exclusions::step_within;
use crate::harness::manual;
use crate::program::{
    How, OneByOne, Panics, Retain, SLOTS, Setup, Step, batched, remembers, ticks,
};
use crate::reference::{Lane, Model, Phase};
pub use handle::Handle;
use leases::Held;
use members::Present;
pub use subscribe::Script;

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
    /// The ids of messages that were published with a delay.
    pub receipts: Vec<MessageId>,
    /// The ids of messages whose end their publisher wants to know, by their tracker.
    pub tracked: Vec<(Tracker, Vec<u64>)>,
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
        if let Some(dedup) = setup.dedup {
            builder = builder.dedup(remembers(dedup));
        }
        if let Some(limit) = setup.weight_limit {
            builder = builder.weight_limit(limit, |payload| *payload);
        }
        match setup.retain {
            Some(Retain::Last(messages)) => builder = builder.retain_last(messages),
            Some(Retain::PerKey(keys)) => builder = builder.retain_last_per_key(keys),
            None => {}
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
            receipts: Vec::new(),
            tracked: Vec::new(),
            captured: Arc::new(()),
            taken: 0,
        };
        pair.step(&Step::Swap(pair.model.how));
        pair
    }

    pub fn step(&mut self, step: &Step) {
        if let Some(step) = step_within(&self.model, *step) {
            self.take(step);
            self.check();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publish(key, ttl) => self.publish(key, ttl),
            Step::PublishOnce(id) => self.publish_once(id),
            Step::PublishBatch(count) => self.publish_batch(count),
            Step::PublishMessages(count, key, ttl) => self.publish_messages(count, key, ttl),
            Step::PublishAfter(delay) => self.publish_after(delay),
            Step::CancelDelayed(at) => self.cancel_delayed(at),
            Step::Run => {
                self.broker.run_until_idle();
                self.model.run();
                self.check();
                self.check_deadline();
                self.check_lingers();
                self.check_gates();
                self.check_conflation();
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
            Step::SetCapacity(messages) => self.set_capacity(messages),
            Step::SetOverflow(overflow) => self.set_overflow(overflow),
            Step::SetWeightLimit(limit) => self.set_weight_limit(limit),
            Step::SetDedup(window, ids) => self.set_dedup((window, ids)),
            Step::Widen(slot, by) => self.widen(slot, by),
            Step::Reattach(slot) => self.reattach(slot),
            Step::SetOwnRetry(slot, policy) => {
                if let Some(handle) = &self.handles[slot] {
                    let set = handle.set_retry(policy.real());
                    set.expect("a sound policy");
                    self.lane(slot).own = Some(policy);
                }
            }
            Step::Subscribe(slot) => self.subscribe(slot),
            Step::Unsubscribe(slot, mode) => self.unsubscribe(slot, mode),
            Step::Forget(slot) => self.forget(slot),
            Step::Join(at, name) => {
                let group = self.model.setup.group(at);
                group.into_iter().for_each(|slot| self.join(slot, name));
            }
            Step::Leave(at, name) => {
                let group = self.model.setup.group(at);
                group.into_iter().for_each(|slot| self.leave(slot, name));
            }
            Step::Receive(at, most) => {
                let pull = self.model.setup.pull(at);
                pull.into_iter().for_each(|slot| self.receive(slot, most));
            }
            Step::Settle(place, settle) => self.settle(place, settle),
            Step::SetPaused(scope, is_paused) => self.set_paused(scope, is_paused),
            Step::Break(slot, how) => self.change_breaker(slot, how),
            Step::SetRate(slot, rate) => self.set_rate(slot, rate),
            Step::HoldOff(slot, time) => self.hold_off(slot, time),
            Step::RetryAllNow(slot) => {
                if let Some(handle) = &self.handles[slot] {
                    let real = handle.retry_all_now();
                    let at = self.place_of(slot);
                    self.model.lanes[at].retry_all_now(real);
                }
            }
            Step::Redrive(slot) => self.redrive(slot),
            Step::Purge(slot) => self.purge(slot),
            Step::Read => self.read(),
        }
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

    fn swap(&mut self, how: How) {
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

    /// Each message has ended once for each subscription that it was offered to.
    fn check_tracked(&self) {
        for (tracker, ids) in &self.tracked {
            let outcome = tracker.outcome().expect("all has ended");
            let offered = |id| {
                let lanes = self.model.lanes.iter();
                lanes
                    .filter(|lane| lane.offered[lane.retained..].contains(id))
                    .count()
            };
            let expected: usize = ids.iter().map(|id| offered(id).max(1)).sum();
            let ends = outcome.ends() + outcome.filtered;
            assert!(ends >= expected as u64, "{tracker:?}");
        }
    }

    /// A drain accounts for every message, and nothing of the handlers' is left.
    pub fn finish(self) {
        let published = self.model.issued;
        // A drain of the topic does what one of the broker does, which then has nothing to do.
        let drained = match published % 2 {
            0 => self.broker.drain(Duration::ZERO),
            _ => self.topic.drain(Duration::ZERO),
        };
        let report = match drained {
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
        let nothing_left = self.broker.drain(Duration::ZERO);
        let all = nothing_left.unwrap_or_else(|error| *error.report());
        assert_eq!((all.made, all.delivered), (report.made, report.delivered));
        self.broker.metrics().balance().expect("the books balance");
        self.check_tracked();
        let captured = Arc::downgrade(&self.captured);
        drop(self);
        assert_eq!(captured.strong_count(), 0, "a handler was leaked");
    }
}
