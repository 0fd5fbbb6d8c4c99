//! Promise 4, snoozes: a delivery whose handler says `Nack::snooze` comes again after that
//! time, never sooner. That is no failed attempt: no policy is asked, its next attempt has
//! the same number, and it is counted and evented as what it is. It occupies no worker
//! meanwhile, and order that survives failures survives this, too. A time to live and the
//! end are what bounds it.

use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::error::DrainError;
use millstream::retry::{Decision, FailedAttempt, retry_fn};
use millstream::{Backoff, Batched, Broker, Nack, OnExpired, OnFailure, Pull, Topic, Unsubscribe};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    let nobody = |_: &FailedAttempt<'_>| -> Decision { panic!("nobody asks a policy") };
    let builder = broker.topic("t").retry(retry_fn(nobody));
    builder.open().expect("opens")
}

/// What a handler does, and writes down: payload and attempt.
type Calls = Log<(u32, u32)>;

/// Snoozes the first call for each even payload.
fn snoozing(
    log: &Calls,
) -> impl Fn(&millstream::Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + use<> {
    let log = log.clone();
    let seen: std::sync::Arc<parking_lot::Mutex<Vec<u32>>> = Default::default();
    move |d| {
        let payload = *d.payload();
        log.push((payload, d.attempt()));
        let mut seen = seen.lock();
        if payload % 2 == 1 || seen.contains(&payload) {
            return Ok(());
        }
        seen.push(payload);
        Err(Nack::snooze(10 * MS, "not yet"))
    }
}

#[test]
fn a_snoozed_delivery_comes_after_its_time_as_the_same_attempt_and_no_policy_is_asked() {
    for concurrency in [None, Some(1)] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let events = Log::new();
        let told = events.clone();
        let _observation = broker.observe(move |event| {
            if event.id().is_some() && event.subscription().is_some() {
                told.push(event.to_string());
            }
        });
        let log = Log::new();
        let builder = topic.subscription("s");
        let subscribed = match concurrency {
            None => builder.subscribe(snoozing(&log)),
            Some(count) => builder.concurrency(count).subscribe_shared(snoozing(&log)),
        };
        let subscription = subscribed.expect("subscribes");
        topic.publish(2).expect("there is room");
        broker.run_until_idle();
        let counts = subscription.metrics().counts;
        assert_eq!((counts.snoozed, counts.awaiting_retry), (1, 1));
        assert_eq!(counts.in_flight, 0, "it occupies no worker");
        assert_balanced(&broker);
        advance(&broker, &clock, 10 * MS - Duration::from_nanos(1));
        assert_eq!(log.len(), 1, "not before its time");
        advance(&broker, &clock, MS);
        assert_eq!(log.take(), [(2, 1), (2, 1)]);
        let counts = subscription.metrics().counts;
        assert_eq!((counts.attempts, counts.delivered), (2, 1));
        assert_eq!((counts.failed, counts.retried, counts.requeued), (0, 0, 0));
        assert_eq!(
            events.take(),
            [
                "delivering t/s #1 attempt 1 DELIVERING",
                "snoozed t/s #1 attempt 1 RETRY_SCHEDULED for 10ms: not yet",
                "delivering t/s #1 attempt 1 DELIVERING",
                "delivered t/s #1 attempt 1 DELIVERED",
            ]
        );
        assert_rests_balanced(&broker);
    }
}

#[test]
fn snoozes_do_not_use_up_attempts_and_are_no_failures() {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(MS).max_attempts(2);
    let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
    let log = Log::new();
    let calls = log.clone();
    let _subscription = topic.subscribe("s", move |d| {
        calls.push(d.attempt());
        match calls.len() {
            3 | 6 => Err(Nack::retry("it failed")),
            _ => Err(Nack::snooze(MS, "not now")),
        }
    });
    topic.publish(7).expect("there is room");
    for _ in 0..10 {
        advance(&broker, &clock, 2 * MS);
    }
    assert_eq!(log.take(), [1, 1, 1, 2, 2, 2]);
    let letters = topic.dead_letters().list();
    assert_eq!(
        (letters[0].attempts(), letters[0].failures().count()),
        (2, 2)
    );
    assert_balanced(&broker);
}

