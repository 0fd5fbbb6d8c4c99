//! A subscription's filter: what it refuses is not delivered, takes no place in the lane,
//! and is counted and evented. Everybody else notices nothing. The filter is asked once
//! about each message, and a panic of it loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{
    HOUR, Log, assert_balanced, assert_rests_balanced, manual, read, read_by, threaded,
};
use millstream::event::{EventKind, Hook, Status};
use millstream::{
    Backoff, Batched, Broker, Delivery, LaneFull, Nack, NoSubscribers, Overflow, Pull, Topic,
    Unsubscribe,
};

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(HOUR).max_attempts(2);
    broker.topic("t").retry(retry).open().expect("opens")
}

fn is_even(delivery: &Delivery<'_, u32>) -> bool {
    delivery.payload().is_multiple_of(2)
}

#[test]
fn what_a_filter_refuses_is_counted_and_not_delivered_to_any_kind_of_handler() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (all, _all) = read(&topic, "all");
    let build = |name: &str| topic.subscription(name).filter(is_even);
    let logs = [(); 5].map(|()| Log::new());
    let handler = |at: usize| {
        let log: Log<u32> = logs[at].clone();
        move |delivery: &Delivery<'_, u32>| {
            log.push(*delivery.payload());
            Ok(())
        }
    };
    let plain = build("plain").subscribe(handler(0)).expect("subscribes");
    let several = build("several").concurrency(1).subscribe_shared(handler(1));
    let several = several.expect("subscribes");
    let log = logs[2].clone();
    let batches = Batched::of(2).until_full();
    let batches = build("batches").subscribe_batches(batches, move |batch| {
        batch
            .iter()
            .for_each(|delivery| log.push(*delivery.payload()));
        Ok(())
    });
    let batches = batches.expect("subscribes");
    let pull = build("pull").pull(Pull::default()).expect("subscribes");
    let group = build("group").group().expect("subscribes");
    let _member = group.join("member", handler(4)).expect("joins");
    topic.publish_batch(0..4).expect("there is room");
    for payload in 4..8 {
        topic.publish(payload).expect("there is room");
    }
    broker.run_until_idle();
    let leases = pull.recv_batch(9, Duration::ZERO).expect("they are there");
    leases
        .iter()
        .for_each(|lease| logs[3].push(*lease.payload()));
    assert_eq!(leases.ack_all(), Ok(()));
    assert!(all.take().into_iter().eq(0..8));
    for log in &logs {
        assert_eq!(log.take(), [0, 2, 4, 6]);
    }
    let all = [
        plain.metrics(),
        several.metrics(),
        batches.metrics(),
        pull.metrics(),
        group.metrics(),
    ];
    for metrics in all {
        let counts = metrics.counts;
        assert_eq!((counts.made, counts.filtered, counts.delivered), (8, 4, 4));
    }
    let metrics = assert_rests_balanced(&broker);
    let topic = metrics.topic("t").expect("open");
    assert_eq!((topic.dispatched, topic.unrouted), (8, 0));
}

#[test]
fn a_refused_message_takes_no_place_and_passes_a_full_lane() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (all, _all) = read(&topic, "all");
    let builder = topic.subscription("full").capacity(1).filter(is_even);
    let subscribed = builder.subscribe(|_| Err(Nack::retry("in an hour")));
    let full = subscribed.expect("subscribes");
    topic.publish_batch([0, 1, 3]).expect("there is room");
    broker.run_until_idle();
    topic.publish(5).expect("there is room");
    broker.run_until_idle();
    assert_eq!(all.take(), [0, 1, 3, 5]);
    topic.publish_batch([7, 2, 9]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(all.take(), [7], "the next one has to wait for room");
    let counts = full.metrics().counts;
    assert_eq!((counts.filtered, counts.awaiting_retry), (4, 1));
    assert_balanced(&broker);
    drop(full);
    broker.run_until_idle();
    assert_eq!(all.take(), [2, 9]);
    assert_balanced(&broker);
}

#[test]
fn a_filter_is_asked_once_however_long_a_message_waits() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let asked = Log::new();
    let of_filter = asked.clone();
    let builder = topic.subscription("s").capacity(1).filter(move |d| {
        of_filter.push(*d.payload());
        d.payload() % 3 != 0
    });
    let subscribed = builder.subscribe(|d| match d.attempt() {
        1 => Err(Nack::retry("in an hour")),
        _ => Ok(()),
    });
    let subscription = subscribed.expect("subscribes");
    topic.publish_batch(0..100).expect("there is room");
    for payload in 100..150 {
        topic.publish(payload).expect("there is room");
    }
    for _ in 0..110 {
        broker.run_until_idle();
        clock.advance(HOUR);
    }
    assert!(asked.take().into_iter().eq(0..150));
    let counts = subscription.metrics().counts;
    assert_eq!((counts.filtered, counts.delivered), (50, 100));
    assert_rests_balanced(&broker);
}

