//! Partitions: a topic split by key, so that several workers dispatch it at once.
//! The hash is frozen, the messages of a key keep their order, also while the number
//! of partitions changes, and everything else holds for the topic as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::{OpenError, PartitionsError, SettingError};
use millstream::event::EventKind;
use millstream::strategy::{Backlog, Plan, Strategy};
use millstream::{
    Backoff, Batched, Broker, Immediate, LaneFull, Nack, NoSubscribers, Overflow, PublishError,
    Topic, Unkeyed, key_hash,
};

const MS: Duration = Duration::from_millis(1);

fn split<T: Send + Sync + 'static>(broker: &Broker, partitions: usize) -> Topic<T> {
    let builder = broker.topic("t").capacity(4_096).partitions(partitions);
    builder.open().expect("opens")
}

fn keyed(topic: &Topic<u32>, key: &str, payload: u32) {
    let message = topic.message(payload).key(key);
    message.publish().expect("there is room");
}

/// A key that belongs to this partition.
fn key_for(topic: &Topic<u32>, partition: usize) -> String {
    let mut keys = (0..).map(|number| format!("key-{number}"));
    keys.find(|key| topic.partition_of(key) == partition)
        .expect("there are keys for all")
}

// The hash.

#[test]
fn the_hash_of_keys_is_frozen() {
    let vectors = [
        ("", 0xc381_7c01_6ba4_ff30),
        ("a", 0x5f29_c2aa_dd9b_8527),
        ("foobar", 0x5df2_9541_3403_de4f),
        ("Zürich", 0x99fc_e954_13b7_844d),
    ];
    for (key, hash) in vectors {
        assert_eq!(key_hash(key), hash, "{key}");
    }
}

#[test]
fn a_keyed_message_goes_to_the_partition_that_its_hash_says() {
    let (broker, _clock) = manual();
    let topic = split::<u32>(&broker, 5);
    for number in 0..100 {
        let key = format!("key-{number}");
        let partition = topic.partition_of(&key);
        assert_eq!(partition as u64, key_hash(&key) % 5);
        let before = topic.metrics().partitions;
        keyed(&topic, &key, number);
        let mut after = topic.metrics().partitions;
        after[partition] -= 1;
        assert_eq!(before, after);
    }
    broker.run_until_idle();
    assert_eq!(topic.metrics().partitions, [0; 5]);
    assert_balanced(&broker);
}

// Settings.

fn refused(opened: Result<Topic<u32>, OpenError>) -> &'static str {
    match opened.expect_err("it makes no sense") {
        OpenError::Invalid(invalid) => invalid.setting(),
        OpenError::Clash { setting, .. } => setting,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    for partitions in [0, 257, usize::MAX] {
        let opened = broker.topic("t").partitions(partitions).open();
        assert_eq!(refused(opened), "partitions");
    }
    let opened = broker.topic("t").capacity(3).partitions(4).open();
    assert_eq!(refused(opened), "partitions", "one would always be empty");
    for partitions in [1, 256] {
        let name = format!("t{partitions}");
        let opened = broker.topic::<u32>(&name).partitions(partitions).open();
        assert_eq!(opened.expect("opens").partitions(), partitions);
    }
}

#[test]
fn a_policy_for_unkeyed_messages_needs_partitions() {
    let (broker, _clock) = manual();
    let opened = broker.topic("t").unkeyed(Unkeyed::Sticky).open();
    assert_eq!(refused(opened), "unkeyed");
}

#[test]
fn joining_with_other_partitions_clashes() {
    let (broker, _clock) = manual();
    let _plain = broker.topic::<u32>("plain").open().expect("opens");
    let opened = broker.topic("plain").partitions(2).open();
    assert_eq!(refused(opened), "partitions");
    let topic = split::<u32>(&broker, 2);
    let opened = broker.topic("t").partitions(3).open();
    assert_eq!(refused(opened), "partitions");
    let sticky = broker.topic("t").partitions(2).unkeyed(Unkeyed::Sticky);
    assert_eq!(refused(sticky.open()), "unkeyed");
    for join in [broker.topic::<u32>("t"), broker.topic("t").partitions(2)] {
        assert_eq!(
            join.open().expect("agrees").partitions(),
            topic.partitions()
        );
    }
}

