//! An unsubscribe returns when no call of its handler runs or will start, and
//! what the handler had captured is gone by then. What was queued for it is
//! cancelled, dead-lettered or drained, as the caller says. From inside a handler
//! it only marks. Nobody else notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{HANG, HOUR, with_time_enough};
use crate::harness::{Log, advance, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::dead_letters::DeadReason;
use millstream::error::SubscribeError;
use millstream::metrics::SubscriptionMetrics;
use millstream::{
    Backoff, Batched, LaneFull, Nack, Overflow, Subscription, Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);
const MODES: [Unsubscribe; 3] = [
    Unsubscribe::Cancel,
    Unsubscribe::DeadLetter,
    Unsubscribe::Drain { timeout: HANG },
];

fn last_counts(unsubscribed: Unsubscribed) -> SubscriptionMetrics {
    match unsubscribed {
        Unsubscribed::Ended(last) => last,
        other => panic!("{other:?} outside a handler"),
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never happened");
        thread::yield_now();
    }
}

/// A gate that a handler waits at.
fn gate() -> (mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>) {
    let (open, gate) = mpsc::channel();
    (open, Mutex::new(gate))
}

// Who runs the end.

#[test]
fn an_unsubscribe_waits_for_its_own_call_and_for_no_free_worker() {
    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let (open, running) = gate();
    let (entered, enters) = mpsc::channel();
    let own = move |_: &millstream::Delivery<'_, u64>| {
        entered.send(()).unwrap();
        running.lock().unwrap().recv_timeout(HANG).unwrap();
        Ok(())
    };
    let ends = topic.subscribe("ends", own).unwrap();
    topic.publish(1).unwrap();
    enters.recv_timeout(HANG).unwrap();
    // The only worker is in that call; the next thing it will find is a handler that is stuck.
    let other = broker.topic::<u64>("other").open().unwrap();
    let (free, stuck) = gate();
    let _stuck = other.subscribe("stuck", move |_| {
        stuck.lock().unwrap().recv_timeout(HANG).unwrap();
        Ok(())
    });
    other.publish(1).unwrap();
    thread::scope(|scope| {
        let (ended, ends_now) = mpsc::channel();
        scope.spawn(move || {
            let last = last_counts(ends.unsubscribe(Unsubscribe::Cancel));
            ended.send(last.counts.delivered).unwrap();
        });
        // Its name is free once it is closed.
        wait_for("its close", || topic.subscribe("ends", |_| Ok(())).is_ok());
        open.send(()).unwrap();
        let delivered = ends_now.recv_timeout(HANG);
        free.send(()).unwrap();
        assert_eq!(delivered, Ok(1), "it waited for a worker");
    });
    assert_rests_balanced(&broker);
}

// What becomes of the queue.

#[test]
fn cancel_ends_what_is_queued_and_what_awaits_a_retry() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let calls = log.clone();
    let sub = topic
        .subscription("s")
        .subscribe_batches(Batched::of(3).until_full(), move |batch| {
            calls.push(batch.len());
            Err(Nack::retry("later"))
        })
        .unwrap();
    // Three fail and wait for their retries, two wait for a third.
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    topic.publish_batch(0..2).unwrap();
    broker.run_until_idle();
    let last = last_counts(sub.unsubscribe(Unsubscribe::Cancel));
    assert_eq!((last.counts.made, last.counts.cancelled), (5, 5));
    advance(&broker, &clock, Duration::from_secs(3_600));
    assert_eq!(log.take(), [3], "no retry comes back");
    assert_eq!(broker.next_deadline(), None, "no timer is left behind");
    assert!(topic.dead_letters().is_empty());
    assert_balanced(&broker);
}