#[test]
fn those_behind_a_snoozed_delivery_wait_only_where_order_survives_failures() {
    let orders = [
        (OnFailure::Reorder, vec![2, 3, 5, 2]),
        (OnFailure::BlockKey, vec![2, 5, 2, 3]),
        (OnFailure::BlockSubscription, vec![2, 2, 3, 5]),
    ];
    for (mode, expected) in orders {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let builder = topic.subscription("s").on_failure(mode);
        let _subscription = builder.subscribe(snoozing(&log)).expect("subscribes");
        for (payload, key) in [(2, "a"), (3, "a"), (5, "b")] {
            topic
                .message(payload)
                .key(key)
                .publish()
                .expect("there is room");
        }
        broker.run_until_idle();
        advance(&broker, &clock, 11 * MS);
        let payloads: Vec<_> = log.take().into_iter().map(|(payload, _)| payload).collect();
        assert_eq!(payloads, expected, "{mode:?}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_snooze_that_would_outlast_the_time_to_live_ends_the_delivery_at_once() {
    for on_expired in [OnExpired::Drop, OnExpired::DeadLetter] {
        let (broker, clock) = manual();
        let builder = broker.topic::<u32>("t").ttl(25 * MS).on_expired(on_expired);
        let topic = builder.open().expect("opens");
        let log = Log::new();
        let calls = log.clone();
        let subscription = topic
            .subscribe("s", move |d| {
                calls.push(d.attempt());
                Err(Nack::snooze(10 * MS, "never"))
            })
            .expect("subscribes");
        topic.publish(7).expect("there is room");
        broker.run_until_idle();
        for _ in 0..5 {
            advance(&broker, &clock, 10 * MS);
        }
        assert_eq!(log.take(), [1; 3], "at 0, 10 and 20 ms");
        let counts = subscription.metrics().counts;
        assert_eq!((counts.snoozed, counts.failed), (2, 0));
        let letters = topic.dead_letters().list();
        match on_expired {
            OnExpired::DeadLetter => assert_eq!(letters[0].reason(), DeadReason::Expired),
            _ => assert_eq!(counts.expired, 1),
        }
        assert_rests_balanced(&broker);
    }
}

#[test]
fn max_elapsed_counts_from_the_first_attempt_that_was_not_put_off() {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(MS).max_attempts(9).max_elapsed(20 * MS);
    let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
    let log = Log::new();
    let calls = log.clone();
    let _subscription = topic.subscribe("s", move |d| {
        calls.push(d.attempt());
        match calls.len() {
            // At 0 and 100 ms, before it has failed: that doesn't count.
            1 | 2 => Err(Nack::snooze(100 * MS, "not now")),
            // At 200 and 201 ms.
            3 | 4 => Err(Nack::retry("it failed")),
            // At 202 and 222 ms, and then it is too late to fail.
            5 => Err(Nack::snooze(20 * MS, "not now")),
            _ => Err(Nack::retry("it failed")),
        }
    });
    topic.publish(7).expect("there is room");
    broker.run_until_idle();
    for by in [100, 100, 1, 1, 20, 100] {
        advance(&broker, &clock, by * MS);
    }
    assert_eq!(log.take(), [1, 1, 1, 2, 3, 3]);
    assert_eq!(
        topic.dead_letters().list()[0].reason(),
        DeadReason::Exhausted
    );
    assert_balanced(&broker);
}

#[test]
fn a_lease_and_one_of_a_batch_are_snoozed_as_a_handlers_delivery_is() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let worker = topic
        .subscription("pull")
        .pull(Pull::default())
        .expect("subscribes");
    let log = Log::new();
    let sizes = log.clone();
    let batches = Batched::of(3).until_full();
    let batch = topic
        .subscription("batch")
        .subscribe_batches(batches, move |batch| {
            sizes.push(batch.len());
            if batch.len() > 1 {
                batch.nack(1, Nack::snooze(10 * MS, "not this one"));
            }
            Ok(())
        });
    let batch = batch.expect("subscribes");
    topic.publish_batch([1, 2, 3]).expect("there is room");
    let lease = worker.recv().expect("it is there");
    assert_eq!(lease.nack(Nack::snooze(10 * MS, "not now")), Ok(()));
    broker.run_until_idle();
    for metrics in [worker.metrics(), batch.metrics()] {
        let counts = metrics.counts;
        assert_eq!(
            (counts.snoozed, counts.awaiting_retry, counts.failed),
            (1, 1, 0)
        );
    }
    advance(&broker, &clock, 11 * MS);
    assert_eq!(log.take(), [3, 1]);
    let leases = worker
        .recv_batch(9, Duration::ZERO)
        .expect("they are there");
    assert!(leases.iter().all(|d| d.attempt() == 1));
    assert_eq!(leases.len(), 3);
    assert_eq!(leases.ack_all(), Ok(()));
    assert_rests_balanced(&broker);
}

#[cfg(feature = "async")]
#[test]
fn an_async_handler_snoozes_as_others_do() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let calls = log.clone();
    let handler = move |d: millstream::OwnedDelivery<u32>| {
        calls.push(d.attempt());
        let is_first = calls.len() == 1;
        async move {
            match is_first {
                true => Err(Nack::snooze(10 * MS, "not now")),
                false => Ok(()),
            }
        }
    };
    let subscribed = topic
        .subscription("s")
        .concurrency(2)
        .subscribe_async(handler);
    let subscription = subscribed.expect("subscribes");
    topic.publish(7).expect("there is room");
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.awaiting_retry, 1);
    advance(&broker, &clock, 11 * MS);
    assert_eq!(log.take(), [1, 1]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_snooze_of_no_time_is_a_requeue() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let subscribed = topic.subscribe("s", |_| Err(Nack::snooze(Duration::ZERO, "not now")));
    let subscription = subscribed.expect("subscribes");
    topic.publish(7).expect("there is room");
    broker.run_until_idle();
    broker.run_until_idle();
    let counts = subscription.metrics().counts;
    assert_eq!((counts.requeued, counts.snoozed), (2, 0));
    assert_balanced(&broker);
}

#[test]
fn what_snoozes_for_ever_holds_up_no_end() {
    let broker = threaded(2);
    let topic = open(&broker);
    let subscribe = |name: &str, delay| {
        let subscribed = topic.subscribe(name, move |_| Err(Nack::snooze(delay, "never")));
        subscribed.expect("subscribes")
    };
    let first = subscribe("first", MS);
    let _second = subscribe("second", HOUR);
    topic.publish(7).expect("there is room");
    while first.metrics().counts.snoozed < 3 {
        std::thread::yield_now();
    }
    drop(first.unsubscribe(Unsubscribe::Cancel));
    let drained = broker.drain(Duration::ZERO);
    let Err(DrainError::Incomplete(report)) = drained else {
        panic!("it would have waited for {drained:?}");
    };
    assert_eq!((report.cancelled, report.remaining), (2, 0));
    assert!(report.took < HANG);
    assert_balanced(&broker);
}