#[test]
fn a_number_that_makes_no_sense_changes_nothing() {
    let (broker, _clock) = manual();
    let plain = broker.topic::<u32>("plain").open().expect("opens");
    assert_eq!((plain.partitions(), plain.partition_of("key")), (1, 0));
    assert!(plain.metrics().partitions.is_empty());
    let refused = plain.set_partitions(2).expect_err("it was opened without");
    assert!(matches!(&refused, PartitionsError::Invalid(why) if why.setting() == "partitions"));
    let topic = split::<u32>(&broker, 2);
    for partitions in [0, 257] {
        let refused = topic.set_partitions(partitions).expect_err("out of range");
        assert!(matches!(refused, PartitionsError::Invalid(_)), "{refused}");
    }
    assert_eq!(topic.partitions(), 2);
    let narrow = broker.topic::<u32>("narrow").capacity(2).partitions(1);
    let narrow = narrow.open().expect("opens");
    assert!(narrow.set_partitions(3).is_err(), "it has two places");
}

// Who gets what.

#[test]
fn unkeyed_messages_are_spread_evenly_by_turns() {
    let (broker, _clock) = manual();
    let topic = split::<u32>(&broker, 3);
    for number in 0..30 {
        topic.publish(number).expect("there is room");
    }
    assert_eq!(topic.metrics().partitions, [10; 3]);
    topic.publish_batch(0..3 * 64).expect("there is room");
    assert_eq!(topic.metrics().partitions, [74; 3], "a chunk takes a turn");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn sticky_keeps_a_threads_order() {
    let broker = threaded(3);
    let topic = broker
        .topic::<(usize, u32)>("t")
        .capacity(4_096)
        .partitions(3)
        .unkeyed(Unkeyed::Sticky)
        .overflow(Overflow::Block { timeout: HANG })
        .open()
        .expect("opens");
    let log = Log::new();
    let _reader = topic.subscribe("s", {
        let log = log.clone();
        move |d| {
            log.push(*d.payload());
            Ok(())
        }
    });
    thread::scope(|scope| {
        for publisher in 0..4 {
            let topic = topic.clone();
            scope.spawn(move || {
                let mut buffer = topic.buffered(Batched::of(8).linger(MS)).expect("buffers");
                for number in 0..2_000 {
                    match number / 500 {
                        0 => drop(topic.publish((publisher, number)).expect("in time")),
                        1 if number % 500 == 0 => {
                            let all = (number..number + 500).map(|number| (publisher, number));
                            topic.publish_batch(all).expect("in time");
                        }
                        1 => {}
                        _ => buffer.publish((publisher, number)).expect("in time"),
                    }
                }
            });
        }
    });
    assert_rests_balanced(&broker);
    let mut next = [0; 4];
    for (publisher, number) in log.take() {
        assert_eq!(number, next[publisher], "of publisher {publisher}");
        next[publisher] += 1;
    }
    assert_eq!(next, [2_000; 4]);
}

/// All partitions have as many messages, but for a chunk of this size and one.
fn assert_even(topic: &Topic<u32>, chunk: usize) {
    let depths = topic.metrics().partitions;
    let (most, fewest) = (depths.iter().max(), depths.iter().min());
    let apart = most.expect("there are some") - fewest.expect("there are some");
    assert!(apart <= chunk as u64 + 1, "{depths:?}");
}

fn retained(broker: &Broker, partitions: usize) -> Topic<u32> {
    let builder = broker.topic("t").capacity(1 << 16).partitions(partitions);
    let builder = builder.no_subscribers(NoSubscribers::Retain);
    builder.open().expect("opens")
}

#[test]
fn without_keys_all_partitions_get_as_many_messages_whatever_they_travel_in() {
    for partitions in [2, 3, 5, 64] {
        let (broker, clock) = manual();
        let topic = retained(&broker, partitions);
        let mut buffer = topic.buffered(Batched::of(48)).expect("buffers");
        for number in 0..100 {
            topic.publish_batch(0..64).expect("there is room");
            topic.publish(number).expect("there is room");
            topic.publish_batch(0..7).expect("there is room");
            let message = topic.message(number).header("a", "b");
            message.publish().expect("there is room");
            topic.publish_after(MS, number).expect("there is room");
            (0..50).for_each(|number| buffer.publish(number).expect("there is room"));
            // Three kinds of single messages take turns together; one is delayed.
            assert_even(&topic, 64 + number as usize);
        }
        drop(buffer);
        advance(&broker, &clock, MS);
        assert_even(&topic, 64);
        let all: u64 = topic.metrics().partitions.iter().sum();
        assert_eq!(all, 100 * (64 + 1 + 7 + 1 + 1 + 50));
        assert_balanced(&broker);
    }
}

#[test]
fn chunks_of_any_size_leave_no_partition_behind() {
    let (broker, _clock) = manual();
    let topic = retained(&broker, 2);
    for size in [32, 64, 32].repeat(100) {
        topic.publish_batch(0..size).expect("there is room");
        assert_even(&topic, 64);
    }
    assert_balanced(&broker);
}

#[test]
fn racing_publishers_of_chunks_fill_all_partitions_alike() {
    let broker = threaded(1);
    let topic = retained(&broker, 4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    topic.publish_batch(0..64).expect("there is room");
                    topic.publish(0).expect("there is room");
                }
            });
        }
    });
    assert_even(&topic, 4 * 64);
    assert_rests_balanced(&broker);
}

