//! Promise 4, requeues: a delivery whose handler says `Nack::requeue` goes back to the
//! end of the line at once. That is no failed attempt: no policy is asked, its next attempt
//! has the same number, and it is counted and evented as what it is. Order that survives
//! failures survives this, too. A handler that requeues for ever keeps nobody else from
//! their turns, and no run, drain or unsubscribe from its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::DrainError;
use millstream::retry::{Decision, FailedAttempt};
use millstream::{
    Backoff, Batched, Broker, Delivery, LaneFull, Nack, OnFailure, Pull, Topic, Unsubscribe,
    Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    let policy = |_: &FailedAttempt<'_>| -> Decision { panic!("nobody asks a policy") };
    struct Never<F>(F);
    impl<F: Fn(&FailedAttempt<'_>) -> Decision + Send + Sync + 'static>
        millstream::retry::RetryPolicy for Never<F>
    {
        fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
            (self.0)(failed)
        }
    }
    broker
        .topic("t")
        .retry(Never(policy))
        .open()
        .expect("opens")
}

type Seen = (u32, u32);

/// Requeues each so often, then answers `Ok`; writes down payload and attempt.
fn requeuing(
    times: u32,
    log: &Log<Seen>,
) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + use<> {
    let log = log.clone();
    let left: Arc<parking_lot::Mutex<std::collections::HashMap<u32, u32>>> = Arc::default();
    move |d| {
        log.push((*d.payload(), d.attempt()));
        let mut left = left.lock();
        let left = left.entry(*d.payload()).or_insert(times);
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        Err(Nack::requeue("not now"))
    }
}

#[test]
fn a_requeued_delivery_comes_again_as_the_same_attempt_and_no_policy_is_asked() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let events = Log::new();
    let _observation = broker.observe({
        let events = events.clone();
        move |event| {
            if event.id().is_some() && event.subscription().is_some() {
                events.push(event.to_string());
            }
        }
    });
    let log = Log::new();
    let subscription = topic
        .subscribe("s", requeuing(2, &log))
        .expect("subscribes");
    topic.publish(7).expect("there is room");
    for calls in 1..=3 {
        broker.run_until_idle();
        assert_eq!(log.len(), calls, "by one with each run");
        assert_balanced(&broker);
    }
    assert_eq!(log.take(), [(7, 1); 3]);
    let counts = subscription.metrics().counts;
    assert_eq!((counts.attempts, counts.requeued, counts.failed), (3, 2, 0));
    assert_eq!((counts.delivered, counts.retried), (1, 0));
    let again = [
        "delivering t/s #1 attempt 1 DELIVERING",
        "requeued t/s #1 attempt 1 QUEUED: not now",
    ];
    let last = [
        "delivering t/s #1 attempt 1 DELIVERING",
        "delivered t/s #1 attempt 1 DELIVERED",
    ];
    assert_eq!(events.take(), [again, again, last].concat());
}

#[test]
fn requeues_do_not_use_up_attempts() {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(MS).max_attempts(2);
    let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
    let log = Log::new();
    let calls = log.clone();
    let _subscription = topic.subscribe("s", move |d| {
        calls.push(d.attempt());
        match calls.len() {
            3 | 6 => Err(Nack::retry("it failed")),
            _ => Err(Nack::requeue("not now")),
        }
    });
    topic.publish(7).expect("there is room");
    for _ in 0..10 {
        advance(&broker, &clock, MS);
    }
    assert_eq!(log.take(), [1, 1, 1, 2, 2, 2]);
    let letters = topic.dead_letters().list();
    assert_eq!(letters[0].attempts(), 2);
    assert_eq!(
        letters[0].failures().count(),
        2,
        "a requeue is none of them"
    );
    assert_balanced(&broker);
}

#[test]
fn a_requeued_delivery_goes_behind_all_that_the_topic_had_accepted_then() {
    for concurrency in [None, Some(1)] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let payloads = || log.take().into_iter().map(|(payload, _)| payload);
        let builder = topic.subscription("s");
        let subscribed = match concurrency {
            None => builder.subscribe(requeuing(1, &log)),
            Some(count) => builder
                .concurrency(count)
                .subscribe_shared(requeuing(1, &log)),
        };
        let _subscription = subscribed.expect("subscribes");
        topic.publish_batch(1..=3).expect("there is room");
        broker.run_until_idle();
        assert_eq!(payloads().collect::<Vec<_>>(), [1, 2, 3]);
        topic.publish(4).expect("there is room");
        broker.run_until_idle();
        assert_eq!(
            payloads().collect::<Vec<_>>(),
            [1, 2, 3, 4],
            "it came later"
        );
        broker.run_until_idle();
        assert_eq!(payloads().collect::<Vec<_>>(), [4]);
        assert_balanced(&broker);
    }
}

