//! The engine on threads of its own: a worker that sleeps, a timer, and whoever
//! publishes and drains.

use std::time::Duration;

use millstream::{Backoff, Batched, Nack, Overflow, Unsubscribe};
use millstream_loom_tests::{Log, Preemptions, assert_settled, model, threaded};

#[test]
fn a_message_wakes_the_worker_and_the_drain_ends_the_threads() {
    let most = Preemptions {
        plain: Some(1),
        rmw: Some(2),
    };
    model("publish, worker, timer, drain", most, || {
        let broker = threaded();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let log = Log::new();
        topic.subscribe("s", log.handler()).unwrap().detach();
        topic.publish(1).unwrap();
        let report = broker.drain(Duration::MAX);
        assert!(report.is_ok_and(|report| report.delivered == 1));
        assert_eq!(log.read(), [1]);
        assert_settled(&broker);
    });
}

#[test]
fn an_idle_worker_ends_with_its_broker() {
    model("idle worker, timer, drop", Preemptions::up_to(2), || {
        let broker = threaded();
        // They fall asleep.
        loom::thread::yield_now();
        drop(broker);
    });
}

#[test]
fn a_drain_flushes_a_pending_batch() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(1),
    };
    model("pending batch, worker, timer, drain", most, || {
        let broker = threaded();
        let open = broker
            .topic("t")
            .capacity(4)
            .strategy(Batched::of(3).until_full());
        let topic = open.open().unwrap();
        let log = Log::new();
        topic.subscribe("s", log.handler()).unwrap().detach();
        topic.publish(1).unwrap();
        // The worker looks at it, and leaves it for two more to come.
        loom::thread::yield_now();
        let report = broker.drain(Duration::MAX);
        assert!(report.is_ok_and(|report| report.delivered == 1));
        assert_eq!(log.read(), [1]);
    });
}

#[test]
fn a_blocked_publisher_gets_the_room_that_the_worker_makes() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(2),
    };
    model("blocked publisher, worker, timer", most, || {
        let broker = threaded();
        let open = broker.topic("t").capacity(1);
        let timeout = Duration::MAX;
        let topic = open.overflow(Overflow::Block { timeout }).open().unwrap();
        let log = Log::new();
        topic.subscribe("s", log.handler()).unwrap().detach();
        topic.publish(1).unwrap();
        topic.publish(2).unwrap();
        let report = broker.drain(Duration::MAX);
        assert!(report.is_ok_and(|report| report.delivered == 2));
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn a_retry_wakes_the_timer_and_the_timer_a_worker() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(1),
    };
    model("retry, worker, timer, drain", most, || {
        let broker = threaded();
        let retry = Backoff::fixed(Duration::from_millis(1)).max_attempts(2);
        let topic = broker.topic("t").capacity(4).retry(retry).open().unwrap();
        let log = Log::new();
        let attempts = log.clone();
        let subscription = topic.subscribe("s", move |delivery| {
            attempts.add(delivery.attempt());
            match delivery.attempt() {
                1 => Err(Nack::retry("the first always fails")),
                _ => Ok(()),
            }
        });
        topic.publish(7).unwrap();
        let report = broker.drain(Duration::MAX);
        assert!(report.is_ok_and(|report| report.delivered == 1));
        assert_eq!(log.read(), [1, 2]);
        drop(subscription);
        assert_settled(&broker);
    });
}

#[test]
fn an_unsubscribe_waits_for_the_worker() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(2),
    };
    model("unsubscribe, worker, timer", most, || {
        let broker = threaded();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let log = Log::new();
        let subscription = topic.subscribe("s", log.handler()).unwrap();
        topic.publish(1).unwrap();
        subscription.unsubscribe(Unsubscribe::Cancel);
        let calls = log.read().len();
        assert!(broker.drain(Duration::MAX).is_ok());
        assert_eq!(log.read().len(), calls, "called after the end");
        assert_settled(&broker);
    });
}
