//! Subscriptions come and go.

use millstream::store::Start;
use millstream::{
    Batched, Delivery, DeliveryBatch, LaneFull, Nack, Subscription, Unsubscribe, Unsubscribed,
};

use super::calls::Call;
use super::run::Pair;
use super::{From, NAMES};
use crate::answers::{Answer, answer, batch_answer, nack};
use crate::harness::Log;

/// What each handler does: writes down its calls, and returns what the program says.
#[derive(Clone)]
struct Script {
    slot: usize,
    calls: Log<Call>,
}

impl Script {
    fn note(&self, delivery: &Delivery<'_, String>) {
        self.calls.push(Call {
            id: delivery.id().get(),
            attempt: delivery.attempt(),
            generation: delivery.generation(),
            is_replayed: delivery.is_replayed(),
        });
    }

    fn one(&self, delivery: &Delivery<'_, String>) -> Result<(), Nack> {
        self.note(delivery);
        nack(answer(delivery.id().get(), self.slot, delivery.attempt()))
    }

    fn batch(&self, batch: &mut DeliveryBatch<'_, String>) -> Result<(), Nack> {
        batch.iter().for_each(|delivery| self.note(&delivery));
        // A later attempt comes alone, unless an earlier process has made those before it.
        let is_alone = batch.len() == 1;
        let answers: Vec<_> = batch
            .iter()
            .map(|delivery| {
                let (id, attempt) = (delivery.id().get(), delivery.attempt());
                match (attempt, delivery.generation()) {
                    (1, 0) => batch_answer(id, self.slot),
                    _ => match answer(id, self.slot, attempt) {
                        // A panic would be that of its neighbors, too.
                        Answer::Panic if !is_alone => Answer::Retry,
                        said => said,
                    },
                }
            })
            .collect();
        for (at, said) in answers.into_iter().enumerate() {
            if let Err(nack) = nack(said) {
                batch.nack(at, nack);
            }
        }
        Ok(())
    }
}

impl Pair {
    pub fn subscribe(&mut self, topic: usize, slot: usize) {
        if self.handles[topic][slot].is_some() {
            return;
        }
        let log = Log::new();
        let script = Script {
            slot,
            calls: log.clone(),
        };
        let subscription = self.subscribe_with(topic, script);
        self.handles[topic][slot] = Some((subscription, log));
        let model = &mut self.model[topic];
        let stored = model.stored.len() as u64;
        model.lanes[slot].come(stored);
    }

    fn subscribe_with(&self, topic: usize, script: Script) -> Subscription {
        let shape = self.setup.shapes[script.slot];
        let mut builder = self.topic(topic).subscription(NAMES[script.slot]);
        builder = builder
            .capacity(shape.capacity)
            .on_failure(shape.on_failure)
            .on_exhausted(shape.on_exhausted)
            .from(match shape.from {
                From::Latest => Start::Latest,
                From::Earliest => Start::Earliest,
                From::Seq(seq) => Start::Seq(seq),
            });
        if shape.is_durable {
            builder = builder.durable();
        }
        if shape.waits {
            builder = builder.when_full(LaneFull::Wait);
        }
        if let Some(refuses) = shape.refuses {
            builder = builder.filter(move |delivery| !delivery.id().get().is_multiple_of(refuses));
        }
        let subscribed = match shape.batches {
            None => builder.subscribe(move |delivery| script.one(delivery)),
            Some(size) => {
                let size = size.min(shape.capacity);
                builder.subscribe_batches(Batched::of(size), move |batch| script.batch(batch))
            }
        };
        subscribed.expect("all of it is stored")
    }

    pub fn unsubscribe(&mut self, topic: usize, slot: usize, mode: Unsubscribe) {
        let Some((subscription, log)) = self.handles[topic][slot].take() else {
            return;
        };
        let last = subscription.unsubscribe(mode);
        assert!(matches!(last, Unsubscribed::Ended(_)), "{last:?}");
        self.judge(topic, slot, &log);
        if mode == Unsubscribe::DeadLetter {
            self.note_buried(topic, slot);
        }
        self.model[topic].lanes[slot].go();
        self.broker().run_until_idle();
        assert_eq!(log.len(), 0, "no call after the unsubscribe");
    }

    pub fn forget(&mut self, topic: usize, slot: usize) {
        let Some((subscription, log)) = self.handles[topic][slot].take() else {
            return;
        };
        drop(subscription);
        self.broker().run_until_idle();
        assert_eq!(log.len(), 0, "no call after the end");
        self.model[topic].lanes[slot].go();
    }
}