#[test]
fn a_chunk_that_drops_the_oldest_drops_it_where_it_goes() {
    let (broker, _clock) = manual();
    let builder = broker.topic::<u32>("t").capacity(8).partitions(2);
    let builder = builder.no_subscribers(NoSubscribers::Retain);
    let builder = builder.overflow(Overflow::DropOldest);
    let topic = builder.open().expect("opens");
    for _ in 0..100 {
        topic.publish_batch(0..4).expect("it makes room");
        topic.publish_batch(0..2).expect("it makes room");
        assert_even(&topic, 4);
    }
    assert_balanced(&broker);
}

#[test]
fn a_buffering_publisher_that_moves_to_another_thread_stays_with_its_partition() {
    let (broker, _clock) = manual();
    let builder = broker.topic::<u32>("t").partitions(64);
    let topic = builder.unkeyed(Unkeyed::Sticky).open().expect("opens");
    let make = || topic.buffered(Batched::of(4)).expect("buffers");
    let mut buffer = thread::scope(|scope| scope.spawn(make).join().expect("makes it"));
    for number in 0..10 {
        buffer.publish(number).expect("there is room");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 10..20 {
                buffer.publish(number).expect("there is room");
            }
        });
    });
    drop(buffer);
    let used = topic.metrics().partitions.into_iter().filter(|n| *n > 0);
    assert_eq!(used.collect::<Vec<_>>(), [20]);
    broker.run_until_idle();
    assert_balanced(&broker);
}

/// Publishes from four threads, 64 keys each, and checks that each key's messages
/// reach each of two subscriptions once and in order. `meddle` runs meanwhile, over
/// and over.
fn check_order(
    messages: u32,
    partitions: usize,
    overflow: Overflow,
    meddle: impl Fn(&Topic<(u32, u32)>) + Sync,
) {
    let broker = threaded(3);
    let topic = broker
        .topic::<(u32, u32)>("t")
        .capacity(256)
        .partitions(partitions)
        .overflow(overflow)
        .open()
        .expect("opens");
    let mut logs = Vec::new();
    for name in ["a", "b"] {
        let log = Log::new();
        logs.push(log.clone());
        let lane = topic.subscription(name).capacity(128);
        let subscribed = lane.subscribe(move |d| {
            log.push(*d.payload());
            Ok(())
        });
        subscribed.expect("subscribes").detach();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..4)
            .map(|publisher| {
                let topic = topic.clone();
                scope.spawn(move || {
                    for number in 0..messages {
                        let of = publisher * 64 + number % 64;
                        let message = topic.message((of, number)).key(format!("key-{of}"));
                        message.publish().expect("in time");
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                meddle(&topic);
                thread::yield_now();
            }
        });
        for publisher in publishers {
            publisher.join().expect("publishes");
        }
        done.store(true, Ordering::Relaxed);
    });
    let metrics = assert_rests_balanced(&broker);
    let dropped = metrics.topics[0].dropped as usize;
    for log in logs {
        let mut last = BTreeMap::new();
        let seen = log.take();
        for (key, number) in &seen {
            let before = last.insert(*key, *number);
            assert!(
                before < Some(*number),
                "key {key}: {number} after {before:?}"
            );
        }
        assert_eq!(seen.len() + dropped, 4 * messages as usize);
    }
}

