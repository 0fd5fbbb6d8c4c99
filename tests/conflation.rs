//! Promise: under `.conflate()` the newest message of a key takes the place of the one that waits. The
//! older one ends as dropped, cause conflated. What is in flight or was tried is never replaced, what
//! has no key is delivered as ever, and a lane that is full of other keys follows its policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, drops, manual, read_by, threaded,
};
use millstream::error::{SettingError, SubscribeError};
use millstream::event::DropCause;
use millstream::{
    Backoff, Batched, Broker, Delivery, LaneFull, Nack, OnExhausted, OnFailure, Pull, Subscription,
    SubscriptionBuilder, SubscriptionOptions, Topic, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

/// Publishes a value of a key, or one without a key.
fn put(topic: &Topic<u32>, key: &str, value: u32) {
    let message = topic.message(value);
    let message = if key.is_empty() {
        message
    } else {
        message.key(key)
    };
    message.publish().expect("there is room");
}

/// Publishes values, each under the letter of its key.
fn put_all(broker: &Broker, topic: &Topic<u32>, values: &[(&str, u32)]) {
    for (key, value) in values {
        put(topic, key, *value);
    }
    broker.run_until_idle();
}

fn paused(builder: SubscriptionBuilder<'_, u32>) -> (Log<u32>, Subscription) {
    let (log, subscription) = read_by(builder);
    subscription.pause();
    (log, subscription)
}

#[test]
fn the_newest_of_a_key_takes_the_place_of_the_one_that_waits() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, subscription) = paused(topic.subscription("s").conflate());
    let (drops, _observation) = drops(&broker, Some("s"));
    put_all(&broker, &topic, &[("a", 1), ("b", 2), ("a", 3), ("", 4)]);
    put_all(&broker, &topic, &[("a", 5), ("", 6), ("c", 7), ("b", 8)]);
    assert_eq!(subscription.metrics().queued, 5);
    assert_balanced(&broker);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [5, 8, 4, 6, 7],
        "in the places of the older ones"
    );
    let conflated = [1, 3, 2].map(|id| (id, DropCause::Conflated));
    assert_eq!(drops.take(), conflated);
    let counts = subscription.metrics().counts;
    assert_eq!((counts.delivered, counts.dropped), (5, 3));
    assert_eq!(subscription.metrics().conflated, 3);
    // What has been delivered is replaced no more.
    put_all(&broker, &topic, &[("a", 9)]);
    put_all(&broker, &topic, &[("a", 10)]);
    assert_eq!(log.take(), [9, 10]);
    assert_rests_balanced(&broker);
}

