//! What a delivery costs when the topics, or the subscriptions of one topic, are
//! many.
//!
//! `threads` has far more topics than workers. `growth` is on one thread and has
//! the same number of messages in flight whatever grows, so that only the cost of
//! having more of it shows. In `growth, bursts` a topic gets 64 messages at a
//! time, one batch; in `growth, singly` it gets one, which is then a batch alone
//! as soon as the topics outnumber the messages in flight.

mod support;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use millstream::{Broker, Topic};
use support::{
    CHUNK, MESSAGES, Numbered, Ordered, Route, group, manual, open, publish_all, threaded,
};

/// Places in each of many queues.
const CAPACITY: usize = 1_024;

fn threads(c: &mut Criterion) {
    const PUBLISHERS: usize = 4;
    const TOPICS: usize = 64;
    let broker = threaded(2);
    let topics = open_many(&broker, TOPICS);
    let sinks: Vec<_> = topics.iter().map(|t| Ordered::join(t, "sink")).collect();
    let mut publishers: Vec<Vec<_>> = topics
        .chunks(TOPICS / PUBLISHERS)
        .enumerate()
        .map(|(number, topics)| topics.iter().map(|t| Route::of(number, t)).collect())
        .collect();
    let mut published = 0;
    let mut group = group(c, "many topics", MESSAGES);
    group.bench_function("threads, 64 topics, 4 publishers, 2 workers", |b| {
        b.iter_custom(|iterations| {
            published += iterations * MESSAGES;
            let each = iterations * MESSAGES / PUBLISHERS as u64;
            let began = publish_all(&mut publishers, each);
            let everywhere = published / TOPICS as u64;
            sinks.iter().for_each(|sink| sink.wait_for(everywhere));
            began.elapsed()
        });
    });
    group.finish();
    let everywhere = published / TOPICS as u64;
    sinks.iter().for_each(|sink| sink.check(everywhere));
}

fn topics_bursts(c: &mut Criterion) {
    topics(c, "growth, bursts, topics", CHUNK as u64);
}

fn topics_singly(c: &mut Criterion) {
    topics(c, "growth, singly, topics", 1);
}

/// `MESSAGES` messages at a time, `burst` of them for each topic in turn.
fn topics(c: &mut Criterion, name: &str, burst: u64) {
    let mut group = group(c, name, MESSAGES);
    for count in [1, 100, 1_000, 10_000] {
        let broker = manual();
        let topics = open_many(&broker, count);
        let sinks: Vec<_> = topics.iter().map(|t| Ordered::join(t, "sink")).collect();
        let mut routes: Vec<_> = topics.iter().map(|t| Route::of(0, t)).collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                for _ in 0..MESSAGES / burst {
                    routes[next].publish(burst);
                    next = (next + 1) % count;
                }
                broker.run_until_idle()
            });
        });
        for (route, sink) in routes.iter().zip(&sinks) {
            sink.check(route.published());
        }
    }
    group.finish();
}

/// 64 messages at a time for all subscriptions of one topic.
fn subscriptions(c: &mut Criterion) {
    for count in [1, 10, 100, 1_000] {
        let broker = manual();
        let topic = open(&broker, "bench", CAPACITY);
        let sinks: Vec<_> = (0..count).map(|n| Ordered::join(&topic, n)).collect();
        let mut route = Route::of(0, &topic);
        let mut group = group(c, "growth, subscriptions", CHUNK as u64 * count);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                route.publish(CHUNK as u64);
                broker.run_until_idle()
            });
        });
        group.finish();
        sinks.iter().for_each(|sink| sink.check(route.published()));
    }
}

fn open_many(broker: &Broker, count: usize) -> Vec<Topic<Numbered>> {
    let topics = (0..count).map(|number| open(broker, number, CAPACITY));
    topics.collect()
}

criterion_group!(
    benches,
    threads,
    topics_bursts,
    topics_singly,
    subscriptions
);
criterion_main!(benches);
