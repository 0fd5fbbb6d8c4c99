//! What the engine costs without threads: everything from publish to the end of
//! the last handler call on the caller's thread, in deliveries per second.

mod support;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{MESSAGES, Ordered, Route, group, manual, open};

/// A queue full at a time: what the engine costs at its best.
fn bursts(c: &mut Criterion) {
    measure(c, "manual engine, 1,024 messages at a time", MESSAGES);
}

/// A message at a time, as a game loop might: no batch ever forms.
fn singly(c: &mut Criterion) {
    measure(c, "manual engine, 1 message at a time", 1);
}

fn measure(c: &mut Criterion, name: &str, at_a_time: u64) {
    for subscriptions in [1, 4, 16] {
        let broker = manual();
        let topic = open(&broker, "bench", MESSAGES as usize);
        let sinks: Vec<_> = (0..subscriptions)
            .map(|n| Ordered::join(&topic, n))
            .collect();
        let mut route = Route::of(0, &topic);
        let mut group = group(c, name, MESSAGES * subscriptions);
        group.bench_function(BenchmarkId::new("subscriptions", subscriptions), |b| {
            b.iter(|| {
                for _ in 0..MESSAGES / at_a_time {
                    route.publish(at_a_time);
                    broker.run_until_idle();
                }
            });
        });
        group.finish();
        sinks.iter().for_each(|sink| sink.check(route.published()));
    }
}

criterion_group!(benches, bursts, singly);
criterion_main!(benches);
