//! Promise: rates, shared limits and retry budgets make deliveries wait, and do nothing else. None is
//! lost or dead-lettered for it, no attempt is burnt, and who shares a limit gets an equal share.

use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::metrics::WaitingFor;
use millstream::protect::{Adaptive, Breaker, Limiter, RateLimit, RetryBudget};
use millstream::{Backoff, Batched, Broker, Nack, OnFailure, Pull, Subscription, Topic};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(1_000);
    let builder = broker.topic("t").retry(retry).capacity(100_000);
    builder.lane_capacity(100_000).open().expect("opens")
}

fn reason(subscription: &Subscription) -> Option<WaitingFor> {
    subscription
        .metrics()
        .waiting_for
        .map(|waiting| waiting.reason)
}

#[test]
fn no_more_deliveries_go_than_the_rate_and_its_burst_let_go() {
    let limit = RateLimit::new(100, SECOND).burst(10);
    for kind in ["plain", "keyed", "shared", "batches"] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let calls = log.clone();
        let handler = move |delivery: &millstream::Delivery<'_, u32>| {
            calls.push(*delivery.payload());
            Ok(())
        };
        let builder = topic.subscription("s").rate_limit(limit);
        let subscribed = match kind {
            "plain" => builder.subscribe(handler),
            "keyed" => builder.on_failure(OnFailure::BlockKey).subscribe(handler),
            "shared" => builder.concurrency(3).subscribe_shared(handler),
            _ => {
                let calls = log.clone();
                builder.subscribe_batches(Batched::of(4), move |batch| {
                    batch
                        .iter()
                        .for_each(|delivery| calls.push(*delivery.payload()));
                    Ok(())
                })
            }
        };
        let subscription = subscribed.expect("subscribes");
        topic.publish_batch(0..60).expect("there is room");
        broker.run_until_idle();
        assert_eq!(log.len(), 10, "the burst, {kind}");
        assert_eq!(reason(&subscription), Some(WaitingFor::Rate), "{kind}");
        for _ in 0..20 {
            advance(&broker, &clock, 10 * MS);
        }
        assert_eq!(log.len(), 30, "{kind}");
        assert_balanced(&broker);
        subscription.set_rate_limit(None).expect("in range");
        broker.run_until_idle();
        assert_eq!(log.take(), (0..60).collect::<Vec<_>>(), "in order, {kind}");
        assert_eq!(reason(&subscription), None, "{kind}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_reason_to_wait_goes_with_the_limit_or_the_breaker_that_it_was() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, subscription) = read(&topic, "s");
    let rate = RateLimit::new(1, SECOND);
    subscription.set_rate_limit(Some(rate)).expect("in range");
    topic.publish_batch(0..2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(reason(&subscription), Some(WaitingFor::Rate));
    subscription.set_rate_limit(None).expect("in range");
    broker.run_until_idle();
    assert_eq!((reason(&subscription), log.len()), (None, 2));

    let breaker = Some(Breaker::new());
    subscription.set_breaker(breaker).expect("in range");
    assert!(subscription.isolate_breaker());
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(reason(&subscription), Some(WaitingFor::Breaker));
    subscription.set_breaker(None).expect("in range");
    broker.run_until_idle();
    assert_eq!((reason(&subscription), log.len()), (None, 3));
    assert_rests_balanced(&broker);
}

#[test]
fn leases_are_taken_at_the_rate_too() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let pull = topic
        .subscription("s")
        .rate_limit(RateLimit::new(10, SECOND).burst(2))
        .pull(Pull::default())
        .expect("pulls");
    topic.publish_batch(0..5).expect("there is room");
    let mut count = 0;
    for _ in 0..4 {
        while let Ok(lease) = pull.try_recv() {
            lease.ack().expect("in time");
            count += 1;
        }
        advance(&broker, &clock, 100 * MS);
    }
    assert_eq!(count, 5);
    assert_rests_balanced(&broker);
}

#[test]
fn a_shared_limit_is_never_exceeded_and_every_permit_comes_back() {
    let broker = threaded(6);
    let bank = Limiter::new(2).expect("in range");
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let log = Log::new();
    let mut subscriptions = Vec::new();
    for name in ["a", "b", "c"] {
        let topic = broker.topic::<u32>(name).lane_capacity(4_096);
        let topic = topic.capacity(4_096).open().expect("opens");
        let (now, most, log) = (Arc::clone(&now), Arc::clone(&most), log.clone());
        let subscription = topic
            .subscription("s")
            .concurrency(4)
            .limiter(&bank)
            .subscribe_shared(move |_| {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::yield_now();
                log.push(name);
                now.fetch_sub(1, SeqCst);
                Ok(())
            })
            .expect("subscribes");
        topic.publish_batch(0..1_000).expect("there is room");
        subscriptions.push(subscription);
    }
    assert!(broker.wait_until_idle(HANG));
    assert!(most.load(SeqCst) <= 2, "{most:?}");
    assert_eq!(log.len(), 3_000);
    // A lane may still be about to pass on a permit that it was offered.
    let began = Instant::now();
    while bank.in_use() > 0 {
        assert!(began.elapsed() < HANG, "a permit was lost: {bank:?}");
        std::thread::yield_now();
    }
    assert_rests_balanced(&broker);
}

