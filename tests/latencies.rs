//! What is measured is what it says: latencies, ages, deadlines and timestamps by value,
//! for every way to take deliveries. The clock is the test's, and moves while a handler
//! runs, so that each value is known exactly; histograms keep it to within 1 %.

use std::time::Duration;

use crate::harness::{Log, advance, assert_balanced, manual};
use millstream::dead_letters::DeadReason;
use millstream::metrics::{LatencySummary, SubscriptionMetrics};
use millstream::{
    Backoff, Batched, Broker, ManualClock, Nack, OnFailure, Pull, PullSubscription, Subscription,
    Topic,
};

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

/// What an attempt takes: 5 ms the first time, and 3 ms afterwards.
fn time_of(attempt: u32) -> Duration {
    if attempt == 1 { 5 * MS } else { 3 * MS }
}

/// Does what an attempt is there for: takes its time, and fails so often.
fn attempt(clock: &ManualClock, attempt: u32, failures: u32) -> Result<(), Nack> {
    clock.advance(time_of(attempt));
    if attempt <= failures {
        return Err(Nack::retry("not yet"));
    }
    Ok(())
}

/// The ways to take deliveries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Each,
    Keyed,
    Batches,
    Concurrent,
    #[cfg(feature = "async")]
    Async,
    Pull,
}

const WAYS: &[Way] = &[
    Way::Each,
    Way::Keyed,
    Way::Batches,
    Way::Concurrent,
    #[cfg(feature = "async")]
    Way::Async,
    Way::Pull,
];

enum Taker {
    Pushed(Subscription),
    Pulled(PullSubscription<u32>),
}

/// A subscription whose attempts take their time, and of which the first few fail.
struct Bench {
    broker: Broker,
    clock: ManualClock,
    topic: Topic<u32>,
    taker: Taker,
    failures: u32,
    /// The age of the message at each attempt.
    ages: Log<Duration>,
}

impl Bench {
    fn new(way: Way, retry: Backoff, failures: u32) -> Self {
        let (broker, clock) = manual();
        let topic = broker.topic::<u32>("t").retry(retry).open();
        let topic = topic.expect("opens");
        let ages = Log::new();
        let (by, log) = (clock.clone(), ages.clone());
        let builder = topic.subscription("s");
        let pushed = |subscribed: Result<Subscription, _>| {
            let subscribed: Result<_, millstream::error::SubscribeError> = subscribed;
            Taker::Pushed(subscribed.expect("subscribes"))
        };
        let each = move |d: &millstream::Delivery<'_, u32>| {
            log.push(d.age());
            attempt(&by, d.attempt(), failures)
        };
        let taker = match way {
            Way::Each => pushed(builder.subscribe(each)),
            Way::Keyed => pushed(builder.on_failure(OnFailure::BlockKey).subscribe(each)),
            Way::Concurrent => pushed(builder.concurrency(2).subscribe_shared(each)),
            Way::Batches => pushed(builder.subscribe_batches(Batched::of(1), move |batch| {
                each(&batch.get(0).expect("there is one"))
            })),
            #[cfg(feature = "async")]
            Way::Async => pushed(builder.concurrency(2).subscribe_async(move |d| {
                let answer = each(&d.delivery());
                async move { answer }
            })),
            Way::Pull => Taker::Pulled(builder.pull(Pull::default()).expect("subscribes")),
        };
        Self {
            broker,
            clock,
            topic,
            taker,
            failures,
            ages,
        }
    }

    /// Lets some time pass, and does what there is to do.
    fn pass(&self, time: Duration) {
        advance(&self.broker, &self.clock, time);
        if let Taker::Pulled(worker) = &self.taker {
            while let Ok(lease) = worker.try_recv() {
                self.ages.push(lease.age());
                let settled = match attempt(&self.clock, lease.attempt(), self.failures) {
                    Ok(()) => lease.ack(),
                    Err(nack) => lease.nack(nack),
                };
                settled.expect("in time");
            }
            self.broker.run_until_idle();
        }
    }

    fn metrics(&self) -> SubscriptionMetrics {
        match &self.taker {
            Taker::Pushed(subscription) => subscription.metrics(),
            Taker::Pulled(subscription) => subscription.metrics(),
        }
    }
}

/// What a histogram keeps of a value is at most 1 % off; below 64 ns it tells nothing
/// apart.
#[track_caller]
fn assert_near(seen: Duration, expected: Duration) {
    let off = seen.abs_diff(expected);
    assert!(
        off <= expected / 100 + Duration::from_nanos(64),
        "{seen:?}, and not {expected:?}"
    );
}

