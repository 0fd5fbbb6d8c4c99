//! What being watched costs the traffic, on one thread: metrics, which are always
//! kept; reading them; an observer, whose own calls are included.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::{Broker, BrokerBuilder};
use support::{MESSAGES, Ordered, Route, group, open};

struct Case {
    name: &'static str,
    builder: fn() -> BrokerBuilder,
    reads_metrics: bool,
    observers: u64,
}

const CASES: [Case; 3] = [
    Case {
        name: "metrics",
        builder: Broker::builder,
        reads_metrics: false,
        observers: 0,
    },
    Case {
        name: "metrics, read every 1,024 messages",
        builder: Broker::builder,
        reads_metrics: true,
        observers: 0,
    },
    Case {
        name: "metrics and events",
        builder: Broker::builder,
        reads_metrics: false,
        observers: 1,
    },
];

fn metrics_and_events(c: &mut Criterion) {
    let mut group = group(c, "metrics and events", MESSAGES);
    for case in CASES {
        let broker = (case.builder)().workers(0).build();
        let broker = broker.expect("a manual broker starts no threads");
        let topic = open(&broker, "bench", MESSAGES as usize);
        let sink = Ordered::join(&topic, "sink");
        let events = Arc::new(AtomicU64::new(0));
        let observations: Vec<_> = (0..case.observers)
            .map(|_| {
                let events = Arc::clone(&events);
                broker.observe(move |_| {
                    events.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        let mut route = Route::of(0, &topic);
        group.bench_function(case.name, |b| {
            b.iter(|| {
                route.publish(MESSAGES);
                broker.run_until_idle();
                if case.reads_metrics {
                    black_box(broker.metrics());
                }
            });
        });
        sink.check(route.published());
        let told = events.load(Ordering::Relaxed) + broker.metrics().events_missed;
        // Accepted, begun, delivered.
        assert_eq!(told, 3 * route.published() * case.observers);
        drop(observations);
    }
    group.finish();
}

criterion_group!(benches, metrics_and_events);
criterion_main!(benches);