const BLOCK: Overflow = Overflow::Block { timeout: HANG };

#[test]
fn each_key_keeps_its_order_while_several_workers_dispatch() {
    check_order(25_000, 4, BLOCK, |_| thread::sleep(MS));
}

#[test]
fn each_key_keeps_its_order_while_the_number_of_partitions_changes() {
    let changes = AtomicUsize::new(0);
    check_order(25_000, 1, BLOCK, |topic| {
        let to = [3, 1, 8, 2, 5][changes.load(Ordering::Relaxed) % 5];
        match topic.set_partitions(to) {
            Ok(()) => drop(changes.fetch_add(1, Ordering::Relaxed)),
            Err(refused) => assert_eq!(refused, PartitionsError::Underway),
        }
    });
    let changes = changes.into_inner();
    assert!(changes > 10, "only {changes} changes");
}

#[test]
fn what_makes_room_by_dropping_keeps_the_order_of_what_is_left() {
    let changes = AtomicUsize::new(0);
    check_order(10_000, 4, Overflow::DropOldest, |topic| {
        let to = 1 + changes.fetch_add(1, Ordering::Relaxed) % 7;
        let _ = topic.set_partitions(to);
    });
}

/// Asked for a plan, waits until another worker asks for one, too.
struct Meet(Arc<AtomicUsize>);

impl Strategy for Meet {
    fn plan(&self, backlog: &Backlog) -> Plan {
        self.0.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        while self.0.load(Ordering::SeqCst) < 2 && began.elapsed() < HANG {
            thread::yield_now();
        }
        Plan::Deliver {
            at_most: backlog.waiting(),
        }
    }

    fn name(&self) -> &str {
        "meet"
    }
}

#[test]
fn several_workers_dispatch_one_topic_at_once() {
    let broker = threaded(2);
    let inside = Arc::new(AtomicUsize::new(0));
    let builder = broker.topic("t").partitions(2);
    let topic = builder
        .strategy(Meet(inside.clone()))
        .open()
        .expect("opens");
    let (log, _reader) = read(&topic, "s");
    let began = Instant::now();
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    assert_rests_balanced(&broker);
    assert!(began.elapsed() < HANG, "they never met");
    assert_eq!(log.len(), 2);
}

// Changes.

#[test]
fn a_change_flushes_what_waits_and_the_new_partitions_wait_for_it() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").partitions(2).strategy(Batched::of(10));
    let topic = builder.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    for number in 0..4 {
        keyed(&topic, "key", number);
    }
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "the batch isn't full");
    topic.set_partitions(3).expect("nothing forbids it");
    for number in 4..8 {
        keyed(&topic, "key", number);
    }
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3]);
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 5, 6, 7]);
    assert_balanced(&broker);
}

#[test]
fn a_change_waits_for_the_one_before_it() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").partitions(2);
    let topic = builder.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    keyed(&topic, "key", 1);
    topic.set_partitions(4).expect("the first");
    keyed(&topic, "key", 2);
    broker.run_until_idle();
    assert_eq!(topic.set_partitions(2), Err(PartitionsError::Underway));
    assert_eq!(topic.set_partitions(4), Ok(()), "it is that already");
    let (log, _reader) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2]);
    assert_eq!(topic.set_partitions(2), Ok(()));
    assert_eq!(topic.partitions(), 2);
    keyed(&topic, "key", 3);
    broker.run_until_idle();
    assert_eq!(log.take(), [3]);
    assert_balanced(&broker);
}

