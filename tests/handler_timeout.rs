//! Promise: a call of a handler that outlives its timeout is a failed attempt, and the retry policy
//! decides. An async call is cancelled. A call that blocks goes on, and its late result changes
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::SubscribeError;
use millstream::event::EventKind;
use millstream::metrics::WaitingFor;
use millstream::protect::{Breaker, BreakerStatus};
use millstream::retry::FailureKind;
use millstream::{
    Backoff, Batched, Broker, Delivery, ManualClock, Nack, OnFailure, Pull, SubscriptionOptions,
    Topic, Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker, attempts: u32) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(attempts);
    broker.topic("t").retry(retry).open().expect("opens")
}

/// Waits for what other threads bring about.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANG, "never: {what}");
        thread::sleep(MS);
    }
}

/// A handler whose first attempts take two seconds of the clock, and its log of attempts.
fn slow_at_first(
    clock: &ManualClock,
    log: &Log<(u32, u32)>,
) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Clone + use<> {
    let (clock, log) = (clock.clone(), log.clone());
    move |delivery: &Delivery<'_, u32>| {
        log.push((*delivery.payload(), delivery.attempt()));
        if delivery.attempt() == 1 {
            clock.advance(2 * SECOND);
        }
        Ok(())
    }
}

#[test]
fn a_result_after_the_timeout_is_stale_for_every_kind_of_handler_and_rule() {
    let kinds = [
        "one", "by key", "all", "shared", "group", "patterns", "slots",
    ];
    for kind in kinds {
        let (broker, clock) = manual();
        let topic = open(&broker, 3);
        let log = Log::new();
        let told = Log::new();
        let events = told.clone();
        let watch = broker.observe(move |event| match event.kind() {
            EventKind::StaleSettlement => events.push((event.attempt(), "stale")),
            EventKind::Failed { kind, error } => {
                assert_eq!(*kind, FailureKind::Timeout);
                assert_eq!(&**error, "its handler did not end within its timeout");
                events.push((event.attempt(), "failed"));
            }
            EventKind::Delivering => events.push((event.attempt(), "delivering")),
            EventKind::Delivered => events.push((event.attempt(), "delivered")),
            _ => {}
        });
        let _watch = watch.expect("observes");
        let handler = slow_at_first(&clock, &log);
        let builder = topic.subscription("s").handler_timeout(SECOND);
        let patterns = broker.subscription::<u32>("s").matching("*");
        let patterns = patterns.handler_timeout(SECOND);
        match kind {
            "one" => builder.subscribe(handler).expect("subscribes").detach(),
            "by key" => {
                let builder = builder.on_failure(OnFailure::BlockKey);
                builder.subscribe(handler).expect("subscribes").detach();
            }
            "all" => {
                let builder = builder.on_failure(OnFailure::BlockSubscription);
                builder.subscribe(handler).expect("subscribes").detach();
            }
            "shared" => {
                let builder = builder.concurrency(2);
                builder
                    .subscribe_shared(handler)
                    .expect("subscribes")
                    .detach();
            }
            "group" => {
                let group = builder.group().expect("subscribes");
                group.join("m", handler).expect("joins").detach();
                group.detach();
            }
            "patterns" => patterns.subscribe(handler).expect("subscribes").detach(),
            _ => {
                let patterns = patterns.concurrency(2);
                patterns.subscribe(handler).expect("subscribes").detach();
            }
        }
        topic.message(7).key("k").publish().expect("there is room");
        broker.run_until_idle();
        advance(&broker, &clock, MS);
        assert_eq!(log.take(), [(7, 1), (7, 2)], "{kind}");
        let metrics = topic.metrics().subscriptions.remove(0);
        let counts = metrics.counts;
        assert_eq!((metrics.timed_out, metrics.stale), (1, 1), "{kind}");
        assert_eq!(metrics.leased, 0, "{kind}");
        assert_eq!((counts.failed, counts.delivered), (1, 1), "{kind}");
        let told = told.take();
        let expected = ["delivering", "failed", "stale", "delivering", "delivered"];
        assert!(
            told.iter().map(|(_, what)| *what).eq(expected),
            "{kind}: {told:?}"
        );
        assert_eq!(
            told[2].0,
            Some(1),
            "the stale result is of the first attempt"
        );
        assert_rests_balanced(&broker);
    }
}

