//! From publish to the end of the last handler call, in deliveries per second.
//!
//! `manual` runs everything on one thread: what the engine costs, without
//! scheduling. `threads` is one publisher and one subscription on one worker,
//! timed until the last message has been handled, count and order checked.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream::{Broker, PublishError, Subscription, Topic};

/// Messages per iteration.
const MESSAGES: u64 = 1_024;
/// Deliberately roomy, so that backpressure is rare.
const CAPACITY: usize = 65_536;
/// Longer than any run takes, so that only a hang reaches it.
const HANG: Duration = Duration::from_secs(60);

/// A number to check the order by, padded to 64 bytes.
#[derive(Clone, Copy)]
struct Numbered {
    number: u64,
    _rest: [u8; 56],
}

impl Numbered {
    fn new(number: u64) -> Self {
        Self {
            number,
            _rest: [7; 56],
        }
    }
}

fn manual(c: &mut Criterion) {
    let mut group = c.benchmark_group("end to end, manual");
    group
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1_500));
    for subscribers in [1, 4, 16] {
        let broker = Broker::builder()
            .workers(0)
            .build()
            .expect("a manual broker starts no threads");
        let topic = open(&broker);
        let ordered: Vec<_> = (0..subscribers).map(|n| Ordered::join(&topic, n)).collect();
        let mut published = 0;
        group.throughput(Throughput::Elements(MESSAGES * subscribers));
        group.bench_function(BenchmarkId::new("subscriptions", subscribers), |b| {
            b.iter(|| {
                for _ in 0..MESSAGES {
                    let payload = black_box(Numbered::new(published));
                    topic.publish(payload).expect("the queue is empty");
                    published += 1;
                }
                broker.run_until_idle()
            });
        });
        ordered.iter().for_each(|ordered| ordered.check(published));
    }
    group.finish();
}

fn threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("end to end, threads");
    group
        .throughput(Throughput::Elements(MESSAGES))
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(2_500));
    let broker = Broker::builder()
        .workers(1)
        .build()
        .expect("the machine has a thread to spare");
    let topic = open(&broker);
    let ordered = Ordered::join(&topic, 0);
    let mut published = 0;
    group.bench_function("1 publisher, 1 subscription", |b| {
        b.iter_custom(|iterations| {
            let began = Instant::now();
            for _ in 0..iterations * MESSAGES {
                publish_or_wait(&topic, Numbered::new(published));
                published += 1;
            }
            ordered.wait_for(published);
            began.elapsed()
        });
    });
    ordered.check(published);
    group.finish();
}

fn open(broker: &Broker) -> Topic<Numbered> {
    let topic = broker.topic("bench").capacity(CAPACITY);
    topic
        .lane_capacity(CAPACITY)
        .open()
        .expect("the name is free")
}

fn publish_or_wait(topic: &Topic<Numbered>, payload: Numbered) {
    let mut payload = payload;
    while let Err(refused) = topic.publish(payload) {
        let PublishError::Full(back) = refused else {
            panic!("a running broker refuses nothing else: {refused}");
        };
        payload = back;
        thread::yield_now();
    }
}

/// A subscription that expects the numbers from 0 upwards.
struct Ordered {
    handled: Arc<AtomicU64>,
    misplaced: Arc<AtomicU64>,
    _subscription: Subscription,
}

impl Ordered {
    fn join(topic: &Topic<Numbered>, number: u64) -> Self {
        let handled = Arc::new(AtomicU64::new(0));
        let misplaced = Arc::new(AtomicU64::new(0));
        let (counts, misplaces) = (Arc::clone(&handled), Arc::clone(&misplaced));
        let mut expected = 0;
        let subscription = topic.subscribe(&format!("sink-{number}"), move |delivery| {
            if delivery.payload().number != expected {
                misplaces.fetch_add(1, Ordering::Relaxed);
            }
            expected += 1;
            counts.store(expected, Ordering::Release);
            Ok(())
        });
        Self {
            handled,
            misplaced,
            _subscription: subscription.expect("the name is free"),
        }
    }

    fn wait_for(&self, count: u64) {
        let until = Instant::now() + HANG;
        while self.handled.load(Ordering::Acquire) < count {
            assert!(Instant::now() < until, "messages are missing");
            thread::yield_now();
        }
    }

    fn check(&self, count: u64) {
        assert_eq!(self.handled.load(Ordering::Acquire), count);
        assert_eq!(self.misplaced.load(Ordering::Relaxed), 0);
    }
}

criterion_group!(benches, manual, threads);
criterion_main!(benches);