/// Exactly these values, as far as a histogram keeps them.
#[track_caller]
fn assert_values(of: &LatencySummary, values: &[Duration]) {
    assert_eq!(of.count, values.len() as u64, "{of:?}");
    let sum: Duration = values.iter().sum();
    assert_near(of.mean, sum / values.len() as u32);
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    assert_near(of.p50, sorted[(values.len() - 1) / 2]);
    for high in [of.p99, of.p999, of.max] {
        assert_near(high, sorted[values.len() - 1]);
    }
}

#[test]
fn a_retried_delivery_waits_in_the_queue_once_and_ends_twice() {
    for &way in WAYS {
        let bench = Bench::new(way, Backoff::fixed(20 * MS), 1);
        bench.pass(MS);
        bench.topic.publish(0).expect("there is room");
        bench.pass(10 * MS);
        bench.pass(20 * MS);
        let metrics = bench.metrics();
        assert_eq!(metrics.counts.delivered, 1, "{way:?}");
        assert_values(&metrics.queue_wait, &[10 * MS]);
        assert_values(&metrics.handler, &[5 * MS, 3 * MS]);
        assert_values(&metrics.end_to_end, &[15 * MS, 38 * MS]);
        assert_eq!(bench.ages.take(), [10 * MS, 35 * MS], "{way:?}");
        let topic = bench.topic.metrics();
        assert_eq!(topic.queue_wait, metrics.queue_wait);
        assert_eq!(topic.handler, metrics.handler);
        assert_eq!(topic.end_to_end, metrics.end_to_end);
        assert_balanced(&bench.broker);
    }
}

#[test]
fn a_letter_and_its_failures_say_when_and_a_redrive_is_a_first_attempt_again() {
    for &way in WAYS {
        let retry = Backoff::fixed(20 * MS).max_attempts(2);
        let bench = Bench::new(way, retry, 2);
        bench.pass(MS);
        bench.topic.publish(0).expect("there is room");
        bench.pass(10 * MS);
        bench.pass(20 * MS);
        let letters = bench.topic.dead_letters().list();
        let failed: Vec<_> = letters[0].failures().map(|failure| failure.at).collect();
        assert_eq!(failed, [39 * MS, 16 * MS], "{way:?}: the latest first");
        assert_eq!(letters[0].at(), 39 * MS);
        assert_eq!(letters[0].reason(), DeadReason::Exhausted);
        bench.clock.advance(MS);
        let _ = bench.topic.dead_letters().redrive(|_| true);
        bench.pass(60 * MS);
        let metrics = bench.metrics();
        // Accepted at 1, tried again at 100.
        assert_values(&metrics.queue_wait, &[10 * MS, 99 * MS]);
        assert_values(&metrics.handler, &[5 * MS, 3 * MS, 5 * MS]);
        assert_values(&metrics.end_to_end, &[15 * MS, 38 * MS, 104 * MS]);
        assert_eq!(bench.ages.take(), [10 * MS, 35 * MS, 99 * MS], "{way:?}");
        assert_balanced(&bench.broker);
    }
}

#[test]
fn the_time_limit_of_a_policy_ends_deliveries_of_every_kind() {
    for &way in WAYS {
        // After 5 ms, 20 more are within it; after 28 ms, they are not.
        let retry = Backoff::fixed(20 * MS).max_attempts(9);
        let bench = Bench::new(way, retry.max_elapsed(30 * MS), 9);
        bench.pass(MS);
        bench.topic.publish(0).expect("there is room");
        for _ in 0..9 {
            bench.pass(20 * MS);
        }
        let letters = bench.topic.dead_letters().list();
        assert_eq!(letters.len(), 1, "{way:?}");
        assert_eq!(letters[0].attempts(), 2, "{way:?}");
        assert_balanced(&bench.broker);
    }
}

#[test]
fn jitter_differs_from_attempt_to_attempt() {
    for &way in WAYS {
        let retry = Backoff::fixed(1_000 * MS).max_attempts(9).full_jitter(1);
        let bench = Bench::new(way, retry, 9);
        bench.topic.publish(0).expect("there is room");
        bench.pass(MS);
        let mut waits = Vec::new();
        while let Some(wait) = bench.broker.next_deadline() {
            waits.push(wait);
            bench.pass(wait);
        }
        assert_eq!(waits.len(), 8, "{way:?}");
        waits.sort_unstable();
        waits.dedup();
        assert_eq!(waits.len(), 8, "{way:?}");
        assert_balanced(&bench.broker);
    }
}

