//! Promise: handlers in a pool of their own keep only the workers of that pool. Everything else goes
//! on, and the end of the broker ends the pools, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced};
use millstream::error::{BuildError, DrainError, SubscribeError};
use millstream::{Batched, Broker, Delivery, Idle, Nack, Pull, Topic, Unsubscribe, Unsubscribed};

const MS: Duration = Duration::from_millis(1);

/// A broker with one worker, and pools of its own.
fn pooled(pools: &[(&str, usize)]) -> Broker {
    let builder = pools
        .iter()
        .fold(Broker::builder().workers(1), |builder, (name, workers)| {
            builder.pool(name, *workers)
        });
    builder.build().expect("the machine has threads to spare")
}

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANG, "never: {what}");
        thread::sleep(MS);
    }
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

#[test]
fn handlers_that_block_in_a_pool_starve_no_others() {
    let broker = pooled(&[("slow", 2)]);
    let topic = open(&broker);
    let (release, released) = mpsc::channel::<()>();
    let released = parking_lot::Mutex::new(released);
    let stuck = Arc::new(AtomicU32::new(0));
    let now_stuck = Arc::clone(&stuck);
    let slow = topic.subscription("slow").pool("slow").concurrency(2);
    let slow = slow.subscribe_shared(move |_| {
        now_stuck.fetch_add(1, SeqCst);
        let _ = released.lock().recv();
        Ok(())
    });
    let slow = slow.expect("subscribes");
    let plain = topic.subscription("plain").pool("slow");
    let plain = plain.subscribe(|_| Ok(())).expect("subscribes");
    let quick = topic.subscribe("quick", |_| Ok(())).expect("subscribes");
    topic.publish_batch([0, 1]).expect("there is room");
    until("the pool is stuck", || stuck.load(SeqCst) == 2);
    for payload in 2..100 {
        topic.publish(payload).expect("there is room");
    }
    until("the quick one is done", || {
        quick.metrics().counts.delivered == 100
    });
    assert_eq!(slow.metrics().counts.delivered, 0, "it is still stuck");
    assert_balanced(&broker);
    drop(release);
    until("the others are done", || {
        slow.metrics().counts.delivered == 100 && plain.metrics().counts.delivered == 100
    });
    assert_rests_balanced(&broker);
}

#[test]
fn each_kind_of_handler_runs_on_the_threads_of_its_pool() {
    let broker = pooled(&[("mail", 2), ("a.b", 1)]);
    let topic = open(&broker);
    let log: Log<String> = Log::new();
    let names = log.clone();
    let note = move |_: &Delivery<'_, u32>| -> Result<(), Nack> {
        names.push(thread_name());
        Ok(())
    };
    let builder = |name: &'static str| topic.subscription(name).pool("mail");
    builder("own")
        .subscribe(note.clone())
        .expect("subscribes")
        .detach();
    let shared = builder("shared")
        .concurrency(3)
        .subscribe_shared(note.clone());
    shared.expect("subscribes").detach();
    let names = log.clone();
    let batches = builder("batches").subscribe_batches(Batched::of(1), move |_| {
        names.push(thread_name());
        Ok(())
    });
    batches.expect("subscribes").detach();
    let timed = builder("timed").handler_timeout(HANG);
    timed.subscribe(note.clone()).expect("subscribes").detach();
    let group = builder("group").group().expect("subscribes");
    group.join("m", note.clone()).expect("joins").detach();
    group.detach();
    let patterns = broker
        .subscription::<u32>("patterns")
        .matching("*")
        .pool("mail");
    patterns
        .subscribe(note.clone())
        .expect("subscribes")
        .detach();
    let kinds = if cfg!(feature = "async") { 7 } else { 6 };
    #[cfg(feature = "async")]
    {
        let names = log.clone();
        let calls = builder("calls").subscribe_async(move |_| {
            let names = names.clone();
            async move {
                names.push(thread_name());
                Ok(())
            }
        });
        calls.expect("subscribes").detach();
    }
    let default = Log::new();
    let elsewhere = default.clone();
    let other = topic.subscribe("other", move |_| {
        elsewhere.push(thread_name());
        Ok(())
    });
    other.expect("subscribes").detach();
    for payload in 0..20 {
        topic.publish(payload).expect("there is room");
    }
    assert_rests_balanced(&broker);
    let names = log.take();
    assert_eq!(names.len(), 20 * kinds);
    for name in names {
        assert!(name.starts_with("millstream-mail-"), "{name}");
    }
    assert!(default.take().iter().all(|name| name == "millstream-0"));
}

