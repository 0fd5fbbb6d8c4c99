//! A topic can keep its last messages, or the last one of each key, for subscriptions that
//! come late. Such a subscription gets them first, marked and in order, and then everything
//! that follows: nothing is missing in between, and nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, read_by,
    threaded,
};
use millstream::error::OpenError;
use millstream::protect::{Priorities, Priority};
use millstream::{
    Backoff, Batched, Broker, Delivery, DeliveryBatch, LaneFull, Message, Nack, NoSubscribers,
    OnFailure, Overflow, Pull, SubscriptionBuilder, Topic, TopicBuilder, TopicOptions, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

/// What a handler got: the payload, and whether it was retained.
type Seen = Log<(u64, bool)>;

fn keep(broker: &Broker, messages: usize) -> TopicBuilder<'_, u64> {
    broker.topic("t").retain_last(messages)
}

fn open(broker: &Broker, messages: usize) -> Topic<u64> {
    keep(broker, messages).open().expect("opens")
}

fn publish(broker: &Broker, topic: &Topic<u64>, payloads: impl IntoIterator<Item = u64>) {
    for payload in payloads {
        topic.publish(payload).expect("there is room");
    }
    broker.run_until_idle();
}

fn note(seen: &Seen) -> impl Fn(&Delivery<'_, u64>) -> Result<(), Nack> + Send + Sync + 'static {
    let seen = seen.clone();
    move |delivery| {
        seen.push((*delivery.payload(), delivery.is_retained()));
        Ok(())
    }
}

fn late(builder: SubscriptionBuilder<'_, u64>) -> (Seen, millstream::Subscription) {
    let seen = Seen::new();
    let subscription = builder.subscribe(note(&seen)).expect("subscribes");
    (seen, subscription)
}

fn retained(payloads: impl IntoIterator<Item = u64>) -> Vec<(u64, bool)> {
    payloads
        .into_iter()
        .map(|payload| (payload, true))
        .collect()
}

fn new(payloads: impl IntoIterator<Item = u64>) -> Vec<(u64, bool)> {
    payloads
        .into_iter()
        .map(|payload| (payload, false))
        .collect()
}

#[test]
fn a_late_subscription_of_any_kind_gets_the_last_messages_first_and_then_the_new_ones() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 3);
    let (early, _early) = late(topic.subscription("early"));
    publish(&broker, &topic, 1..=70);
    let seen = [(); 5].map(|()| Seen::new());
    let build = |name: &str| topic.subscription(name);
    let _each = build("each").subscribe(note(&seen[0])).unwrap();
    let _shared = build("shared")
        .concurrency(3)
        .subscribe_shared(note(&seen[1]))
        .unwrap();
    let batch = seen[2].clone();
    let _batches = build("batches")
        .subscribe_batches(Batched::of(2), move |batch_of| {
            for delivery in batch_of.iter() {
                batch.push((*delivery.payload(), delivery.is_retained()));
            }
            Ok(())
        })
        .unwrap();
    let group = build("group").group().unwrap();
    let _member = group.join("one", note(&seen[3])).unwrap();
    let by_pattern = broker.subscription::<u64>("pattern").matching("*");
    let _pattern = by_pattern.subscribe(note(&seen[4])).unwrap();
    let pull = build("pull").pull(Pull::default()).unwrap();
    let pulled = broker.subscription::<u64>("pulled").matching("*");
    let pulled = pulled.pull(Pull::default()).unwrap();
    publish(&broker, &topic, 71..=72);
    topic.flush();
    broker.run_until_idle();
    let expected = [retained(68..=70), new(71..=72)].concat();
    for (kind, seen) in seen.iter().enumerate() {
        assert_eq!(seen.take(), expected, "kind {kind}");
    }
    for _ in 0..5 {
        for pull in [&pull, &pulled] {
            let lease = pull.try_recv().expect("five are there");
            let delivery = lease.delivery();
            assert_eq!(delivery.is_retained(), *delivery.payload() <= 70);
            lease.ack().expect("it is held");
        }
    }
    assert!(pull.try_recv().is_err() && pulled.try_recv().is_err());
    assert_eq!(early.take(), new(1..=72));
    let metrics = topic.metrics();
    assert_eq!((metrics.retained, metrics.retained_evicted), (3, 0));
    assert_balanced(&broker);
}

