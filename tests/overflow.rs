//! Promise 7, overflow: a full topic rejects (the default: the error hands the
//! payload back), blocks for a while, drops its oldest or drops the newest; a full
//! lane lets the topic wait (the default), drops its oldest, drops the newest or
//! dead-letters it. Nothing is lost silently: the publisher is told, it is counted
//! and it is evented. A capacity of zero is refused. Nothing larger than its queue
//! can hang.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, read_by, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::error::{BuildError, OpenError};
use millstream::event::{DropCause, EventKind, Observation};
use millstream::{
    Backoff, Batched, Broker, Delivery, LaneFull, Nack, NoSubscribers, Overflow, PublishError,
    Pull, Subscription, Topic,
};

const MS: Duration = Duration::from_millis(1);

/// A payload that can't be copied: it is either handed back or gone.
#[derive(Debug, PartialEq, Eq)]
struct Parcel(u32);

/// A topic of so many places.
fn of<T: Send + Sync + 'static>(broker: &Broker, capacity: usize, overflow: Overflow) -> Topic<T> {
    let builder = broker.topic("t").capacity(capacity).overflow(overflow);
    builder.open().expect("opens")
}

/// The ids of what was dropped, with the cause, as events tell.
fn drops(broker: &Broker) -> (Log<(u64, DropCause)>, Observation) {
    let log = Log::new();
    let observation = broker.observe({
        let log = log.clone();
        move |event| {
            if let EventKind::Dropped { cause } = *event.kind() {
                log.push((event.id().expect("a message").get(), cause));
            }
        }
    });
    (log, observation.expect("observes"))
}

// The topic's queue.

#[test]
fn reject_is_the_default_and_hands_the_payload_back() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<Parcel>("t")
        .capacity(2)
        .open()
        .expect("opens");
    let log = Log::new();
    let _observation = broker
        .observe({
            let log = log.clone();
            move |event| log.push(event.to_string())
        })
        .expect("observes");
    for n in 0..2 {
        topic.publish(Parcel(n)).expect("there is room");
    }
    let refused = topic.publish(Parcel(2)).expect_err("both places are taken");
    assert!(
        matches!(refused, PublishError::Full(Parcel(2))),
        "{refused}"
    );
    assert_eq!(refused.into_inner(), Parcel(2));
    assert_eq!(topic.metrics().rejected, 1);
    broker.run_until_idle();
    assert_eq!(log.take()[2], "backpressure t depth 2");
    topic.publish(Parcel(2)).expect("there is room again");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn a_batch_larger_than_the_queue_hands_back_the_rest_in_order() {
    let (broker, _clock) = manual();
    let topic = of::<Parcel>(&broker, 100, Overflow::Reject);
    let partial = topic
        .publish_batch((0..250).map(Parcel))
        .expect_err("there are only 100 places");
    assert_eq!(partial.accepted, 100);
    assert!(matches!(partial.error, PublishError::Full(_)), "{partial}");
    let rest: Vec<_> = partial
        .into_inner()
        .into_iter()
        .map(|Parcel(n)| n)
        .collect();
    assert_eq!(rest, (100..250).collect::<Vec<_>>());
    assert_eq!(topic.metrics().queued, 100);
    assert_balanced(&broker);
}

