//! Promise 2, at least once: while the process lives, each delivery's handler is
//! called at least once, or the delivery ends in a named final status that is
//! counted and evented.
//!
//! A delivery is one message for one subscription. Whatever happens to the same
//! message elsewhere, and whatever happened to its neighbors, changes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::event::Status;
use millstream::{
    Backoff, Batched, Immediate, LaneFull, Nack, Overflow, PublishError, Topic, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

/// Publishes, and tries again for as long as the topic is full.
fn publish(topic: &Topic<u64>, payload: u64) {
    let until = Instant::now() + HANG;
    let mut payload = payload;
    while let Err(refused) = topic.publish(payload) {
        assert!(matches!(refused, PublishError::Full(_)), "{refused}");
        assert!(Instant::now() < until, "no room in all that time");
        payload = refused.into_inner();
        std::thread::yield_now();
    }
}

#[test]
fn every_subscription_gets_every_message() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().expect("opens");
    let log = Log::new();
    let _subscriptions = ["a", "b", "c"].map(|name| {
        let log = log.clone();
        let subscribed = topic.subscribe(name, move |d| {
            log.push((d.subscription().to_owned(), *d.payload()));
            Ok(())
        });
        subscribed.expect("subscribes")
    });
    topic.publish_batch(0..200).expect("there is room");
    broker.run_until_idle();
    let mut called = log.take();
    called.sort();
    let expected: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .flat_map(|name| (0..200).map(move |payload| (name.to_owned(), payload)))
        .collect();
    assert_eq!(called, expected);
    assert_balanced(&broker);
}

#[test]
fn a_subscription_gets_what_is_published_after_subscribe_returned() {
    let broker = threaded(2);
    let topic = broker.topic::<u64>("t").open().expect("opens");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let noise = scope.spawn(|| {
            let until = Instant::now() + HANG;
            while !done.load(Ordering::Relaxed) && Instant::now() < until {
                publish(&topic, 0);
            }
        });
        for round in 1..=200 {
            let log = Log::new();
            let subscription = topic.subscribe("late", {
                let log = log.clone();
                move |d| {
                    if *d.payload() > 0 {
                        log.push(*d.payload());
                    }
                    Ok(())
                }
            });
            let subscription = subscription.expect("the name is free again");
            publish(&topic, round);
            let timeout = HANG;
            subscription.unsubscribe(Unsubscribe::Drain { timeout });
            // Drained means: all that it had been handed. What still was in the
            // topic's queue may have come too late for it.
            let called = log.take();
            // It may have got what was queued when it joined, but nothing twice.
            assert!(called.is_sorted_by(|a, b| a < b), "{called:?}");
            assert!(called.iter().all(|payload| *payload <= round), "{called:?}");
        }
        let log = Log::new();
        let subscription = topic.subscribe("last", {
            let log = log.clone();
            move |d| {
                log.push(*d.payload());
                Ok(())
            }
        });
        let subscription = subscription.expect("subscribes");
        publish(&topic, 1_000);
        done.store(true, Ordering::Relaxed);
        noise.join().expect("the noise ends");
        assert_rests_balanced(&broker);
        let called = log.take();
        assert_eq!(
            called.iter().filter(|payload| **payload == 1_000).count(),
            1
        );
        drop(subscription);
    });
    assert_rests_balanced(&broker);
}

#[test]
fn a_panic_in_the_middle_of_a_run_costs_its_neighbors_nothing() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().expect("opens");
    let log = Log::new();
    let _hostile = topic
        .subscribe("hostile", {
            let log = log.clone();
            move |d| {
                log.push((*d.payload(), d.attempt()));
                assert!(d.payload() % 7 != 3 || d.attempt() > 1, "boom");
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..100).expect("there is room");
    broker.run_until_idle();
    let firsts: Vec<_> = log.take();
    assert_eq!(
        firsts,
        (0..100).map(|payload| (payload, 1)).collect::<Vec<_>>()
    );
    advance(&broker, &clock, 250 * MS);
    let mut again = log.take();
    again.sort_unstable();
    let expected: Vec<_> = (0..100).filter(|n| n % 7 == 3).map(|n| (n, 2)).collect();
    assert_eq!(again, expected);
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 100);
}

