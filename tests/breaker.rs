//! Promise: a circuit breaker holds deliveries while their dependency fails. No attempt is burnt, no
//! worker is kept, nothing is lost, and the subscription recovers by itself.

use std::time::Duration;

use crate::harness::{Log, advance, assert_balanced, assert_rests_balanced, manual};
use millstream::metrics::WaitingFor;
use millstream::protect::{Breaker, BreakerStatus, EndKind};
use millstream::{Backoff, Batched, Broker, Delivery, Nack, OnFailure, Pull, Subscription, Topic};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(1_000);
    broker.topic("t").retry(retry).open().expect("opens")
}

/// Opens after three failures in a row, for a second at first.
fn breaker() -> Breaker {
    Breaker::new()
        .consecutive_failures(3)
        .open_for(SECOND)
        .max_open(4 * SECOND)
}

fn status(subscription: &Subscription) -> Option<BreakerStatus> {
    subscription.metrics().breaker
}

fn reason(subscription: &Subscription) -> Option<WaitingFor> {
    subscription
        .metrics()
        .waiting_for
        .map(|waiting| waiting.reason)
}

/// A dependency that can fail, and the calls that it gets.
#[derive(Clone, Default)]
struct Bank {
    is_down: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

impl Bank {
    fn call(&self) -> Result<(), Nack> {
        self.calls.fetch_add(1, Relaxed);
        match self.is_down.load(Relaxed) {
            true => Err(Nack::retry("the bank is down")),
            false => Ok(()),
        }
    }

    fn handler(&self) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + use<> {
        let bank = self.clone();
        move |_| bank.call()
    }

    fn calls(&self) -> u32 {
        self.calls.swap(0, Relaxed)
    }
}

#[test]
fn an_open_breaker_burns_no_attempt_and_lets_one_probe_pass_at_its_time() {
    for kind in ["plain", "keyed", "shared", "batches"] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let bank = Bank::default();
        let builder = topic.subscription("s").breaker(breaker());
        let subscribed = match kind {
            "plain" => builder.subscribe(bank.handler()),
            "keyed" => builder
                .on_failure(OnFailure::BlockKey)
                .subscribe(bank.handler()),
            "shared" => builder.concurrency(2).subscribe_shared(bank.handler()),
            _ => {
                let bank = bank.clone();
                builder.subscribe_batches(Batched::of(1), move |_| bank.call())
            }
        };
        let subscription = subscribed.expect("subscribes");
        topic.publish_batch(0..10).expect("there is room");
        broker.run_until_idle();
        assert_eq!(bank.calls(), 10, "{kind}");
        assert_eq!(status(&subscription), Some(BreakerStatus::Closed));

        bank.is_down.store(true, Relaxed);
        topic.publish_batch(0..100).expect("there is room");
        for _ in 0..400 {
            advance(&broker, &clock, MS);
        }
        assert_eq!(bank.calls(), 3, "{kind}");
        assert_eq!(status(&subscription), Some(BreakerStatus::Open), "{kind}");
        assert_eq!(reason(&subscription), Some(WaitingFor::Breaker), "{kind}");
        assert_balanced(&broker);
        // The open time is spread between a half and the whole.
        for _ in 0..700 {
            advance(&broker, &clock, MS);
        }
        assert_eq!(bank.calls(), 1, "one probe, {kind}");
        assert_eq!(status(&subscription), Some(BreakerStatus::Open), "{kind}");

        bank.is_down.store(false, Relaxed);
        for _ in 0..2_100 {
            advance(&broker, &clock, MS);
        }
        assert_eq!(status(&subscription), Some(BreakerStatus::Closed), "{kind}");
        assert_eq!(reason(&subscription), None, "{kind}");
        let counts = subscription.metrics().counts;
        assert_eq!((counts.delivered, counts.failed), (110, 4), "{kind}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_probe_gives_its_permit_back_however_it_ends() {
    let ends: [fn() -> Result<(), Nack>; 5] = [
        || Ok(()),
        || Err(Nack::dead_letter("no")),
        || Err(Nack::discard("no")),
        || Err(Nack::snooze(MS, "later")),
        || Err(Nack::requeue("later")),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        for concurrency in [None, Some(1)] {
            let (broker, clock) = manual();
            let topic = open(&broker);
            let calls = Arc::new(AtomicU32::new(0));
            let handler = {
                let calls = Arc::clone(&calls);
                move |_: &Delivery<'_, u32>| match calls.fetch_add(1, Relaxed) {
                    0..3 => Err(Nack::retry("down")),
                    3..6 => end(),
                    _ => Ok(()),
                }
            };
            let builder = topic.subscription("s").breaker(breaker().probes(1));
            let subscribed = match concurrency {
                None => builder.subscribe(handler),
                Some(count) => builder.concurrency(count).subscribe_shared(handler),
            };
            let subscription = subscribed.expect("subscribes");
            topic.publish_batch(0..20).expect("there is room");
            for _ in 0..1_200 {
                advance(&broker, &clock, MS);
            }
            assert_eq!(
                status(&subscription),
                Some(BreakerStatus::Closed),
                "{number}"
            );
            let counts = subscription.metrics().counts;
            assert_eq!(counts.ended(), 20, "{number}: {counts:?}");
            assert_rests_balanced(&broker);
        }
    }
}

#[test]
fn a_panic_of_a_probe_opens_the_breaker_again() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let calls = Arc::new(AtomicU32::new(0));
    let called = Arc::clone(&calls);
    let subscription = topic
        .subscription("s")
        .breaker(breaker().probes(1))
        .subscribe(move |_| match called.fetch_add(1, Relaxed) {
            0..4 => panic!("a handler that panics"),
            _ => Ok(()),
        })
        .expect("subscribes");
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, SECOND);
    assert_eq!(calls.load(Relaxed), 4);
    assert_eq!(status(&subscription), Some(BreakerStatus::Open));
    advance(&broker, &clock, 2 * SECOND);
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.delivered, 5);
    assert_rests_balanced(&broker);
}

