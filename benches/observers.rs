//! What an observer costs the traffic it observes: three events per delivery on
//! one thread, the observer's own calls included.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream::Broker;

/// Messages per iteration.
const MESSAGES: u64 = 1_000;

fn observers(c: &mut Criterion) {
    let mut group = c.benchmark_group("observers");
    group
        .throughput(Throughput::Elements(MESSAGES))
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    for observers in [0, 1] {
        let broker = Broker::builder()
            .workers(0)
            .build()
            .expect("a manual broker starts no threads");
        let topic = broker.topic("bench").open().expect("the name is free");
        let subscription = topic.subscribe("sink", |_| Ok(())).expect("likewise");
        let events = Arc::new(AtomicU64::new(0));
        let observations: Vec<_> = (0..observers)
            .map(|_| {
                let events = Arc::clone(&events);
                broker.observe(move |_| {
                    events.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        group.bench_function(BenchmarkId::new("observers", observers), |b| {
            b.iter(|| {
                for _ in 0..MESSAGES {
                    topic
                        .publish(black_box([7_u8; 64]))
                        .expect("the queue is empty");
                }
                broker.run_until_idle()
            });
        });
        let delivered = subscription.metrics().counts.delivered;
        let told = events.load(Ordering::Relaxed) + broker.metrics().events_missed;
        assert_eq!(told, 3 * delivered * observers);
        drop(observations);
    }
    group.finish();
}

criterion_group!(benches, observers);
criterion_main!(benches);
