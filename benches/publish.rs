//! What a publish costs its caller: admission and the queue, nothing behind it.
//!
//! The broker is manual, so nobody dispatches while the clock runs; the queue is
//! emptied between iterations.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream::{Broker, BuildError};

/// Messages per iteration.
const MESSAGES: usize = 1_024;
/// Messages that share a slot of the queue.
const CHUNK: usize = 64;
const PAYLOAD: [u8; 64] = [7; 64];

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group
        .throughput(Throughput::Elements(MESSAGES as u64))
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    let broker = manual().expect("a manual broker starts no threads");
    let topic = broker
        .topic("bench")
        .capacity(MESSAGES)
        .open()
        .expect("the name is free");
    let subscription = topic.subscribe("sink", |_| Ok(())).expect("likewise");

    group.bench_function(BenchmarkId::new("single", PAYLOAD.len()), |b| {
        b.iter_batched(
            || broker.run_until_idle(),
            |_| {
                for _ in 0..MESSAGES {
                    topic
                        .publish(black_box(PAYLOAD))
                        .expect("the queue is empty");
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function(BenchmarkId::new("batch of 64", PAYLOAD.len()), |b| {
        b.iter_batched(
            || broker.run_until_idle(),
            |_| {
                for _ in 0..MESSAGES / CHUNK {
                    let chunk = black_box([PAYLOAD; CHUNK]);
                    topic.publish_batch(chunk).expect("the queue is empty");
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    broker.run_until_idle();
    let counts = subscription.metrics().counts;
    assert_eq!(counts.delivered, topic.metrics().published);
}

fn manual() -> Result<Broker, BuildError> {
    Broker::builder().workers(0).build()
}

criterion_group!(benches, publish);
criterion_main!(benches);