#[cfg(feature = "async")]
#[test]
fn an_async_handler_gets_them_too() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 2);
    publish(&broker, &topic, 1..=3);
    let seen = Seen::new();
    let log = seen.clone();
    let subscription = topic.subscription("s").subscribe_async(move |delivery| {
        log.push((*delivery.payload(), delivery.is_retained()));
        async { Ok(()) }
    });
    let _subscription = subscription.expect("subscribes");
    publish(&broker, &topic, [4]);
    assert_eq!(seen.take(), [(2, true), (3, true), (4, false)]);
    assert_balanced(&broker);
}

#[test]
fn the_last_message_of_each_key_comes_in_the_order_in_which_they_were_written() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").retain_last_per_key(3);
    let topic = topic.open().expect("opens");
    let keyed = |key: &str, payload| {
        topic.message(payload).key(key).publish().expect("room");
    };
    for (key, payload) in [("a", 1), ("b", 2), ("a", 3)] {
        keyed(key, payload);
    }
    publish(&broker, &topic, [4, 5]);
    let keys: Log<Option<String>> = Log::new();
    let log = keys.clone();
    let _keys = topic.subscribe("keys", move |delivery| {
        log.push(delivery.key().map(str::to_owned));
        Ok(())
    });
    let (first, _first) = late(topic.subscription("first"));
    broker.run_until_idle();
    assert_eq!(first.take(), retained([2, 3, 5]), "none is one more key");
    let text = |key: &str| Some(key.to_owned());
    assert_eq!(keys.take(), [text("b"), text("a"), None]);
    keyed("b", 6);
    keyed("c", 7);
    broker.run_until_idle();
    let (second, _second) = late(topic.subscription("second"));
    broker.run_until_idle();
    assert_eq!(
        second.take(),
        retained([5, 6, 7]),
        "a was written longest ago"
    );
    assert_eq!(first.take(), new([6, 7]));
    let metrics = topic.metrics();
    assert_eq!((metrics.retained, metrics.retained_evicted), (3, 1));
    assert_balanced(&broker);
}

#[test]
fn messages_that_were_accepted_and_not_dispatched_follow_as_new_ones() {
    let (broker, clock) = manual();
    let strategy = Batched::of(100).linger(HOUR);
    let topic = keep(&broker, 2).strategy(strategy).open().expect("opens");
    let (early, _early) = late(topic.subscription("early"));
    publish(&broker, &topic, 1..=3);
    topic.flush();
    broker.run_until_idle();
    topic.publish_after(2 * HOUR, 9).expect("room");
    publish(&broker, &topic, 4..=5);
    let (seen, _late) = late(topic.subscription("late"));
    broker.run_until_idle();
    assert_eq!(seen.take(), retained([2, 3]), "the others wait");
    advance(&broker, &clock, HOUR);
    assert_eq!(seen.take(), new([4, 5]));
    advance(&broker, &clock, 3 * HOUR);
    advance(&broker, &clock, HOUR);
    assert_eq!(seen.take(), new([9]), "even a delayed one");
    assert_eq!(early.take(), new([1, 2, 3, 4, 5, 9]));
    assert_balanced(&broker);
}

#[test]
fn a_message_without_subscriptions_is_kept_and_counts_as_unrouted_all_the_same() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    publish(&broker, &topic, [1, 2]);
    for name in ["a", "b"] {
        let (seen, subscription) = late(topic.subscription(name));
        broker.run_until_idle();
        assert_eq!(seen.take(), retained([2]));
        subscription.unsubscribe(Unsubscribe::Cancel);
    }
    let metrics = assert_balanced(&broker);
    assert_eq!(
        (metrics.topics[0].unrouted, metrics.topics[0].dispatched),
        (2, 0)
    );
    assert_eq!(metrics.deliveries().made, 2, "one for each subscription");
}

#[test]
fn messages_that_wait_for_a_first_subscription_come_to_it_as_new_ones() {
    let (broker, _clock) = manual();
    let topic = keep(&broker, 2).no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().expect("opens");
    publish(&broker, &topic, 1..=4);
    let (first, _first) = late(topic.subscription("first"));
    broker.run_until_idle();
    assert_eq!(first.take(), new(1..=4));
    let (second, _second) = late(topic.subscription("second"));
    broker.run_until_idle();
    assert_eq!(second.take(), retained(3..=4));
    assert_balanced(&broker);
}