#[test]
fn every_message_that_a_refused_batch_hands_back_is_counted_as_rejected() {
    let (broker, _clock) = manual();
    let topic = of::<u32>(&broker, 100, Overflow::Reject);
    let partial = topic.publish_batch(0..250).expect_err("100 places");
    assert_eq!(partial.into_inner().len(), 150);
    assert_eq!(topic.metrics().rejected, 150);
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_makes_room_one_by_one_and_the_receipt_says_so() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 3, Overflow::DropOldest);
    let (log, _reader) = read(&topic, "s");
    let (dropped, _observation) = drops(&broker);
    let evicted: Vec<_> = (1..=5)
        .map(|n| topic.publish(n).expect("an older one goes"))
        .map(|receipt| (receipt.evicted(), receipt.is_dropped()))
        .collect();
    let (kept, evicting) = ((0, false), (1, false));
    assert_eq!(evicted, [kept, kept, kept, evicting, evicting]);
    broker.run_until_idle();
    assert_eq!(log.take(), [3, 4, 5]);
    assert_eq!(
        dropped.take(),
        [(1, DropCause::Overflow), (2, DropCause::Overflow)]
    );
    let metrics = topic.metrics();
    assert_eq!((metrics.dropped, metrics.rejected), (2, 0));
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_drops_no_more_of_a_chunk_than_it_needs() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 6, Overflow::DropOldest);
    let (log, _reader) = read(&topic, "s");
    topic.publish_batch(1..=4).expect("there is room");
    topic.publish_batch(5..=6).expect("there is room");
    assert_eq!(topic.publish(7).expect("the first goes").evicted(), 1);
    let receipt = topic.publish_batch(8..=10).expect("three more go");
    assert_eq!(receipt.evicted(), 3);
    broker.run_until_idle();
    assert_eq!(log.take(), (5..=10).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_drops_first_what_the_dispatcher_has_looked_at() {
    let (broker, clock) = manual();
    let topic = of(&broker, 4, Overflow::DropOldest);
    let log = Log::new();
    let _flaky = topic
        .subscription("s")
        .capacity(1)
        .subscribe({
            let log = log.clone();
            move |d| match d.attempt() {
                1 if *d.payload() == 1 => Err(Nack::retry("holds its place")),
                _ => {
                    log.push(*d.payload());
                    Ok(())
                }
            }
        })
        .expect("subscribes");
    for n in 1..=5 {
        topic.publish(n).expect("there is room");
        broker.run_until_idle();
    }
    // The lane has the first; four others wait before it, the second at the head.
    for n in 6..=7 {
        assert_eq!(topic.publish(n).expect("an older one goes").evicted(), 1);
        broker.run_until_idle();
    }
    advance(&broker, &clock, 250 * MS);
    assert_eq!(log.take(), [1, 4, 5, 6, 7]);
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_drops_no_more_single_messages_than_it_must() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(50);
    let topic = topic.overflow(Overflow::DropOldest);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    for n in 0..50 {
        topic.publish(n).expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(topic.publish(50).expect("the oldest goes").evicted(), 1);
    let (log, _reader) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.take(), (1..=50).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn drop_oldest_does_not_drop_what_waits_for_its_time() {
    let (broker, clock) = manual();
    let topic = of(&broker, 2, Overflow::DropOldest);
    let (log, _reader) = read(&topic, "s");
    for n in 1..=2 {
        topic.publish_after(MS, n).expect("there is room");
    }
    let refused = topic.publish(3).expect_err("there is nothing to drop");
    assert!(matches!(refused, PublishError::Full(3)), "{refused}");
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [1, 2]);
    assert_eq!(topic.metrics().rejected, 1);
    assert_balanced(&broker);
}

#[test]
fn drop_newest_accepts_and_drops_and_the_receipt_says_so() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 3, Overflow::DropNewest);
    let (log, _reader) = read(&topic, "s");
    let (dropped, _observation) = drops(&broker);
    topic.publish(1).expect("there is room");
    let receipt = topic.publish_batch(2..=6).expect("some are dropped");
    assert_eq!(
        (receipt.accepted(), receipt.dropped(), receipt.evicted()),
        (5, 3, 0)
    );
    let receipt = topic.publish(7).expect("it is dropped");
    assert!(receipt.is_dropped());
    let receipt = topic.publish_after(MS, 8).expect("it is dropped, too");
    assert!(receipt.is_dropped());
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    let expected: Vec<_> = (4..=8).map(|id| (id, DropCause::Overflow)).collect();
    assert_eq!(dropped.take(), expected);
    assert_eq!(broker.next_deadline(), None);
    assert!(!topic.publish(9).expect("there is room again").is_dropped());
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn a_batch_larger_than_a_dropping_queue_is_accepted_whole_and_ends() {
    for (overflow, kept) in [
        (Overflow::DropOldest, 240..250),
        (Overflow::DropNewest, 0..10),
    ] {
        let (broker, _clock) = manual();
        let topic = of(&broker, 10, overflow);
        let (log, _reader) = read(&topic, "s");
        let receipt = topic.publish_batch(0..250).expect("some are dropped");
        assert_eq!(receipt.accepted(), 250);
        assert_eq!(receipt.evicted() + receipt.dropped(), 240, "{overflow:?}");
        broker.run_until_idle();
        assert_eq!(log.take(), kept.collect::<Vec<_>>(), "{overflow:?}");
        assert_eq!(topic.metrics().dropped, 240);
        assert_balanced(&broker);
    }
}

#[test]
fn a_capacity_of_zero_is_refused_wherever_there_is_one() {
    let (broker, _clock) = manual();
    let open = [
        broker.topic::<u32>("t").capacity(0).open(),
        broker.topic::<u32>("t").lane_capacity(0).open(),
        broker.topic::<u32>("t").dead_letter_capacity(0).open(),
        broker.topic::<u32>("t").strategy(Batched::of(0)).open(),
    ];
    for refused in open {
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{refused:?}");
    }
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let lane = topic.subscription("s").capacity(0).subscribe(|_| Ok(()));
    let error = lane.expect_err("no place at all").to_string();
    assert_eq!(error, "capacity is 0, but it must be at least 1");
    let batches = topic.subscription("s").capacity(3);
    let batches = batches.subscribe_batches(Batched::of(4), |_| Ok(()));
    batches.expect_err("it would never fill");
    let buffer = Broker::builder().event_buffer(0).build();
    assert!(matches!(buffer, Err(BuildError::Invalid(_))));
    assert_balanced(&broker);
}

#[test]
fn capacity_is_exact_under_racing_publishers() {
    const CAPACITY: usize = 1_000;
    let (broker, _clock) = manual();
    let topic = of::<u32>(&broker, CAPACITY, Overflow::Reject);
    let accepted = AtomicUsize::new(0);
    for round in 1..=5 {
        std::thread::scope(|scope| {
            for publisher in 0..4 {
                let (topic, accepted) = (&topic, &accepted);
                scope.spawn(move || {
                    let mut count = 0;
                    loop {
                        let result = match publisher {
                            0 => topic
                                .publish_batch(0..7)
                                .map_err(|partial| partial.accepted),
                            _ => topic.publish_batch([0]).map_err(|partial| partial.accepted),
                        };
                        match result {
                            Ok(receipt) => count += receipt.accepted(),
                            Err(partly) => {
                                accepted.fetch_add(count + partly, Ordering::Relaxed);
                                return;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(accepted.load(Ordering::Relaxed), round * CAPACITY);
        assert_eq!(topic.metrics().queued, CAPACITY as u64);
        broker.run_until_idle();
    }
    assert_balanced(&broker);
}

#[test]
fn racing_publishers_that_drop_the_oldest_lose_nothing_uncounted() {
    const EACH: u64 = 2_000;
    let broker = threaded(1);
    let topic = of::<u64>(&broker, 16, Overflow::DropOldest);
    let delivered = Log::new();
    let _reader = topic
        .subscribe("s", {
            let delivered = delivered.clone();
            move |d| {
                delivered.push(d.id().get());
                Ok(())
            }
        })
        .expect("subscribes");
    let (evicted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..EACH {
                    match topic.publish(n) {
                        Ok(receipt) => {
                            evicted.fetch_add(receipt.evicted() as usize, Ordering::Relaxed);
                        }
                        // All places can be taken by others that have yet to push.
                        Err(PublishError::Full(_)) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let metrics = assert_rests_balanced(&broker);
    let metrics = metrics.topic("t").expect("open");
    assert_eq!(metrics.published + metrics.rejected, 4 * EACH);
    assert_eq!(metrics.rejected, refused.load(Ordering::Relaxed) as u64);
    assert!(metrics.dropped >= evicted.load(Ordering::Relaxed) as u64);
    assert_eq!(delivered.len() as u64 + metrics.dropped, metrics.published);
}

// Block.

/// A full topic that blocks, without anybody who would make room; and a way to
/// learn that a publisher has met it.
fn full(broker: &Broker, timeout: Duration) -> (Topic<u32>, mpsc::Receiver<()>, Observation) {
    full_by(broker, Overflow::Block { timeout })
}

fn full_by(broker: &Broker, overflow: Overflow) -> (Topic<u32>, mpsc::Receiver<()>, Observation) {
    let topic = broker.topic("t").capacity(2).overflow(overflow);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    let (met, meets) = mpsc::channel();
    let observation = broker.observe(move |event| {
        if event.name() == "backpressure" {
            // The test may have stopped listening.
            let _ = met.send(());
        }
    });
    for n in 0..2 {
        topic.publish(n).expect("there is room");
    }
    (topic, meets, observation.expect("observes"))
}

#[test]
fn a_blocked_publisher_goes_on_as_soon_as_there_is_room() {
    let broker = threaded(1);
    let (topic, meets, _observation) = full(&broker, HANG);
    let (log, _reader) = std::thread::scope(|scope| {
        let began = Instant::now();
        let blocked = scope.spawn(|| topic.publish(2));
        meets.recv_timeout(HANG).expect("it meets a full topic");
        let reader = read(&topic, "s");
        let receipt = blocked.join().expect("it returns").expect("there is room");
        assert_eq!(receipt.id().get(), 3);
        assert!(began.elapsed() < HANG);
        reader
    });
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), [0, 1, 2]);
}

#[test]
fn a_blocked_publisher_is_told_when_the_broker_closes() {
    let broker = threaded(1);
    let (topic, meets, _observation) = full(&broker, HANG);
    std::thread::scope(|scope| {
        let began = Instant::now();
        let blocked = scope.spawn(|| topic.publish(2));
        meets.recv_timeout(HANG).expect("it meets a full topic");
        broker
            .drain(Duration::ZERO)
            .expect_err("two messages were retained");
        let refused = blocked.join().expect("it returns").expect_err("closed");
        assert!(matches!(refused, PublishError::Closed(2)), "{refused}");
        assert!(began.elapsed() < HANG);
    });
    assert_balanced(&broker);
}

#[test]
fn a_blocked_publisher_gives_up_when_its_time_is_up_and_not_before() {
    let broker = threaded(1);
    let (topic, _meets, _observation) = full(&broker, 20 * MS);
    let began = Instant::now();
    let refused = topic.publish(2).expect_err("nobody makes room");
    assert!(matches!(refused, PublishError::TimedOut(2)), "{refused}");
    assert!(began.elapsed() >= 20 * MS);
    let partial = topic.publish_batch(3..200).expect_err("nobody makes room");
    assert!(
        matches!(partial.error, PublishError::TimedOut(_)),
        "{partial}"
    );
    assert_eq!(partial.accepted, 0);
    assert_eq!(partial.into_inner(), (3..200).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn try_publish_never_waits_and_hands_the_payload_back() {
    let broker = threaded(1);
    let (topic, _meets, _observation) = full(&broker, HANG);
    let began = Instant::now();
    let refused = topic.try_publish(2).expect_err("it is full");
    assert!(refused.is_full() && !refused.is_closed());
    assert!(matches!(refused, PublishError::Full(2)), "{refused}");
    let refused = topic.message(3).key("k").try_publish();
    let refused = refused.expect_err("it is full");
    assert!(matches!(refused, PublishError::Full(3)), "{refused}");
    let late = topic.message(4).after(MS).try_publish();
    let late = late.expect_err("a delayed message needs a place, too");
    assert!(matches!(late, PublishError::Full(4)), "{late}");
    assert!(began.elapsed() < HANG);
    assert_eq!(topic.metrics().rejected, 3);
    assert_balanced(&broker);
}

#[test]
fn try_publish_drops_where_publish_would() {
    let (broker, _clock) = manual();
    let oldest = of(&broker, 1, Overflow::DropOldest);
    oldest.try_publish(0).expect("there is room");
    assert_eq!(
        oldest.try_publish(1).expect("an older one goes").evicted(),
        1
    );
    let newest = broker.topic("newest").capacity(1);
    let newest = newest.overflow(Overflow::DropNewest).open();
    let newest: Topic<u32> = newest.expect("opens");
    newest.try_publish(0).expect("there is room");
    assert!(newest.try_publish(1).expect("it goes itself").is_dropped());
    assert_balanced(&broker);
}

#[test]
fn publish_timeout_waits_even_where_the_topic_would_reject() {
    let broker = threaded(1);
    let (topic, meets, _observation) = full_by(&broker, Overflow::Reject);
    let (log, _reader) = std::thread::scope(|scope| {
        let blocked = scope.spawn(|| topic.publish_timeout(2, HANG));
        meets.recv_timeout(HANG).expect("it meets a full topic");
        let reader = read(&topic, "s");
        let receipt = blocked.join().expect("it returns").expect("there is room");
        assert_eq!(receipt.id().get(), 3);
        reader
    });
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), [0, 1, 2]);
}

#[test]
fn publish_timeout_stands_in_for_the_timeout_of_the_topic() {
    let broker = threaded(1);
    let (topic, _meets, _observation) = full(&broker, HANG);
    let began = Instant::now();
    let refused = topic.publish_timeout(2, 20 * MS);
    let refused = refused.expect_err("nobody makes room");
    assert!(matches!(refused, PublishError::TimedOut(2)), "{refused}");
    let refused = topic.message(3).key("k").publish_timeout(20 * MS);
    let refused = refused.expect_err("nobody makes room");
    assert!(matches!(refused, PublishError::TimedOut(3)), "{refused}");
    let took = began.elapsed();
    assert!(took >= 40 * MS && took < HANG, "{took:?}");
    assert_eq!(topic.metrics().rejected, 2);
    assert_balanced(&broker);
}

#[test]
fn a_blocked_batch_larger_than_the_queue_goes_through_it_in_order() {
    let broker = threaded(1);
    let topic = of(&broker, 3, Overflow::Block { timeout: HANG });
    let (log, _reader) = read(&topic, "s");
    let receipt = topic.publish_batch(0..1_000).expect("room comes in time");
    assert_eq!(receipt.accepted(), 1_000);
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn block_does_not_wait_for_a_batch_that_waits_to_be_full() {
    let broker = threaded(1);
    let topic = of(&broker, 3, Overflow::Block { timeout: HANG });
    let strategy = Batched::of(100).until_full();
    topic.set_strategy(strategy).expect("valid");
    let (log, _reader) = read(&topic, "s");
    for n in 0..100 {
        topic.publish(n).expect("a full queue is handed on");
    }
    topic.flush();
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), (0..100).collect::<Vec<_>>());
}

#[test]
fn inside_a_handler_block_answers_full_at_once() {
    let broker = threaded(1);
    let (topic, _meets, _observation) = full(&broker, HANG);
    let own = broker.topic::<u32>("own").capacity(1);
    let own = own.overflow(Overflow::Block { timeout: HANG });
    let own = own.open().expect("opens");
    let (answer, answers) = mpsc::channel();
    let _publishing = own
        .subscribe("s", {
            let (own, topic) = (own.clone(), topic.clone());
            move |d| {
                if *d.payload() == 0 {
                    // Its own topic is empty now; the second finds it full.
                    let own = [own.publish(1).err(), own.publish(2).err()];
                    answer.send((own, topic.publish(3).err()))?;
                }
                Ok(())
            }
        })
        .expect("subscribes");
    let began = Instant::now();
    own.publish(0).expect("there is room");
    let (own_answers, other) = answers.recv_timeout(HANG).expect("it doesn't hang");
    assert!(began.elapsed() < HANG);
    assert!(
        matches!(own_answers, [None, Some(PublishError::Full(2))]),
        "{own_answers:?}"
    );
    assert!(matches!(other, Some(PublishError::Full(3))), "{other:?}");
    assert_rests_balanced(&broker);
}

#[test]
fn block_without_worker_threads_is_refused() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .overflow(Overflow::Block { timeout: HANG });
    let refused = topic.open().expect_err("nobody would ever make room");
    assert!(matches!(refused, OpenError::Invalid(_)), "{refused}");
    assert_balanced(&broker);
}

// The lanes.

/// A lane of so many places, whose handler writes down what it gets.
fn lane(topic: &Topic<u32>, capacity: usize, policy: LaneFull) -> (Log<u32>, Subscription) {
    let builder = topic.subscription("lane").capacity(capacity);
    read_by(builder.when_full(policy))
}

#[test]
fn a_full_lane_lets_the_topic_wait_and_nothing_is_lost() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, _lane) = lane(&topic, 2, LaneFull::default());
    let (other, _other) = read(&topic, "s");
    topic.publish_batch(0..10).expect("there is room");
    for n in 10..20 {
        topic.publish(n).expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(log.take(), (0..20).collect::<Vec<_>>());
    assert_eq!(other.take(), (0..20).collect::<Vec<_>>());
    assert_eq!(assert_balanced(&broker).deliveries().dropped, 0);
}

#[test]
fn a_full_lane_that_drops_the_newest_keeps_what_it_has() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, lane) = lane(&topic, 3, LaneFull::DropNewest);
    let (other, _other) = read(&topic, "s");
    let (dropped, _observation) = drops(&broker);
    topic.publish_batch(1..=5).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    assert_eq!(other.take(), [1, 2, 3, 4, 5], "others lose nothing");
    assert_eq!(
        dropped.take(),
        [(4, DropCause::LaneFull), (5, DropCause::LaneFull)]
    );
    assert_eq!(lane.metrics().counts.dropped, 2);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_that_dead_letters_can_be_redriven() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, _lane) = lane(&topic, 3, LaneFull::DeadLetter);
    let (other, _other) = read(&topic, "s");
    topic.publish_batch(1..=5).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    let letters = topic.dead_letters().list();
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| (*letter.payload(), letter.reason(), letter.attempts()))
        .collect();
    assert_eq!(
        reasons,
        [(4, DeadReason::LaneFull, 0), (5, DeadReason::LaneFull, 0)]
    );
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 2);
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 5]);
    assert_eq!(other.take(), [1, 2, 3, 4, 5], "a redrive is nobody else's");
    assert_balanced(&broker);
}

