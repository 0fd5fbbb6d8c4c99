//! What shedding costs under `DropOldest`: a publish into a topic that is full, a
//! batch into a lane that is full, and a publisher on a thread that outruns its
//! worker.

mod support;

use std::time::Instant;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use millstream::{Broker, LaneFull, Overflow, Subscription, Topic};
use support::{CHUNK, MESSAGES, group, manual, threaded};

type Payload = [u8; 64];

const PAYLOAD: Payload = [7; 64];

/// The same with room, for comparison, and without: then each publish drops one.
fn full_topic(c: &mut Criterion) {
    let mut group = group(c, "drop oldest, topic", MESSAGES);
    for (name, is_full) in [("with room", false), ("full", true)] {
        let broker = manual();
        let topic = open(&broker);
        let sink = subscribe(&topic, MESSAGES as usize);
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    if is_full {
                        publish(&topic);
                    } else {
                        broker.run_until_idle();
                    }
                },
                |()| publish(&topic),
                BatchSize::PerIteration,
            );
        });
        broker.run_until_idle();
        let metrics = topic.metrics();
        assert_eq!(metrics.dropped > 0, is_full);
        let delivered = sink.metrics().counts.delivered;
        assert_eq!(metrics.published, delivered + metrics.dropped);
    }
    group.finish();
}

/// Dispatch fills the lane many times over before the lane has its turn.
fn full_lane(c: &mut Criterion) {
    let mut group = group(c, "drop oldest, lane", MESSAGES);
    for (name, lane_capacity) in [("with room", MESSAGES as usize), ("full", CHUNK)] {
        let broker = manual();
        let topic = open(&broker);
        let sink = subscribe(&topic, lane_capacity);
        group.bench_function(name, |b| {
            b.iter(|| {
                publish(&topic);
                broker.run_until_idle()
            });
        });
        let counts = sink.metrics().counts;
        assert_eq!(counts.dropped > 0, lane_capacity < MESSAGES as usize);
        let published = topic.metrics().published;
        assert_eq!(published, counts.delivered + counts.dropped);
    }
    group.finish();
}

/// How fast a publisher may be whom nothing holds back.
fn outrun(c: &mut Criterion) {
    let broker = threaded(1);
    let topic = open(&broker);
    let sink = subscribe(&topic, MESSAGES as usize);
    let mut group = group(c, "drop oldest, threads", MESSAGES);
    group.bench_function("publisher", |b| {
        b.iter_custom(|iterations| {
            let began = Instant::now();
            (0..iterations).for_each(|_| publish(&topic));
            began.elapsed()
        });
    });
    group.finish();
    assert!(broker.wait_until_idle(support::HANG), "messages are stuck");
    let metrics = topic.metrics();
    let counts = sink.metrics().counts;
    let ended = metrics.dropped + counts.delivered + counts.dropped;
    assert_eq!(metrics.published, ended);
}

fn open(broker: &Broker) -> Topic<Payload> {
    let topic = broker.topic("bench").capacity(MESSAGES as usize);
    let topic = topic.overflow(Overflow::DropOldest).open();
    topic.expect("the name is free")
}

fn subscribe(topic: &Topic<Payload>, lane_capacity: usize) -> Subscription {
    let subscription = topic.subscription("sink").capacity(lane_capacity);
    let subscription = subscription.when_full(LaneFull::DropOldest);
    let subscription = subscription.subscribe(|_| Ok(()));
    subscription.expect("the name is free")
}

fn publish(topic: &Topic<Payload>) {
    for _ in 0..MESSAGES {
        let published = topic.publish(std::hint::black_box(PAYLOAD));
        published.expect("the oldest makes room");
    }
}

criterion_group!(benches, full_topic, full_lane, outrun);
criterion_main!(benches);
