//! What the benches share: how long they measure, a payload that can be told from
//! its neighbors, and a subscription that notices when one is missing.
#![allow(dead_code, reason = "each bench uses its part")]

use std::fmt::Display;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use millstream::{Broker, PublishError, Subscription, Topic};

/// Messages per iteration, and the default capacity of a topic and of a lane.
pub const MESSAGES: u64 = 1_024;
/// Messages that share a slot of the queue.
pub const CHUNK: usize = 64;
/// Deliberately roomy, so that backpressure is rare.
pub const ROOMY: usize = 65_536;
/// Publishers that [`Ordered`] tells apart.
const PUBLISHERS: usize = 4;
/// Longer than any run takes, so that only a hang reaches it.
pub const HANG: Duration = Duration::from_secs(60);

/// A group whose throughput is `elements` for each iteration.
pub fn group<'c>(c: &'c mut Criterion, name: &str, elements: u64) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Elements(elements))
        .sample_size(50)
        // A tenth of the default: drawing the reports took longer than the rest.
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}

/// A broker whose work is done by `run_until_idle`.
pub fn manual() -> Broker {
    let broker = Broker::builder().workers(0).build();
    broker.expect("a manual broker starts no threads")
}

pub fn threaded(workers: usize) -> Broker {
    let broker = Broker::builder().workers(workers).build();
    broker.expect("the machine has threads to spare")
}

/// A topic with so many places, and as many in each of its lanes.
pub fn open(broker: &Broker, name: impl Display, capacity: usize) -> Topic<Numbered> {
    let topic = broker.topic(&name.to_string()).capacity(capacity);
    let topic = topic.lane_capacity(capacity).open();
    topic.expect("the name is free")
}

/// Who published it and as which of theirs, padded to 64 bytes.
#[derive(Clone, Copy)]
pub struct Numbered {
    publisher: usize,
    number: u64,
    _rest: [u8; 48],
}

/// A topic as one publisher sees it, who numbers what it publishes from 0 upwards.
pub struct Route {
    pub topic: Topic<Numbered>,
    publisher: usize,
    published: u64,
}

impl Route {
    pub fn of(publisher: usize, topic: &Topic<Numbered>) -> Self {
        Self {
            topic: topic.clone(),
            publisher,
            published: 0,
        }
    }

    pub fn published(&self) -> u64 {
        self.published
    }

    /// The next message.
    pub fn next(&mut self) -> Numbered {
        let number = self.published;
        self.published += 1;
        black_box(Numbered {
            publisher: self.publisher,
            number,
            _rest: [7; 48],
        })
    }

    /// Publishes so many, for which there is room.
    pub fn publish(&mut self, messages: u64) {
        for _ in 0..messages {
            let payload = self.next();
            self.topic.publish(payload).expect("the queue is empty");
        }
    }

    /// Publishes one, and lets others run for as long as there is no room.
    pub fn publish_or_wait(&mut self) {
        let mut payload = self.next();
        while let Err(refused) = self.topic.publish(payload) {
            let PublishError::Full(back) = refused else {
                panic!("a running broker refuses nothing else: {refused}");
            };
            payload = back;
            thread::yield_now();
        }
    }
}

/// Every publisher, on a thread of its own, publishes `each` messages on its
/// routes in turn. Answers when they began; by now they have finished.
pub fn publish_all(publishers: &mut [Vec<Route>], each: u64) -> Instant {
    let start = Barrier::new(publishers.len() + 1);
    thread::scope(|scope| {
        for routes in publishers {
            scope.spawn(|| {
                start.wait();
                for number in 0..each as usize {
                    let route = number % routes.len();
                    routes[route].publish_or_wait();
                }
            });
        }
        start.wait();
        Instant::now()
    })
}

/// A subscription that expects the messages of each publisher in their order.
pub struct Ordered {
    handled: Arc<AtomicU64>,
    misplaced: Arc<AtomicU64>,
    _subscription: Subscription,
}

impl Ordered {
    pub fn join(topic: &Topic<Numbered>, name: impl Display) -> Self {
        let handled = Arc::new(AtomicU64::new(0));
        let misplaced = Arc::new(AtomicU64::new(0));
        let (counts, misplaces) = (Arc::clone(&handled), Arc::clone(&misplaced));
        let mut expected = [0; PUBLISHERS];
        let mut count = 0;
        let subscription = topic.subscribe(&name.to_string(), move |delivery| {
            let payload = delivery.payload();
            let expected = &mut expected[payload.publisher];
            if payload.number != *expected {
                misplaces.fetch_add(1, Ordering::Relaxed);
            }
            *expected = payload.number + 1;
            count += 1;
            counts.store(count, Ordering::Release);
            Ok(())
        });
        Self {
            handled,
            misplaced,
            _subscription: subscription.expect("the name is free"),
        }
    }

    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Acquire)
    }

    /// Waits until so many have been handled.
    pub fn wait_for(&self, count: u64) {
        let until = Instant::now() + HANG;
        while self.handled() < count {
            assert!(Instant::now() < until, "messages are missing");
            thread::yield_now();
        }
    }

    /// Sees that exactly so many came, in order.
    pub fn check(&self, count: u64) {
        assert_eq!(self.handled(), count);
        assert_eq!(self.misplaced.load(Ordering::Relaxed), 0);
    }
}