#[test]
fn a_change_is_evented_once() {
    let (broker, _clock) = manual();
    let topic = split::<u32>(&broker, 2);
    let log = Log::new();
    let _observation = broker.observe({
        let log = log.clone();
        move |event| {
            if let EventKind::PartitionsChanged { from, to } = *event.kind() {
                log.push((from, to, event.to_string()));
            }
        }
    });
    topic.set_partitions(2).expect("it is that already");
    topic.set_partitions(3).expect("changes");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [(2, 3, "partitions_changed t 2 -> 3".to_owned())]
    );
}

#[test]
fn a_delayed_message_goes_where_it_belongs_when_it_is_due() {
    let (broker, clock) = manual();
    let topic = split::<u32>(&broker, 2);
    let (log, _reader) = read(&topic, "s");
    let later = topic.message(1).key("key").after(5 * MS);
    later.publish().expect("there is room");
    topic.set_partitions(7).expect("changes");
    assert_eq!(topic.metrics().partitions, [0; 7], "it is in none");
    clock.advance(4 * MS);
    keyed(&topic, "key", 2);
    broker.run_until_idle();
    assert_eq!(log.take(), [2]);
    topic
        .set_partitions(3)
        .expect("a delayed message keeps no table");
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [1]);
    assert_balanced(&broker);
}

// Strategies.

#[test]
fn a_batch_is_full_when_its_partition_has_enough() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").partitions(2).strategy(Batched::of(3));
    let topic = builder.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    let keys = [key_for(&topic, 0), key_for(&topic, 1)];
    for (number, partition) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
        keyed(&topic, &keys[partition], number);
        broker.run_until_idle();
    }
    assert_eq!(log.len(), 0, "two wait in each");
    keyed(&topic, &keys[1], 5);
    broker.run_until_idle();
    assert_eq!(log.take(), [2, 4, 5]);
    topic.set_strategy(Immediate).expect("a setting");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 3]);
    assert_balanced(&broker);
}

#[test]
fn a_batch_lingers_by_the_age_of_its_partition() {
    let (broker, clock) = manual();
    let lingers = Batched::of(10).linger(5 * MS);
    let builder = broker.topic("t").partitions(2).strategy(lingers);
    let topic = builder.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    keyed(&topic, &key_for(&topic, 0), 1);
    advance(&broker, &clock, 3 * MS);
    keyed(&topic, &key_for(&topic, 1), 2);
    advance(&broker, &clock, 2 * MS);
    assert_eq!(log.take(), [1]);
    advance(&broker, &clock, 3 * MS);
    assert_eq!(log.take(), [2]);
    assert_balanced(&broker);
}

#[test]
fn a_full_topic_waits_in_no_partition_for_what_finds_no_room() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").capacity(4).partitions(2);
    let topic = builder.strategy(Batched::of(4)).open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    for number in 0..4 {
        topic.publish(number).expect("there is room");
        broker.run_until_idle();
    }
    assert!(log.len() > 0, "{}", broker.metrics());
    for number in 4..8 {
        topic.publish(number).expect("there is room again");
        broker.run_until_idle();
    }
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.len(), 8);
    assert_balanced(&broker);
}

// Overflow, and no subscription.