#[test]
fn with_workers_a_requeued_delivery_comes_back_at_once_behind_those_that_wait() {
    for concurrency in [None, Some(1)] {
        let broker = threaded(2);
        let topic = open(&broker);
        let log = Log::new();
        let handler = requeuing(2, &log);
        let is_open = Arc::new(AtomicBool::new(false));
        let gate = Arc::clone(&is_open);
        let handler = move |d: &Delivery<'_, u32>| {
            while !gate.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            handler(d)
        };
        let builder = topic.subscription("s");
        let subscribed = match concurrency {
            None => builder.subscribe(handler),
            Some(count) => builder.concurrency(count).subscribe_shared(handler),
        };
        let _subscription = subscribed.expect("subscribes");
        topic.publish_batch(1..=5).expect("there is room");
        is_open.store(true, Ordering::Release);
        assert_rests_balanced(&broker);
        let round = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)];
        assert_eq!(log.take(), [round; 3].concat());
    }
}

#[test]
fn a_requeued_delivery_stays_the_first_of_its_key_where_order_survives_failures() {
    for (on_failure, concurrency) in [
        (OnFailure::BlockKey, None),
        (OnFailure::BlockKey, Some(2)),
        (OnFailure::BlockSubscription, None),
    ] {
        for broker in [manual().0, threaded(2)] {
            let topic = open(&broker);
            let log = Log::new();
            let builder = topic.subscription("s").on_failure(on_failure);
            let subscribed = match concurrency {
                None => builder.subscribe(requeuing(2, &log)),
                Some(count) => builder
                    .concurrency(count)
                    .subscribe_shared(requeuing(2, &log)),
            };
            let _subscription = subscribed.expect("subscribes");
            for n in 0..10 {
                topic.message(n).key("k").publish().expect("there is room");
            }
            for _ in 0..30 {
                broker.run_until_idle();
            }
            assert_rests_balanced(&broker);
            let expected = (0..10).flat_map(|n| [(n, 1); 3]);
            assert_eq!(log.take(), expected.collect::<Vec<_>>(), "{on_failure:?}");
        }
    }
}

#[test]
fn elements_of_batches_are_requeued_each_for_itself_and_come_back_alone() {
    for on_failure in [OnFailure::Reorder, OnFailure::BlockKey] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let batches = Log::new();
        let calls = batches.clone();
        let builder = topic.subscription("s").on_failure(on_failure);
        let subscribed = builder.subscribe_batches(Batched::of(4).linger(9 * MS), move |batch| {
            let is_first = batch.len() > 1;
            calls.push(
                batch
                    .iter()
                    .map(|d| (*d.payload(), d.attempt()))
                    .collect::<Vec<_>>(),
            );
            if is_first {
                batch.nack(1, Nack::requeue("not now"));
                batch.nack(2, Nack::requeue("not now"));
            }
            Ok(())
        });
        let _subscription = subscribed.expect("subscribes");
        topic.publish_batch(1..=4).expect("there is room");
        broker.run_until_idle();
        assert_eq!(batches.take(), [[(1, 1), (2, 1), (3, 1), (4, 1)]]);
        topic.publish(5).expect("there is room");
        broker.run_until_idle();
        assert_eq!(
            batches.take(),
            [[(2, 1)], [(3, 1)]],
            "what lingers holds nobody up"
        );
        topic.flush();
        broker.run_until_idle();
        assert_eq!(batches.take(), [[(5, 1)]]);
        assert_balanced(&broker);
    }
}

#[test]
fn a_lease_that_is_requeued_goes_behind_the_others() {
    for broker in [manual().0, threaded(1)] {
        let topic = open(&broker);
        let pull = topic
            .subscription("s")
            .pull(Pull::default())
            .expect("subscribes");
        topic.publish_batch(1..=2).expect("there is room");
        let recv = || {
            pull.recv_timeout(HANG)
                .or_else(|_| pull.try_recv())
                .expect("there is one")
        };
        let lease = recv();
        assert_eq!(*lease.payload(), 1);
        lease.nack(Nack::requeue("not now")).expect("in time");
        let lease = recv();
        assert_eq!(*lease.payload(), 2);
        lease.ack().expect("in time");
        let lease = recv();
        assert_eq!((*lease.payload(), lease.attempt()), (1, 1));
        lease.ack().expect("in time");
        assert_balanced(&broker);
    }
}

#[cfg(feature = "async")]
#[test]
fn async_calls_requeue_as_any() {
    use std::sync::atomic::AtomicU32;

    for broker in [manual().0, threaded(2)] {
        let topic = open(&broker);
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let _subscription = topic
            .subscription("s")
            .concurrency(2)
            .subscribe_async(move |d| {
                let call = counted.fetch_add(1, Ordering::Relaxed);
                assert_eq!(d.attempt(), 1);
                async move {
                    match call {
                        0..5 => Err(Nack::requeue("not now")),
                        _ => Ok(()),
                    }
                }
            });
        topic.publish(1).expect("there is room");
        for _ in 0..10 {
            broker.run_until_idle();
        }
        let counts = assert_rests_balanced(&broker).deliveries();
        assert_eq!(
            (counts.attempts, counts.requeued, counts.delivered),
            (6, 5, 1)
        );
    }
}