#[test]
fn every_kind_of_consumer_gets_the_newest_only() {
    type At<'a> = (&'a Broker, &'a Topic<u32>);
    type Make = fn(At<'_>, SubscriptionOptions, &Log<u32>) -> Box<dyn FnOnce()>;
    fn push(log: &Log<u32>) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + use<> {
        let log = log.clone();
        move |delivery| {
            log.push(*delivery.payload());
            Ok(())
        }
    }
    fn resumed(subscription: Subscription) -> Box<dyn FnOnce()> {
        subscription.pause();
        Box::new(move || {
            subscription.resume();
            subscription.detach();
        })
    }
    let kinds: [(&str, Make); 7] = [
        ("plain", |(_, topic), options, log| {
            let builder = topic.subscription("s").options(&options);
            resumed(builder.subscribe(push(log)).expect("subscribes"))
        }),
        ("by key", |(_, topic), options, log| {
            let options = options.on_failure(OnFailure::BlockKey);
            let builder = topic.subscription("s").options(&options);
            resumed(builder.subscribe(push(log)).expect("subscribes"))
        }),
        ("all in order", |(_, topic), options, log| {
            let options = options.on_failure(OnFailure::BlockSubscription);
            let builder = topic.subscription("s").options(&options);
            resumed(builder.subscribe(push(log)).expect("subscribes"))
        }),
        ("shared", |(_, topic), options, log| {
            let builder = topic.subscription("s").options(&options).concurrency(4);
            resumed(builder.subscribe_shared(push(log)).expect("subscribes"))
        }),
        ("pattern", |(broker, _), options, log| {
            let builder = broker.subscription("s").matching("*").options(&options);
            let subscription = builder.subscribe(push(log)).expect("subscribes");
            subscription.pause();
            Box::new(move || {
                subscription.resume();
                subscription.detach();
            })
        }),
        ("group", |(_, topic), options, log| {
            let builder = topic.subscription("s").options(&options);
            let group = builder.group().expect("subscribes");
            let push = push(log);
            Box::new(move || {
                let member = group.join("one", push).expect("joins");
                member.detach();
                group.detach();
            })
        }),
        ("pull", |(_, topic), options, log| {
            let builder = topic.subscription("s").options(&options);
            let pull = builder.pull(Pull::default()).expect("subscribes");
            let log = log.clone();
            Box::new(move || {
                while let Ok(lease) = pull.try_recv() {
                    log.push(*lease.payload());
                    lease.ack().expect("in time");
                }
            })
        }),
    ];
    for (kind, make) in kinds {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let go = make(
            (&broker, &topic),
            SubscriptionOptions::new().conflate(),
            &log,
        );
        put_all(&broker, &topic, &[("a", 1), ("b", 2), ("a", 3), ("", 4)]);
        put_all(&broker, &topic, &[("b", 5), ("", 6), ("c", 7), ("b", 8)]);
        assert_eq!(log.len(), 0, "{kind}");
        go();
        broker.run_until_idle();
        assert_eq!(log.take(), [3, 8, 4, 6, 7], "{kind}");
        assert_eq!(broker.metrics().deliveries().dropped, 3, "{kind}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn what_is_in_flight_is_not_replaced() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let subscription = topic.subscription("s").conflate().subscribe({
        let (log, topic) = (log.clone(), topic.clone());
        move |delivery| {
            if *delivery.payload() == 1 {
                put(&topic, "a", 3);
                put(&topic, "b", 4);
                put(&topic, "a", 5);
            }
            log.push(*delivery.payload());
            Ok(())
        }
    });
    let _subscription = subscription.expect("subscribes");
    put_all(&broker, &topic, &[("a", 1), ("b", 2)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 5, 4]);
    assert_rests_balanced(&broker);
}

#[test]
fn what_was_tried_is_not_replaced_and_keeps_its_order() {
    for (mode, expected) in [
        (OnFailure::Reorder, [1, 3, 4, 1]),
        (OnFailure::BlockKey, [1, 4, 1, 3]),
        (OnFailure::BlockSubscription, [1, 1, 3, 4]),
    ] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let subscription = topic
            .subscription("s")
            .conflate()
            .on_failure(mode)
            .retry(Backoff::fixed(5 * MS))
            .subscribe({
                let log = log.clone();
                move |delivery| {
                    log.push(*delivery.payload());
                    match delivery.attempt() {
                        1 if *delivery.payload() == 1 => Err(Nack::retry("not yet")),
                        _ => Ok(()),
                    }
                }
            })
            .expect("subscribes");
        put_all(&broker, &topic, &[("a", 1)]);
        subscription.pause();
        put_all(&broker, &topic, &[("a", 2), ("a", 3), ("b", 4)]);
        let metrics = subscription.metrics();
        assert_eq!((metrics.counts.awaiting_retry, metrics.queued), (1, 2));
        subscription.resume();
        broker.run_until_idle();
        advance(&broker, &clock, 5 * MS);
        assert_eq!(log.take(), expected, "{mode:?}");
        assert_eq!(subscription.metrics().counts.dropped, 1);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn what_waits_for_its_key_is_replaced_as_well() {
    type Make = fn(SubscriptionBuilder<'_, u32>, &Log<u32>) -> Box<dyn std::any::Any>;
    fn fail_first(log: &Log<u32>) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + use<> {
        let log = log.clone();
        move |delivery| {
            log.push(*delivery.payload());
            match delivery.attempt() {
                1 if *delivery.payload() == 1 => Err(Nack::retry("not yet")),
                _ => Ok(()),
            }
        }
    }
    let kinds: [(&str, OnFailure, Make); 4] = [
        ("plain", OnFailure::BlockKey, |builder, log| {
            Box::new(builder.subscribe(fail_first(log)).expect("subscribes"))
        }),
        ("in order", OnFailure::BlockSubscription, |builder, log| {
            Box::new(builder.subscribe(fail_first(log)).expect("subscribes"))
        }),
        ("shared", OnFailure::BlockKey, |builder, log| {
            let builder = builder.concurrency(2);
            Box::new(
                builder
                    .subscribe_shared(fail_first(log))
                    .expect("subscribes"),
            )
        }),
        ("group", OnFailure::BlockKey, |builder, log| {
            let group = builder.group().expect("subscribes");
            let one = group.join("one", fail_first(log)).expect("joins");
            let two = group.join("two", fail_first(log)).expect("joins");
            Box::new((group, one, two))
        }),
    ];
    for (kind, mode, make) in kinds {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let builder = topic.subscription("s").conflate().capacity(3);
        let builder = builder.on_failure(mode).retry(Backoff::fixed(5 * MS));
        let _subscription = make(builder, &log);
        put_all(&broker, &topic, &[("a", 1)]);
        for value in 2..20 {
            put_all(&broker, &topic, &[("a", value)]);
        }
        let is_blocked = mode == OnFailure::BlockSubscription;
        put_all(&broker, &topic, &[("b", 20)]);
        assert_eq!(log.len(), if is_blocked { 1 } else { 2 }, "{kind}");
        advance(&broker, &clock, 5 * MS);
        let mut handled = log.take();
        handled.retain(|value| *value < 20);
        assert_eq!(handled, [1, 1, 19], "{kind}");
        assert_eq!(broker.metrics().deliveries().dropped, 17, "{kind}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_full_lane_takes_what_replaces_and_follows_its_policy_for_the_rest() {
    use DropCause::{Conflated, LaneFull as Full};
    type Case = (LaneFull, &'static [u32], &'static [(u64, DropCause)]);
    let cases: [Case; 4] = [
        // Behind the message that waits, the others wait as well.
        (LaneFull::Wait, &[3, 2, 4, 5, 6], &[(1, Conflated)]),
        (
            LaneFull::DropNewest,
            &[6, 5],
            &[(1, Conflated), (4, Full), (2, Conflated), (3, Conflated)],
        ),
        (
            LaneFull::DropOldest,
            &[4, 6],
            &[(1, Conflated), (3, Full), (2, Conflated), (5, Full)],
        ),
        (
            LaneFull::DeadLetter,
            &[6, 5],
            &[(1, Conflated), (2, Conflated), (3, Conflated)],
        ),
    ];
    for (policy, expected, expected_drops) in cases {
        for at_once in [false, true] {
            let (broker, _clock) = manual();
            let topic = open(&broker);
            let builder = topic.subscription("s").conflate().capacity(2);
            let (log, subscription) = paused(builder.when_full(policy));
            let (drops, _observation) = drops(&broker, Some("s"));
            let values = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5), ("a", 6)];
            if at_once {
                put_all(&broker, &topic, &values);
            } else {
                for value in values {
                    put_all(&broker, &topic, &[value]);
                }
            }
            assert_eq!(subscription.metrics().queued, 2, "{policy:?}");
            assert_balanced(&broker);
            subscription.resume();
            broker.run_until_idle();
            assert_eq!(log.take(), expected, "{policy:?}");
            assert_eq!(drops.take(), expected_drops, "{policy:?}");
            let letters = topic.dead_letters().list();
            let lettered: Vec<_> = letters.iter().map(|letter| *letter.payload()).collect();
            let expected: &[u32] = match policy {
                LaneFull::DeadLetter => &[4],
                _ => &[],
            };
            assert_eq!(lettered, expected);
            assert_rests_balanced(&broker);
        }
    }
}

#[test]
fn a_message_that_replaces_passes_no_message_before_it() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, subscription) = paused(topic.subscription("s").conflate().capacity(1));
    let (others, _other) = read_by(topic.subscription("other"));
    put_all(&broker, &topic, &[("a", 1), ("a", 2), ("b", 3), ("a", 4)]);
    assert_eq!(
        topic.metrics().queued,
        2,
        "the third waits, and what is behind it"
    );
    assert_eq!(others.take(), [1, 2]);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [2, 3, 4]);
    assert_eq!(others.take(), [3, 4]);
    assert_rests_balanced(&broker);
}

