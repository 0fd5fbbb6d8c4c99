//! Promise 9, no subscribers: the topic says what becomes of a message that has
//! nobody to go to. `Discard` (the default) counts it as unrouted, and never as
//! delivered; `Retain` keeps it, up to the topic's capacity, for the first
//! subscription; `Reject` hands it back. It makes no difference whether nobody has
//! come yet or the last one has left.

use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::OpenError;
use millstream::{
    Batched, Broker, Nack, NoSubscribers, Overflow, PublishError, Topic, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker, policy: NoSubscribers) -> Topic<u32> {
    let builder = broker.topic("t").capacity(100).no_subscribers(policy);
    builder.open().expect("opens")
}

/// Waits for what other threads bring about.
fn wait_until(mut so: impl FnMut() -> bool, what: &str) {
    let until = Instant::now() + HANG;
    while !so() {
        assert!(Instant::now() < until, "{what}: never");
        std::thread::yield_now();
    }
}

/// Somebody comes and goes again.
fn come_and_go(broker: &Broker, topic: &Topic<u32>) {
    let (log, subscription) = read(topic, "s");
    topic.publish(1_000).expect("somebody is there");
    broker.run_until_idle();
    assert_eq!(log.take(), [1_000]);
    subscription.unsubscribe(Unsubscribe::Cancel);
}

#[test]
fn discard_is_the_default_and_counts_as_unrouted() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let events = Log::new();
    let _observation = broker
        .observe({
            let events = events.clone();
            move |event| events.push(event.to_string())
        })
        .expect("observes");
    topic.publish(1).expect("it is accepted all the same");
    topic
        .publish_batch([2, 3])
        .expect("they are accepted all the same");
    broker.run_until_idle();
    let metrics = topic.metrics();
    assert_eq!((metrics.published, metrics.unrouted), (3, 3));
    assert_eq!((metrics.dispatched, metrics.queued), (0, 0));
    assert_eq!(metrics.deliveries().made, 0);
    assert_eq!(
        events.take()[3..],
        ["unrouted t #1", "unrouted t #2", "unrouted t #3"]
    );
    let (log, _late) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "nothing was kept for whoever comes later");
    assert_balanced(&broker);
}

#[test]
fn discard_counts_as_unrouted_after_the_last_has_left_too() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Discard);
    come_and_go(&broker, &topic);
    topic.publish(1).expect("it is accepted all the same");
    broker.run_until_idle();
    let metrics = topic.metrics();
    assert_eq!((metrics.unrouted, metrics.dispatched), (1, 1));
    assert_eq!(metrics.deliveries().delivered, 1);
    assert_balanced(&broker);
}

#[test]
fn what_was_queued_when_the_last_one_left_is_unrouted() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Discard);
    let (log, subscription) = read(&topic, "s");
    topic.publish_batch([1, 2]).expect("there is room");
    drop(subscription);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    assert_eq!(topic.metrics().unrouted, 2);
    assert_balanced(&broker);
}

#[test]
fn retain_delivers_to_the_first_subscription_in_order() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    for n in 0..10 {
        topic.publish(n).expect("there is room");
    }
    topic.publish_batch(10..80).expect("there is room");
    for n in 80..90 {
        topic.publish(n).expect("there is room");
        broker.run_until_idle();
    }
    let metrics = topic.metrics();
    assert_eq!(
        (metrics.queued, metrics.unrouted, metrics.dispatched),
        (90, 0, 0)
    );
    assert_balanced(&broker);
    let (first, _first) = read(&topic, "s");
    broker.run_until_idle();
    let second = Log::new();
    let _second = topic
        .subscribe("second", {
            let second = second.clone();
            move |d| {
                second.push(*d.payload());
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish(90).expect("there is room");
    broker.run_until_idle();
    assert_eq!(first.take(), (0..=90).collect::<Vec<_>>());
    assert_eq!(second.take(), [90], "it came later");
    assert_balanced(&broker);
}

#[test]
fn retain_keeps_no_more_than_the_topics_capacity() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    let partial = topic.publish_batch(0..150).expect_err("100 places");
    assert_eq!(partial.accepted, 100);
    assert_eq!(partial.into_inner(), (100..150).collect::<Vec<_>>());
    broker.run_until_idle();
    let refused = topic
        .publish(100)
        .expect_err("looking at them makes no room");
    assert!(matches!(refused, PublishError::Full(100)), "{refused}");
    let (log, _reader) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.take(), (0..100).collect::<Vec<_>>());
    topic.publish(100).expect("there is room again");
    broker.run_until_idle();
    assert_eq!(log.take(), [100]);
    assert_balanced(&broker);
}

#[test]
fn retain_keeps_what_comes_after_the_last_has_left_for_the_next_one() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    for _ in 0..3 {
        topic.publish_batch(0..5).expect("there is room");
        broker.run_until_idle();
        let (log, subscription) = read(&topic, "s");
        broker.run_until_idle();
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        subscription.unsubscribe(Unsubscribe::Cancel);
    }
    assert_eq!(topic.metrics().unrouted, 0);
    assert_balanced(&broker);
}

#[test]
fn retain_fills_a_lane_smaller_than_what_was_kept() {
    let (broker, clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    for n in 0..50 {
        topic.publish(n).expect("there is room");
    }
    broker.run_until_idle();
    let log = Log::new();
    let _narrow = topic
        .subscription("narrow")
        .capacity(3)
        .subscribe({
            let log = log.clone();
            move |d| {
                if d.attempt() == 1 {
                    log.push(*d.payload());
                    return Err(Nack::retry_after(MS, "holds its place"));
                }
                Ok(())
            }
        })
        .expect("subscribes");
    for _ in 0..20 {
        advance(&broker, &clock, MS);
    }
    assert_eq!(log.take(), (0..50).collect::<Vec<_>>());
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 50);
}

