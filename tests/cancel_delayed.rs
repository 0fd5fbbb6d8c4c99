//! A delayed message is taken back before it is due, or comes in its time: one of the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::NotDelayedError;
use millstream::event::{DropCause, EventKind, Status};
use millstream::{Batched, Message, NoSubscribers, Overflow};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_cancelled_message_comes_back_whole_and_is_never_delivered() {
    for partitions in [None, Some(2)] {
        let (broker, clock) = manual();
        let told = Log::new();
        let log = told.clone();
        let observation = broker.observe(move |event| {
            log.push((event.id(), event.status(), event.kind().clone()));
        });
        let mut builder = broker.topic::<u32>("t").capacity(2);
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        let topic = builder.open().unwrap();
        let (log, _subscription) = read(&topic, "s");
        let whole = Message::new(1).key("k").header("h", "v").ttl(MS);
        let late = topic.message(1).key("k").header("h", "v").ttl(MS).after(MS);
        let receipt = late.publish().unwrap();
        let other = topic.publish_after(2 * MS, 2).unwrap();
        assert!(topic.try_publish(3).unwrap_err().is_full());
        broker.run_until_idle();
        told.take();
        assert_eq!(topic.cancel_delayed(receipt.id()), Ok(whole.clone()));
        let metrics = topic.metrics();
        assert_eq!(
            (metrics.dropped, metrics.delayed, metrics.queued),
            (1, 1, 1)
        );
        assert_balanced(&broker);
        topic.try_publish(3).expect("its place is free");
        advance(&broker, &clock, MS);
        assert_eq!(log.take(), [3]);
        let cause = DropCause::Cancelled;
        let dropped = (
            Some(receipt.id()),
            Some(Status::Dropped),
            EventKind::Dropped { cause },
        );
        assert_eq!(told.take()[0], dropped);
        assert_eq!(cause.as_str(), "cancelled");
        // It can be published again, and the other comes in its time.
        topic.publish_messages([whole]).unwrap();
        broker.run_until_idle();
        advance(&broker, &clock, MS);
        assert_eq!(log.take(), [1, 2]);
        assert_eq!(topic.cancel_delayed(other.id()), Err(NotDelayedError));
        assert_balanced(&broker);
        drop(observation);
    }
}

#[test]
fn a_message_that_is_due_or_never_was_delayed_is_too_late_to_cancel() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let (log, _subscription) = read(&topic, "s");
    let plain = topic.publish(1).unwrap();
    let zero = topic.publish_after(Duration::ZERO, 2).unwrap();
    let late = topic.publish_after(MS, 3).unwrap();
    let gone = topic.publish_after(MS, 4).unwrap();
    topic.cancel_delayed(gone.id()).unwrap();
    for receipt in [plain, zero, gone] {
        assert_eq!(topic.cancel_delayed(receipt.id()), Err(NotDelayedError));
    }
    advance(&broker, &clock, MS);
    assert_eq!(topic.cancel_delayed(late.id()), Err(NotDelayedError));
    // A message of another topic has an id of its own there.
    let other = broker.topic::<u32>("other").open().unwrap();
    assert_eq!(other.cancel_delayed(late.id()), Err(NotDelayedError));
    assert_eq!(log.take(), [1, 2, 3]);
    assert_eq!(topic.metrics().dropped, 1);
    assert_balanced(&broker);
}

#[test]
fn a_cancelled_timer_is_no_deadline_and_its_successor_is_not_early() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let (log, _subscription) = read(&topic, "s");
    for number in 0..100 {
        let receipt = topic.publish_after(MS, number).unwrap();
        topic.cancel_delayed(receipt.id()).unwrap();
        assert_eq!(broker.next_deadline(), None);
        topic.publish_after(2 * MS, 1_000 + number).unwrap();
        advance(&broker, &clock, MS);
        assert!(log.take().is_empty());
        advance(&broker, &clock, MS);
        assert_eq!(log.take(), [1_000 + number]);
    }
    assert_balanced(&broker);
}

