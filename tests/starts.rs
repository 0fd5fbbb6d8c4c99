//! Promise 6, where a subscription starts: it gets exactly what is accepted after
//! `subscribe` has returned, and nothing that was accepted before it was called,
//! wherever that waits: in the queue, in the dispatcher's hand, on the timer wheel.
//! Under `Retain` the first one gets what waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::{
    Batched, Broker, LaneFull, Nack, NoSubscribers, Overflow, Subscription, Topic, TopicBuilder,
    Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker, policy: NoSubscribers) -> Topic<u64> {
    let builder = broker.topic("t").capacity(1_000).no_subscribers(policy);
    builder.open().expect("opens")
}

/// Publishes `first` alone and the others together.
fn publish(topic: &Topic<u64>, first: u64, others: std::ops::Range<u64>) {
    topic.publish(first).expect("there is room");
    topic.publish_batch(others).expect("there is room");
}

#[test]
fn a_subscription_gets_nothing_that_was_accepted_before_it_and_all_that_is_after() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Discard);
    let (first, _first) = read(&topic, "first");
    publish(&topic, 0, 1..5);
    let (second, _second) = read(&topic, "second");
    publish(&topic, 5, 6..10);
    // These travel in one batch, and it is cut.
    (10..13).for_each(|n| publish(&topic, n, 0..0));
    let (third, _third) = read(&topic, "third");
    (13..16).for_each(|n| publish(&topic, n, 0..0));
    broker.run_until_idle();
    assert_eq!(first.take(), (0..16).collect::<Vec<_>>());
    assert_eq!(second.take(), (5..16).collect::<Vec<_>>());
    assert_eq!(third.take(), (13..16).collect::<Vec<_>>());
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.deliveries().made, 16 + 11 + 3);
    publish(&topic, 16, 17..20);
    broker.run_until_idle();
    for log in [first, second, third] {
        assert_eq!(log.take(), (16..20).collect::<Vec<_>>());
    }
    assert_balanced(&broker);
}

#[test]
fn what_was_accepted_for_nobody_is_unrouted_whoever_comes_before_it_is_looked_at() {
    for policy in [NoSubscribers::Discard, NoSubscribers::Reject] {
        let (broker, _clock) = manual();
        let topic = open(&broker, policy);
        let (_, before) = read(&topic, "s");
        publish(&topic, 0, 1..5);
        drop(before);
        let (log, _after) = read(&topic, "s");
        publish(&topic, 5, 6..10);
        broker.run_until_idle();
        assert_eq!(log.take(), (5..10).collect::<Vec<_>>(), "{policy:?}");
        let metrics = assert_balanced(&broker);
        let topic = metrics.topic("t").expect("it is open");
        assert_eq!((topic.unrouted, topic.dispatched), (5, 5));
    }
}

#[test]
fn a_successor_of_the_same_name_gets_nothing_of_its_predecessors() {
    for mode in [
        Unsubscribe::Cancel,
        Unsubscribe::DeadLetter,
        Unsubscribe::Drain { timeout: MS },
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker, NoSubscribers::Discard);
        let narrow = topic.subscription("s").capacity(2);
        let narrow = narrow.subscribe(|_| Err(Nack::retry_after(HANG, "holds its place")));
        let narrow = narrow.expect("a free name");
        publish(&topic, 0, 1..5);
        broker.run_until_idle();
        narrow.unsubscribe(mode);
        publish(&topic, 5, 6..10);
        let (log, _successor) = read(&topic, "s");
        publish(&topic, 10, 11..15);
        broker.run_until_idle();
        assert_eq!(log.take(), (10..15).collect::<Vec<_>>(), "{mode:?}");
        assert_balanced(&broker);
    }
}

#[test]
fn a_lane_that_drops_or_buries_does_so_with_what_it_wants_only() {
    for when_full in [
        LaneFull::DropNewest,
        LaneFull::DropOldest,
        LaneFull::DeadLetter,
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker, NoSubscribers::Discard);
        let (first, _first) = read(&topic, "first");
        (0..8).for_each(|n| publish(&topic, n, 0..0));
        let log = Log::new();
        let narrow = topic.subscription("narrow").capacity(2);
        let narrow = narrow.when_full(when_full).subscribe({
            let log = log.clone();
            move |d| {
                log.push(*d.payload());
                Ok(())
            }
        });
        let narrow = narrow.expect("a free name");
        (8..12).for_each(|n| publish(&topic, n, 0..0));
        broker.run_until_idle();
        assert_eq!(first.take(), (0..12).collect::<Vec<_>>());
        let counts = narrow.metrics().counts;
        assert_eq!((counts.made, counts.delivered), (4, 2), "{when_full:?}");
        assert_eq!(counts.dropped + counts.dead_lettered, 2);
        assert!(log.take().iter().all(|n| *n >= 8));
        assert_balanced(&broker);
    }
}