#[test]
fn a_redrive_into_a_full_lane_leaves_the_letters_where_they_are() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, _lane) = lane(&topic, 2, LaneFull::DeadLetter);
    topic.publish_batch(1..=6).expect("there is room");
    broker.run_until_idle();
    let outcome = topic.dead_letters().redrive(|_| true);
    assert_eq!((outcome.redriven, outcome.no_room), (2, 2));
    assert_eq!(topic.dead_letters().len(), 2);
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3, 4]);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_that_drops_its_oldest_keeps_the_newest() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, _lane) = lane(&topic, 3, LaneFull::DropOldest);
    let (other, _other) = read(&topic, "s");
    for n in 1..=5 {
        topic.publish(n).expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(log.take(), [3, 4, 5]);
    assert_eq!(other.take(), [1, 2, 3, 4, 5], "others lose nothing");
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_that_drops_its_oldest_drops_no_more_than_it_must() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, lane) = lane(&topic, 10, LaneFull::DropOldest);
    let (dropped, _observation) = drops(&broker);
    topic.publish_batch(1..=8).expect("there is room");
    topic.publish_batch(9..=12).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), (3..=12).collect::<Vec<_>>());
    assert_eq!(
        dropped.take(),
        [(1, DropCause::LaneFull), (2, DropCause::LaneFull)]
    );
    assert_eq!(lane.metrics().counts.dropped, 2);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_drops_the_oldest_of_those_that_wait_behind_a_slow_handler() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let (entered, has_entered) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let builder = topic.subscription("slow").capacity(4);
    let slow = builder.when_full(LaneFull::DropOldest).subscribe({
        let log = log.clone();
        move |d| {
            log.push(*d.payload());
            entered.send(())?;
            // Answers at once, and with an error, when the test lets go.
            let _ = gate.recv();
            Ok(())
        }
    });
    let slow = slow.expect("subscribes");
    topic.publish_batch(1..=4).expect("there is room");
    has_entered
        .recv_timeout(HANG)
        .expect("the first is in hand");
    topic.publish(5).expect("there is room");
    let until = Instant::now() + HANG;
    while slow.metrics().counts.dropped == 0 {
        assert!(Instant::now() < until, "nothing was dropped");
        std::thread::yield_now();
    }
    drop(go_on);
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), [1, 3, 4, 5]);
}