#[test]
fn an_older_one_is_there_as_long_as_another_lane_keeps_the_newer_one_away() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, subscription) = paused(topic.subscription("s").conflate().capacity(1));
    let (others, other) = paused(topic.subscription("other").capacity(1));
    put_all(&broker, &topic, &[("a", 1), ("a", 2)]);
    assert_eq!(topic.metrics().queued, 1);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [1],
        "it was not given up for one that is not there"
    );
    other.resume();
    broker.run_until_idle();
    assert_eq!((log.take(), others.take()), (vec![2], vec![1, 2]));
    assert_rests_balanced(&broker);
}

#[test]
fn a_filter_and_a_time_to_live_do_as_ever() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("s").conflate().capacity(2);
    let (log, subscription) = paused(builder.filter(|delivery| *delivery.payload() != 3));
    let short = topic.message(1).key("a").ttl(5 * MS);
    short.publish().expect("there is room");
    put_all(&broker, &topic, &[("b", 2), ("b", 3)]);
    let short = topic.message(4).key("b").ttl(9 * MS);
    short.publish().expect("there is room");
    broker.run_until_idle();
    assert_eq!(subscription.metrics().queued, 2);
    advance(&broker, &clock, 5 * MS);
    assert_eq!(subscription.metrics().counts.expired, 1);
    put_all(&broker, &topic, &[("a", 5)]);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 5]);
    let counts = subscription.metrics().counts;
    assert_eq!((counts.filtered, counts.dropped), (1, 1));
    assert_rests_balanced(&broker);
}