#[test]
fn a_batch_that_fails_as_a_whole_comes_back_one_by_one() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().expect("opens");
    let log = Log::new();
    let _batches = topic
        .subscription("batches")
        .subscribe_batches(Batched::of(10), {
            let log = log.clone();
            move |batch| {
                log.push(batch.iter().map(|d| *d.payload()).collect::<Vec<_>>());
                if batch.len() > 1 {
                    panic!("one of them is poison");
                }
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..10).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [(0..10).collect::<Vec<_>>()]);
    advance(&broker, &clock, 250 * MS);
    let mut again = log.take();
    again.sort_unstable();
    assert_eq!(again, (0..10).map(|n| vec![n]).collect::<Vec<_>>());
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 10);
}

/// The final statuses that events told of, by subscription and message.
type Ends = Arc<Mutex<BTreeMap<(String, u64), Vec<Status>>>>;

#[test]
fn every_delivery_ends_once_in_a_final_status_that_an_event_names() {
    let (broker, clock) = manual();
    let ends = Ends::default();
    let calls = Log::new();
    let _observation = broker
        .observe({
            let ends = Arc::clone(&ends);
            move |event| {
                let (Some(subscription), Some(id)) = (event.subscription(), event.id()) else {
                    return;
                };
                if event.status().is_some_and(Status::is_final) {
                    let key = (subscription.to_owned(), id.get());
                    let mut ends = ends.lock().expect("observers don't panic");
                    ends.entry(key).or_default().extend(event.status());
                }
            }
        })
        .expect("observes");
    let topic = broker.topic::<u64>("t").ttl(10_000 * MS);
    let topic = topic.retry(Backoff::fixed(MS)).open().expect("opens");
    let subscribe = |name: &str, policy| {
        let calls = calls.clone();
        let builder = topic.subscription(name).capacity(6).when_full(policy);
        builder.subscribe(move |d| {
            calls.push((d.subscription().to_owned(), d.id().get()));
            match d.payload() {
                1 => Err(Nack::dead_letter("poison")),
                2 => Err(Nack::discard("who cares")),
                3 => Err(Nack::retry("three times")),
                4 => Err(Nack::retry_after(20_000 * MS, "too late")),
                5 => Err(Nack::retry_after(5_000 * MS, "after the unsubscribe")),
                _ => Ok(()),
            }
        })
    };
    let _dropping = subscribe("dropping", LaneFull::DropNewest).expect("subscribes");
    let leaving = subscribe("leaving", LaneFull::DeadLetter).expect("subscribes");
    topic.publish_batch(0..8).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    advance(&broker, &clock, MS);
    leaving.unsubscribe(Unsubscribe::Cancel);
    advance(&broker, &clock, 5_000 * MS);
    advance(&broker, &clock, MS);
    advance(&broker, &clock, MS);

    use Status::{Cancelled, DeadLetter, Delivered, Dropped, Expired};
    let ends = std::mem::take(&mut *ends.lock().expect("observers don't panic"));
    let of = |name: &str| -> Vec<_> {
        let of = ends
            .iter()
            .filter(|((subscription, _), _)| subscription == name);
        of.map(|((_, id), ends)| (*id, ends.clone())).collect()
    };
    let common = [Delivered, DeadLetter, Dropped, DeadLetter, Expired];
    let expected = |rest: [Status; 3]| -> Vec<_> {
        let all = common.into_iter().chain(rest);
        (1..).zip(all.map(|end| vec![end])).collect()
    };
    // The lane has room for six: the last two find none.
    assert_eq!(of("dropping"), expected([Expired, Dropped, Dropped]));
    assert_eq!(of("leaving"), expected([Cancelled, DeadLetter, DeadLetter]));
    let called = calls.take();
    for name in ["dropping", "leaving"] {
        for id in 1..=6 {
            let times = called.iter().filter(|call| **call == (name.to_owned(), id));
            assert!(times.count() >= 1, "{name} was never called with #{id}");
        }
    }
    assert_eq!(assert_balanced(&broker).deliveries().open(), 0);
}

