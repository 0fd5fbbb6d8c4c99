//! A publisher that drops the oldest message against the worker that takes it.

use std::time::Duration;

use loom::thread;
use millstream::{NoSubscribers, Overflow};
use millstream_loom_tests::{Preemptions, assert_settled, logged, manual, model, worker};

#[test]
fn the_oldest_message_is_delivered_or_dropped_and_never_both() {
    model("drop-oldest, worker", Preemptions::up_to(3), || {
        let (broker, _clock, topic, log) =
            logged(|open| open.capacity(1).overflow(Overflow::DropOldest));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        let evicted = topic.publish(2).map(|receipt| receipt.evicted()).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        match evicted {
            0 => assert_eq!(log.read(), [1, 2]),
            _ => assert_eq!(log.read(), [2]),
        }
        assert_settled(&broker);
    });
}

#[test]
fn two_publishers_evict_and_the_books_agree() {
    model("drop-oldest, 2 publishers", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let open = broker.topic::<u32>("t").capacity(1);
        let open = open.no_subscribers(NoSubscribers::Retain);
        let topic = open.overflow(Overflow::DropOldest).open().unwrap();
        topic.publish(1).unwrap();
        let publisher = {
            let topic = topic.clone();
            thread::spawn(move || topic.publish(2).map(|receipt| receipt.evicted()).unwrap())
        };
        // The dispatcher takes one out and finds nobody to hand it to.
        broker.run_until_idle();
        let evicted = topic.publish(3).map(|receipt| receipt.evicted()).unwrap();
        let evicted = evicted + publisher.join().unwrap();
        let metrics = topic.metrics();
        assert_eq!((metrics.published, metrics.queued), (3, 1));
        assert_eq!(metrics.dropped, u64::from(evicted));
        assert_eq!(metrics.balance(), Ok(()));
    });
}

#[test]
fn who_had_expired_messages_looked_for_does_not_hide_the_next_one() {
    model("drop-oldest, ttl, worker", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| {
            let open = open.capacity(2).overflow(Overflow::DropOldest);
            open.ttl(Duration::from_secs(1))
        });
        topic.publish(1).unwrap();
        topic.publish(2).unwrap();
        let worker = worker(&broker);
        let evicted = topic.publish(3).map(|receipt| receipt.evicted()).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        match evicted {
            0 => assert_eq!(log.read(), [1, 2, 3]),
            _ => assert_eq!(log.read(), [2, 3]),
        }
        assert_settled(&broker);
    });
}