#[test]
fn a_batch_that_waits_to_be_full_still_goes_when_it_is() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(4);
    let topic = topic.strategy(Batched::of(3).until_full()).open().unwrap();
    let (log, _subscription) = read(&topic, "s");
    let receipt = topic.publish_after(HOUR, 9).unwrap();
    topic.publish_batch([1, 2]).unwrap();
    broker.run_until_idle();
    topic.cancel_delayed(receipt.id()).unwrap();
    broker.run_until_idle();
    assert!(log.take().is_empty());
    topic.publish(3).unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    assert_balanced(&broker);
}

#[test]
fn a_cancel_wakes_a_publisher_that_waits_for_the_place() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").capacity(1);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.open().unwrap();
    let (log, _subscription) = read(&topic, "s");
    let receipt = topic.publish_after(HOUR, 1).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| topic.publish(2).is_ok());
        topic.cancel_delayed(receipt.id()).unwrap();
        assert!(waits.join().unwrap());
    });
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), [2]);
}

#[test]
fn a_drain_that_has_begun_does_not_wait_for_a_message_that_is_cancelled() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t");
    let topic = topic.no_subscribers(NoSubscribers::Retain).open().unwrap();
    let (log, _subscription) = read(&topic, "s");
    let receipt = topic.publish_after(HOUR, 1).unwrap();
    thread::scope(|scope| {
        let drains = scope.spawn(|| broker.drain(2 * HOUR));
        while topic.try_publish(7).is_ok() {
            thread::yield_now();
        }
        topic.cancel_delayed(receipt.id()).unwrap();
        assert_eq!(drains.join().unwrap().unwrap().messages_dropped, 1);
    });
    assert!(!log.take().contains(&1));
    assert_eq!(topic.cancel_delayed(receipt.id()), Err(NotDelayedError));
    assert_balanced(&broker);
}

#[test]
fn of_cancel_and_delivery_exactly_one_happens_however_close_they_come() {
    const MESSAGES: u64 = 4_000;
    let broker = threaded(2);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let delivered: Arc<Vec<AtomicU64>> =
        Arc::new((0..MESSAGES).map(|_| AtomicU64::new(0)).collect());
    let counts = Arc::clone(&delivered);
    let subscribed = topic.subscribe("s", move |delivery| {
        counts[*delivery.payload() as usize].fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let mut cancelled = 0;
    for number in 0..MESSAGES {
        let delay = Duration::from_micros(1 + number % 300);
        let receipt = topic.publish_after(delay, number).unwrap();
        for _ in 0..number % 97 {
            std::hint::spin_loop();
        }
        if let Ok(message) = topic.cancel_delayed(receipt.id()) {
            assert_eq!(*message.payload(), number);
            delivered[number as usize].fetch_add(1, Ordering::Relaxed);
            cancelled += 1;
        }
    }
    assert_rests_balanced(&broker);
    assert_eq!(topic.metrics().dropped, cancelled);
    let ends = delivered.iter().map(|ends| ends.load(Ordering::Relaxed));
    assert!(ends.into_iter().all(|ends| ends == 1));
    drop(subscribed);
}

/// A timer that has fired and has yet to look its message up must not find another, which has
/// taken the place of one that was cancelled.
#[test]
fn a_message_that_follows_one_cancelled_just_in_time_is_not_early() {
    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").capacity(20_000);
    let topic = topic.open().unwrap();
    let (log, _subscription) = read(&topic, "s");
    let mut later = Vec::new();
    for round in 0..300 {
        let delay = Duration::from_micros(150);
        let soon: Vec<_> = (0..50)
            .map(|_| topic.publish_after(delay, round).unwrap())
            .collect();
        let due = Instant::now() + delay + Duration::from_micros(round % 120);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        for receipt in soon {
            if topic.cancel_delayed(receipt.id()).is_ok() {
                later.push(topic.publish_after(HOUR, u64::MAX).unwrap());
            }
        }
    }
    for receipt in later {
        topic
            .cancel_delayed(receipt.id())
            .expect("it is not due for an hour");
    }
    assert_rests_balanced(&broker);
    assert!(!log.take().contains(&u64::MAX));
}