#[test]
fn retain_can_wait_for_a_batch_and_a_subscription_at_once() {
    let (broker, clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    topic
        .set_strategy(Batched::of(10).linger(5 * MS))
        .expect("valid");
    topic.publish(0).expect("there is room");
    advance(&broker, &clock, 10 * MS);
    let (log, _reader) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.take(), [0], "it is old enough");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    advance(&broker, &clock, 5 * MS);
    assert_eq!(log.take(), [1]);
    assert_balanced(&broker);
}

#[test]
fn what_is_retained_does_not_keep_the_broker_from_resting() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Retain);
    topic.publish(1).expect("there is room");
    assert!(broker.wait_until_idle(Duration::ZERO));
    let report = *broker.drain(HANG).expect_err("it is cut off").report();
    assert_eq!((report.messages_dropped, report.cut_off), (1, 1));
    assert_eq!(topic.metrics().dropped, 1);
    assert_balanced(&broker);
}

#[test]
fn reject_hands_the_payload_back_before_anybody_has_come_and_after_the_last_has_left() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Reject);
    let assert_rejects = || {
        let rejected = topic.metrics().rejected;
        let refused = topic.publish(7).expect_err("nobody is there");
        assert!(
            matches!(refused, PublishError::NoSubscribers(7)),
            "{refused}"
        );
        let refused = topic.publish_after(MS, 8).expect_err("nobody is there");
        assert!(
            matches!(refused, PublishError::NoSubscribers(8)),
            "{refused}"
        );
        let partial = topic.publish_batch(0..3).expect_err("nobody is there");
        assert_eq!(partial.accepted, 0);
        assert!(
            matches!(partial.error, PublishError::NoSubscribers(_)),
            "{partial}"
        );
        assert_eq!(partial.into_inner(), [0, 1, 2]);
        assert_eq!(topic.metrics().rejected, rejected + 5);
    };
    assert_rejects();
    come_and_go(&broker, &topic);
    assert_rejects();
    let (log, subscription) = read(&topic, "s");
    topic.publish(9).expect("somebody is there");
    broker.run_until_idle();
    assert_eq!(log.take(), [9]);
    drop(subscription);
    assert_rejects();
    broker.run_until_idle();
    assert_rejects();
    assert_eq!(topic.metrics().published, 2);
    assert_balanced(&broker);
}

#[test]
fn reject_cannot_take_back_what_was_accepted_while_somebody_was_there() {
    let (broker, _clock) = manual();
    let topic = open(&broker, NoSubscribers::Reject);
    let (log, subscription) = read(&topic, "s");
    topic.publish(1).expect("somebody is there");
    drop(subscription);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    assert_eq!(topic.metrics().unrouted, 1);
    assert_balanced(&broker);
}

fn assert_says_closed(policy: NoSubscribers) {
    let (broker, _clock) = manual();
    let topic = open(&broker, policy);
    let (_log, _reader) = read(&topic, "s");
    broker.drain(HANG).expect("there is nothing to do");
    let refused = topic.publish(1).expect_err("the broker is closed");
    assert!(
        matches!(refused, PublishError::Closed(1)),
        "{policy:?}: {refused}"
    );
    assert_balanced(&broker);
}

#[test]
fn a_closed_broker_says_closed_where_unrouted_messages_are_discarded_or_retained() {
    assert_says_closed(NoSubscribers::Discard);
    assert_says_closed(NoSubscribers::Retain);
}

#[test]
fn a_closed_broker_says_closed_where_unrouted_messages_are_rejected() {
    assert_says_closed(NoSubscribers::Reject);
}

#[test]
fn a_subscription_that_is_being_drained_is_nobody_to_publish_to() {
    let broker = threaded(1);
    let topic = open(&broker, NoSubscribers::Reject);
    let subscription = topic
        .subscribe("s", |_| Err(Nack::retry_after(20 * MS, "a little")))
        .expect("subscribes");
    topic.publish(1).expect("somebody is there");
    std::thread::scope(|scope| {
        let timeout = HANG;
        scope.spawn(move || subscription.unsubscribe(Unsubscribe::Drain { timeout }));
        // What came before it begins may fill the topic.
        let refused = || matches!(topic.publish(2), Err(PublishError::NoSubscribers(2)));
        wait_until(refused, "nobody is published to");
    });
    assert_rests_balanced(&broker);
}

#[test]
fn the_policy_is_part_of_how_a_topic_was_opened() {
    let (broker, _clock) = manual();
    let _topic = open(&broker, NoSubscribers::Retain);
    let other = broker
        .topic::<u32>("t")
        .no_subscribers(NoSubscribers::Reject);
    let refused = other.open().expect_err("it was opened otherwise");
    assert!(matches!(refused, OpenError::Clash { .. }), "{refused}");
    assert_balanced(&broker);
}

#[test]
fn retain_on_threads_delivers_everything_in_order_once_somebody_comes() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").capacity(1_000);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    let log = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for n in 0..3_000 {
                topic.publish(n).expect("room comes in time");
            }
        });
        wait_until(|| topic.metrics().queued == 1_000, "the topic is full");
        let (log, subscription) = read(&topic, "s");
        publisher.join().expect("it published all it has");
        assert_rests_balanced(&broker);
        drop(subscription);
        log
    });
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), (0..3_000).collect::<Vec<_>>());
}