#[test]
fn a_filter_that_panics_loses_nothing_and_observers_hear_of_it() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let events = Log::new();
    let told = events.clone();
    let _observation = broker.observe(move |event| match event.kind() {
        EventKind::HookPanicked { hook } => told.push((event.subscription().is_some(), *hook)),
        EventKind::Filtered => assert_eq!(event.status(), Some(Status::Filtered)),
        _ => {}
    });
    let builder = topic.subscription("s").filter(|d| match d.payload() {
        1 => panic!("a filter that can't say"),
        payload => payload % 2 == 0,
    });
    let (log, _subscription) = read_by(builder);
    topic.publish_batch(0..4).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    assert_eq!(events.take(), [(true, Hook::Filter)]);
    assert_rests_balanced(&broker);
}

#[test]
fn what_all_refuse_is_dispatched_to_nobody() {
    for no_subscribers in [
        NoSubscribers::Discard,
        NoSubscribers::Retain,
        NoSubscribers::Reject,
    ] {
        let (broker, _clock) = manual();
        let builder = broker.topic::<u32>("t").no_subscribers(no_subscribers);
        let topic = builder.open().expect("opens");
        let none = topic.subscription("none").filter(|_| false);
        let (log, _none) = read_by(none);
        topic.publish_batch(0..100).expect("there is room");
        broker.run_until_idle();
        let metrics = assert_rests_balanced(&broker);
        let topic = metrics.topic("t").expect("open");
        assert_eq!(
            (topic.dispatched, topic.unrouted, topic.queued),
            (100, 0, 0)
        );
        assert_eq!(metrics.deliveries().filtered, 100);
        assert_eq!(log.len(), 0);
    }
}