#[test]
fn dead_letter_keeps_what_is_queued_and_what_awaits_a_retry_for_a_successor() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let sub = topic
        .subscription("s")
        .subscribe_batches(Batched::of(3).until_full(), |_| Err(Nack::retry("later")))
        .unwrap();
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    topic.publish_batch(3..5).unwrap();
    broker.run_until_idle();
    let last = last_counts(sub.unsubscribe(Unsubscribe::DeadLetter));
    assert_eq!((last.counts.made, last.counts.dead_lettered), (5, 5));
    let letters = topic.dead_letters();
    for letter in letters.list() {
        assert_eq!(letter.reason(), DeadReason::Unsubscribed);
        let tried = u32::from(letter.id().get() <= 3);
        assert_eq!(letter.attempts(), tried);
        assert_eq!(letter.error(), (tried == 1).then_some("later"));
    }

    let log = Log::new();
    let calls = log.clone();
    let _heir = topic.subscribe("s", move |d| {
        calls.push((*d.payload(), d.generation()));
        Ok(())
    });
    assert_eq!(letters.redrive(|_| true).redriven, 5);
    broker.run_until_idle();
    let mut calls = log.take();
    calls.sort_unstable();
    assert_eq!(calls, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_balanced(&broker);
}

#[test]
fn drain_handles_what_is_queued_and_cancels_what_the_timeout_leaves() {
    with_time_enough(|timeout| {
        let broker = threaded(1);
        let topic = broker
            .topic::<u64>("t")
            .retry(Backoff::fixed(MS).max_attempts(2))
            .open()
            .unwrap();
        // Ids 1 to 3 fail once and come back at once, id 4 comes back in an hour.
        let sub = topic
            .subscribe("s", |d| match (d.id().get(), d.attempt()) {
                (4, _) => Err(Nack::retry_after(HOUR, "not today")),
                (_, 1) => Err(Nack::retry("once more")),
                _ => Ok(()),
            })
            .unwrap();
        topic.publish_batch(0..4).unwrap();
        wait_for("the first attempts", || sub.metrics().counts.attempts >= 4);
        let began = Instant::now();
        let last = last_counts(sub.unsubscribe(Unsubscribe::Drain { timeout }));
        assert!(began.elapsed() >= timeout, "it gave the last one its time");
        assert!(last.counts.cancelled >= 1, "{last:?}");
        assert_rests_balanced(&broker);
        (last.counts.delivered, last.counts.cancelled) == (3, 1)
    });
}

#[test]
fn drain_flushes_a_batch_that_would_never_fill() {
    for workers in [0, 1] {
        let broker = millstream::Broker::builder()
            .workers(workers)
            .build()
            .unwrap();
        let topic = broker.topic::<u64>("t").open().unwrap();
        let sub = topic
            .subscription("s")
            .subscribe_batches(Batched::of(100).until_full(), |_| Ok(()))
            .unwrap();
        topic.publish_batch(0..3).unwrap();
        broker.run_until_idle();
        wait_for("the dispatch", || sub.metrics().counts.made == 3);
        let last = last_counts(sub.unsubscribe(Unsubscribe::Drain { timeout: HANG }));
        assert_eq!(last.counts.delivered, 3);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn an_unsubscribe_lets_a_topic_that_waited_for_its_full_lane_go_on() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let stuck = topic
        .subscription("stuck")
        .capacity(1)
        .subscribe(|_| Err(Nack::retry("later")))
        .unwrap();
    let log = Log::new();
    let calls = log.clone();
    let _other = topic.subscribe("other", move |d| {
        calls.push(*d.payload());
        Ok(())
    });
    topic.publish_batch(0..5).unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [0], "the topic waits for the slow one");
    stuck.unsubscribe(Unsubscribe::Cancel);
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3, 4]);
    assert_balanced(&broker);
}

// When it returns.

/// A handler that holds on to its first call until it is let go.
struct Held {
    entered: Arc<AtomicBool>,
    release: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    captured: Arc<()>,
    calls: Arc<AtomicU64>,
}

impl Held {
    fn new() -> Self {
        Self {
            entered: Arc::default(),
            release: Arc::default(),
            running: Arc::default(),
            captured: Arc::new(()),
            calls: Arc::default(),
        }
    }

    fn subscribe(&self, topic: &millstream::Topic<u64>) -> Subscription {
        let (entered, release) = (self.entered.clone(), self.release.clone());
        let (running, captured) = (self.running.clone(), self.captured.clone());
        let calls = self.calls.clone();
        let sub = topic.subscribe("held", move |_| {
            let _ = &captured;
            running.store(true, Ordering::SeqCst);
            calls.fetch_add(1, Ordering::SeqCst);
            entered.store(true, Ordering::SeqCst);
            while !release.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            running.store(false, Ordering::SeqCst);
            Ok(())
        });
        sub.unwrap()
    }
}