#[test]
fn messages_that_were_never_dispatched_are_not_kept() {
    let (broker, clock) = manual();
    let topic = keep(&broker, 9).capacity(2).overflow(Overflow::DropOldest);
    let topic = topic.open().expect("opens");
    for payload in 1..=3 {
        topic.publish(payload).expect("the oldest goes");
    }
    topic.message(4).ttl(MS).publish().expect("the oldest goes");
    advance(&broker, &clock, HOUR);
    let (seen, _late) = late(topic.subscription("late"));
    broker.run_until_idle();
    assert_eq!(seen.take(), retained([3]));
    assert_balanced(&broker);
}

#[test]
fn a_kept_message_that_has_expired_is_not_given_and_others_expire_in_the_lane() {
    let (broker, clock) = manual();
    let topic = keep(&broker, 9).ttl(10 * MS).open().expect("opens");
    publish(&broker, &topic, [1]);
    topic.set_ttl(None).expect("valid");
    publish(&broker, &topic, [2]);
    topic.message(3).ttl(30 * MS).publish().expect("room");
    topic.message(4).ttl(HOUR).publish().expect("room");
    broker.run_until_idle();
    clock.advance(10 * MS);
    let pull = topic.subscription("pull").pull(Pull::default()).unwrap();
    let queued = |name: &str| topic.metrics().subscription(name).map(|s| s.queued);
    assert_eq!(queued("pull"), Some(3), "2, 3 and 4");
    advance(&broker, &clock, 30 * MS);
    let (seen, _late) = late(topic.subscription("late"));
    broker.run_until_idle();
    assert_eq!(seen.take(), retained([2, 4]));
    for payload in [2, 4] {
        let lease = pull.try_recv().expect("it lives");
        assert_eq!(*lease.delivery().payload(), payload);
        lease.ack().expect("it is held");
    }
    assert_eq!(pull.metrics().counts.expired, 1);
    assert_balanced(&broker);
}

#[test]
fn kept_messages_keep_their_priority() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 2);
    let low = topic.message(1).priority(Priority::Low);
    low.publish().expect("room");
    publish(&broker, &topic, [2]);
    let strict = topic.subscription("s").priorities(Priorities::strict());
    let (seen, _late) = late(strict);
    broker.run_until_idle();
    assert_eq!(seen.take(), retained([2, 1]));
    assert_balanced(&broker);
}

#[test]
fn a_kept_message_that_expires_before_the_first_turn_of_its_lane_fills_no_batch() {
    let (broker, clock) = manual();
    let topic = open(&broker, 1);
    topic.message(1).ttl(10 * MS).publish().expect("room");
    broker.run_until_idle();
    let sizes = Log::new();
    let log = sizes.clone();
    let handler = move |batch: &mut DeliveryBatch<'_, u64>| {
        log.push(batch.len());
        Ok(())
    };
    let batches = topic.subscription("s");
    let batches = batches.subscribe_batches(Batched::of(2).until_full(), handler);
    let batches = batches.expect("subscribes");
    clock.advance(10 * MS);
    publish(&broker, &topic, [2]);
    assert_eq!(sizes.len(), 0, "it waits for another one");
    publish(&broker, &topic, [3]);
    assert_eq!(sizes.take(), [2]);
    assert_eq!(batches.metrics().counts.expired, 1);
    assert_balanced(&broker);
}

#[test]
fn a_filter_is_asked_about_kept_messages_and_refusals_are_counted() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 70);
    publish(&broker, &topic, 1..=70);
    let builder = topic.subscription("third");
    let builder = builder.filter(|delivery| {
        assert!(delivery.is_retained() == (*delivery.payload() <= 70));
        assert!(*delivery.payload() != 7, "whoever can't say gets it");
        delivery.payload().is_multiple_of(3)
    });
    let (seen, subscription) = late(builder);
    let by_pattern = broker.subscription::<u64>("pattern").matching("*");
    let by_pattern = by_pattern.filter(|delivery| *delivery.payload() > 68);
    let pattern_seen = Seen::new();
    let _pattern = by_pattern.subscribe(note(&pattern_seen)).unwrap();
    publish(&broker, &topic, 71..=73);
    let third = (1..=70).filter(|payload| payload % 3 == 0 || *payload == 7);
    assert_eq!(seen.take(), [retained(third), new([72])].concat());
    assert_eq!(
        pattern_seen.take(),
        [retained([69, 70]), new(71..=73)].concat()
    );
    let counts = subscription.metrics().counts;
    assert_eq!((counts.delivered, counts.filtered), (25, 48));
    assert_balanced(&broker);
}

