//! What publishing in batches gains: for the caller alone, and from publish to the
//! end of the last handler call on threads, by the size of the batch.

mod support;

use std::iter::repeat_with;
use std::thread;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{CHUNK, MESSAGES, Numbered, Ordered, ROOMY, Route, group, manual, open, threaded};

fn caller(c: &mut Criterion) {
    let mut group = group(c, "batch publish, caller", MESSAGES);
    for size in [1, 8, CHUNK, 512] {
        let broker = manual();
        let topic = open(&broker, "bench", MESSAGES as usize);
        let sink = Ordered::join(&topic, "sink");
        let mut route = Route::of(0, &topic);
        group.bench_function(BenchmarkId::new("of", size), |b| {
            b.iter_batched(
                || {
                    broker.run_until_idle();
                    let batches = repeat_with(|| batch(&mut route, size));
                    batches.take(MESSAGES as usize / size).collect::<Vec<_>>()
                },
                |batches| {
                    for batch in batches {
                        topic.publish_batch(batch).expect("the queue is empty");
                    }
                },
                BatchSize::PerIteration,
            );
        });
        broker.run_until_idle();
        sink.check(route.published());
    }
    group.finish();
}

fn threads(c: &mut Criterion) {
    let mut group = group(c, "batch publish, 1 to 1 on threads", MESSAGES);
    for size in [1, 8, CHUNK, 512] {
        let broker = threaded(1);
        let topic = open(&broker, "bench", ROOMY);
        let sink = Ordered::join(&topic, "sink");
        let mut route = Route::of(0, &topic);
        group.bench_function(BenchmarkId::new("of", size), |b| {
            b.iter_custom(|iterations| {
                let began = Instant::now();
                for _ in 0..iterations * MESSAGES / size as u64 {
                    publish_or_wait(&mut route, size);
                }
                sink.wait_for(route.published());
                began.elapsed()
            });
        });
        sink.check(route.published());
    }
    group.finish();
}

fn batch(route: &mut Route, size: usize) -> Vec<Numbered> {
    repeat_with(|| route.next()).take(size).collect()
}

fn publish_or_wait(route: &mut Route, size: usize) {
    let mut batch = batch(route, size);
    while let Err(refused) = route.topic.publish_batch(batch) {
        batch = refused.into_inner();
        thread::yield_now();
    }
}

criterion_group!(benches, caller, threads);
criterion_main!(benches);