#[cfg(feature = "async")]
#[test]
fn lanes_that_share_a_limit_get_equal_shares() {
    use std::collections::{BTreeMap, VecDeque};
    use tokio::sync::oneshot;

    let (broker, _clock) = manual();
    let bank = Limiter::new(2).expect("in range");
    // The calls that run, in the order in which they began.
    let calls = Log::new();
    let _subscriptions = ["a", "b", "c"].map(|name| {
        let topic = broker.topic(name).capacity(1_000).lane_capacity(1_000);
        let topic = topic.open().expect("opens");
        let begun = calls.clone();
        let builder = topic.subscription(name).limiter(&bank).concurrency(4);
        let subscription = builder.subscribe_async(move |_| {
            let (end, ended) = oneshot::channel();
            begun.push((name, end));
            async move { Ok(ended.await?) }
        });
        topic.publish_batch(0..1_000).expect("there is room");
        subscription.expect("subscribes")
    });
    let (mut shares, mut held) = (BTreeMap::new(), VecDeque::new());
    for _ in 0..2_400 {
        broker.run_until_idle();
        held.extend(calls.take());
        assert_eq!(held.len(), 2, "as many run as may");
        let (name, end) = held.pop_front().expect("two are held");
        *shares.entry(name).or_insert(0) += 1;
        end.send(()).expect("it waits");
    }
    for share in shares.values() {
        assert!((720..=880).contains(share), "{shares:?} of 2,400");
    }
    drop(held);
    assert_balanced(&broker);
}

#[test]
fn permits_come_back_from_lanes_that_end_and_limits_change_live() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let bank = Limiter::new(1).expect("in range");
    let subscription = topic
        .subscription("s")
        .limiter(&bank)
        .subscribe(|_| Err(Nack::dead_letter("no")))
        .expect("subscribes");
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    assert_eq!(bank.in_use(), 0);
    let other = Limiter::new(3).expect("in range");
    subscription
        .set_limiter(Some(&other))
        .expect("has a handler");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    drop(subscription);
    broker.run_until_idle();
    assert_eq!((bank.in_use(), other.in_use()), (0, 0));
    bank.set_limit(7).expect("in range");
    assert_eq!(bank.limit(), 7);
    assert!(Limiter::new(0).is_err() && bank.set_limit(0).is_err());
    assert!(Limiter::adaptive(Adaptive::between(3, 2)).is_err());
    let refused = topic.subscription("p").limiter(&bank).pull(Pull::default());
    assert!(refused.is_err(), "callers that pull have credits");
    assert_rests_balanced(&broker);
}

#[test]
fn an_adaptive_limit_shrinks_when_handlers_say_overloaded() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let bank = Limiter::adaptive(Adaptive::between(2, 40).start(40)).expect("in range");
    let _subscription = topic
        .subscription("s")
        .limiter(&bank)
        .subscribe(|delivery| match delivery.attempt() {
            1 => Err(Nack::overloaded("503")),
            _ => Ok(()),
        })
        .expect("subscribes");
    topic.publish_batch(0..3).expect("there is room");
    for _ in 0..5 {
        advance(&broker, &clock, MS);
    }
    assert!(bank.limit() < 40, "{bank:?}");
    assert_rests_balanced(&broker);
}

#[test]
fn a_retry_over_the_budget_comes_later_and_is_never_dead_lettered_for_it() {
    for mode in [OnFailure::Reorder, OnFailure::BlockKey] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let budget = RetryBudget::new()
            .percent(0)
            .min_per_sec(1)
            .window(10 * SECOND);
        let log = Log::new();
        let calls = log.clone();
        let subscription = topic
            .subscription("s")
            .on_failure(mode)
            .retry_budget(budget)
            .subscribe(move |delivery| {
                calls.push(delivery.attempt());
                match delivery.attempt() {
                    1 => Err(Nack::retry("once more")),
                    _ => Ok(()),
                }
            })
            .expect("subscribes");
        for payload in 0..30 {
            let key = payload.to_string();
            topic
                .message(payload)
                .key(key)
                .publish()
                .expect("there is room");
        }
        broker.run_until_idle();
        advance(&broker, &clock, 10 * MS);
        assert_eq!(log.take().len(), 30 + 10, "ten retries of the window");
        let metrics = subscription.metrics();
        assert!(metrics.deferred >= 20, "{}", metrics.deferred);
        assert_eq!(metrics.counts.awaiting_retry, 20);
        assert_balanced(&broker);
        for _ in 0..40 {
            advance(&broker, &clock, SECOND);
        }
        let counts = subscription.metrics().counts;
        assert_eq!((counts.delivered, counts.dead_lettered), (30, 0));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_handler_that_holds_off_gets_nothing_until_the_time_is_up() {
    for concurrency in [None, Some(2)] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let calls = log.clone();
        let handler = move |delivery: &millstream::Delivery<'_, u32>| {
            calls.push(*delivery.payload());
            if *delivery.payload() == 3 && calls.len() < 5 {
                delivery.hold_off(SECOND);
                return Err(Nack::snooze(SECOND, "429"));
            }
            Ok(())
        };
        let builder = topic.subscription("s");
        let subscribed = match concurrency {
            None => builder.subscribe(handler),
            Some(count) => builder.concurrency(count).subscribe_shared(handler),
        };
        let subscription = subscribed.expect("subscribes");
        topic.publish_batch(0..8).expect("there is room");
        broker.run_until_idle();
        advance(&broker, &clock, SECOND - MS);
        assert_eq!(log.len(), 4);
        assert_eq!(reason(&subscription), Some(WaitingFor::HoldOff));
        advance(&broker, &clock, MS);
        broker.run_until_idle();
        let counts = subscription.metrics().counts;
        assert_eq!((counts.delivered, counts.failed), (8, 0));
        assert_eq!(reason(&subscription), None);
        assert_rests_balanced(&broker);
    }
}