#[test]
fn a_lane_with_less_room_gets_the_newest_and_new_ones_wait_for_it() {
    for policy in [LaneFull::Wait, LaneFull::DropOldest, LaneFull::DropNewest] {
        let (broker, _clock) = manual();
        let topic = open(&broker, 100);
        publish(&broker, &topic, 1..=100);
        let small = topic.subscription("small").capacity(2).when_full(policy);
        let small = small.pull(Pull::default()).expect("subscribes");
        publish(&broker, &topic, [101]);
        let mut seen = Vec::new();
        while let Ok(lease) = small.try_recv() {
            seen.push((*lease.delivery().payload(), lease.delivery().is_retained()));
            lease.ack().expect("it is held");
            broker.run_until_idle();
        }
        let expected = match policy {
            LaneFull::Wait => [retained([99, 100]), new([101])].concat(),
            LaneFull::DropOldest => [retained([100]), new([101])].concat(),
            _ => retained([99, 100]),
        };
        assert_eq!(seen, expected, "{policy:?}");
        assert_balanced(&broker);
    }
}

#[test]
fn partitions_share_what_is_kept_and_each_keeps_its_order() {
    let (broker, _clock) = manual();
    let topic = keep(&broker, 40).partitions(3).open().expect("opens");
    let key = |payload: u64| format!("k{}", payload % 5);
    let send = |payloads: std::ops::RangeInclusive<u64>| {
        for payload in payloads {
            let message = topic.message(payload).key(key(payload));
            message.publish().expect("room");
        }
    };
    send(1..=40);
    broker.run_until_idle();
    send(41..=60);
    let (seen, _late) = late(topic.subscription("late"));
    send(61..=80);
    broker.run_until_idle();
    let seen = seen.take();
    let firsts = seen.iter().take_while(|(_, retained)| *retained).count();
    assert_eq!(firsts, 40);
    for key in 0..5 {
        let of_key = seen.iter().map(|(payload, _)| *payload);
        let of_key: Vec<u64> = of_key.filter(|payload| payload % 5 == key).collect();
        let expected: Vec<u64> = (1..=80).filter(|payload| payload % 5 == key).collect();
        assert_eq!(of_key, expected);
    }
    assert_balanced(&broker);
}

#[test]
fn retries_and_letters_of_kept_messages_stay_marked_and_keep_their_parts() {
    for mode in [OnFailure::Reorder, OnFailure::BlockKey] {
        let (broker, clock) = manual();
        let retry = Backoff::fixed(MS).max_attempts(2);
        let topic = keep(&broker, 2).retry(retry).open().expect("opens");
        let message = topic.message(1).key("k").header("from", "ann");
        message.publish().expect("room");
        publish(&broker, &topic, [2]);
        let log: Log<(u32, u16, bool, bool)> = Log::new();
        let seen = log.clone();
        let builder = topic.subscription("late").on_failure(mode);
        let late = builder.subscribe(move |delivery| {
            let has_parts = delivery.key() == Some("k") && delivery.header("from") == Some("ann");
            let (attempt, generation) = (delivery.attempt(), delivery.generation());
            seen.push((attempt, generation, delivery.is_retained(), has_parts));
            match has_parts && generation == 0 {
                true => Err(Nack::retry("no")),
                false => Ok(()),
            }
        });
        let late = late.expect("subscribes");
        broker.run_until_idle();
        advance(&broker, &clock, HOUR);
        let expected = [(1, 0, true, true), (1, 0, true, false), (2, 0, true, true)];
        assert_eq!(log.take(), expected);
        assert_eq!(topic.dead_letters().len(), 1);
        assert_eq!(topic.dead_letters().redrive_all().redriven, 1);
        broker.run_until_idle();
        assert_eq!(log.take(), [(1, 1, true, true)]);
        assert_eq!(late.metrics().counts.delivered, 2);
        assert_balanced(&broker);
    }
}