#[test]
fn nothing_is_missed_on_threads_with_failures_panics_and_swaps() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 500;
    let broker = threaded(2);
    let topic = broker.topic::<u64>("t").capacity(128);
    let topic = topic.retry(Backoff::fixed(MS)).open().expect("opens");
    let calls: [_; 3] = std::array::from_fn(|_| Arc::new(Mutex::new(BTreeMap::new())));
    let _subscriptions: Vec<_> = calls
        .iter()
        .enumerate()
        .map(|(at, calls)| {
            let calls = Arc::clone(calls);
            let builder = topic.subscription(["a", "b", "c"][at]).capacity(32);
            let subscribed = builder.subscribe(move |d| {
                let mut calls = calls.lock().expect("it panics after letting go");
                *calls.entry(*d.payload()).or_insert(0_u32) += 1;
                drop(calls);
                match (d.payload() + at as u64) % 50 {
                    0 if d.attempt() == 1 => Err(Nack::retry("not yet")),
                    1 if d.attempt() == 1 => panic!("boom"),
                    2 => Err(Nack::dead_letter("poison")),
                    _ => Ok(()),
                }
            });
            subscribed.expect("subscribes")
        })
        .collect();
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let topic = &topic;
            scope.spawn(move || {
                for payload in 0..EACH {
                    publish(topic, publisher * EACH + payload);
                }
            });
        }
        for swap in 0..20_u32 {
            if swap % 2 == 0 {
                topic
                    .set_strategy(Batched::of(16).linger(MS))
                    .expect("valid");
            } else {
                topic.set_strategy(Immediate).expect("valid");
            }
            std::thread::yield_now();
        }
    });
    let metrics = assert_rests_balanced(&broker);
    for calls in &calls {
        let calls = calls.lock().expect("it panics after letting go");
        assert_eq!(calls.len() as u64, PUBLISHERS * EACH);
        assert!(calls.values().all(|times| (1..=2).contains(times)));
    }
    let counts = metrics.deliveries();
    assert_eq!(counts.made, 3 * PUBLISHERS * EACH);
    assert_eq!(counts.delivered + counts.dead_lettered, counts.made);
}

#[test]
fn a_drain_calls_the_handler_for_everything_accepted_before_it() {
    let broker = threaded(2);
    let topic = broker.topic::<u64>("t").capacity(4_096);
    let topic = topic.strategy(Batched::of(1_000).until_full());
    let topic = topic.open().expect("opens");
    let log = Log::new();
    let _reader = topic
        .subscribe("reader", {
            let log = log.clone();
            move |d| {
                log.push(*d.payload());
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..2_500).expect("there is room");
    let report = broker.drain(HANG).expect("there is nothing to wait for");
    assert_eq!(report.delivered, 2_500);
    assert_eq!(log.take(), (0..2_500).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_payload_is_kept_until_its_last_delivery_has_ended_and_no_longer() {
    let (broker, clock) = manual();
    let topic = broker.topic::<Arc<u64>>("t").overflow(Overflow::DropOldest);
    let topic = topic.capacity(2).open().expect("opens");
    let payloads: Vec<_> = (0..4).map(Arc::new).collect();
    let kept = |payloads: &[Arc<u64>]| -> Vec<_> {
        payloads
            .iter()
            .map(|payload| Arc::strong_count(payload) - 1)
            .collect()
    };
    let _flaky = topic
        .subscribe("flaky", |d| match (**d.payload(), d.attempt()) {
            (2, 1) => Err(Nack::retry("once")),
            _ => Ok(()),
        })
        .expect("subscribes");
    for payload in &payloads {
        topic
            .publish(Arc::clone(payload))
            .expect("an older one goes");
    }
    assert_eq!(kept(&payloads), [0, 0, 1, 1], "dropped ones are freed");
    broker.run_until_idle();
    assert_eq!(kept(&payloads)[2], 1, "it awaits its retry");
    advance(&broker, &clock, 250 * MS);
    assert_eq!(kept(&payloads), [0, 0, 0, 0], "all have ended");
    assert_balanced(&broker);
}