#[test]
fn a_subscription_that_ends_takes_along_what_waits_in_it() {
    for end in [Unsubscribe::Cancel, Unsubscribe::DeadLetter] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let (log, subscription) = paused(topic.subscription("s").conflate());
        put_all(&broker, &topic, &[("a", 1), ("b", 2), ("a", 3)]);
        let _ = subscription.unsubscribe(end);
        let ended = broker.metrics().deliveries();
        assert_eq!(ended.cancelled + ended.dead_lettered, 2);
        assert_eq!((log.len(), ended.dropped), (0, 1));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_redriven_letter_replaces_nothing_and_is_not_replaced() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let subscription = topic.subscription("s").conflate().subscribe({
        let log = log.clone();
        move |delivery| {
            log.push(*delivery.payload());
            match delivery.generation() {
                0 if *delivery.payload() == 1 => Err(Nack::dead_letter("not now")),
                _ => Ok(()),
            }
        }
    });
    let subscription = subscription.expect("subscribes");
    put_all(&broker, &topic, &[("a", 1)]);
    subscription.pause();
    let _ = topic.dead_letters().redrive(|_| true);
    put_all(&broker, &topic, &[("a", 2), ("a", 3)]);
    subscription.resume();
    broker.run_until_idle();
    let mut handled = log.take();
    handled.sort_unstable();
    assert_eq!(handled, [1, 1, 3]);
    assert_rests_balanced(&broker);
}

fn refused<S: std::fmt::Debug>(result: Result<S, SubscribeError>) -> SettingError {
    match result {
        Err(SubscribeError::Invalid(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn combinations_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let builder = || topic.subscription("s").conflate();
    let batched = builder().subscribe_batches(Batched::of(2), |_| Ok(()));
    let error = refused(batched);
    assert_eq!(error.setting(), "conflate");
    let patterns = broker.subscription("p").matching("*").conflate();
    let batched = patterns.subscribe_batches(
        Batched::of(2),
        |_: &mut millstream::DeliveryBatch<'_, u32>| Ok(()),
    );
    assert_eq!(refused(batched).setting(), "conflate");
    let parking = builder()
        .on_failure(OnFailure::BlockKey)
        .on_exhausted(OnExhausted::ParkKey);
    assert_eq!(refused(parking.subscribe(|_| Ok(()))).setting(), "conflate");
    #[cfg(feature = "log")]
    {
        let durable = builder().durable().subscribe(|_| Ok(()));
        assert_eq!(refused(durable).setting(), "conflate");
        let from = builder().from(millstream::store::Start::Earliest);
        assert_eq!(refused(from.subscribe(|_| Ok(()))).setting(), "conflate");
    }
    let subscription = builder().subscribe(|_| Ok(())).expect("subscribes");
    subscription
        .set_on_failure(OnFailure::BlockKey)
        .expect("it makes sense");
    let parking = subscription.set_on_exhausted(OnExhausted::ParkKey);
    assert_eq!(parking.expect_err("refused").setting(), "conflate");
    assert_rests_balanced(&broker);
}

#[test]
fn under_load_each_key_ends_with_its_newest_value_and_never_goes_back() {
    const KEYS: usize = 8;
    const EACH: u32 = 4_000;
    for (concurrency, capacity) in [(1, 4), (4, 16), (4, 3)] {
        let broker = threaded(2);
        let topic = broker.topic::<(usize, u32)>("t").capacity(64).open();
        let topic = topic.expect("opens");
        let latest: Arc<[AtomicU32; KEYS]> = Arc::default();
        let subscription = topic
            .subscription("s")
            .conflate()
            .capacity(capacity)
            .concurrency(concurrency)
            .subscribe_shared({
                let latest = Arc::clone(&latest);
                move |delivery| {
                    let (key, value) = *delivery.payload();
                    let before = latest[key].swap(value, Ordering::Relaxed);
                    assert!(before < value, "{key}: {value} after {before}");
                    Ok(())
                }
            })
            .expect("subscribes");
        std::thread::scope(|scope| {
            for half in 0..2 {
                let topic = &topic;
                scope.spawn(move || {
                    for value in 1..=EACH {
                        let key = half * KEYS / 2 + value as usize % (KEYS / 2);
                        let message = || topic.message((key, value)).key(format!("key-{key}"));
                        while message().publish().is_err() {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert!(broker.wait_until_idle(HANG));
        for (key, value) in latest.iter().enumerate() {
            let value = value.load(Ordering::Relaxed) as usize;
            let last = (0..KEYS / 2).map(|back| EACH as usize - back);
            let last = last
                .into_iter()
                .find(|last| last % (KEYS / 2) == key % (KEYS / 2));
            assert_eq!(Some(value), last, "key {key}");
        }
        let counts = subscription.metrics().counts;
        assert_eq!(counts.delivered + counts.dropped, u64::from(2 * EACH));
        assert_eq!(counts.dead_lettered, 0, "no handler panicked");
        assert_rests_balanced(&broker);
    }
}