#[test]
fn the_capacity_is_that_of_all_partitions_together() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").capacity(5).partitions(3).open();
    let topic = topic.expect("opens");
    for number in 0..5 {
        keyed(&topic, "one key", number);
    }
    let refused = topic.publish(5).expect_err("all places are taken");
    assert!(matches!(refused, PublishError::Full(5)));
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_takes_from_the_messages_own_partition_first() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").capacity(4).partitions(2);
    let topic = builder
        .overflow(Overflow::DropOldest)
        .open()
        .expect("opens");
    let (log, _reader) = read(&topic, "s");
    let keys = [key_for(&topic, 0), key_for(&topic, 1)];
    for number in [1, 2, 3] {
        keyed(&topic, &keys[0], number);
    }
    keyed(&topic, &keys[1], 4);
    keyed(&topic, &keys[1], 5);
    assert_eq!(topic.metrics().partitions, [3, 1], "4 has made room for 5");
    for number in [6, 7, 8, 9] {
        keyed(&topic, &keys[0], number);
    }
    assert_eq!(topic.metrics().partitions, [3, 1]);
    topic.set_partitions(1).expect("changes");
    keyed(&topic, &keys[1], 10);
    assert_eq!(
        topic.metrics().dropped,
        6,
        "what waits in the old ones goes first"
    );
    broker.run_until_idle();
    let mut seen = log.take();
    seen.sort_unstable();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[3], 10);
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_takes_from_another_partition_if_its_own_is_empty() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").capacity(2).partitions(2);
    let topic = builder
        .overflow(Overflow::DropOldest)
        .open()
        .expect("opens");
    let (log, _reader) = read(&topic, "s");
    let keys = [key_for(&topic, 0), key_for(&topic, 1)];
    keyed(&topic, &keys[0], 1);
    keyed(&topic, &keys[0], 2);
    keyed(&topic, &keys[1], 3);
    assert_eq!(topic.metrics().partitions, [1, 1]);
    broker.run_until_idle();
    let mut seen = log.take();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3]);
    assert_balanced(&broker);
}

#[test]
fn what_is_retained_waits_in_its_partitions_for_the_first_subscription() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").partitions(3);
    let topic = builder.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    for number in 0..6 {
        topic.publish(number).expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(topic.metrics().partitions, [2; 3]);
    let (log, _reader) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.len(), 6);
    assert_balanced(&broker);
}

#[test]
fn a_lane_that_is_full_is_shared_by_all_partitions_and_starves_none() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").partitions(4);
    let topic = builder.no_subscribers(NoSubscribers::Retain).open();
    let topic: Topic<u32> = topic.expect("opens");
    for number in 0..400 {
        topic.publish(number).expect("there is room");
    }
    let log = Log::new();
    let lane = topic.subscription("s").capacity(1);
    let subscribed = lane.subscribe({
        let log = log.clone();
        move |d| {
            log.push(*d.payload() % 4);
            Ok(())
        }
    });
    subscribed.expect("subscribes").detach();
    broker.run_until_idle();
    assert_balanced(&broker);
    let seen = log.take();
    assert_eq!(seen.len(), 400);
    for partition in 0..4 {
        let early = seen[..200].iter().filter(|at| **at == partition);
        let early = early.count();
        assert!(
            early >= 20,
            "{early} of partition {partition} in the first half"
        );
    }
}

/// Several dispatchers push into two narrow lanes of this policy.
fn overrun(when_full: LaneFull) -> (Broker, Topic<u32>, u64) {
    const MESSAGES: u32 = 20_000;
    let broker = threaded(3);
    let builder = broker.topic("t").capacity(64).partitions(3);
    let topic = builder.overflow(BLOCK).dead_letter_capacity(100_000);
    let topic = topic.open().expect("opens");
    for name in ["a", "b"] {
        let lane = topic.subscription(name).capacity(2).when_full(when_full);
        lane.subscribe(|_| Ok(())).expect("subscribes").detach();
    }
    for number in 0..MESSAGES {
        topic.publish(number).expect("in time");
    }
    assert_rests_balanced(&broker);
    (broker, topic, 2 * u64::from(MESSAGES))
}

#[test]
fn full_lanes_hold_several_dispatchers_back_and_lose_nothing() {
    let (_broker, topic, made) = overrun(LaneFull::Wait);
    assert_eq!(topic.metrics().deliveries().delivered, made);
}

#[test]
fn full_lanes_drop_what_several_dispatchers_bring_and_count_it() {
    for policy in [LaneFull::DropOldest, LaneFull::DropNewest] {
        let (_broker, topic, made) = overrun(policy);
        let counts = topic.metrics().deliveries();
        assert_eq!(counts.delivered + counts.dropped, made, "{policy:?}");
    }
}

#[test]
fn full_lanes_dead_letter_what_several_dispatchers_bring() {
    let (_broker, topic, made) = overrun(LaneFull::DeadLetter);
    let counts = topic.metrics().deliveries();
    assert_eq!(counts.delivered + counts.dead_lettered, made);
    assert_eq!(topic.dead_letters().len() as u64, counts.dead_lettered);
}