#[test]
fn a_full_lane_that_drops_its_oldest_makes_room_among_batches_of_one() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").strategy(Batched::of(1)).open();
    let topic = topic.expect("opens");
    let (log, lane) = lane(&topic, 3, LaneFull::DropOldest);
    let (other, _other) = read(&topic, "s");
    let (dropped, _observation) = drops(&broker);
    for n in 1..=5 {
        topic.publish(n).expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(log.take(), [3, 4, 5]);
    assert_eq!(other.take(), [1, 2, 3, 4, 5], "others lose nothing");
    assert_eq!(
        dropped.take(),
        [(1, DropCause::LaneFull), (2, DropCause::LaneFull)]
    );
    assert_eq!(lane.metrics().counts.dropped, 2);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_occupies_no_worker_and_hinders_no_other_topic() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").capacity(8);
    let topic = topic.retry(Backoff::fixed(3_600 * 1_000 * MS)).open();
    let topic = topic.expect("opens");
    let _stuck = topic
        .subscription("stuck")
        .capacity(2)
        .subscribe(|_| Err(Nack::retry("in an hour")))
        .expect("subscribes");
    let until = Instant::now() + HANG;
    let mut n = 0;
    while topic.metrics().queued < 8 {
        assert!(Instant::now() < until, "the topic never filled");
        if topic.publish(n).is_ok() {
            n += 1;
        }
    }
    let other = broker.topic::<u32>("other").open().expect("opens");
    let (delivered, deliveries) = mpsc::channel();
    let _reader = other
        .subscribe("s", move |d| Ok(delivered.send(*d.payload())?))
        .expect("subscribes");
    for n in 0..100 {
        other.publish(n).expect("there is room");
        assert_eq!(deliveries.recv_timeout(HANG), Ok(n));
    }
    broker.drain(Duration::ZERO).expect_err("much is cut off");
    assert_balanced(&broker);
}

