//! Promise: in a full topic with `Overflow::Conflate` the newest message of a key takes the place of
//! the older ones that wait. These end as dropped, cause conflated. A message that finds none to
//! replace is refused, so that the newest value of a key is never lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, drops, manual, read, threaded,
};
use millstream::event::DropCause;
use millstream::protect::RateLimit;
use millstream::{
    Batched, Broker, Dedup, Message, NoSubscribers, Overflow, PublishError, Receipt, Topic,
    TopicBuilder,
};

const MS: Duration = Duration::from_millis(1);

fn conflating(broker: &Broker, capacity: usize) -> TopicBuilder<'_, u32> {
    let topic = broker.topic("t").capacity(capacity);
    topic.overflow(Overflow::Conflate)
}

fn open(broker: &Broker, capacity: usize) -> Topic<u32> {
    conflating(broker, capacity).open().expect("opens")
}

fn put(topic: &Topic<u32>, key: &str, value: u32) -> Receipt {
    let published = topic.message(value).key(key).publish();
    published.expect("there is room, or an older one")
}

fn assert_full<T>(published: Result<Receipt, PublishError<T>>) {
    let refused = published.expect_err("it replaces nothing");
    assert!(matches!(refused, PublishError::Full(_)), "{refused}");
}

#[test]
fn the_newest_of_a_key_takes_the_place_of_the_one_that_waits() {
    for is_observed in [false, true] {
        let (broker, _clock) = manual();
        let topic = open(&broker, 3);
        let (log, _subscription) = read(&topic, "s");
        let observed = is_observed.then(|| drops(&broker, None));
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(put(&topic, key, value).evicted(), 0);
        }
        let receipt = put(&topic, "b", 4);
        assert_eq!((receipt.id().get(), receipt.evicted()), (4, 1));
        assert!(!receipt.is_dropped());
        put(&topic, "a", 5);
        put(&topic, "b", 6);
        let metrics = assert_balanced(&broker);
        let metrics = metrics.topics.first().expect("the topic");
        assert_eq!((metrics.queued, metrics.published), (3, 6));
        assert_eq!((metrics.dropped, metrics.conflated), (3, 3));
        broker.run_until_idle();
        assert_eq!(log.take(), [5, 6, 3], "in the places of the older ones");
        if let Some((drops, _observation)) = observed {
            let conflated = [2, 1, 4].map(|id| (id, DropCause::Conflated));
            assert_eq!(drops.take(), conflated);
        }
        put(&topic, "a", 7);
        put(&topic, "a", 8);
        broker.run_until_idle();
        assert_eq!(log.take(), [7, 8], "it was not full");
        assert_balanced(&broker);
    }
}

#[test]
fn it_takes_the_place_of_all_that_wait_with_its_key() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 5);
    let (log, _subscription) = read(&topic, "s");
    for (key, value) in [("x", 1), ("a", 2), ("a", 3), ("y", 4), ("a", 5)] {
        put(&topic, key, value);
    }
    assert_eq!(put(&topic, "a", 6).evicted(), 3);
    assert_eq!(topic.metrics().queued, 3);
    put(&topic, "a", 7);
    put(&topic, "z", 8);
    assert_eq!(put(&topic, "a", 9).evicted(), 2, "it is full again");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [1, 9, 4, 8],
        "the messages of a key keep their order"
    );
    assert_balanced(&broker);
}

#[test]
fn a_message_that_replaces_none_is_refused() {
    let (broker, clock) = manual();
    let topic = open(&broker, 2);
    let (log, _subscription) = read(&topic, "s");
    put(&topic, "a", 1);
    let late = topic.message(2).key("b").after(MS).publish();
    late.expect("there is room");
    assert_full(topic.publish(3));
    assert_full(topic.message(3).key("c").publish());
    // A delayed message neither replaces nor is replaced.
    assert_full(topic.message(3).key("b").publish());
    assert_full(topic.message(3).key("a").after(MS).publish());
    let metrics = topic.metrics();
    assert_eq!((metrics.rejected, metrics.dropped), (4, 0));
    thread::scope(|scope| {
        let waits = scope.spawn(|| topic.message(4).key("c").publish_timeout(HANG));
        while !waits.is_finished() {
            broker.run_until_idle();
            thread::yield_now();
        }
        let receipt = waits.join().expect("no panic").expect("there is room");
        assert_eq!(receipt.evicted(), 0, "it has waited for room");
    });
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [1, 4, 2]);
    assert_balanced(&broker);
}

