//! From publish to the end of the last handler call on threads, in deliveries per
//! second: one publisher and one subscription, one to many, many to one. Every
//! message is counted and its order checked.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{MESSAGES, Ordered, ROOMY, Route, group, open, publish_all, threaded};

struct Shape {
    publishers: usize,
    subscriptions: u64,
    /// As many as can be of use, and no more than the smallest machine has.
    workers: usize,
}

const SHAPES: [Shape; 4] = [
    Shape {
        publishers: 1,
        subscriptions: 1,
        workers: 1,
    },
    Shape {
        publishers: 1,
        subscriptions: 4,
        workers: 2,
    },
    Shape {
        publishers: 1,
        subscriptions: 16,
        workers: 2,
    },
    Shape {
        publishers: 4,
        subscriptions: 1,
        workers: 1,
    },
];

fn end_to_end(c: &mut Criterion) {
    for shape in SHAPES {
        let broker = threaded(shape.workers);
        let topic = open(&broker, "bench", ROOMY);
        let sinks: Vec<_> = (0..shape.subscriptions)
            .map(|number| Ordered::join(&topic, number))
            .collect();
        let publisher = |number| vec![Route::of(number, &topic)];
        let mut publishers: Vec<_> = (0..shape.publishers).map(publisher).collect();
        let mut published = 0;
        let mut group = group(c, "end to end", MESSAGES * shape.subscriptions);
        let name = format!("{} to {}", shape.publishers, shape.subscriptions);
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                published += iterations * MESSAGES;
                let each = iterations * MESSAGES / shape.publishers as u64;
                let began = publish_all(&mut publishers, each);
                sinks.iter().for_each(|sink| sink.wait_for(published));
                began.elapsed()
            });
        });
        group.finish();
        sinks.iter().for_each(|sink| sink.check(published));
    }
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
