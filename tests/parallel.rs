//! A parallel handler makes the promises of any other, but for the order within a
//! batch.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::error::SubscribeError;
use millstream::{
    Backoff, Batched, Nack, NoSubscribers, Overflow, PublishError, Topic, Unsubscribe,
};

const BATCHES: Batched = Batched::of(8);

#[test]
fn calls_of_one_batch_run_side_by_side() {
    let broker = threaded(1);
    let topic = broker.topic("t").open().unwrap();
    let meeting = Barrier::new(4);
    let met = Log::new();
    let meets = met.clone();
    let subscription = topic.subscription("s").concurrency(4).subscribe_parallel(
        Batched::of(4).until_full(),
        move |delivery| {
            // Comes back only if four calls are under way at once.
            meeting.wait();
            meets.push(*delivery.payload());
            Ok(())
        },
    );
    let _subscription = subscription.unwrap();
    topic.publish_batch(0..4).unwrap();
    assert_rests_balanced(&broker);
    assert_eq!(met.len(), 4);
}

#[test]
fn one_batch_ends_before_the_next_begins() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let log = Log::new();
    let handled = log.clone();
    let subscription =
        topic
            .subscription("s")
            .concurrency(3)
            .subscribe_parallel(BATCHES, move |delivery| {
                handled.push(*delivery.payload() / 8);
                Ok(())
            });
    let _subscription = subscription.unwrap();
    topic.publish_batch(0..64_u64).unwrap();
    broker.run_until_idle();
    let batches = log.take();
    assert_eq!(batches.len(), 64);
    assert!(batches.is_sorted(), "{batches:?}");
    assert_balanced(&broker);
}

#[test]
fn each_call_fails_for_itself_and_is_retried_alone() {
    let broker = threaded(2);
    let policy = Backoff::fixed(Duration::from_millis(1)).max_attempts(2);
    let topic = broker.topic("t").retry(policy).open().unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&calls);
    let subscription =
        topic
            .subscription("s")
            .concurrency(2)
            .subscribe_parallel(BATCHES, move |delivery| {
                counts.fetch_add(1, Ordering::Relaxed);
                match (delivery.payload() % 4, delivery.attempt()) {
                    (1, 1) => Err(Nack::retry("not yet")),
                    (2, _) => panic!("never"),
                    (3, _) => Err(Nack::dead_letter("no")),
                    _ => Ok(()),
                }
            });
    let _subscription = subscription.unwrap();
    topic.publish_batch(0..400_u64).unwrap();
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(calls.load(Ordering::Relaxed), 100 + 200 + 200 + 100);
    let counts = metrics.topics[0].subscriptions[0].counts;
    assert_eq!((counts.delivered, counts.dead_lettered), (200, 200));
    let letters = topic.dead_letters().list();
    let panicked = letters.iter().filter(|letter| letter.attempts() == 2);
    assert_eq!(panicked.count(), 100);
}

#[test]
fn its_threads_are_inside_the_engine() {
    let broker = threaded(1);
    let topic = broker.topic("t").capacity(1);
    let overflow = Overflow::Block { timeout: HANG };
    let topic: Topic<u64> = topic.overflow(overflow).open().unwrap();
    let (again, full) = (topic.clone(), Log::new());
    let fills = full.clone();
    let subscription = topic.subscription("s").concurrency(1).subscribe_parallel(
        Batched::of(1),
        move |delivery| {
            if *delivery.payload() == 0 {
                while again.publish(1).is_ok() {}
                let refused = again.publish(1);
                fills.push(matches!(refused, Err(PublishError::Full(1))));
            }
            Ok(())
        },
    );
    let subscription = subscription.unwrap();
    topic.publish(0).unwrap();
    assert_rests_balanced(&broker);
    assert_eq!(
        full.take(),
        [true],
        "it would have waited for its own worker"
    );
    subscription.unsubscribe(Unsubscribe::Cancel);
    assert_balanced(&broker);
}

#[test]
fn thread_counts_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    for threads in [0, 1_025] {
        let refused = topic
            .subscription("s")
            .concurrency(threads)
            .subscribe_parallel(BATCHES, |_| Ok(()));
        let SubscribeError::Invalid(invalid) = refused.unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(invalid.setting(), "concurrency");
    }
    assert_balanced(&broker);
}

#[test]
fn what_a_handler_spreads_over_its_pool_is_inside_the_engine_too() {
    let broker = threaded(1);
    let full = broker.topic("full").capacity(1);
    let full = full
        .overflow(Overflow::Block { timeout: HANG })
        .no_subscribers(NoSubscribers::Retain);
    let full: Topic<u64> = full.open().unwrap();
    full.publish(0).unwrap();
    let topic = broker.topic("t").open().unwrap();
    let answers = Log::new();
    let answered = answers.clone();
    let subscription = topic.subscription("s");
    let subscription = subscription
        .concurrency(4)
        .subscribe_parallel(Batched::of(1), move |_| {
            let publish = || answered.push(matches!(full.publish(1), Err(PublishError::Full(_))));
            rayon::scope(|scope| (0..8).for_each(|_| scope.spawn(|_| publish())));
            Ok(())
        });
    let _subscription = subscription.unwrap();
    topic.publish(0_u64).unwrap();
    assert!(broker.wait_until_idle(HANG));
    assert_eq!(
        answers.take(),
        [true; 8],
        "it would have waited for a worker"
    );
}

#[test]
fn a_hostile_name_is_refused_before_a_thread_bears_it() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    for name in ["", "a\0b", "a b"] {
        let refused = topic
            .subscription(name)
            .concurrency(1)
            .subscribe_parallel(BATCHES, |_| Ok(()));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, SubscribeError::Name(_)), "{refused:?}");
    }
    assert_balanced(&broker);
}