#[test]
fn messages_of_a_batch_replace_one_by_one() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 3);
    let (log, _subscription) = read(&topic, "s");
    let message = |key: &str, value| Message::new(value).key(key);
    let first = [message("a", 1), message("b", 2), message("c", 3)];
    topic.publish_messages(first).expect("there is room");
    let more = [message("b", 4), message("b", 5), message("a", 6)];
    let receipt = topic.publish_messages(more).expect("all replace");
    assert_eq!((receipt.accepted(), receipt.evicted()), (3, 3));
    let more = [message("c", 7), Message::new(8), message("a", 9)];
    let partial = topic.publish_messages(more).expect_err("one has no key");
    assert_eq!((partial.accepted, partial.error.is_full()), (1, true));
    assert_eq!(partial.into_inner(), [Message::new(8), message("a", 9)]);
    assert_eq!(topic.publish_batch([9]).expect_err("no key").accepted, 0);
    broker.run_until_idle();
    assert_eq!(log.take(), [6, 5, 7]);
    // A buffer's messages replace, too.
    put(&topic, "a", 1);
    let mut buffer = topic.buffered(Batched::of(3)).expect("valid");
    for (key, value) in [("b", 2), ("c", 3), ("a", 4), ("b", 5)] {
        let message = message(key, value);
        buffer
            .publish_message(message)
            .expect("the buffer has room");
    }
    let receipt = buffer.flush().expect("all replace, or fit");
    assert_eq!((receipt.accepted(), receipt.evicted()), (4, 2));
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 5, 3]);
    assert_balanced(&broker);
}

#[test]
fn messages_that_the_dispatcher_has_looked_at_are_replaced_too() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 3);
    let log = Log::new();
    let subscription = topic.subscription("s").capacity(1).subscribe({
        let log = log.clone();
        move |delivery| {
            log.push(*delivery.payload());
            Ok(())
        }
    });
    let subscription = subscription.expect("subscribes");
    subscription.pause();
    for (key, value) in [("a", 1), ("a", 2), ("b", 3), ("c", 4)] {
        put(&topic, key, value);
        broker.run_until_idle();
    }
    // The lane has the first, and what is in a lane is not replaced.
    for (key, value) in [("b", 5), ("a", 6), ("b", 7)] {
        assert_eq!(put(&topic, key, value).evicted(), 1);
        broker.run_until_idle();
    }
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 6, 7, 4]);
    assert_balanced(&broker);
}

#[test]
fn the_newest_of_each_key_waits_for_a_first_subscription() {
    let (broker, _clock) = manual();
    let topic = conflating(&broker, 64).no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().expect("opens");
    for value in 0..10_000 {
        put(&topic, &(value % 64).to_string(), value);
    }
    assert_eq!(topic.metrics().conflated, 10_000 - 64);
    let (log, _subscription) = read(&topic, "s");
    broker.run_until_idle();
    let mut newest: Vec<u32> = (10_000 - 64..10_000).collect();
    newest.sort_unstable_by_key(|value| value % 64);
    assert_eq!(log.take(), newest);
    assert_balanced(&broker);
}

#[test]
fn messages_behind_a_newer_one_expire_and_flush_in_time() {
    let (broker, clock) = manual();
    let topic = conflating(&broker, 3)
        .ttl(10 * MS)
        .no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().expect("opens");
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        put(&topic, key, value);
    }
    clock.advance(9 * MS);
    put(&topic, "a", 4);
    advance(&broker, &clock, MS);
    assert_eq!(topic.metrics().queued, 1, "the others have expired");
    advance(&broker, &clock, 9 * MS);
    assert_eq!(topic.metrics().queued, 0);
    assert_eq!((topic.metrics().dropped, topic.metrics().conflated), (4, 1));
    let batches = Batched::of(64).until_full();
    let topic = broker.topic::<u32>("flushed").capacity(3).strategy(batches);
    let topic = topic.overflow(Overflow::Conflate).open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        put(&topic, key, value);
    }
    topic.flush();
    put(&topic, "a", 4);
    topic.set_capacity(100).expect("valid");
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 2, 3]);
    assert_balanced(&broker);
}