#[test]
fn a_batch_shares_the_time_of_its_call() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let by = clock.clone();
    let batches = topic.subscription("s");
    let batches = batches.subscribe_batches(Batched::of(4), move |batch| {
        assert_eq!(batch.len(), 4);
        by.advance(8 * MS);
        Ok(())
    });
    let batches = batches.expect("subscribes");
    for _ in 0..4 {
        topic.publish(0).expect("there is room");
        clock.advance(MS);
    }
    broker.run_until_idle();
    let metrics = batches.metrics();
    assert_values(&metrics.queue_wait, &[4 * MS, 3 * MS, 2 * MS, MS]);
    assert_values(&metrics.handler, &[2 * MS; 4]);
    assert_values(&metrics.end_to_end, &[12 * MS, 11 * MS, 10 * MS, 9 * MS]);
    assert_balanced(&broker);
}

#[test]
fn percentiles_are_within_one_percent() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let worker = topic.subscription("s").pull(Pull::default());
    let worker = worker.expect("subscribes");
    for number in 1..=1_000 {
        topic.publish(number).expect("there is room");
        let lease = worker.try_recv().or_else(|_| {
            broker.run_until_idle();
            worker.try_recv()
        });
        clock.advance(number * US);
        lease.expect("it is there").ack().expect("in time");
    }
    let times = worker.metrics().handler;
    assert_eq!(times.count, 1_000);
    for (seen, expected) in [
        (times.mean, 500 * US),
        (times.p50, 500 * US),
        (times.p90, 900 * US),
        (times.p99, 990 * US),
        (times.p999, 999 * US),
        (times.max, 1_000 * US),
    ] {
        assert_near(seen, expected);
    }
    assert_balanced(&broker);
}

#[test]
fn a_lease_says_what_remains_of_it_and_the_broker_when_it_ends() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let worker = topic.subscription("s");
    let worker = worker.pull(Pull::default().ack_deadline(100 * MS));
    let worker = worker.expect("subscribes");
    clock.advance(3 * MS);
    topic.publish(0).expect("there is room");
    broker.run_until_idle();
    assert_eq!(broker.next_deadline(), None);
    let mut lease = worker.try_recv().expect("it is there");
    assert_eq!(lease.remaining(), 100 * MS);
    assert_eq!(broker.next_deadline(), Some(100 * MS));
    clock.advance(30 * MS);
    assert_eq!(lease.remaining(), 70 * MS);
    assert_eq!(lease.age(), 30 * MS);
    lease.extend(150 * MS).expect("in time");
    assert_eq!(lease.remaining(), 150 * MS);
    clock.advance(149 * MS);
    assert_eq!(lease.remaining(), MS);
    clock.advance(2 * MS);
    assert_eq!(lease.remaining(), Duration::ZERO);
    lease.ack().expect_err("it is late");
    assert_balanced(&broker);
}

#[test]
fn the_next_deadline_is_the_nearest_of_retries_and_delays() {
    let bench = Bench::new(Way::Each, Backoff::fixed(20 * MS), 1);
    bench.topic.publish(0).expect("there is room");
    bench.pass(MS);
    assert_eq!(bench.broker.next_deadline(), Some(20 * MS));
    let delayed = bench.topic.publish_after(7 * MS, 1);
    delayed.expect("there is room");
    assert_eq!(bench.broker.next_deadline(), Some(7 * MS));
    bench.clock.advance(4 * MS);
    assert_eq!(bench.broker.next_deadline(), Some(3 * MS));
    assert_balanced(&bench.broker);
}

#[cfg(feature = "async")]
#[test]
fn a_member_says_how_long_it_has_been_busy() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let calls = topic
        .subscription("s")
        .concurrency(1)
        .subscribe_async(|_| std::future::pending());
    let calls = calls.expect("subscribes");
    clock.advance(10 * MS);
    topic.publish(0).expect("there is room");
    broker.run_until_idle();
    clock.advance(7 * MS);
    let busy = || calls.metrics().members[0].clone();
    assert_eq!((busy().busy, busy().busy_for), (1, 7 * MS));
    clock.advance(7 * MS);
    assert_eq!(busy().busy_for, 14 * MS);
    drop(calls);
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn events_say_when_they_happened() {
    let bench = Bench::new(Way::Each, Backoff::fixed(20 * MS), 1);
    let events = Log::new();
    let log = events.clone();
    let observed = bench.broker.observe(move |event| {
        log.push((event.name(), event.at(), event.attempt()));
    });
    let _observed = observed.expect("observes");
    bench.pass(MS);
    events.take();
    bench.topic.publish(0).expect("there is room");
    bench.pass(10 * MS);
    bench.pass(20 * MS);
    let expected = [
        ("message_enqueued", MS, None),
        ("delivering", 11 * MS, Some(1)),
        ("failed", 16 * MS, Some(1)),
        ("retry_scheduled", 16 * MS, Some(1)),
        ("delivering", 36 * MS, Some(2)),
        ("delivered", 39 * MS, Some(2)),
    ];
    assert_eq!(events.take(), expected);
    assert_eq!(bench.broker.metrics().at, 39 * MS);
    assert_balanced(&bench.broker);
}