#[test]
fn a_lane_that_drops_does_not_hold_up_its_neighbors_behind_a_blocked_handler() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (go_on, gate) = mpsc::channel::<()>();
    let builder = topic.subscription("blocked").capacity(2);
    let blocked = builder.when_full(LaneFull::DropNewest).subscribe(move |_| {
        // Answers at once, and with an error, when the test lets go.
        let _ = gate.recv();
        Ok(())
    });
    let _blocked = blocked.expect("subscribes");
    let (delivered, deliveries) = mpsc::channel();
    let _reader = topic
        .subscribe("s", move |d| Ok(delivered.send(*d.payload())?))
        .expect("subscribes");
    for n in 0..500 {
        topic.publish(n).expect("there is room");
        assert_eq!(deliveries.recv_timeout(HANG), Ok(n));
    }
    drop(go_on);
    let metrics = assert_rests_balanced(&broker);
    let topic = metrics.topic("t").expect("open");
    let blocked = &topic.subscription("blocked").expect("subscribed").counts;
    assert_eq!((blocked.delivered, blocked.dropped), (2, 498));
}

// The oldest of a lane, wherever they wait in it.

#[test]
fn a_full_lane_drops_the_oldest_of_those_that_nobody_has_pulled() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let builder = topic.subscription("pull").capacity(5);
    let builder = builder.when_full(LaneFull::DropOldest);
    let builder = builder.retry(Backoff::fixed(MS));
    let pull = builder.pull(Pull::default()).expect("subscribes");
    let (dropped, _observation) = drops(&broker);
    let payloads = || {
        let Ok(leases) = pull.recv_batch(9, Duration::ZERO) else {
            return Vec::new();
        };
        let payloads: Vec<_> = leases.iter().map(|lease| *lease.payload()).collect();
        leases.ack_all().expect("in time");
        payloads
    };
    topic.publish_batch(1..=5).expect("there is room");
    let failed = pull.try_recv().expect("there is one");
    failed.nack(Nack::retry("later")).expect("in time");
    let out = pull.try_recv().expect("there is one");
    advance(&broker, &clock, MS);
    topic.publish_batch(6..=7).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        dropped.take(),
        [(3, DropCause::LaneFull), (4, DropCause::LaneFull)]
    );
    let mut left = payloads();
    left.sort_unstable();
    assert_eq!(left, [1, 5, 6, 7], "what was tried keeps its place");
    out.ack().expect("in time");
    for n in 10..30 {
        topic.publish(n).expect("there is room");
    }
    assert_eq!(payloads(), (25..30).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_of_several_hands_drops_the_oldest_of_those_that_wait_for_one() {
    type Handler = Box<dyn Fn(u32) + Send + Sync>;
    let concurrent = |topic: &Topic<u32>, handler: Handler| {
        let builder = topic.subscription("lane").capacity(4);
        let builder = builder.when_full(LaneFull::DropOldest);
        let handler = move |d: &Delivery<'_, u32>| {
            handler(*d.payload());
            Ok(())
        };
        builder
            .concurrency(1)
            .subscribe_shared(handler)
            .expect("subscribes")
            .detach();
    };
    let grouped = |topic: &Topic<u32>, handler: Handler| {
        let builder = topic.subscription("lane").capacity(4);
        let group = builder.when_full(LaneFull::DropOldest).group();
        let group = group.expect("subscribes");
        let handler = move |d: &Delivery<'_, u32>| {
            handler(*d.payload());
            Ok(())
        };
        group.join("member", handler).expect("joins").detach();
        group.detach();
    };
    let keys: [fn(u32) -> Option<&'static str>; 3] = [
        |_| None,
        |_| Some("one for all"),
        |n| Some(if n % 2 == 0 { "even" } else { "odd" }),
    ];
    for subscribe in [&concurrent as &dyn Fn(&Topic<u32>, Handler), &grouped] {
        for key in keys {
            let broker = threaded(2);
            let topic = broker.topic::<u32>("t").open().expect("opens");
            let log = Log::new();
            let (entered, has_entered) = mpsc::channel();
            let (go_on, gate) = mpsc::channel::<()>();
            let gate = parking_lot::Mutex::new(gate);
            subscribe(&topic, {
                let log = log.clone();
                Box::new(move |n| {
                    log.push(n);
                    let _ = entered.send(());
                    // Answers at once, and with an error, when the test lets go.
                    let _ = gate.lock().recv();
                })
            });
            let publish = |n| {
                let message = topic.message(n);
                let message = match key(n) {
                    Some(key) => message.key(key),
                    None => message,
                };
                message.publish().expect("there is room");
            };
            publish(1);
            has_entered.recv_timeout(HANG).expect("it is in hand");
            (2..=4).for_each(publish);
            let counts = || topic.metrics().subscription("lane").expect("there").counts;
            let until = Instant::now() + HANG;
            let wait_for = |is_so: &dyn Fn() -> bool| {
                while !is_so() {
                    assert!(Instant::now() < until, "it never came to that");
                    std::thread::yield_now();
                }
            };
            wait_for(&|| counts().made == 4);
            (5..=6).for_each(publish);
            wait_for(&|| counts().made == 6 && counts().dropped == 2);
            drop(go_on);
            assert_rests_balanced(&broker);
            assert_eq!(log.take(), [1, 4, 5, 6]);
        }
    }
}