#[test]
fn it_returns_only_after_the_call_in_flight_and_the_captured_state_is_gone() {
    for mode in MODES {
        for workers in [1, 2] {
            let broker = threaded(workers);
            let topic = broker.topic::<u64>("t").open().unwrap();
            let held = Held::new();
            let sub = held.subscribe(&topic);
            topic.publish_batch(0..10).unwrap();
            wait_for("the first call", || held.entered.load(Ordering::SeqCst));

            let (running, captured) = (held.running.clone(), held.captured.clone());
            let (calls, returned) = (held.calls.clone(), Arc::new(AtomicBool::new(false)));
            let has_returned = returned.clone();
            let ender = thread::spawn(move || {
                let last = last_counts(sub.unsubscribe(mode));
                // All of this at the moment it returns, not a while later.
                let was_running = running.load(Ordering::SeqCst);
                let holders = Arc::strong_count(&captured);
                let made_calls = calls.load(Ordering::SeqCst);
                has_returned.store(true, Ordering::SeqCst);
                (last, was_running, holders, made_calls)
            });
            // Not a wait for something but a chance to go wrong.
            let patience = Instant::now() + MS * 10;
            while Instant::now() < patience {
                assert!(!returned.load(Ordering::SeqCst), "a call is running");
                thread::yield_now();
            }
            held.release.store(true, Ordering::SeqCst);
            wait_for("the return", || returned.load(Ordering::SeqCst));
            let (last, was_running, holders, made_calls) = ender.join().unwrap();
            assert!(!was_running, "{mode:?}");
            assert_eq!(holders, 2, "{mode:?}: the test's, and its thread's");
            assert_eq!(last.counts.attempts, made_calls, "{mode:?}");
            assert_eq!(last.counts.made, 10);
            assert_eq!(last.counts.made, last.counts.ended());
            if matches!(mode, Unsubscribe::Drain { .. }) {
                assert_eq!(last.counts.delivered, 10);
            } else {
                assert_eq!(last.counts.delivered, 1, "only the call in flight");
            }
            topic.publish(0).unwrap();
            assert_rests_balanced(&broker);
            assert_eq!(held.calls.load(Ordering::SeqCst), made_calls);
        }
    }
}

#[test]
fn it_does_not_wait_for_a_worker_when_all_of_them_are_busy_elsewhere() {
    let broker = threaded(1);
    let busy = broker.topic::<u64>("busy").open().unwrap();
    let held = Held::new();
    let _busy = held.subscribe(&busy);
    busy.publish(0).unwrap();
    wait_for("the first call", || held.entered.load(Ordering::SeqCst));

    let topic = broker.topic::<u64>("t").open().unwrap();
    let captured = Arc::new(());
    let inner = captured.clone();
    let sub = topic.subscribe("s", move |_| {
        let _ = &inner;
        Ok(())
    });
    topic.publish_batch(0..5).unwrap();
    sub.unwrap().unsubscribe(Unsubscribe::Cancel);
    assert_eq!(Arc::strong_count(&captured), 1);
    held.release.store(true, Ordering::SeqCst);
    assert_rests_balanced(&broker);
}

#[test]
fn two_that_end_two_subscriptions_at_once_do_not_wait_for_each_other() {
    let broker = threaded(2);
    let topic = broker.topic::<u64>("t").open().unwrap();
    for round in 0..200 {
        let subs = ["left", "right"].map(|name| topic.subscribe(name, |_| Ok(())).unwrap());
        topic.publish(round).unwrap();
        let barrier = Arc::new(Barrier::new(2));
        let enders = subs.map(|sub| {
            let barrier = barrier.clone();
            thread::spawn(move || {
                barrier.wait();
                last_counts(sub.unsubscribe(MODES[round as usize % 3])).counts
            })
        });
        for ender in enders {
            let counts = ender.join().unwrap();
            assert_eq!(counts.made, counts.ended());
        }
    }
    assert_rests_balanced(&broker);
}

