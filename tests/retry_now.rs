//! A retry or a snooze that waits on the timer wheel can be called back early: one of it, or
//! all. It comes once, though its time may come at the same moment. Its attempts are what
//! they would have been, and so is its place in an order that survives failures.

use std::time::Duration;

use crate::harness::{
    HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::{
    Backoff, Broker, Delivery, MessageId, Nack, OnFailure, Pull, Subscription, Topic,
};

const MS: Duration = Duration::from_millis(1);

/// Retries come after an hour.
fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(HOUR).max_attempts(2);
    broker.topic("t").retry(retry).open().expect("opens")
}

/// Fails the first attempts at even payloads, and writes down what it gets.
fn failing(
    log: &Log<(u32, u32)>,
) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + use<> {
    let log = log.clone();
    move |d| {
        log.push((*d.payload(), d.attempt()));
        match (d.payload() % 2, d.attempt()) {
            (0, 1) => Err(Nack::retry("not yet")),
            _ => Ok(()),
        }
    }
}

fn subscribe(topic: &Topic<u32>, is_plain: bool, log: &Log<(u32, u32)>) -> Subscription {
    let builder = topic.subscription("s");
    let subscribed = match is_plain {
        true => builder.subscribe(failing(log)),
        false => builder.concurrency(1).subscribe_shared(failing(log)),
    };
    subscribed.expect("subscribes")
}

fn publish(topic: &Topic<u32>, payload: u32) -> MessageId {
    topic.publish(payload).expect("there is room").id()
}

#[test]
fn one_that_waits_for_its_retry_comes_now_and_the_others_wait_on() {
    for is_plain in [true, false] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let events = Log::new();
        let told = events.clone();
        let _observation = broker.observe(move |event| {
            if event.id().is_some_and(|id| id.get() == 2) && event.subscription().is_some() {
                told.push(event.to_string());
            }
        });
        let log = Log::new();
        let subscription = subscribe(&topic, is_plain, &log);
        let ids = [2, 4, 6].map(|payload| publish(&topic, payload));
        assert!(!subscription.retry_now(ids[1]), "it has not failed yet");
        broker.run_until_idle();
        assert!(subscription.retry_now(ids[1]));
        assert!(!subscription.retry_now(ids[1]), "it is on its way");
        assert_eq!(subscription.metrics().counts.awaiting_retry, 3);
        broker.run_until_idle();
        assert_eq!(log.take(), [(2, 1), (4, 1), (6, 1), (4, 2)]);
        assert!(!subscription.retry_now(ids[1]), "it is done");
        assert_eq!(subscription.metrics().counts.awaiting_retry, 2);
        assert_balanced(&broker);
        advance(&broker, &clock, HOUR);
        assert_eq!(log.take(), [(2, 2), (6, 2)], "neither again nor early");
        assert_eq!(
            events.take()[2..4],
            [
                "retry_scheduled t/s #2 attempt 1 RETRY_SCHEDULED in 3600s",
                "retried_now t/s #2 attempt 1 RETRY_SCHEDULED",
            ]
        );
        assert_rests_balanced(&broker);
    }
}

#[test]
fn all_that_wait_come_now_in_the_order_of_their_messages() {
    for is_plain in [true, false] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let subscription = subscribe(&topic, is_plain, &log);
        for payload in [2, 3, 4, 6] {
            publish(&topic, payload);
        }
        broker.run_until_idle();
        log.take();
        assert_eq!(subscription.retry_all_now(), 3);
        assert_eq!(subscription.retry_all_now(), 0, "all are on their way");
        broker.run_until_idle();
        assert_eq!(log.take(), [(2, 2), (4, 2), (6, 2)]);
        assert_eq!(broker.next_deadline(), None, "no timer is left");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn what_was_called_back_stays_before_those_behind_it() {
    for mode in [OnFailure::BlockKey, OnFailure::BlockSubscription] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let builder = topic.subscription("s").on_failure(mode);
        let subscription = builder.subscribe(failing(&log)).expect("subscribes");
        for payload in [2, 3, 4, 5] {
            let message = topic.message(payload).key("k");
            message.publish().expect("there is room");
        }
        broker.run_until_idle();
        assert_eq!(log.take(), [(2, 1)]);
        assert_eq!(subscription.retry_all_now(), 1);
        broker.run_until_idle();
        assert_eq!(log.take(), [(2, 2), (3, 1), (4, 1)], "{mode:?}");
        assert_eq!(subscription.retry_all_now(), 1);
        broker.run_until_idle();
        assert_eq!(log.take(), [(4, 2), (5, 1)], "{mode:?}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_snoozed_lease_is_called_back_and_what_was_requeued_needs_no_call() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = topic.subscription("s").pull(Pull::default());
    let worker = worker.expect("subscribes");
    let (first, second) = (publish(&topic, 1), publish(&topic, 2));
    let nack = |nack| worker.recv().expect("it is there").nack(nack);
    assert_eq!(nack(Nack::snooze(HOUR, "later")), Ok(()));
    assert_eq!(nack(Nack::requeue("after the others")), Ok(()));
    assert!(!worker.retry_now(second));
    assert!(worker.retry_now(first));
    let both = worker
        .recv_batch(2, Duration::ZERO)
        .expect("they are there");
    assert_eq!(both.len(), 2);
    assert!(both.iter().all(|delivery| delivery.attempt() == 1));
    assert_eq!(both.ack_all(), Ok(()));
    assert_rests_balanced(&broker);
}

#[test]
fn after_the_end_nothing_waits() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let subscription = subscribe(&topic, true, &Log::new());
    let id = publish(&topic, 2);
    broker.run_until_idle();
    let drained = broker.drain(Duration::ZERO);
    drained.expect_err("it does not wait for an hour");
    assert!(!subscription.retry_now(id));
    assert_eq!(subscription.retry_all_now(), 0);
    assert_balanced(&broker);
}

/// Deadlines come at the moment of the call, and tags have new tenants all the time.
#[test]
fn whoever_calls_it_back_while_its_time_comes_it_comes_once() {
    for is_plain in [true, false] {
        let broker = threaded(2);
        let retry = Backoff::fixed(MS / 2).max_attempts(2);
        let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
        let log = Log::new();
        let subscription = subscribe(&topic, is_plain, &log);
        const MESSAGES: u32 = 2_000;
        let mut called_back = 0;
        for payload in 0..MESSAGES {
            while topic.publish(2 * payload).is_err() {
                called_back += subscription.retry_all_now();
            }
            if payload % 16 == 0 {
                called_back += subscription.retry_all_now();
            }
        }
        while !broker.wait_until_idle(MS) {
            called_back += subscription.retry_all_now();
        }
        let counts = subscription.metrics().counts;
        assert_eq!(counts.attempts, u64::from(2 * MESSAGES));
        assert_eq!(counts.delivered, u64::from(MESSAGES));
        assert!(called_back as u64 <= counts.retried);
        let mut calls = log.take();
        calls.sort_unstable();
        let each = (0..MESSAGES).flat_map(|payload| [(2 * payload, 1), (2 * payload, 2)]);
        assert!(
            calls.into_iter().eq(each),
            "each twice, and no attempt twice"
        );
        assert_rests_balanced(&broker);
    }
}