#[cfg(feature = "async")]
#[test]
fn a_full_lane_drops_the_oldest_of_those_that_wait_for_an_async_call() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let builder = topic.subscription("lane").capacity(4);
    let lane = builder
        .when_full(LaneFull::DropOldest)
        .concurrency(1)
        .subscribe_async({
            let log = log.clone();
            move |d| {
                log.push(*d.payload());
                let is_first = *d.payload() == 1;
                async move {
                    if is_first {
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                }
            }
        });
    let lane = lane.expect("subscribes");
    topic.publish_batch(1..=4).expect("there is room");
    broker.run_until_idle();
    let (dropped, _observation) = drops(&broker);
    topic.publish_batch(5..=6).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        dropped.take(),
        [(2, DropCause::LaneFull), (3, DropCause::LaneFull)]
    );
    assert_eq!(log.take(), [1]);
    assert_eq!(
        topic.metrics().subscription("lane").map(|lane| lane.queued),
        Some(3)
    );
    lane.unsubscribe(millstream::Unsubscribe::Cancel);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_drops_the_oldest_of_a_batch_that_lingers() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let batches = Log::new();
    let builder = topic.subscription("lane").capacity(4);
    let builder = builder.when_full(LaneFull::DropOldest);
    let lane = builder.subscribe_batches(Batched::of(4).linger(9 * MS), {
        let batches = batches.clone();
        move |batch| {
            batches.push(batch.iter().map(|d| *d.payload()).collect::<Vec<_>>());
            Ok(())
        }
    });
    let lane = lane.expect("subscribes");
    topic.publish_batch(1..=3).expect("there is room");
    broker.run_until_idle();
    assert_eq!(batches.len(), 0, "three linger");
    topic.publish_batch(4..=6).expect("there is room");
    broker.run_until_idle();
    assert_eq!(batches.take(), [[3, 4, 5, 6]]);
    topic.publish_batch(7..=8).expect("there is room");
    advance(&broker, &clock, 9 * MS);
    assert_eq!(batches.take(), [[7, 8]]);
    assert_eq!(lane.metrics().counts.dropped, 2);
    assert_balanced(&broker);
}