#[test]
fn from_inside_its_own_handler_it_only_marks() {
    for mode in MODES {
        let broker = threaded(1);
        let topic = broker.topic::<u64>("t").open().unwrap();
        let own = Arc::new(Mutex::new(None::<Subscription>));
        let captured = Arc::new(());
        let answers = Log::new();
        let (handle, inner, log) = (own.clone(), captured.clone(), answers.clone());
        let mut guard = own.lock().unwrap();
        let sub = topic.subscribe("s", move |_| {
            let _ = &inner;
            let own = handle.lock().unwrap().take();
            if let Some(own) = own {
                log.push(own.unsubscribe(mode));
            }
            Ok(())
        });
        *guard = Some(sub.unwrap());
        drop(guard);
        topic.publish_batch(0..10).unwrap();
        let metrics = assert_rests_balanced(&broker);
        assert_eq!(answers.take(), [Unsubscribed::Ending]);
        assert_eq!(
            Arc::strong_count(&captured),
            1,
            "the rest followed by itself"
        );
        let counts = metrics.deliveries();
        match mode {
            Unsubscribe::Cancel => assert_eq!(counts.delivered + counts.cancelled, counts.made),
            Unsubscribe::DeadLetter => {
                assert_eq!(counts.delivered + counts.dead_lettered, counts.made);
            }
            _ => assert_eq!(counts.delivered, counts.made),
        }
    }
}

#[test]
fn a_drain_begun_inside_a_handler_keeps_its_timeout() {
    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let own = Arc::new(Mutex::new(None::<Subscription>));
    let handle = own.clone();
    let mut guard = own.lock().unwrap();
    let sub = topic.subscribe("s", move |_| {
        let own = handle.lock().unwrap().take();
        if let Some(own) = own {
            own.unsubscribe(Unsubscribe::Drain { timeout: MS * 10 });
        }
        Err(Nack::retry_after(HOUR, "not today"))
    });
    *guard = Some(sub.unwrap());
    drop(guard);
    topic.publish(0).unwrap();
    let rests = broker.wait_until_idle(HANG);
    assert!(rests, "what the timeout leaves is cancelled");
    assert_eq!(assert_balanced(&broker).deliveries().cancelled, 1);
}

// Handles and names.

#[test]
fn dropping_the_handle_unsubscribes_and_detaching_it_does_not() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let captured = Arc::new(());
    let subscribe = |name: &str| {
        let inner = captured.clone();
        let sub = topic.subscribe(name, move |_| {
            let _ = &inner;
            Ok(())
        });
        sub.unwrap()
    };
    let dropped = subscribe("dropped");
    subscribe("detached").detach();
    topic.publish(0).unwrap();
    broker.run_until_idle();
    topic.publish(1).unwrap();
    drop(dropped);
    broker.run_until_idle();
    assert_eq!(Arc::strong_count(&captured), 2);
    let metrics = assert_balanced(&broker);
    let topic = metrics.topic("t").unwrap();
    assert_eq!(topic.subscriptions.len(), 1);
    assert_eq!(topic.subscription("detached").unwrap().counts.delivered, 2);
    assert_eq!(topic.ended.delivered, 1);
}

#[test]
fn a_dropped_handle_cancels_what_is_queued() {
    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let held = Held::new();
    let sub = held.subscribe(&topic);
    topic.publish_batch(0..5).unwrap();
    wait_for("the first call", || held.entered.load(Ordering::SeqCst));
    wait_for("the dispatch", || sub.metrics().counts.made == 5);
    drop(sub);
    held.release.store(true, Ordering::SeqCst);
    let counts = assert_rests_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.cancelled), (1, 4));
    assert_eq!(Arc::strong_count(&held.captured), 1);
}

#[test]
fn a_name_is_free_again_at_once_and_the_two_are_strangers() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let subscribe = |who: &'static str| {
        let calls = log.clone();
        topic.subscribe("s", move |d| {
            calls.push((who, *d.payload()));
            match who {
                "old" => Err(Nack::retry("later")),
                _ => Ok(()),
            }
        })
    };
    let old = subscribe("old").unwrap();
    assert_eq!(
        subscribe("new").unwrap_err(),
        SubscribeError::NameTaken { name: "s".into() }
    );
    topic.publish(1).unwrap();
    broker.run_until_idle();
    drop(old);
    let new = subscribe("new").expect("the old one is ending");
    topic.publish(2).unwrap();
    advance(&broker, &clock, Duration::from_secs(3_600));
    assert_eq!(
        log.take(),
        [("old", 1), ("new", 2)],
        "no retry is inherited"
    );
    new.unsubscribe(Unsubscribe::Cancel);
    subscribe("newest").unwrap().detach();
    assert_balanced(&broker);
}