#[test]
fn a_lease_is_a_probe_and_so_are_its_endings() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let pull = topic
        .subscription("s")
        .breaker(breaker().probes(1))
        .pull(Pull::default().ack_deadline(10 * SECOND))
        .expect("pulls");
    topic.publish_batch(0..9).expect("there is room");
    for _ in 0..3 {
        let lease = pull.try_recv().expect("closed");
        lease.nack(Nack::retry("down")).expect("in time");
    }
    assert!(pull.try_recv().is_err(), "it is open");
    advance(&broker, &clock, SECOND);
    let probe = pull.try_recv().expect("one probe");
    assert!(pull.try_recv().is_err(), "one at a time");
    drop(probe); // abandoned: neither a failure nor a success
    let probe = pull.try_recv().expect("the permit came back");
    probe.ack().expect("in time");
    assert_eq!(pull.metrics().breaker, Some(BreakerStatus::Closed));
    while let Ok(lease) = pull.try_recv() {
        lease.ack().expect("in time");
    }
    advance(&broker, &clock, SECOND);
    while let Ok(lease) = pull.try_recv() {
        lease.ack().expect("in time");
    }
    assert_eq!(pull.metrics().counts.delivered, 9);
    assert_rests_balanced(&broker);
}

#[test]
fn what_the_handler_says_is_how_long_it_is_open_and_what_counts_is_the_users_word() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let calls = log.clone();
    let subscription = topic
        .subscription("s")
        .breaker(
            breaker().count_if(|end| end.kind() == EndKind::Nacked && end.retry_after().is_some()),
        )
        .subscribe(move |delivery| {
            calls.push(*delivery.payload());
            match *delivery.payload() {
                0..5 => Err(Nack::dead_letter("it says nothing about the bank")),
                5..8 if delivery.attempt() == 1 => {
                    Err(Nack::retry_after(3 * SECOND, "too many requests"))
                }
                _ => Ok(()),
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..10).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3, 4, 5, 6, 7]);
    advance(&broker, &clock, 3 * SECOND - MS);
    assert_eq!(log.len(), 0);
    assert_eq!(status(&subscription), Some(BreakerStatus::Open));
    advance(&broker, &clock, MS);
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.delivered, 5);
    assert_rests_balanced(&broker);
}

#[test]
fn by_hand_it_is_isolated_reset_set_and_removed_under_traffic() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let bank = Bank::default();
    let subscription = topic.subscribe("s", bank.handler()).expect("subscribes");
    assert!(!subscription.isolate_breaker() && !subscription.reset_breaker());
    subscription.set_breaker(Some(breaker())).expect("in range");
    assert!(subscription.isolate_breaker());
    topic.publish(1).expect("there is room");
    advance(&broker, &clock, 100 * SECOND);
    assert_eq!(
        (bank.calls(), status(&subscription)),
        (0, Some(BreakerStatus::Isolated))
    );
    assert!(subscription.reset_breaker());
    broker.run_until_idle();
    assert_eq!(bank.calls(), 1);
    subscription.isolate_breaker();
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(bank.calls(), 0);
    subscription.set_breaker(None).expect("in range");
    broker.run_until_idle();
    assert_eq!((bank.calls(), status(&subscription)), (1, None));
    let refused = subscription.set_breaker(Some(breaker().probes(0)));
    assert_eq!(refused.expect_err("out of range").setting(), "probes");
    assert_rests_balanced(&broker);
}

#[test]
fn observers_hear_of_each_change_and_of_why_it_waits() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let bank = Bank::default();
    let _subscription = topic
        .subscription("s")
        .breaker(breaker().probes(1))
        .subscribe(bank.handler())
        .expect("subscribes");
    let log = Log::new();
    let told = log.clone();
    let _observation = broker.observe(move |event| {
        if matches!(event.name(), "breaker" | "waiting") {
            told.push(event.to_string());
        }
    });
    bank.is_down.store(true, Relaxed);
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    bank.is_down.store(false, Relaxed);
    advance(&broker, &clock, SECOND);
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [
            "breaker t/s open (consecutive)",
            "waiting t/s for breaker",
            "breaker t/s half_open",
            "waiting t/s no more",
            "breaker t/s closed",
        ]
    );
}

#[cfg(feature = "async")]
#[test]
fn an_async_call_that_is_dropped_gives_its_permit_back() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let calls = Arc::new(AtomicU32::new(0));
    let called = Arc::clone(&calls);
    let subscription = topic
        .subscription("s")
        .breaker(breaker().probes(1))
        .concurrency(2)
        .subscribe_async(move |_| {
            let call = called.fetch_add(1, Relaxed);
            async move {
                match call {
                    0..3 => Err(Nack::retry("down")),
                    _ => Ok(()),
                }
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..9).expect("there is room");
    broker.run_until_idle();
    assert_eq!(status(&subscription), Some(BreakerStatus::Open));
    advance(&broker, &clock, SECOND);
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.delivered, 9);
    assert_rests_balanced(&broker);
}