#[test]
fn a_late_subscription_does_not_change_how_a_tracked_message_has_ended() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let (_log, _early) = read(&topic, "early");
    let tracker = topic.tracker();
    let tracked = Message::new(1).key("k").tracked(&tracker);
    topic.publish_messages([tracked]).expect("room");
    broker.run_until_idle();
    let outcome = tracker.outcome().expect("it has ended");
    let late = topic.subscribe("late", |_| Err(Nack::dead_letter("no")));
    let _late = late.expect("subscribes");
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 1);
    assert_eq!(tracker.outcome(), Some(outcome));
    assert_balanced(&broker);
}

#[test]
fn numbers_that_make_no_sense_are_refused_when_the_topic_opens() {
    let (broker, _clock) = manual();
    let refused = |topic: TopicBuilder<'_, u64>| match topic.open() {
        Err(OpenError::Invalid(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(keep(&broker, 0)),
        "retain_last is 0, but it must be at least 1"
    );
    let none = broker.topic("t").retain_last_per_key(0);
    assert_eq!(
        refused(none),
        "retain_last_per_key is 0, but it must be at least 1"
    );
    let text = "retain_last is 9, but it must not exceed lane_capacity, or a late subscription had no \
                room for all";
    assert_eq!(refused(keep(&broker, 9).lane_capacity(8)), text);
    let options = TopicOptions::new().retain_last_per_key(7).retain_last(8);
    let topic = broker.topic::<u64>("t").options(&options).lane_capacity(8);
    let _topic = topic.open().expect("the latter counts");
    open(&broker, 8);
    for other in [
        keep(&broker, 7).open(),
        broker.topic("t").retain_last_per_key(8).open(),
    ] {
        let clash =
            matches!(other, Err(OpenError::Clash { setting, .. }) if setting == "retain_last");
        assert!(clash);
    }
    broker.topic::<u64>("t").open().expect("it joins");
}

#[cfg(feature = "log")]
#[test]
fn a_durable_topic_refuses_to_keep_messages_and_says_what_to_do() {
    use millstream::store::{Raw, Store};
    let name = format!("retain-last-{}", std::process::id());
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let store = Store::open(&directory).expect("it opens");
    let broker = Broker::builder().workers(0).store(store);
    let broker = broker.build().expect("it builds");
    let topic = broker.topic::<String>("t").durable(Raw).retain_last(3);
    let refused = topic.open().expect_err("it has a log").to_string();
    assert!(refused.contains("from(Start)"), "{refused}");
    drop(broker);
    std::fs::remove_dir_all(directory).expect("it is ours");
}

/// A payload that counts those that live.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(alive))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        panic!("it won't go quietly");
    }
}

#[test]
fn kept_payloads_go_when_newer_ones_come_and_with_the_topic() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<Counted>("t").retain_last(2);
    let topic = topic.open().expect("opens");
    let alive = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        topic.publish(Counted::new(&alive)).expect("room");
        broker.run_until_idle();
    }
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    let late = topic.subscribe("late", |_| Ok(())).expect("subscribes");
    broker.run_until_idle();
    assert_eq!(alive.load(Ordering::SeqCst), 2, "it had them, too");
    late.unsubscribe(Unsubscribe::Cancel);
    assert!(topic.drain(HANG).is_ok());
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_eq!(topic.metrics().retained, 0);
    assert!(topic.subscribe("later", |_| Ok(())).is_err());

    let other = broker.topic::<Counted>("u").retain_last(2);
    let other = other.open().expect("opens");
    other.publish(Counted::new(&alive)).expect("room");
    broker.run_until_idle();
    drop((broker, topic, other));
    assert_eq!(alive.load(Ordering::SeqCst), 0, "the broker lets go of it");
}

#[test]
fn a_filter_may_publish_and_subscribe_to_its_own_topic_while_it_is_asked() {
    let broker = threaded(1);
    let overflow = Overflow::Block { timeout: HOUR };
    let topic = keep(&broker, 1).capacity(1).overflow(overflow);
    let topic = topic.open().expect("opens");
    topic.publish(1).expect("room");
    assert_rests_balanced(&broker);
    let (inside, again) = (topic.clone(), AtomicBool::new(true));
    let nested = Log::new();
    let held = nested.clone();
    let builder = topic.subscription("late").filter(move |delivery| {
        if delivery.is_retained() && again.swap(false, Ordering::SeqCst) {
            // Whether there is room depends on the worker. It never waits.
            let _ = inside.publish(2);
            let _ = inside.publish(3);
            held.push(late(inside.subscription("nested")));
        }
        true
    });
    let (seen, _late) = late(builder);
    assert_rests_balanced(&broker);
    let seen = seen.take();
    assert_eq!(seen[0], (1, true));
    assert!(seen[1..].iter().all(|(_, retained)| !retained));
    let inner = nested.take();
    assert_eq!(inner[0].0.take(), seen, "it came in the same moment");
    assert_rests_balanced(&broker);
}