#[test]
fn it_replaces_in_a_topic_that_is_full_after_others_have_expired() {
    let (broker, clock) = manual();
    let topic = open(&broker, 3);
    let (log, _subscription) = read(&topic, "s");
    put(&topic, "a", 1);
    put(&topic, "b", 2);
    let expiring = topic.message(3).ttl(MS).publish();
    expiring.expect("there is room");
    topic.set_capacity(1).expect("in range");
    clock.advance(MS);
    assert_eq!(put(&topic, "a", 4).evicted(), 1);
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 2]);
    assert_balanced(&broker);
}

#[test]
fn a_publisher_that_waits_for_the_end_hears_of_the_replacement() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let (_log, _subscription) = read(&topic, "s");
    let tracker = topic.tracker();
    let message = || Message::new(1).key("a").tracked(&tracker);
    topic.publish_messages([message()]).expect("there is room");
    assert_eq!(tracker.outcome(), None);
    put(&topic, "a", 2);
    let outcome = tracker.outcome().expect("it has ended");
    assert_eq!((outcome.delivered, outcome.dropped), (0, 1));
    // One that replaces is tracked as any other.
    let tracker = topic.tracker();
    let tracked = Message::new(3).key("a").tracked(&tracker);
    let receipt = topic.publish_messages([tracked]).expect("it replaces");
    assert_eq!((receipt.evicted(), tracker.outcome()), (1, None));
    broker.run_until_idle();
    let outcome = tracker.outcome().expect("it has ended");
    assert_eq!((outcome.delivered, outcome.dropped), (1, 0));
    assert_balanced(&broker);
}

#[test]
fn a_duplicate_and_a_message_over_the_rate_replace_nothing() {
    let (broker, clock) = manual();
    let topic = conflating(&broker, 1).dedup(Dedup::window(HOUR));
    let topic = topic.rate_limit(RateLimit::new(1, MS).burst(2)).open();
    let topic = topic.expect("opens");
    let (log, _subscription) = read(&topic, "s");
    let message = |value, id| topic.message(value).key("a").dedup_id(id);
    message(1, "one").publish().expect("there is room");
    assert_eq!(
        message(2, "two").publish().expect("it replaces").evicted(),
        1
    );
    let receipt = message(3, "one").publish().expect("a duplicate");
    assert!(receipt.is_duplicate());
    let refused = message(4, "four").publish().expect_err("over the rate");
    assert_eq!(refused.retry_after(), Some(MS));
    assert_eq!(topic.metrics().conflated, 1);
    clock.advance(MS);
    message(4, "four").publish().expect("it replaces");
    broker.run_until_idle();
    assert_eq!(log.take(), [4]);
    assert_balanced(&broker);
}

/// Publishes what it is told to when it is dropped.
struct Parting(u32, Option<Topic<Parting>>);

impl Drop for Parting {
    fn drop(&mut self) {
        if let Some(topic) = self.1.take() {
            let message = topic.message(Parting(self.0 + 100, None)).key("a");
            message.publish().expect("it replaces");
        }
    }
}

#[test]
fn a_payload_that_is_replaced_may_publish_when_it_is_dropped() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<Parting>("t").capacity(1);
    let topic = topic.overflow(Overflow::Conflate).open().expect("opens");
    let log = Log::new();
    let _subscription = topic.subscribe("s", {
        let log = log.clone();
        move |delivery| {
            log.push(delivery.payload().0);
            Ok(())
        }
    });
    let first = Parting(1, Some(topic.clone()));
    topic
        .message(first)
        .key("a")
        .publish()
        .expect("there is room");
    topic
        .message(Parting(2, None))
        .key("a")
        .publish()
        .expect("it replaces");
    broker.run_until_idle();
    assert_eq!(log.take(), [101]);
    assert_eq!(topic.metrics().conflated, 2);
    assert_balanced(&broker);
}

