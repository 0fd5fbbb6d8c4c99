//! Subscribes and unsubscribes.

use std::sync::Arc;

use millstream::error::SubscribeError;
use millstream::protect::Priorities;
use millstream::{
    Delivery, DeliveryBatch, Nack, NoSubscribers, Pull, SubscriptionOptions, Unsubscribe,
    Unsubscribed,
};

use super::Pair;
use super::handle::Handle;
use crate::answers::{answer, batch_answer, nack};
use crate::harness::Log;
use crate::program::{Hands, NAMES, batched, ticks};
use crate::reference::{Call, Gate, Lane, Phase};

/// What each handler does: writes down its calls, and returns what the program says.
#[derive(Clone)]
pub struct Script {
    pub slot: usize,
    pub calls: Log<Call>,
    /// So that a handler that was leaked is seen.
    pub _captured: Arc<()>,
}

impl Script {
    fn note(&self, delivery: &Delivery<'_, u64>) {
        let (id, attempt) = (delivery.id().get(), delivery.attempt());
        self.calls.push((id, attempt, delivery.generation()));
    }

    pub fn one(&self, delivery: &Delivery<'_, u64>) -> Result<(), Nack> {
        self.note(delivery);
        nack(answer(delivery.id().get(), self.slot, delivery.attempt()))
    }

    fn batch(&self, batch: &mut DeliveryBatch<'_, u64>) -> Result<(), Nack> {
        batch.iter().for_each(|delivery| self.note(&delivery));
        let first = batch.get(0).expect("no batch is empty");
        let (id, attempt) = (first.id().get(), first.attempt());
        if attempt > 1 || first.generation() > 0 {
            assert_eq!(batch.len(), 1, "what comes back comes alone");
            return nack(answer(id, self.slot, attempt));
        }
        for (at, delivery) in batch.iter().enumerate() {
            if let Err(nack) = nack(batch_answer(delivery.id().get(), self.slot)) {
                batch.nack(at, nack);
            }
        }
        Ok(())
    }
}

impl Pair {
    pub fn subscribe(&mut self, slot: usize) {
        let shape = self.model.setup.shapes[slot];
        let script = Script {
            slot,
            calls: Log::new(),
            _captured: Arc::clone(&self.captured),
        };
        let log = script.calls.clone();
        let real = self.subscribe_with(script);
        if self.handles[slot].is_some() {
            assert!(real.is_err(), "the name is taken");
            return;
        }
        self.handles[slot] = Some(real.expect("the name is free"));
        let is_first = self.model.open().next().is_none();
        let retains = self.model.setup.no_subscribers == NoSubscribers::Retain;
        let after = match retains && is_first || self.model.setup.retain.is_some() {
            true => 0,
            false => self.model.issued,
        };
        let mut lane = Lane::new(slot, shape, after, log);
        lane.gate = Gate::under(self.model.pauses);
        self.model.give_kept(&mut lane);
        self.model.lanes.push(lane);
        if let Hands::Members(count) = shape.hands {
            (0..count).for_each(|member| self.join(slot, member));
        }
    }

    fn subscribe_with(&self, script: Script) -> Result<Handle, SubscribeError> {
        let shape = self.model.setup.shapes[script.slot];
        let mut options = SubscriptionOptions::new()
            .capacity(shape.capacity)
            .when_full(shape.when_full)
            .on_failure(shape.on_failure)
            .on_exhausted(shape.on_exhausted);
        if let Some(policy) = shape.own {
            options = options.retry(policy.real());
        }
        if shape.by_level {
            options = options.priorities(Priorities::strict());
        }
        if shape.conflates {
            options = options.conflate();
        }
        if let Some(hold) = shape.hold {
            options = options.hold(hold);
        }
        let builder = self.topic.subscription(NAMES[script.slot]);
        let mut builder = builder.options(&options);
        if shape.refuses.is_some() {
            builder = builder.filter(move |delivery| !shape.refuses(delivery.id().get()));
        }
        let subscribed = match shape.hands {
            Hands::One => builder.subscribe(move |delivery| script.one(delivery)),
            Hands::Several(count) => builder
                .concurrency(count)
                .subscribe_shared(move |delivery| script.one(delivery)),
            Hands::Batches { size, linger } => {
                builder.subscribe_batches(batched(size, linger), move |batch| script.batch(batch))
            }
            Hands::Members(_) => return builder.group().map(Handle::Group),
            Hands::Callers { credits, deadline } => {
                let pull = Pull::default()
                    .credits(credits)
                    .ack_deadline(ticks(deadline));
                return builder.pull(pull).map(Handle::Pull);
            }
        };
        subscribed.map(Handle::Handler)
    }

    pub fn unsubscribe(&mut self, slot: usize, mode: Unsubscribe) {
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
        self.members[slot].clear();
    }

    /// The handle is dropped, which cancels what the subscription has.
    pub fn forget(&mut self, slot: usize) {
        if let Some(handle) = self.handles[slot].take() {
            let ends_soon = matches!(handle, Handle::Handler(_));
            drop(handle);
            self.lane(slot).phase = Phase::Cancelling;
            self.members[slot].clear();
            if !ends_soon {
                // Members that leave, or callers that settle, may see to it before its turn.
                self.broker.run_until_idle();
                self.model.run();
            }
        }
    }
}