#[test]
fn a_handle_outlives_its_broker() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let sub = topic.subscribe("s", |_| Ok(())).unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_balanced(&broker);
    drop(broker);
    assert!(sub.has_ended());
    let last = last_counts(sub.unsubscribe(Unsubscribe::Drain { timeout: HANG }));
    assert_eq!(last.counts.delivered, 1);
    topic.metrics().balance().unwrap();
}

// Churn.

#[test]
fn thousands_come_and_go_under_traffic_and_the_stable_subscriber_misses_nothing() {
    const MESSAGES: u64 = 40_000;
    const CHURN: usize = 3_000;
    let broker = threaded(2);
    let topic = broker
        .topic::<u64>("t")
        .capacity(256)
        .lane_capacity(256)
        .overflow(Overflow::Block { timeout: HANG })
        .open()
        .unwrap();
    let (seen, sum) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (counter, adder) = (seen.clone(), sum.clone());
    let stable = topic
        .subscribe("stable", move |d| {
            counter.fetch_add(1, Ordering::Relaxed);
            adder.fetch_add(*d.payload(), Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (topic, done) = (topic.clone(), done.clone());
        thread::spawn(move || {
            for payload in 0..MESSAGES {
                topic.publish(payload).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        })
    };
    let churners: Vec<_> = (0..2)
        .map(|who| {
            let topic = topic.clone();
            thread::spawn(move || {
                let policies = [LaneFull::Wait, LaneFull::DropNewest, LaneFull::DropOldest];
                for round in 0..CHURN / 2 {
                    let captured = Arc::new(());
                    let inner = captured.clone();
                    let sub = topic
                        .subscription(&format!("churn-{who}"))
                        .capacity(4)
                        .when_full(policies[round / 3 % 3])
                        .subscribe(move |d| {
                            let _ = &inner;
                            match d.id().get() % 7 {
                                0 => Err(Nack::retry_after(MS, "again")),
                                _ => Ok(()),
                            }
                        })
                        .unwrap();
                    if round % 4 == 0 {
                        thread::yield_now();
                    }
                    let counts = last_counts(sub.unsubscribe(MODES[round % 3])).counts;
                    assert_eq!(counts.made, counts.ended());
                    assert_eq!(Arc::strong_count(&captured), 1);
                }
            })
        })
        .collect();
    for churner in churners {
        churner.join().unwrap();
    }
    wait_for("the last publish", || done.load(Ordering::SeqCst));
    publisher.join().unwrap();
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(seen.load(Ordering::Relaxed), MESSAGES);
    assert_eq!(sum.load(Ordering::Relaxed), MESSAGES * (MESSAGES - 1) / 2);
    assert_eq!(stable.metrics().counts.delivered, MESSAGES);
    assert_eq!(metrics.topic("t").unwrap().subscriptions.len(), 1);
}

#[test]
fn an_unsubscribe_by_hand_drains_what_another_thread_has_in_hand() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (entered, is_inside) = mpsc::channel();
    let slow = move |_: &millstream::Delivery<'_, u32>| {
        let _ = entered.send(());
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    };
    let subscription = topic.subscribe("slow", slow).expect("subscribes");
    topic.publish_batch(0..4).expect("there is room");
    let runner = broker.clone();
    let runner = std::thread::spawn(move || runner.run_until_idle());
    is_inside.recv().expect("it is called");
    let timeout = HANG;
    let outcome = subscription.unsubscribe(Unsubscribe::Drain { timeout });
    runner.join().expect("it did not panic");
    match outcome {
        Unsubscribed::Ended(last) => assert_eq!(last.counts.delivered, 4),
        other => panic!("outside of a handler it waits, but: {other:?}"),
    }
}