// Ends.

#[test]
fn a_drain_delivers_what_waits_in_old_and_new_partitions() {
    let broker = threaded(2);
    let builder = broker.topic("t").partitions(4).strategy(Batched::of(500));
    let topic = builder.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    for round in 0..4 {
        for number in 0..100 {
            keyed(&topic, &format!("key-{}", number % 7), round * 100 + number);
        }
        let _ = topic.set_partitions(5 + round as usize);
    }
    let report = broker.drain(HANG).expect("all of it");
    assert_eq!((report.published, report.delivered), (400, 400));
    let mut last = BTreeMap::new();
    for number in log.take() {
        let before = last.insert(number % 100 % 7, number);
        assert!(before < Some(number), "{number} after {before:?}");
    }
    assert_balanced(&broker);
}

#[test]
fn a_drain_that_comes_into_a_change_ends_and_balances() {
    for _ in 0..50 {
        let broker = threaded(2);
        let builder = broker.topic("t").capacity(32).partitions(2).overflow(BLOCK);
        let topic = builder.open().expect("opens");
        let (log, _reader) = read(&topic, "s");
        let accepted = thread::scope(|scope| {
            let publishers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let fits = |number: &u32| topic.publish(*number).is_ok();
                        (0..100_000).take_while(fits).count()
                    })
                })
                .collect();
            let changer = scope.spawn(|| {
                for to in (1..5).cycle().take(100) {
                    let _ = topic.set_partitions(to);
                }
            });
            thread::sleep(MS);
            let report = broker.drain(HANG).expect("all of it");
            changer.join().expect("changes");
            let accepted = publishers.into_iter().map(|p| p.join().expect("publishes"));
            assert_eq!(accepted.sum::<usize>() as u64, report.published);
            report.published
        });
        assert_eq!(log.len() as u64, accepted);
        assert_balanced(&broker);
    }
}

#[test]
fn a_broker_that_is_dropped_counts_what_waited_in_partitions() {
    let (broker, _clock) = manual();
    let builder = broker.topic("t").partitions(3);
    let topic = builder.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    let payload = Arc::new(());
    for _ in 0..6 {
        topic.publish(payload.clone()).expect("there is room");
    }
    topic.set_partitions(2).expect("changes");
    topic.publish(payload.clone()).expect("there is room");
    let later = topic.message(payload.clone()).after(MS);
    later.publish().expect("there is room");
    drop(broker);
    assert_eq!(Arc::strong_count(&payload), 1);
    let metrics = topic.metrics();
    assert_eq!((metrics.dropped, metrics.queued), (8, 0));
    assert_eq!(metrics.balance(), Ok(()));
}

#[test]
fn a_subscription_that_fails_and_leaves_amid_changes_is_accounted_for() {
    let broker = threaded(3);
    let builder = broker.topic("t").capacity(64).partitions(3).overflow(BLOCK);
    let topic = builder.retry(Backoff::fixed(MS).max_attempts(2)).open();
    let topic: Topic<u32> = topic.expect("opens");
    let (log, _reader) = read(&topic, "s");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let flaky =
                    topic
                        .subscription("flaky")
                        .capacity(8)
                        .subscribe(|d| match d.payload() % 3 {
                            0 => Err(Nack::retry("no luck")),
                            _ => Ok(()),
                        });
                let _ = topic.set_partitions(1 + round % 4);
                thread::sleep(MS);
                drop(flaky.expect("subscribes"));
            }
        });
        for number in 0..20_000 {
            topic.publish(number).expect("in time");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_rests_balanced(&broker);
    assert_eq!(log.len(), 20_000);
}

#[test]
fn the_error_of_a_refused_change_reads_as_a_sentence() {
    let (broker, _clock) = manual();
    let topic = split::<u32>(&broker, 2);
    let refused = topic.set_partitions(0).expect_err("none");
    let expected: PartitionsError = SettingError::new("partitions", 0, "must be at least 1").into();
    assert_eq!(refused, expected);
    assert_eq!(
        refused.to_string(),
        "partitions is 0, but it must be at least 1"
    );
}
