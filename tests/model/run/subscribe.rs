//! Subscribes and unsubscribes.

use std::collections::VecDeque;
use std::sync::Arc;

use millstream::{Delivery, DeliveryCounts, NoSubscribers, Unsubscribe, Unsubscribed};

use super::Pair;
use crate::answers::{answer, batch_answer, nack};
use crate::harness::Log;
use crate::program::{Hands, NAMES, batched};
use crate::reference::{Lane, Phase};

impl Pair {
    pub fn subscribe(&mut self, slot: usize) {
        let shape = self.model.setup.shapes[slot];
        let log = Log::new();
        let builder = self.topic.subscription(NAMES[slot]);
        let mut builder = builder.capacity(shape.capacity).when_full(shape.when_full);
        builder = builder
            .on_failure(shape.on_failure)
            .on_exhausted(shape.on_exhausted);
        if let Some(policy) = shape.own {
            builder = builder.retry(policy.real());
        }
        if let Some(hold) = shape.hold {
            builder = builder.hold(hold);
        }
        let (calls, captured) = (log.clone(), Arc::clone(&self.captured));
        let each = move |delivery: &Delivery<'_, u64>| {
            let (id, attempt) = (delivery.id().get(), delivery.attempt());
            calls.push((id, attempt, delivery.generation()));
            nack(answer(id, slot, attempt))
        };
        let calls = log.clone();
        let real = match shape.hands {
            Hands::One => builder.subscribe(move |delivery| {
                let _ = &captured;
                each(delivery)
            }),
            Hands::Several(count) => builder.subscribe_concurrent(count, move |delivery| {
                let _ = &captured;
                each(delivery)
            }),
            Hands::Batches { size, linger } => {
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
            strays: VecDeque::new(),
            counts: DeliveryCounts::default(),
            offered: Vec::new(),
            calls: Vec::new(),
            log,
        });
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
    }
}