#[test]
fn a_delayed_message_is_for_those_who_were_there_when_it_was_accepted() {
    let (broker, clock) = manual();
    let topic = open(&broker, NoSubscribers::Discard);
    let (first, first_handle) = read(&topic, "first");
    topic.publish_after(2 * MS, 0).expect("there is room");
    let (second, _second) = read(&topic, "second");
    topic.publish(1).expect("there is room");
    advance(&broker, &clock, 2 * MS);
    assert_eq!((first.take(), second.take()), (vec![1, 0], vec![1]));
    topic.publish_after(2 * MS, 2).expect("there is room");
    let (third, _third) = read(&topic, "third");
    first_handle.unsubscribe(Unsubscribe::Cancel);
    drop(_second);
    advance(&broker, &clock, 2 * MS);
    assert_eq!(third.len(), 0, "it was accepted before");
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.topic("t").expect("it is open").unrouted, 1);
}

// Retain.

/// A lane that is full for an hour, of a subscription that came just now.
fn full(broker: &Broker, topic: &Topic<u64>) -> Subscription {
    let lane = topic.subscription("full").capacity(1);
    let subscribed = lane.subscribe(|_| Err(Nack::snooze(HOUR, "not now")));
    publish(topic, 1, 0..0);
    broker.run_until_idle();
    subscribed.expect("subscribes")
}

#[test]
fn a_full_lane_holds_back_nothing_that_was_accepted_before_it_came() {
    let (broker, clock) = manual();
    let topic = open(&broker, NoSubscribers::Discard);
    let (first, _first) = read(&topic, "first");
    topic.publish_after(MS, 0).expect("there is room");
    let _full = full(&broker, &topic);
    advance(&broker, &clock, MS);
    assert_eq!(first.take(), [1, 0]);
    publish(&topic, 2, 0..0);
    broker.run_until_idle();
    assert_eq!(first.len(), 0, "this one is for both");
    assert_balanced(&broker);
}

#[test]
fn what_needs_no_room_goes_on_once_those_before_it_were_dropped() {
    let (broker, clock) = manual();
    let topic = open(&broker, NoSubscribers::Discard);
    topic
        .set_overflow(Overflow::DropOldest)
        .expect("nobody waits");
    topic.set_capacity(3).expect("it is in range");
    let (first, _first) = read(&topic, "first");
    topic.publish_after(MS, 0).expect("there is room");
    let _full = full(&broker, &topic);
    publish(&topic, 2, 0..0);
    advance(&broker, &clock, MS);
    assert_eq!(first.take(), [1], "the next one is for both");
    publish(&topic, 3, 4..5);
    broker.run_until_idle();
    assert_eq!(first.take(), [0], "the next one is for both");
    assert_eq!(assert_balanced(&broker).topics[0].dropped, 1);
}

#[test]
fn retained_messages_are_for_the_first_that_comes_and_not_for_the_second() {
    let (broker, clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    publish(&topic, 0, 1..5);
    topic.publish_after(MS, 5).expect("there is room");
    let (first, _first) = read(&topic, "first");
    let (second, _second) = read(&topic, "second");
    publish(&topic, 6, 7..10);
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(first.take(), [0, 1, 2, 3, 4, 6, 7, 8, 9, 5]);
    assert_eq!(second.take(), [6, 7, 8, 9]);
    assert_balanced(&broker);
}

#[test]
fn retained_messages_whose_first_subscription_went_are_for_those_that_are_there() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    publish(&topic, 0, 1..5);
    let (first, handle) = read(&topic, "first");
    let (second, _second) = read(&topic, "second");
    drop(handle);
    publish(&topic, 5, 6..10);
    broker.run_until_idle();
    assert_eq!(first.len(), 0);
    assert_eq!(second.take(), (0..10).collect::<Vec<_>>());
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.topic("t").expect("it is open").unrouted, 0);
}

#[test]
fn who_comes_after_all_have_gone_is_the_first_again() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    let (_, handle) = read(&topic, "s");
    publish(&topic, 0, 1..5);
    drop(handle);
    let (log, _successor) = read(&topic, "s");
    let (other, _other) = read(&topic, "other");
    broker.run_until_idle();
    assert_eq!(log.take(), (0..5).collect::<Vec<_>>());
    assert_eq!(other.len(), 0);
    assert_balanced(&broker);
}

// Elsewhere.

