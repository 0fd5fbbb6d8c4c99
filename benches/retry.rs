//! What failures cost: the same traffic with and without one message in a
//! hundred failing once and succeeding a millisecond later.
//!
//! The clock is moved by hand, so a millisecond takes no time: only the work is
//! measured.

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use millstream::{Backoff, Broker, ManualClock, Nack};
use support::group;

/// Messages per iteration; failures among them are counted in percent.
const MESSAGES: u64 = 1_000;
const DELAY: Duration = Duration::from_millis(1);

fn retry(c: &mut Criterion) {
    let mut group = group(c, "retry", MESSAGES);
    for failing_percent in [0, 1, 100] {
        let clock = ManualClock::new();
        let broker = Broker::builder()
            .workers(0)
            .manual_clock(&clock)
            .build()
            .expect("a manual broker starts no threads");
        let topic = broker
            .topic("bench")
            .retry(Backoff::fixed(DELAY).max_attempts(2))
            .open()
            .expect("the name is free");
        let subscription = topic
            .subscribe("fragile", move |delivery| {
                let fails = delivery.id().get() % 100 < failing_percent;
                if fails && delivery.attempt() == 1 {
                    return Err(Nack::retry("not now"));
                }
                Ok(())
            })
            .expect("likewise");
        let id = BenchmarkId::new("failing once, percent", failing_percent);
        group.bench_function(id, |b| {
            b.iter(|| {
                for _ in 0..MESSAGES {
                    topic
                        .publish(black_box([7_u8; 64]))
                        .expect("the queue is empty");
                }
                broker.run_until_idle();
                clock.advance(DELAY);
                broker.run_until_idle()
            });
        });
        let counts = subscription.metrics().counts;
        assert_eq!(counts.delivered, topic.metrics().published);
        assert_eq!(counts.retried, counts.delivered * failing_percent / 100);
    }
    group.finish();
}

criterion_group!(benches, retry);
criterion_main!(benches);
