//! The disruptor crate: a ring for each topic, a thread for each subscriber.
//!
//! It comes with waits that spin or sleep. With fewer cores than threads a spin
//! starves the very thread it waits for, so this one yields, and so do publishers
//! that find a ring full.

use std::thread;

use disruptor::wait_strategies::WaitStrategy;
use disruptor::{
    MultiConsumerBarrier, MultiProducer, Producer, Sequence, SingleProducer, build_multi_producer,
    build_single_producer,
};

use super::{Answer, Publisher, System};
use crate::check::Checker;
use crate::load::Load;
use crate::payload::Payload;

/// The rings end with their publishers.
pub struct Rings;

/// By topic. A ring with one producer is a faster ring.
pub enum Producers<const WORDS: usize> {
    Single(Vec<SingleProducer<Payload<WORDS>, MultiConsumerBarrier>>),
    Multi(Vec<MultiProducer<Payload<WORDS>, MultiConsumerBarrier>>),
}

/// A ring that producers share can't be smaller.
const LEAST_SHARED: usize = 64;

#[derive(Clone, Copy)]
struct Yielding;

impl WaitStrategy for Yielding {
    fn wait_for(&self, _sequence: Sequence) {
        thread::yield_now();
    }
}

impl<const WORDS: usize> System<WORDS> for Rings {
    type Publisher = Producers<WORDS>;

    fn start(
        load: &Load,
        checkers: Vec<Vec<Checker<WORDS>>>,
    ) -> Answer<(Self, Vec<Producers<WORDS>>)> {
        // A ring's size is a power of two.
        let size = load.capacity.next_power_of_two();
        let empty = || Payload::EMPTY;
        let publishers = if load.publishers == 1 {
            let rings = checkers.into_iter().map(|checkers| {
                let mut ring = build_single_producer(size, empty, Yielding).with_multi_consumer();
                for mut checker in checkers {
                    ring = ring.handle_events_with(move |message, _, _| checker.take(message));
                }
                ring.build()
            });
            vec![Producers::Single(rings.collect())]
        } else {
            let rings = checkers.into_iter().map(|checkers| {
                let size = size.max(LEAST_SHARED);
                let mut ring = build_multi_producer(size, empty, Yielding).with_multi_consumer();
                for mut checker in checkers {
                    ring = ring.handle_events_with(move |message, _, _| checker.take(message));
                }
                ring.build()
            });
            let rings: Vec<_> = rings.collect();
            (0..load.publishers)
                .map(|_| Producers::Multi(rings.clone()))
                .collect()
        };
        Ok((Self, publishers))
    }

    fn stop(self) -> Answer {
        Ok(())
    }
}

impl<const WORDS: usize> Publisher<WORDS> for Producers<WORDS> {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer {
        match self {
            Self::Single(rings) => put(&mut rings[topic], message),
            Self::Multi(rings) => put(&mut rings[topic], message),
        }
        Ok(())
    }

    fn send_batch(
        &mut self,
        topic: usize,
        messages: impl ExactSizeIterator<Item = Payload<WORDS>>,
    ) -> Answer {
        match self {
            Self::Single(rings) => put_batch(&mut rings[topic], messages),
            Self::Multi(rings) => put_batch(&mut rings[topic], messages),
        }
        Ok(())
    }
}

#[inline]
fn put<E: Copy>(ring: &mut impl Producer<E>, message: E) {
    while ring.try_publish(|slot| *slot = message).is_err() {
        thread::yield_now();
    }
}

/// Each message is made in its slot.
#[inline]
fn put_batch<E>(ring: &mut impl Producer<E>, mut messages: impl ExactSizeIterator<Item = E>) {
    let size = messages.len();
    loop {
        let written = ring.try_batch_publish(size, |slots| {
            for (slot, message) in slots.zip(&mut messages) {
                *slot = message;
            }
        });
        if written.is_ok() {
            return;
        }
        thread::yield_now();
    }
}
