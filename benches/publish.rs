//! What a publish costs its caller: admission and the queue, nothing behind it.
//!
//! The broker is manual, so nobody dispatches while the clock runs; the queue is
//! emptied between iterations.

mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use millstream::{Broker, Topic};
use support::{MESSAGES, group, manual};

fn publish(c: &mut Criterion) {
    measure::<64>(c, "64 bytes", |_, topic, payload| {
        topic.publish(payload).expect("the queue is empty");
    });
    measure::<1_024>(c, "1,024 bytes", |_, topic, payload| {
        topic.publish(payload).expect("the queue is empty");
    });
    measure::<64>(c, "64 bytes, by name", |broker, _, payload| {
        let published = broker.publish(black_box("bench"), payload);
        published.expect("the queue is empty");
    });
    measure::<64>(c, "64 bytes, with a key", |_, topic, payload| {
        let published = topic.message(payload).key("device-17").publish();
        published.expect("the queue is empty");
    });
}

fn measure<const BYTES: usize>(
    c: &mut Criterion,
    name: &str,
    publish: impl Fn(&Broker, &Topic<[u8; BYTES]>, [u8; BYTES]),
) {
    let broker = manual();
    let topic = broker.topic("bench").open().expect("the name is free");
    let subscription = topic.subscribe("sink", |_| Ok(())).expect("likewise");
    let mut group = group(c, "publish", MESSAGES);
    group.bench_function(name, |b| {
        b.iter_batched(
            || broker.run_until_idle(),
            |_| {
                for _ in 0..MESSAGES {
                    publish(&broker, &topic, black_box([7; BYTES]));
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    broker.run_until_idle();
    let delivered = subscription.metrics().counts.delivered;
    assert_eq!(delivered, topic.metrics().published);
}

criterion_group!(benches, publish);
criterion_main!(benches);