#[test]
fn a_pattern_gets_what_comes_from_now_on_and_all_of_topics_opened_later() {
    let (broker, _clock) = manual();
    let here = broker.topic::<u64>("a.here").open().expect("opens");
    let kept = broker.topic::<u64>("a.kept");
    let kept = kept.no_subscribers(NoSubscribers::Retain);
    let kept = kept.open().expect("opens");
    let (_, _there) = read(&here, "there");
    here.publish(1).expect("there is room");
    kept.publish(2).expect("there is room");
    let log = Log::<u64>::new();
    let pattern = broker.subscription("all").matching("a.*").subscribe({
        let log = log.clone();
        move |d| {
            log.push(*d.payload());
            Ok(())
        }
    });
    let pattern = pattern.expect("a free name");
    here.publish(3).expect("there is room");
    let later = broker.topic::<u64>("a.later").open().expect("opens");
    later.publish(4).expect("there is room");
    let mine = broker.topic::<u64>("b.here").open().expect("opens");
    let (_, _also_there) = read(&mine, "there");
    mine.publish(5).expect("there is room");
    pattern.add("b.*").expect("a sound pattern");
    mine.publish(6).expect("there is room");
    broker.run_until_idle();
    let mut seen = log.take();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 6]);
    assert_balanced(&broker);
}

#[test]
fn in_a_split_topic_each_partition_passes_by_what_came_before() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").capacity(1_000).partitions(4);
    let topic = topic.strategy(Batched::of(16).until_full());
    let topic = topic.open().expect("opens");
    let (first, _first) = read(&topic, "first");
    for n in 0..100 {
        let message = topic.message(n).key(n.to_string());
        message.publish().expect("there is room");
    }
    let (second, _second) = read(&topic, "second");
    for n in 100..200 {
        let message = topic.message(n).key(n.to_string());
        message.publish().expect("there is room");
    }
    topic.flush();
    broker.run_until_idle();
    let (mut first, mut second) = (first.take(), second.take());
    first.sort_unstable();
    second.sort_unstable();
    assert_eq!(first, (0..200).collect::<Vec<_>>());
    assert_eq!(second, (100..200).collect::<Vec<_>>());
    assert_balanced(&broker);
}

/// Publishes one number after the other, from another thread, until it is dropped.
struct Traffic {
    /// All below have been accepted.
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    publisher: Option<thread::JoinHandle<()>>,
}

impl Traffic {
    fn into(topic: &Topic<u64>) -> Self {
        let (accepted, stop) = (Arc::default(), Arc::default());
        let (number, stopped) = (Arc::clone(&accepted), Arc::clone(&stop));
        let topic = topic.clone();
        let publisher = thread::spawn(move || {
            for n in 0..u64::MAX {
                if AtomicBool::load(&stopped, Ordering::Relaxed) {
                    return;
                }
                topic.publish(n).expect("room comes in time");
                AtomicU64::store(&number, n + 1, Ordering::Release);
            }
        });
        Self {
            accepted,
            stop,
            publisher: Some(publisher),
        }
    }

    fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let publisher = self.publisher.take().map(thread::JoinHandle::join);
        assert!(publisher.is_some_and(|joined| joined.is_ok()) || thread::panicking());
    }
}

fn assert_starts_under_traffic(topic: TopicBuilder<'_, u64>, times: u32, in_order: bool) {
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.open().expect("opens");
    let _there = topic.subscribe("there", |_| Ok(())).expect("a free name");
    let traffic = Traffic::into(&topic);
    for _ in 0..times {
        let before = traffic.accepted();
        let (log, subscription) = read(&topic, "new");
        // The one that is under way now may be accepted already.
        let after = traffic.accepted() + 1;
        let until = Instant::now() + HANG;
        let mut seen = Vec::new();
        while !seen.contains(&after) {
            assert!(Instant::now() < until, "{after} is missing in {seen:?}");
            thread::yield_now();
            seen.append(&mut log.take());
        }
        subscription.unsubscribe(Unsubscribe::Cancel);
        assert!(!in_order || seen.is_sorted_by(|a, b| a + 1 == *b));
        let oldest = seen.iter().min().expect("it has got some");
        assert!(*oldest >= before, "{oldest} was accepted before");
        assert!(*oldest <= after, "{oldest} is not the first");
    }
    drop(traffic);
}

#[test]
fn under_traffic_five_hundred_subscriptions_start_when_they_come() {
    let broker = threaded(2);
    assert_starts_under_traffic(broker.topic("t").capacity(4_096), 500, true);
    assert_rests_balanced(&broker);
}

#[test]
fn under_traffic_they_do_so_in_a_split_topic_too() {
    let broker = threaded(2);
    let split = broker.topic("t").capacity(4_096).partitions(2);
    assert_starts_under_traffic(split, 50, false);
    assert_rests_balanced(&broker);
}