#[test]
fn the_policy_changes_while_messages_wait() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(3).open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        put(&topic, key, value);
    }
    assert_full(topic.message(4).key("b").publish());
    topic.set_overflow(Overflow::Conflate).expect("valid");
    put(&topic, "b", 4);
    topic.set_overflow(Overflow::DropOldest).expect("valid");
    put(&topic, "c", 5);
    topic.set_overflow(Overflow::Conflate).expect("valid");
    put(&topic, "c", 6);
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 6]);
    let metrics = topic.metrics();
    assert_eq!((metrics.dropped, metrics.conflated), (4, 3));
    assert_balanced(&broker);
}

#[test]
fn topics_that_can_not_replace_refuse_the_policy() {
    let (broker, _clock) = manual();
    let refused = |topic: TopicBuilder<'_, u32>| {
        let refused = topic.overflow(Overflow::Conflate).open();
        refused.expect_err("it can't").to_string()
    };
    let split = || broker.topic::<u32>("split").partitions(2);
    let of_partitions = refused(split());
    assert!(
        of_partitions.contains("a topic with partitions"),
        "{of_partitions}"
    );
    let weighed = || broker.topic::<u32>("weighed").weight_limit(9, |_| 1);
    let of_weight = refused(weighed());
    assert!(
        of_weight.contains("a topic with a weight limit"),
        "{of_weight}"
    );
    for topic in [split(), weighed()] {
        let topic = topic.open().expect("opens");
        let refused = topic.set_overflow(Overflow::Conflate);
        assert_eq!(refused.expect_err("it can't").setting(), "overflow");
        assert_eq!(topic.set_overflow(Overflow::DropOldest), Ok(()));
    }
}

#[test]
fn racing_publishers_lose_no_newest_value() {
    const KEYS: u64 = 4;
    const ROUNDS: u64 = 3_000;
    let broker = threaded(2);
    let topic = broker.topic::<(u64, u64)>("t").capacity(4);
    let topic = topic.overflow(Overflow::Conflate).open().expect("opens");
    let log: Log<(u64, u64)> = Log::new();
    let subscribed = topic.subscription("s").capacity(2).subscribe({
        let log = log.clone();
        move |delivery| {
            log.push(*delivery.payload());
            for _ in 0..50 {
                std::hint::spin_loop();
            }
            Ok(())
        }
    });
    let _subscription = subscribed.expect("subscribes");
    let evicted = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for key in 0..KEYS {
            let (topic, evicted) = (&topic, &evicted);
            scope.spawn(move || {
                let name = key.to_string();
                for round in 0..ROUNDS {
                    let mut payload = (key, round);
                    loop {
                        match topic.message(payload).key(name.as_str()).publish() {
                            Ok(receipt) => {
                                let count = u64::from(receipt.evicted());
                                evicted.fetch_add(count, Ordering::Relaxed);
                                break;
                            }
                            Err(PublishError::Full(back)) => payload = back,
                            Err(other) => panic!("{other}"),
                        }
                        thread::yield_now();
                    }
                }
            });
        }
    });
    let metrics = assert_rests_balanced(&broker);
    let metrics = metrics.topics.first().expect("the topic");
    let evicted = evicted.load(Ordering::Relaxed);
    assert_eq!((metrics.dropped, metrics.conflated), (evicted, evicted));
    assert_eq!(metrics.published, KEYS * ROUNDS);
    let handled = log.take();
    assert_eq!(handled.len() as u64, KEYS * ROUNDS - evicted);
    let mut last = BTreeMap::new();
    for (key, round) in handled {
        let before = last.insert(key, round);
        assert!(
            before.is_none_or(|before| before < round),
            "the order of {key}"
        );
    }
    assert!(last.values().all(|round| *round == ROUNDS - 1), "{last:?}");
}

#[cfg(feature = "async")]
#[test]
fn a_future_replaces_at_once_or_is_refused() {
    use crate::harness::block_on;

    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let (log, _subscription) = read(&topic, "s");
    put(&topic, "a", 1);
    let replaces = topic.message(2).key("a").publish_async();
    assert_eq!(block_on(replaces).expect("it replaces").evicted(), 1);
    assert_full(block_on(topic.publish_async(3)));
    let messages = [Message::new(4).key("a"), Message::new(5).key("b")];
    let partial = block_on(topic.publish_messages_async(messages));
    assert_eq!(partial.expect_err("b replaces none").accepted, 1);
    broker.run_until_idle();
    assert_eq!(log.take(), [4]);
    assert_balanced(&broker);
}
