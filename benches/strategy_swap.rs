//! What swapping the strategy costs the traffic it is swapped under, on threads:
//! never, every 1,024 messages, every 64.

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::{Batched, Immediate, Topic};
use support::{CHUNK, MESSAGES, Numbered, Ordered, ROOMY, Route, group, open, threaded};

const LINGER: Duration = Duration::from_micros(200);

fn strategy_swap(c: &mut Criterion) {
    let cases = [
        ("never", u64::MAX),
        ("every 1,024 messages", MESSAGES),
        ("every 64 messages", CHUNK as u64),
    ];
    let mut group = group(c, "strategy swap", MESSAGES);
    for (name, messages_between) in cases {
        let broker = threaded(1);
        let topic = open(&broker, "bench", ROOMY);
        let sink = Ordered::join(&topic, "sink");
        let mut route = Route::of(0, &topic);
        let mut swaps = 0;
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let began = Instant::now();
                for _ in 0..iterations * MESSAGES {
                    route.publish_or_wait();
                    if route.published().is_multiple_of(messages_between) {
                        swaps += 1;
                        swap(&topic, swaps);
                    }
                }
                // What a batched strategy would linger over is not our question.
                topic.flush();
                sink.wait_for(route.published());
                began.elapsed()
            });
        });
        sink.check(route.published());
        assert_eq!(swaps, route.published() / messages_between);
    }
    group.finish();
}

fn swap(topic: &Topic<Numbered>, number: u64) {
    let swapped = if number.is_multiple_of(2) {
        topic.set_strategy(Immediate)
    } else {
        topic.set_strategy(Batched::of(CHUNK).linger(LINGER))
    };
    swapped.expect("both are in order");
}

criterion_group!(benches, strategy_swap);
criterion_main!(benches);