#[test]
fn a_subscription_that_ends_at_once_gets_its_kept_messages_or_has_them_cancelled() {
    for workers in [1, 2] {
        let broker = threaded(workers);
        let topic = open(&broker, 100);
        for payload in 1..=100 {
            topic.publish(payload).expect("room");
        }
        for round in 0..50 {
            let (seen, subscription) = late(topic.subscription("s"));
            topic.publish(1_000 + round).expect("room");
            subscription.unsubscribe(Unsubscribe::Cancel);
            let seen = seen.take();
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            assert!(seen == sorted, "in order, and none twice");
        }
        let metrics = assert_rests_balanced(&broker);
        let counts = metrics.deliveries();
        assert_eq!(counts.made, counts.delivered + counts.cancelled);
    }
}

/// Publishers and joiners race. A subscription sees the messages of each publisher from some
/// number on, the last `KEPT` at least, and each exactly once.
fn race(topic: &Topic<u64>, broker: &Broker, is_filtered: bool) {
    const PUBLISHERS: u64 = 2;
    const EACH: u64 = 3_000;
    let logs: Vec<_> = thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            scope.spawn(move || {
                for number in 0..EACH {
                    let payload = publisher * EACH + number;
                    let message = topic.message(payload).key(publisher.to_string());
                    message.publish().expect("it waits for room");
                }
            });
        }
        let joiner = |name: u64| {
            let mut logs = Vec::new();
            for round in 0..20 {
                let name = format!("{name}-{round}");
                let builder = topic.subscription(&name);
                let builder = match is_filtered {
                    true => builder.filter(|delivery| *delivery.payload() != u64::MAX),
                    false => builder,
                };
                logs.push(late(builder));
                thread::yield_now();
            }
            logs
        };
        let joiners: Vec<_> = (0..2)
            .map(|name| scope.spawn(move || joiner(name)))
            .collect();
        let logs = joiners.into_iter().map(|joiner| joiner.join().unwrap());
        logs.flatten().collect()
    });
    assert_rests_balanced(broker);
    for (log, _subscription) in logs {
        let seen = log.take();
        let firsts = seen.iter().take_while(|(_, retained)| *retained).count();
        assert!(seen[firsts..].iter().all(|(_, retained)| !retained));
        for publisher in 0..PUBLISHERS {
            let range = publisher * EACH..(publisher + 1) * EACH;
            let own = seen.iter().map(|(payload, _)| *payload);
            let own: Vec<u64> = own.filter(|payload| range.contains(payload)).collect();
            let first = own.first().copied().unwrap_or(range.end);
            let expected: Vec<u64> = (first..range.end).collect();
            assert!(own == expected, "a gap, a double, or out of order");
        }
    }
}

#[test]
fn no_gap_and_no_double_while_publishers_and_subscriptions_race() {
    for partitions in [1, 3] {
        for is_filtered in [false, true] {
            let broker = threaded(2);
            let topic = keep(&broker, 50)
                .partitions(partitions)
                .overflow(Overflow::Block { timeout: HOUR })
                .open()
                .expect("opens");
            race(&topic, &broker, is_filtered);
        }
    }
}

#[test]
fn by_key_no_gap_and_no_double_while_publishers_and_subscriptions_race() {
    let broker = threaded(2);
    let topic = broker
        .topic("t")
        .retain_last_per_key(8)
        .overflow(Overflow::Block { timeout: HOUR })
        .open()
        .expect("opens");
    race(&topic, &broker, false);
}

#[test]
fn without_it_a_subscription_gets_nothing_that_was_there_before() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").open().expect("opens");
    publish(&broker, &topic, 1..=3);
    let (log, _late) = read_by(topic.subscription("late"));
    publish(&broker, &topic, [4]);
    assert_eq!(log.take(), [4]);
    assert_eq!(topic.metrics().retained, 0);
    assert_balanced(&broker);
}