#[test]
fn a_drain_waits_for_all_pools_and_ends_their_threads() {
    let broker = pooled(&[("a", 1), ("b", 2)]);
    let topic = open(&broker);
    let next = broker.topic::<u32>("next").open().expect("opens");
    let onward = next.clone();
    let first = topic
        .subscription("first")
        .pool("a")
        .subscribe(move |delivery| {
            thread::sleep(MS);
            onward.publish(*delivery.payload())?;
            Ok(())
        });
    first.expect("subscribes").detach();
    // It hangs up when the handler is gone.
    let (alive, ended) = mpsc::channel::<()>();
    let second = next.subscription("second").pool("b").concurrency(2);
    let second = second.subscribe_shared(move |_| {
        let _ = &alive;
        Ok(())
    });
    second.expect("subscribes").detach();
    topic.publish_batch(0..30).expect("there is room");
    let report = broker.drain_pipeline(HANG).expect("all are done");
    assert_eq!((report.delivered, report.cut_off), (60, 0));
    assert!(ended.recv().is_err(), "the handlers are gone");
    assert_balanced(&broker);
}

#[test]
fn a_drain_goes_on_without_a_handler_that_is_stuck_in_its_pool() {
    let broker = pooled(&[("slow", 1)]);
    let topic = open(&broker);
    let (release, released) = mpsc::channel::<()>();
    let (entered, has_entered) = mpsc::channel();
    let stuck = topic
        .subscription("stuck")
        .pool("slow")
        .subscribe(move |_| {
            entered.send(()).expect("the test listens");
            let _ = released.recv();
            Ok(())
        });
    stuck.expect("subscribes").detach();
    topic.publish(1).expect("there is room");
    has_entered.recv().expect("it is called");
    let Err(DrainError::Incomplete(report)) = broker.drain(50 * MS) else {
        panic!("nobody can be done");
    };
    assert_eq!(report.cut_off, 1);
    drop(release);
}

#[test]
fn an_unsubscribe_inside_a_pool_and_outside_of_it_ends_the_handler() {
    let broker = pooled(&[("p", 1)]);
    let topic = open(&broker);
    for mode in [Unsubscribe::Cancel, Unsubscribe::Drain { timeout: HANG }] {
        let subscription = topic.subscription("s").pool("p").subscribe(|_| Ok(()));
        let subscription = subscription.expect("subscribes");
        topic.publish_batch(0..50).expect("there is room");
        assert!(matches!(
            subscription.unsubscribe(mode),
            Unsubscribed::Ended(_)
        ));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn workers_of_a_broker_that_spins_serve_pools_that_park() {
    let broker = Broker::builder()
        .workers(1)
        .idle(Idle::Spin)
        .pool("p", 1)
        .build();
    let broker = broker.expect("the machine has threads to spare");
    let topic = open(&broker);
    let subscription = topic.subscription("s").pool("p").subscribe(|_| Ok(()));
    let subscription = subscription.expect("subscribes");
    for payload in 0..50 {
        topic.publish(payload).expect("there is room");
    }
    until("all are delivered", || {
        subscription.metrics().counts.delivered == 50
    });
    broker.drain(HANG).expect("all are done");
}

#[test]
fn without_workers_the_caller_runs_the_handlers_of_all_pools() {
    let broker = Broker::builder()
        .workers(0)
        .pool("p", 0)
        .build()
        .expect("no threads");
    let topic = open(&broker);
    let names = Log::new();
    let called = names.clone();
    let subscription = topic.subscription("s").pool("p").subscribe(move |_| {
        called.push(thread::current().id());
        Ok(())
    });
    let _subscription = subscription.expect("subscribes");
    topic.publish(1).expect("there is room");
    assert_eq!(names.len(), 0);
    broker.run_until_idle();
    assert_eq!(names.take(), [thread::current().id()]);
    assert_rests_balanced(&broker);
}

#[test]
fn pools_that_make_no_sense_are_refused() {
    let refused = |builder: millstream::BrokerBuilder| match builder.build() {
        Err(BuildError::Invalid(error)) => (error.setting(), error.value().to_owned()),
        other => panic!("{other:?}"),
    };
    let one = || Broker::builder().workers(1);
    let pool = |value: &str| ("pool", value.to_owned());
    assert_eq!(refused(one().pool("a b", 1)), pool("a b"));
    assert_eq!(refused(one().pool("", 1)), pool(""));
    assert_eq!(refused(one().pool("a", 1).pool("a", 2)), pool("a"));
    assert_eq!(refused(one().pool("a", 0)), pool("0"));
    assert_eq!(refused(one().pool("a", 1_025)), pool("1025"));
    assert_eq!(
        refused(Broker::builder().workers(0).pool("a", 1)),
        pool("1")
    );

    let broker = pooled(&[("p", 1)]);
    let topic = open(&broker);
    let setting = |error: SubscribeError| match error {
        SubscribeError::Invalid(error) => (error.setting(), error.value().to_owned()),
        other => panic!("{other}"),
    };
    let unknown = topic.subscription("s").pool("q").subscribe(|_| Ok(()));
    assert_eq!(setting(unknown.expect_err("unknown")), pool("q"));
    let unknown = broker.subscription::<u32>("s").matching("*").pool("q");
    let unknown = unknown.subscribe(|_| Ok(())).expect_err("unknown");
    assert_eq!(setting(unknown), pool("q"));
    let pulled = topic.subscription("s").pool("p").pull(Pull::default());
    assert_eq!(setting(pulled.expect_err("a pull")), pool("p"));
}
