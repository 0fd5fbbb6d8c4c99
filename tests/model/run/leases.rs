//! Takes leases and settles them.

use std::time::Duration;

use millstream::Lease;
use millstream::error::{RecvTimeoutError, TryRecvError};
use millstream::pull::LeaseBatch;

use super::{Handle, Pair};
use crate::answers::{Answer, nack};
use crate::program::{Hands, Settle, ticks};

/// What a caller holds, with the slot and the numbers that the model gave it.
pub enum Held {
    One(usize, Lease<u64>, u64),
    Many(usize, LeaseBatch<u64>, Vec<u64>),
}

impl Pair {
    /// Leases one delivery, or a batch of so many.
    pub fn receive(&mut self, slot: usize, most: Option<usize>) {
        let Some(Handle::Pull(pull)) = &self.handles[slot] else {
            return;
        };
        let (one, many) = match most {
            None => (
                pull.try_recv().map(Some).map_err(TryRecvError::is_empty),
                None,
            ),
            Some(most) => match pull.recv_batch(most, Duration::ZERO) {
                Ok(batch) => (Ok(None), Some(batch)),
                Err(error) => (Err(error == RecvTimeoutError::WouldBlock), None),
            },
        };
        // To receive is to run the broker first.
        self.model.run();
        let deliveries = one.iter().flatten().map(Lease::delivery);
        let deliveries = deliveries.chain(many.iter().flat_map(LeaseBatch::iter));
        let calls: Vec<_> = deliveries
            .map(|of| (of.id().get(), of.attempt(), of.generation()))
            .collect();
        let numbers: Vec<_> = calls.iter().map(|call| self.lease(slot, *call)).collect();
        let now = self.model.now;
        let is_dry = !self.lane(slot).has_something_to_lease(now);
        match (one, many) {
            (Ok(Some(lease)), _) => self.held.push(Held::One(slot, lease, numbers[0])),
            (Ok(None), Some(batch)) => {
                assert!(
                    numbers.len() == most.unwrap_or(0) || is_dry,
                    "it leases what there is"
                );
                self.held.push(Held::Many(slot, batch, numbers));
            }
            (received, _) => {
                assert!(
                    matches!(received, Err(true)),
                    "it says that there is nothing"
                );
                assert!(is_dry, "there is something to lease");
            }
        }
    }

    fn lease(&mut self, slot: usize, call: (u64, u32, u16)) -> u64 {
        let lane = self.lane(slot);
        lane.log.push(call);
        let Hands::Callers { deadline, .. } = lane.shape.hands else {
            panic!("only callers lease");
        };
        self.model.lease(self.place_of(slot), call, deadline)
    }

    /// Settles something that is held.
    pub fn settle(&mut self, place: usize, settle: Settle) {
        if self.held.is_empty() {
            return;
        }
        match self.held.remove(place % self.held.len()) {
            Held::One(slot, lease, number) => self.settle_one(slot, lease, number, settle),
            Held::Many(_, batch, numbers) if settle == Settle::Ack => {
                let real = batch.ack_all();
                let settle = |number| self.model.settle(number, Answer::Ack);
                let settled: Vec<_> = numbers.into_iter().map(settle).collect();
                assert!(settled.iter().all(|settled| *settled == real.is_ok()));
            }
            Held::Many(slot, batch, numbers) => {
                for (lease, number) in batch.into_iter().zip(numbers) {
                    self.settle_one(slot, lease, number, settle);
                }
            }
        }
    }

    fn settle_one(&mut self, slot: usize, mut lease: Lease<u64>, number: u64, settle: Settle) {
        assert_eq!(
            lease.is_stale(),
            self.model.is_stale(number),
            "stale or not"
        );
        let (real, settled) = match settle {
            Settle::Ack => (lease.ack(), self.model.settle(number, Answer::Ack)),
            Settle::Nack(said) => {
                let nack = nack(said).expect_err("this is no ack");
                (lease.nack(nack), self.model.settle(number, said))
            }
            Settle::Extend(by) => {
                let real = lease.extend(ticks(by));
                assert_eq!(real.is_ok(), self.model.extend(number, by), "stale or not");
                self.held.push(Held::One(slot, lease, number));
                return;
            }
            Settle::Drop => {
                drop(lease);
                self.model.abandon(number);
                return;
            }
        };
        assert_eq!(real.is_ok(), settled, "stale or not");
        // It is settled once.
        assert!(lease.is_stale());
        assert_eq!(lease.ack().is_ok(), self.model.settle(number, Answer::Ack));
    }
}