#[test]
fn nobody_is_asked_about_messages_from_before_the_subscription_unless_they_were_kept_for_it() {
    for (no_subscribers, filtered) in [(NoSubscribers::Discard, 1), (NoSubscribers::Retain, 2)] {
        let (broker, _clock) = manual();
        let builder = broker.topic::<u32>("t").no_subscribers(no_subscribers);
        let topic = builder.open().expect("opens");
        topic.publish_batch([0, 1]).expect("there is room");
        let asked = Log::new();
        let of_filter = asked.clone();
        let builder = topic.subscription("s").filter(move |delivery| {
            of_filter.push(*delivery.payload());
            is_even(delivery)
        });
        let (log, subscription) = read_by(builder);
        topic.publish_batch([2, 3]).expect("there is room");
        broker.run_until_idle();
        let is_kept = no_subscribers == NoSubscribers::Retain;
        assert_eq!(log.take(), if is_kept { vec![0, 2] } else { vec![2] });
        let from = if is_kept { 0 } else { 2 };
        assert!(asked.take().into_iter().eq(from..4));
        assert_eq!(subscription.metrics().counts.filtered, filtered);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_full_lane_drops_or_buries_only_what_it_wanted() {
    for when_full in [
        LaneFull::DropOldest,
        LaneFull::DropNewest,
        LaneFull::DeadLetter,
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let builder = topic.subscription("s").capacity(1).when_full(when_full);
        let subscribed = builder.filter(is_even).pull(Pull::default());
        let worker = subscribed.expect("subscribes");
        topic.publish_batch(0..6).expect("there is room");
        broker.run_until_idle();
        let counts = worker.metrics().counts;
        assert_eq!((counts.made, counts.filtered), (6, 3));
        assert_eq!(counts.dropped + counts.dead_lettered, 2);
        let lease = worker.recv().expect("it is there");
        let kept = if when_full == LaneFull::DropOldest {
            4
        } else {
            0
        };
        assert_eq!(*lease.payload(), kept);
        assert_eq!(lease.ack(), Ok(()));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_redriven_letter_is_not_asked_about_again() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let asked = Arc::new(AtomicUsize::new(0));
    let of_filter = Arc::clone(&asked);
    // It changes its mind after the first.
    let filter = move |_: &Delivery<'_, u32>| of_filter.fetch_add(1, Ordering::Relaxed) == 0;
    let builder = topic.subscription("s").filter(filter);
    let subscribed = builder.subscribe(|d| match d.generation() {
        0 => Err(Nack::dead_letter("in its first life")),
        _ => Ok(()),
    });
    let subscription = subscribed.expect("subscribes");
    topic.publish(7).expect("there is room");
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().redrive_all().redriven, 1);
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.delivered, 1);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_rests_balanced(&broker);
}

#[test]
fn a_filter_is_gone_when_its_subscription_is() {
    for broker in [manual().0, threaded(2)] {
        let topic = open(&broker);
        let captured = Arc::new(());
        let of_filter = Arc::clone(&captured);
        let builder = topic.subscription("s").filter(move |_| {
            let _keep = &of_filter;
            false
        });
        let (_log, subscription) = read_by(builder);
        topic.publish_batch(0..10).expect("there is room");
        assert_rests_balanced(&broker);
        subscription.unsubscribe(Unsubscribe::Cancel);
        assert_eq!(Arc::strong_count(&captured), 1);
    }
}

/// Pieces of batches for every set of lanes, while subscriptions come and go.
#[test]
fn each_subscription_gets_exactly_what_it_wants_in_order_under_load() {
    for partitions in [None, Some(3)] {
        let broker = threaded(2);
        let builder = broker.topic::<u32>("t").capacity(256).lane_capacity(64);
        let builder = builder.overflow(Overflow::Block { timeout: HOUR });
        let builder = match partitions {
            None => builder,
            Some(partitions) => builder.partitions(partitions),
        };
        let topic = builder.open().expect("opens");
        const MESSAGES: u32 = 6_000;
        let lanes: Vec<_> = (1..=4_u32)
            .map(|of| {
                let builder = topic.subscription(&format!("every-{of}"));
                read_by(builder.filter(move |d| d.payload() % of == 0))
            })
            .collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    let passing = topic.subscription("passing").filter(is_even);
                    let (_log, passing) = read_by(passing);
                    std::thread::yield_now();
                    passing.unsubscribe(Unsubscribe::Cancel);
                }
            });
            for first in (0..MESSAGES).step_by(100) {
                let (many, one) = (first..first + 90, first + 90..first + 100);
                topic.publish_batch(many).expect("it waits for room");
                for payload in one {
                    topic.publish(payload).expect("it waits for room");
                }
            }
        });
        assert_rests_balanced(&broker);
        for (of, (log, subscription)) in (1..).zip(lanes) {
            let mut payloads = log.take();
            if partitions.is_some() {
                payloads.sort_unstable();
            }
            let wanted = (0..MESSAGES).filter(|payload| payload % of == 0);
            assert!(payloads.into_iter().eq(wanted.clone()), "every {of}");
            let counts = subscription.metrics().counts;
            let refused = MESSAGES as usize - wanted.count();
            assert_eq!(counts.filtered, refused as u64);
        }
    }
}

#[test]
fn a_pattern_filters_in_all_its_topics_and_lets_its_filter_go() {
    let (broker, _clock) = manual();
    let first = broker.topic::<u32>("a").open().expect("opens");
    let captured = Arc::new(());
    let kept = Arc::clone(&captured);
    let builder = broker.subscription::<u32>("even").matching("*");
    let even = builder.filter(move |delivery| {
        let _kept = &kept;
        is_even(delivery)
    });
    let even = even.subscribe(|_| Ok(())).expect("subscribes");
    let second = broker.topic::<u32>("b").open().expect("opens");
    for topic in [&first, &second] {
        topic.publish_batch(0..10).expect("there is room");
    }
    broker.run_until_idle();
    let counts = even.metrics().counts;
    assert_eq!((counts.delivered, counts.filtered), (10, 10));
    even.unsubscribe(millstream::Unsubscribe::Cancel);
    broker.run_until_idle();
    assert_eq!(Arc::strong_count(&captured), 1);
    assert_balanced(&broker);
}

#[test]
fn what_was_retained_for_nobody_goes_to_those_that_do_not_refuse_it() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().expect("opens");
    let first = topic.subscribe("first", |_| Ok(())).expect("subscribes");
    topic.publish(1).expect("there is room");
    let even = topic.subscription("even").filter(is_even);
    let even = even.subscribe(|_| Ok(())).expect("subscribes");
    let (log, _all) = read(&topic, "all");
    // The one that it was accepted for goes before it is handed on.
    drop(first);
    broker.run_until_idle();
    assert_eq!(log.take(), [1]);
    assert_eq!(even.metrics().counts.filtered, 1);
    assert_balanced(&broker);
}