#[test]
fn what_a_call_returns_in_time_counts_and_leaves_no_timer() {
    let (broker, clock) = manual();
    let topic = open(&broker, 1);
    let in_handler = clock.clone();
    let subscription = topic.subscription("s").handler_timeout(SECOND);
    let subscription = subscription.subscribe(move |delivery| {
        in_handler.advance(SECOND - MS);
        match delivery.payload() {
            1 => Err(Nack::discard("not this one")),
            2 => panic!("nor this one"),
            _ => Ok(()),
        }
    });
    let subscription = subscription.expect("subscribes");
    topic.publish_batch([0, 1, 2, 3]).expect("there is room");
    broker.run_until_idle();
    let metrics = subscription.metrics();
    let counts = metrics.counts;
    assert_eq!((counts.delivered, counts.failed), (2, 2));
    assert_eq!((metrics.timed_out, metrics.stale), (0, 0));
    assert_eq!(topic.dead_letters().len(), 1, "the panic");
    advance(&broker, &clock, SECOND);
    assert_eq!(broker.next_deadline(), None);
    assert_balanced(&broker);
}

#[test]
fn a_late_result_is_worth_nothing_whatever_it_is() {
    for result in 0..3 {
        let (broker, clock) = manual();
        let topic = open(&broker, 1);
        let subscription = topic.subscription("s").handler_timeout(SECOND);
        let subscription = subscription.subscribe(move |_| {
            clock.advance(SECOND);
            match result {
                0 => Ok(()),
                1 => Err(Nack::discard("late")),
                _ => panic!("late"),
            }
        });
        let subscription = subscription.expect("subscribes");
        topic.publish(1).expect("there is room");
        broker.run_until_idle();
        assert_eq!(subscription.metrics().stale, 1);
        let letters = topic.dead_letters().list();
        assert_eq!(letters.len(), 1);
        assert_eq!(
            letters[0].failures().next().expect("it failed").kind,
            FailureKind::Timeout
        );
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_retry_goes_on_in_another_call_while_the_first_is_stuck() {
    let broker = threaded(3);
    let retry = Backoff::fixed(HANG).max_attempts(2);
    let topic = broker.topic("t").retry(retry).open().expect("opens");
    let (release, released) = mpsc::channel::<()>();
    let released = parking_lot::Mutex::new(released);
    let log = Log::new();
    let calls = log.clone();
    let running = Arc::new(AtomicU32::new(0));
    let now_running = Arc::clone(&running);
    let subscription = topic.subscription("s").handler_timeout(20 * MS);
    let subscription = subscription
        .concurrency(2)
        .subscribe_shared(move |delivery| {
            calls.push((*delivery.payload(), delivery.attempt()));
            if *delivery.payload() == 1 && delivery.attempt() == 1 {
                now_running.fetch_add(1, SeqCst);
                let _ = released.lock().recv();
                now_running.fetch_sub(1, SeqCst);
            }
            Ok(())
        });
    let subscription = subscription.expect("subscribes");
    topic.publish(1).expect("there is room");
    until("it has timed out", || subscription.metrics().timed_out == 1);
    // The other calls have all the time that a busy machine takes.
    subscription.set_handler_timeout(None).expect("in range");
    until("its retry waits", || subscription.retry_all_now() == 1);
    until("its retry succeeds", || {
        subscription.metrics().counts.delivered == 1
    });
    assert_eq!(running.load(SeqCst), 1, "the first call is still there");
    assert_eq!(subscription.metrics().stale, 0);
    assert_eq!(
        subscription.metrics().members[0].busy,
        1,
        "its hand is not free"
    );
    for payload in 2..20 {
        topic.publish(payload).expect("there is room");
    }
    until("the other hand does the rest", || {
        subscription.metrics().counts.delivered == 19
    });
    assert_balanced(&broker);
    release.send(()).expect("it waits");
    until("the late result is counted", || {
        subscription.metrics().stale == 1
    });
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(subscription.metrics().timed_out, 1);
    assert_eq!(metrics.deliveries().delivered, 19);
    let ones = log.take();
    assert_eq!(ones.iter().filter(|(payload, _)| *payload == 1).count(), 2);
}

#[test]
fn a_handler_for_one_call_at_a_time_is_not_called_again_before_it_is_back() {
    let broker = threaded(2);
    let topic = open(&broker, 1);
    let (release, released) = mpsc::channel::<()>();
    let log = Log::new();
    let calls = log.clone();
    let subscription = topic.subscription("s").handler_timeout(20 * MS);
    let subscription = subscription.subscribe(move |delivery| {
        calls.push(*delivery.payload());
        if *delivery.payload() == 1 {
            let _ = released.recv();
        }
        Ok(())
    });
    let subscription = subscription.expect("subscribes");
    topic.publish_batch([1, 2]).expect("there is room");
    until("it is a letter", || topic.dead_letters().len() == 1);
    let metrics = subscription.metrics();
    assert_eq!(
        (metrics.timed_out, metrics.stale, metrics.queued),
        (1, 0, 1)
    );
    assert_eq!(log.len(), 1, "the second waits for the hand");
    assert!(metrics.members[0].busy_for >= 20 * MS);
    assert_balanced(&broker);
    // The second has all the time that a busy machine takes.
    subscription.set_handler_timeout(None).expect("in range");
    release.send(()).expect("it waits");
    until("the second is delivered", || {
        subscription.metrics().counts.delivered == 1
    });
    assert_eq!(subscription.metrics().stale, 1);
    assert_rests_balanced(&broker);
}

#[test]
fn an_unsubscribe_waits_for_a_call_that_has_timed_out() {
    for mode in [
        Unsubscribe::Cancel,
        Unsubscribe::DeadLetter,
        Unsubscribe::Drain { timeout: HANG },
    ] {
        let broker = threaded(3);
        let topic = open(&broker, 1);
        let (release, released) = mpsc::channel::<()>();
        let (entered, has_entered) = mpsc::channel();
        let is_back = Arc::new(AtomicU32::new(0));
        let back = Arc::clone(&is_back);
        let subscription = topic.subscription("s").handler_timeout(MS);
        let subscription = subscription.subscribe(move |_| {
            entered.send(()).expect("the test listens");
            let _ = released.recv();
            back.fetch_add(1, SeqCst);
            Ok(())
        });
        let subscription = subscription.expect("subscribes");
        topic.publish(1).expect("there is room");
        has_entered.recv().expect("it is called");
        let ending = thread::spawn(move || subscription.unsubscribe(mode));
        thread::sleep(20 * MS);
        assert!(!ending.is_finished(), "the call runs");
        release.send(()).expect("it waits");
        assert!(matches!(
            ending.join().expect("no panic"),
            Unsubscribed::Ended(_)
        ));
        assert_eq!(is_back.load(SeqCst), 1);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn timeouts_open_a_breaker() {
    let (broker, clock) = manual();
    let topic = open(&broker, 100);
    let log = Log::new();
    let breaker = Breaker::new().consecutive_failures(2).open_for(SECOND);
    let builder = topic.subscription("s").handler_timeout(SECOND);
    let subscription = builder
        .breaker(breaker)
        .subscribe(slow_at_first(&clock, &log));
    let subscription = subscription.expect("subscribes");
    topic.publish_batch(0..10).expect("there is room");
    broker.run_until_idle();
    let metrics = subscription.metrics();
    assert_eq!(metrics.breaker, Some(BreakerStatus::Open));
    assert_eq!(
        metrics.waiting_for.map(|waiting| waiting.reason),
        Some(WaitingFor::Breaker)
    );
    assert!(log.len() <= 4, "no attempt is burnt: {}", log.len());
    for _ in 0..100 {
        advance(&broker, &clock, 60 * SECOND);
    }
    assert_eq!(subscription.metrics().counts.delivered, 10);
    assert_rests_balanced(&broker);
}

#[test]
fn a_timeout_is_changed_and_removed_while_traffic_runs() {
    let (broker, clock) = manual();
    let topic = open(&broker, 1);
    let in_handler = clock.clone();
    let slow = move |_: &Delivery<'_, u32>| {
        in_handler.advance(SECOND);
        Ok(())
    };
    let own = topic.subscription("own").handler_timeout(SECOND);
    let own = own.subscribe(slow.clone()).expect("subscribes");
    let shared = topic.subscription("shared").subscribe_shared(slow.clone());
    let shared = shared.expect("subscribes");
    let pattern = broker.subscription::<u32>("pattern").matching("*");
    let pattern = pattern
        .handler_timeout(SECOND)
        .subscribe(slow)
        .expect("subscribes");
    let late = || {
        (
            own.metrics().stale,
            shared.metrics().stale,
            pattern.metrics().stale,
        )
    };
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(late(), (1, 0, 1));
    own.set_handler_timeout(None).expect("it has one");
    shared
        .set_handler_timeout(Some(SECOND))
        .expect("its calls are shared");
    pattern
        .set_handler_timeout(Some(2 * SECOND))
        .expect("it has one");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(late(), (1, 1, 1));
    pattern.set_handler_timeout(None).expect("it has one");
    let once = Backoff::fixed(MS).max_attempts(1);
    let later = broker
        .topic::<u32>("later")
        .retry(once)
        .open()
        .expect("opens");
    pattern
        .set_handler_timeout(Some(SECOND))
        .expect("it had one");
    later.publish(3).expect("there is room");
    broker.run_until_idle();
    assert_eq!(late(), (1, 1, 2), "in later topics, too");
    assert_rests_balanced(&broker);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let setting = |error: SubscribeError| match error {
        SubscribeError::Invalid(error) => (error.setting(), error.value().to_owned()),
        other => panic!("{other}"),
    };
    let timed = || topic.subscription("s").handler_timeout(SECOND);
    let zero = topic.subscription("s").handler_timeout(Duration::ZERO);
    let zero = zero.subscribe(|_| Ok(())).expect_err("zero");
    assert_eq!(setting(zero), ("handler_timeout", "zero".to_owned()));
    let batches = timed().subscribe_batches(Batched::of(2), |_| Ok(()));
    assert_eq!(setting(batches.expect_err("batches")).0, "handler_timeout");
    let pulled = timed().pull(Pull::default()).expect_err("a pull");
    assert_eq!(setting(pulled).0, "handler_timeout");
    let options = SubscriptionOptions::new().handler_timeout(SECOND);
    let patterns = || {
        broker
            .subscription::<u32>("p")
            .matching("*")
            .options(&options)
    };
    let batches = patterns().subscribe_batches(Batched::of(2), |_| Ok(()));
    assert_eq!(setting(batches.expect_err("batches")).0, "handler_timeout");
    assert_eq!(
        setting(patterns().pull(Pull::default()).expect_err("a pull")).0,
        "handler_timeout"
    );

    let group = timed().group().expect("subscribes");
    let joined = group.member("m").join_batches(Batched::of(2), |_| Ok(()));
    assert_eq!(setting(joined.expect_err("batches")).0, "handler_timeout");
    group.set_handler_timeout(None).expect("it has one");
    let joined = group
        .member("m")
        .join_batches(Batched::of(2), |_| Ok(()))
        .expect("joins");
    assert!(
        group.set_handler_timeout(Some(SECOND)).is_err(),
        "a member takes batches"
    );
    drop(joined);
    group.set_handler_timeout(Some(SECOND)).expect("it is gone");
    drop(group);

    let plain = topic
        .subscription("plain")
        .subscribe(|_| Ok(()))
        .expect("subscribes");
    assert!(
        plain.set_handler_timeout(Some(SECOND)).is_err(),
        "it was made without"
    );
    assert!(plain.set_handler_timeout(Some(Duration::ZERO)).is_err());
    plain.set_handler_timeout(None).expect("it has none");
    assert_balanced(&broker);
}

#[cfg(feature = "async")]
mod of_async_calls {
    use super::*;
    use std::future::pending;

    /// Counts when it is dropped, and may panic.
    struct Guard(Arc<AtomicU32>, bool);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
            assert!(!self.1, "a future that panics when it is dropped");
        }
    }

    #[test]
    fn an_async_call_is_cancelled_at_its_deadline_and_its_future_is_dropped() {
        for panics in [false, true] {
            let (broker, clock) = manual();
            let topic = open(&broker, 2);
            let dropped = Arc::new(AtomicU32::new(0));
            let drops = Arc::clone(&dropped);
            let subscription = topic.subscription("s").handler_timeout(SECOND);
            let subscription = subscription.subscribe_async(move |delivery| {
                let guard = Guard(Arc::clone(&drops), panics);
                async move {
                    let _guard = guard;
                    match *delivery.payload() {
                        1 => pending().await,
                        _ => Ok(()),
                    }
                }
            });
            let subscription = subscription.expect("subscribes");
            topic.publish(1).expect("there is room");
            broker.run_until_idle();
            advance(&broker, &clock, SECOND - MS);
            assert_eq!(
                (dropped.load(SeqCst), subscription.metrics().timed_out),
                (0, 0)
            );
            advance(&broker, &clock, MS);
            assert_eq!(
                (dropped.load(SeqCst), subscription.metrics().timed_out),
                (1, 1)
            );
            assert_eq!(subscription.metrics().counts.awaiting_retry, 1);
            assert_balanced(&broker);
            advance(&broker, &clock, MS);
            advance(&broker, &clock, SECOND);
            assert_eq!(
                (dropped.load(SeqCst), subscription.metrics().timed_out),
                (2, 2)
            );
            let letters = topic.dead_letters().list();
            let kinds: Vec<_> = letters[0].failures().map(|failure| failure.kind).collect();
            assert_eq!(kinds, [FailureKind::Timeout; 2]);
            assert_eq!(subscription.metrics().stale, 0, "nothing comes late");
            assert_eq!(broker.next_deadline(), None);
            assert_rests_balanced(&broker);
        }
    }

    #[test]
    fn calls_that_end_in_time_leave_no_timer_and_others_are_not_touched() {
        let (broker, clock) = manual();
        let topic = open(&broker, 1);
        let (sent, gate) = mpsc::channel::<std::task::Waker>();
        let is_open = Arc::new(AtomicU32::new(0));
        let opened = Arc::clone(&is_open);
        let subscription = topic
            .subscription("s")
            .handler_timeout(SECOND)
            .concurrency(8);
        let subscription = subscription.subscribe_async(move |_| {
            let (sent, opened) = (sent.clone(), Arc::clone(&opened));
            std::future::poll_fn(move |context| {
                if opened.load(SeqCst) == 1 {
                    return std::task::Poll::Ready(Ok(()));
                }
                sent.send(context.waker().clone())
                    .expect("the test listens");
                std::task::Poll::Pending
            })
        });
        let subscription = subscription.expect("subscribes");
        topic.publish_batch(0..8).expect("there is room");
        broker.run_until_idle();
        advance(&broker, &clock, SECOND - MS);
        is_open.store(1, SeqCst);
        gate.try_iter().for_each(std::task::Waker::wake);
        broker.run_until_idle();
        let metrics = subscription.metrics();
        assert_eq!((metrics.counts.delivered, metrics.timed_out), (8, 0));
        assert_eq!(broker.next_deadline(), None);
        assert_rests_balanced(&broker);
    }

    #[test]
    fn a_poll_that_outlives_the_timeout_has_timed_out() {
        let (broker, clock) = manual();
        let topic = open(&broker, 1);
        let subscription = topic.subscription("s").handler_timeout(SECOND);
        let subscription = subscription.subscribe_async(move |_| {
            clock.advance(SECOND);
            async { Ok(()) }
        });
        let subscription = subscription.expect("subscribes");
        topic.publish(1).expect("there is room");
        broker.run_until_idle();
        assert_eq!(subscription.metrics().timed_out, 1);
        assert_eq!(topic.dead_letters().len(), 1);
        assert_rests_balanced(&broker);
    }

    #[test]
    fn a_cancelled_subscription_drops_its_calls_before_their_deadline() {
        let (broker, _clock) = manual();
        let topic = open(&broker, 1);
        let subscription = topic.subscription("s").handler_timeout(SECOND);
        let subscription = subscription
            .subscribe_async(|_| pending())
            .expect("subscribes");
        topic.publish(1).expect("there is room");
        broker.run_until_idle();
        assert!(matches!(
            subscription.unsubscribe(Unsubscribe::Cancel),
            Unsubscribed::Ended(_)
        ));
        assert_eq!(broker.next_deadline(), None);
        assert_rests_balanced(&broker);
    }
}

#[cfg(feature = "log")]
#[test]
fn a_call_that_has_timed_out_publishes_nothing_with_the_ack_of_its_retry() {
    use millstream::PublishError;
    use millstream::store::{Raw, Store};

    let name = format!("handler-timeout-{}", std::process::id());
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let store = Store::open(&directory).expect("it opens");
    let broker = Broker::builder().workers(3).store(store).build();
    let broker = broker.expect("the machine has threads to spare");
    let open = |name| {
        broker
            .topic::<String>(name)
            .durable(Raw)
            .open()
            .expect("opens")
    };
    let (orders, bills) = (open("orders"), open("bills"));
    let (release, released) = mpsc::channel::<()>();
    let released = parking_lot::Mutex::new(released);
    let refused = Log::new();
    let (refusals, to) = (refused.clone(), bills.clone());
    let builder = orders
        .subscription("billing")
        .durable()
        .handler_timeout(20 * MS);
    let builder = builder
        .retry(Backoff::fixed(MS).max_attempts(10))
        .concurrency(2);
    let billing = builder.subscribe_shared(move |order| {
        let attempt = order.attempt();
        order.publish(&to, format!("before {attempt}"))?;
        if attempt == 1 {
            let _ = released.lock().recv();
            let late = order.publish(&to, "late".to_owned());
            refusals.push(matches!(late, Err(PublishError::NotStored { .. })));
        }
        Ok(())
    });
    let billing = billing.expect("subscribes");
    orders.publish("one".to_owned()).expect("there is room");
    until("its retry succeeds", || {
        billing.metrics().counts.delivered == 1
    });
    release.send(()).expect("it waits");
    until("the late result is counted", || {
        billing.metrics().stale >= 1 && refused.len() == 1
    });
    assert_rests_balanced(&broker);
    assert_eq!(refused.take(), [true], "the attempt is over");
    let published = bills
        .read(millstream::store::Start::Earliest)
        .expect("they are there");
    let published: Vec<_> = published
        .map(|record| record.expect("sound").message.into_inner())
        .collect();
    assert_eq!(published.len(), 1, "{published:?}");
    assert!(published[0].starts_with("before") && published[0] != "before 1");
    broker.drain(HANG).expect("all is done");
    drop((orders, bills, billing, broker));
    let _ = std::fs::remove_dir_all(&directory);
}