#[test]
fn what_was_requeued_is_not_dropped_to_make_room() {
    for concurrency in [None, Some(1)] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let builder = topic.subscription("s").capacity(2);
        let builder = builder.when_full(LaneFull::DropOldest);
        let subscribed = match concurrency {
            None => builder.subscribe(requeuing(1, &log)),
            Some(count) => builder
                .concurrency(count)
                .subscribe_shared(requeuing(1, &log)),
        };
        let subscription = subscribed.expect("subscribes");
        topic.publish_batch(1..=2).expect("there is room");
        broker.run_until_idle();
        topic.publish_batch(3..=4).expect("there is room");
        broker.run_until_idle();
        broker.run_until_idle();
        assert_eq!(log.take(), [(1, 1), (2, 1), (1, 1), (2, 1)]);
        assert_eq!(subscription.metrics().counts.dropped, 2);
        assert_balanced(&broker);
    }
}

#[test]
fn a_handler_that_requeues_for_ever_leaves_others_their_turns() {
    for concurrency in [None, Some(1)] {
        let broker = threaded(1);
        let topic = open(&broker);
        let forever = |_: &Delivery<'_, u32>| Err(Nack::requeue("never"));
        let builder = topic.subscription("forever");
        let subscribed = match concurrency {
            None => builder.subscribe(forever),
            Some(count) => builder.concurrency(count).subscribe_shared(forever),
        };
        let forever = subscribed.expect("subscribes");
        let log = Log::new();
        let _good = topic.subscribe("good", {
            let log = log.clone();
            move |d| {
                log.push(*d.payload());
                Ok(())
            }
        });
        topic.publish_batch(1..=10).expect("there is room");
        let until = Instant::now() + HANG;
        while log.len() < 10 || forever.metrics().counts.requeued < 100 {
            assert!(Instant::now() < until, "one of them starves");
            std::thread::yield_now();
        }
        let Unsubscribed::Ended(last) = forever.unsubscribe(Unsubscribe::Cancel) else {
            panic!("this was not called by a handler");
        };
        assert_eq!(last.counts.cancelled, 10);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_drain_and_a_draining_unsubscribe_end_though_a_handler_requeues_for_ever() {
    let forever = |_: &Delivery<'_, u32>| Err(Nack::requeue("never"));
    for broker in [
        manual().0,
        threaded(1),
        Broker::builder().workers(0).build().expect("builds"),
    ] {
        let topic = open(&broker);
        let gone = topic.subscribe("gone", forever).expect("subscribes");
        let _left = topic
            .subscription("left")
            .concurrency(1)
            .subscribe_shared(forever);
        topic.publish(1).expect("there is room");
        broker.run_until_idle();
        let until = Instant::now() + HANG;
        while topic.metrics().deliveries().requeued < 2 {
            assert!(Instant::now() < until, "it was never requeued");
            std::thread::yield_now();
        }
        let timeout = 10 * MS;
        let Unsubscribed::Ended(last) = gone.unsubscribe(Unsubscribe::Drain { timeout }) else {
            panic!("this was not called by a handler");
        };
        assert_eq!(last.counts.cancelled, 1);
        let drained = broker.drain(10 * MS);
        let Err(DrainError::Incomplete(report)) = drained else {
            panic!("{drained:?}");
        };
        assert_eq!((report.cut_off, report.remaining), (1, 0));
        assert_balanced(&broker);
    }
}

#[test]
fn what_was_requeued_expires_and_is_cancelled_or_buried_as_any() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let forever = |_: &Delivery<'_, u32>| Err(Nack::requeue("never"));
    let subscription = topic.subscribe("s", forever).expect("subscribes");
    topic.message(1).ttl(MS).publish().expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    let counts = subscription.metrics().counts;
    assert_eq!((counts.expired, counts.requeued), (1, 3));
    let Unsubscribed::Ended(last) = subscription.unsubscribe(Unsubscribe::DeadLetter) else {
        panic!("this was not called by a handler");
    };
    assert_eq!(last.counts.dead_lettered, 1);
    assert_eq!(topic.dead_letters().list()[0].attempts(), 0);
    assert_balanced(&broker);
}

#[test]
fn a_drain_by_a_manual_clock_tries_again_what_was_put_back() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let _subscription = topic.subscribe("s", requeuing(3, &log)).expect("fine");
    topic.publish(1).expect("has room");
    let report = broker.drain(Duration::from_secs(3_600)).expect("complete");
    assert_eq!((report.delivered, report.cancelled), (1, 0));
    assert_eq!(log.take(), [(1, 1); 4]);
    assert_balanced(&broker);
}
