//! A drain refuses new publishes, wakes those that wait, flushes pending batches,
//! runs what is queued and due, and returns a report in which every message
//! accepted is accounted for. It keeps its deadline, whatever handlers do. What
//! it cuts off is cancelled, never a failure. Dropping the broker is the immediate
//! version.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::{DrainError, OpenError, SubscribeError};
use millstream::metrics::DrainReport;
use millstream::{
    Backoff, Batched, Broker, Nack, NoSubscribers, Overflow, PublishError, Subscription, Topic,
    Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

/// Every message and every delivery is in one of the report's counts.
fn assert_accounted(report: &DrainReport) {
    let messages = report.dispatched + report.unrouted + report.messages_dropped;
    let ended = report.delivered + report.dead_lettered + report.dropped;
    let deliveries = ended + report.expired + report.cancelled;
    let found = messages + deliveries + report.remaining;
    assert_eq!(report.published + report.made, found, "{report}");
    let lost = report.cancelled + report.messages_dropped + report.remaining;
    assert!(report.cut_off <= lost, "{report}");
}

fn complete(drained: Result<DrainReport, DrainError>) -> DrainReport {
    let report = drained.expect("nothing should be cut off");
    assert!(report.is_complete());
    assert_eq!((report.cut_off, report.remaining), (0, 0));
    assert!(report.took < HANG / 2, "it slept through its end: {report}");
    assert_accounted(&report);
    report
}

fn incomplete(drained: Result<DrainReport, DrainError>) -> DrainReport {
    let Err(DrainError::Incomplete(report)) = drained else {
        panic!("{drained:?} is not incomplete");
    };
    assert!(!report.is_complete());
    assert_accounted(&report);
    report
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never happened");
        thread::yield_now();
    }
}

/// A handler's gate: it waits there until it is opened.
#[derive(Clone, Default)]
struct Gate {
    entered: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn pass(&self) {
        self.entered.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + HANG;
        while !self.open.load(Ordering::SeqCst) && Instant::now() < deadline {
            thread::park_timeout(MS);
        }
    }

    fn wait_until_entered(&self) {
        wait_for("the call", || self.entered.load(Ordering::SeqCst));
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// A subscription whose handler waits at a gate.
fn gated(topic: &Topic<u64>) -> (Gate, Subscription) {
    let gate = Gate::default();
    let inner = gate.clone();
    let subscribed = topic.subscribe("s", move |_| {
        inner.pass();
        Ok(())
    });
    (gate, subscribed.expect("subscribes"))
}

// What it refuses.

#[test]
fn afterwards_everything_is_refused_and_payloads_come_back() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<String>("t").open().unwrap();
    complete(broker.drain(HANG));
    assert!(broker.is_closed());
    let payload = || "mine".to_owned();
    let back = |answer: Result<_, PublishError<String>>| match answer {
        Err(PublishError::Closed(payload)) => payload,
        other => panic!("{other:?}"),
    };
    assert_eq!(back(topic.publish(payload()).map(drop)), "mine");
    assert_eq!(back(topic.publish_after(MS, payload()).map(drop)), "mine");
    assert_eq!(
        back(topic.message(payload()).key("k").publish().map(drop)),
        "mine"
    );
    assert_eq!(back(broker.publish("t", payload()).map(drop)), "mine");
    let partial = topic.publish_batch([payload(), payload()]).unwrap_err();
    assert_eq!(partial.accepted, 0);
    assert!(matches!(partial.error, PublishError::Closed(_)));
    assert_eq!(partial.into_inner(), ["mine", "mine"]);

    let refused = topic.subscribe("s", |_| Ok(())).unwrap_err();
    assert_eq!(refused, SubscribeError::Closed);
    let batches = topic
        .subscription("s")
        .subscribe_batches(Batched::of(2), |_| Ok(()));
    assert_eq!(batches.unwrap_err(), SubscribeError::Closed);
    assert_eq!(
        broker.topic::<u8>("new").open().unwrap_err(),
        OpenError::Closed
    );
    assert!(broker.observe(|_| ()).is_err());
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.topic("t").unwrap().published, 0);
    assert_eq!(metrics.topic("t").unwrap().rejected, 6);
}

#[test]
fn publishers_that_wait_for_room_are_woken_with_closed() {
    let broker = threaded(1);
    let topic = broker
        .topic::<u64>("t")
        .capacity(1)
        .lane_capacity(1)
        .overflow(Overflow::Block { timeout: HANG * 4 })
        .open()
        .unwrap();
    let (gate, _s) = gated(&topic);
    topic.publish(0).unwrap();
    gate.wait_until_entered();
    topic.publish(1).unwrap();
    let (answers, answered) = mpsc::channel();
    for _ in 0..3 {
        let (topic, answers) = (topic.clone(), answers.clone());
        thread::spawn(move || answers.send(topic.publish(9)).unwrap());
    }
    let draining = {
        let broker = broker.clone();
        thread::spawn(move || broker.drain(HANG))
    };
    for _ in 0..3 {
        let answer = answered.recv_timeout(HANG).expect("nobody woke it");
        assert!(matches!(answer, Err(PublishError::Closed(9))));
    }
    gate.open();
    let report = complete(draining.join().unwrap());
    assert_eq!((report.published, report.delivered), (2, 2));
    assert_balanced(&broker);
}

// What it finishes.

#[test]
fn pending_batches_are_flushed_in_topics_and_in_lanes() {
    for workers in [0, 1] {
        let broker = Broker::builder().workers(workers).build().unwrap();
        let by_topic = broker
            .topic::<u64>("by-topic")
            .strategy(Batched::of(100).until_full())
            .open()
            .unwrap();
        let by_lane = broker.topic::<u64>("by-lane").open().unwrap();
        let _a = by_topic.subscribe("a", |_| Ok(()));
        let _b = by_lane
            .subscription("b")
            .subscribe_batches(Batched::of(100).until_full(), |_| Ok(()))
            .unwrap();
        by_topic.publish_batch(0..7).unwrap();
        by_lane.publish_batch(0..7).unwrap();
        broker.run_until_idle();
        let report = complete(broker.drain(HANG));
        assert_eq!((report.published, report.delivered), (14, 14));
        assert_balanced(&broker);
    }
}

#[test]
fn queued_work_is_finished_and_retries_and_delays_that_come_due_are_run() {
    let broker = threaded(2);
    let topic = broker
        .topic::<u64>("t")
        .capacity(2_000)
        .retry(Backoff::fixed(MS * 20).max_attempts(2))
        .open()
        .unwrap();
    let _s = topic.subscribe("s", |d| match (d.id().get() % 10, d.attempt()) {
        (0, 1) => Err(Nack::retry("once more")),
        _ => Ok(()),
    });
    topic.publish_batch(0..1_000).unwrap();
    topic.publish_after(MS * 30, 0).unwrap();
    let report = complete(broker.drain(HANG));
    assert_eq!((report.published, report.delivered), (1_001, 1_001));
    assert_eq!(report.dead_lettered + report.cancelled, 0);
    assert!(report.took >= MS * 20, "it waited for the retries");
    assert!(report.took < HANG / 2, "and for nothing else");
    assert_balanced(&broker);
}

#[test]
fn by_a_manual_clock_it_runs_what_is_due_and_cancels_what_is_not() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .retry(Backoff::fixed(MS))
        .open()
        .unwrap();
    let log = Log::new();
    let calls = log.clone();
    let _s = topic.subscribe("s", move |d| {
        calls.push((d.id().get(), d.attempt()));
        match (d.id().get(), d.attempt()) {
            (1, 1) => Err(Nack::retry("soon")),
            (2, _) => Err(Nack::retry_after(HOUR, "some day")),
            _ => Ok(()),
        }
    });
    topic.publish_batch(0..2).unwrap();
    broker.run_until_idle();
    topic.publish_after(HOUR, 2).unwrap();
    clock.advance(MS);
    let report = incomplete(broker.drain(HANG));
    assert_eq!(log.take(), [(1, 1), (2, 1), (1, 2)]);
    assert_eq!((report.delivered, report.cancelled), (1, 1));
    assert_eq!((report.messages_dropped, report.cut_off), (1, 2));
    assert_eq!(report.remaining, 0);
    assert!(topic.dead_letters().is_empty(), "cut off is not failed");
    advance(&broker, &clock, HOUR * 2);
    assert_eq!(log.len(), 0, "nothing comes back after the end");
    assert_balanced(&broker);
}

#[test]
fn retries_due_only_after_the_deadline_are_cancelled_without_waiting_for_it() {
    let broker = threaded(1);
    let topic = broker
        .topic::<u64>("t")
        .retry(Backoff::fixed(HOUR))
        .open()
        .unwrap();
    let sub = topic.subscribe("s", |_| Err(Nack::retry("later"))).unwrap();
    topic.publish_batch(0..5).unwrap();
    topic.publish_after(HOUR, 5).unwrap();
    wait_for("the attempts", || sub.metrics().counts.awaiting_retry == 5);
    let report = incomplete(broker.drain(HANG));
    assert!(report.took < HANG / 2, "there was nothing to wait for");
    assert_eq!((report.cancelled, report.messages_dropped), (5, 1));
    assert_eq!((report.cut_off, report.remaining), (6, 0));
    assert_eq!(report.dead_lettered, 0);
    assert_balanced(&broker);
}

#[test]
fn what_is_retained_for_nobody_is_reported() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .no_subscribers(NoSubscribers::Retain)
        .open()
        .unwrap();
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    let report = incomplete(broker.drain(HANG));
    assert_eq!((report.messages_dropped, report.cut_off), (3, 3));
    assert_balanced(&broker);
}

#[test]
fn a_broker_that_says_it_is_closed_accepts_nothing_in_any_topic() {
    let (broker, _clock) = manual();
    let open = |n| broker.topic::<u64>(&format!("t{n}")).open().unwrap();
    let topics: Vec<_> = (0..2_000).map(open).collect();
    let drainer = {
        let broker = broker.clone();
        thread::spawn(move || broker.drain(HANG))
    };
    while !broker.is_closed() {
        std::hint::spin_loop();
    }
    let accepted = topics.iter().filter(|topic| topic.publish(1).is_ok());
    assert_eq!(accepted.count(), 0);
    assert!(broker.topic::<u64>("late").open().is_err());
    complete(drainer.join().unwrap());
}

#[test]
fn a_failure_that_the_drain_itself_caused_is_cancelled() {
    for workers in [0, 1] {
        let broker = Broker::builder().workers(workers).build().unwrap();
        let topic = broker
            .topic::<u64>("in")
            .retry(Backoff::none())
            .open()
            .unwrap();
        let out = broker.topic::<u64>("out").open().unwrap();
        let gate = Gate::default();
        if workers == 0 {
            gate.open();
        }
        let (inner, forward) = (gate.clone(), out.clone());
        let _s = topic.subscribe("forward", move |d| {
            inner.pass();
            // Refused from the first moment of the drain on.
            forward.publish(*d.payload())?;
            Ok(())
        });
        let _other = topic.subscribe("unrelated", |_| Err(Nack::retry("a failure of its own")));
        topic.publish_batch(0..3).unwrap();
        if workers > 0 {
            gate.wait_until_entered();
        }
        let draining = {
            let broker = broker.clone();
            thread::spawn(move || broker.drain(HANG))
        };
        wait_for("the drain", || broker.is_closed());
        gate.open();
        // It is the drain that cut them off, and it says so.
        let report = incomplete(draining.join().unwrap());
        assert_eq!(
            (report.cancelled, report.cut_off, report.remaining),
            (3, 3, 0)
        );
        assert_eq!(report.dead_lettered, 3);
        let letters = topic.dead_letters().list();
        assert!(
            letters
                .iter()
                .all(|letter| letter.subscription() == "unrelated")
        );
        assert_balanced(&broker);
    }
}

#[test]
fn what_an_unsubscribe_cancels_meanwhile_is_not_what_the_drain_cut_off() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let doomed = topic
        .subscription("doomed")
        .pull(millstream::Pull::default());
    let doomed = Arc::new(Mutex::new(Some(doomed.unwrap())));
    let inner = doomed.clone();
    let _s = topic.subscribe("s", move |_| {
        drop(inner.lock().unwrap().take());
        Ok(())
    });
    topic.publish_batch(0..3).unwrap();
    let report = complete(broker.drain(HANG));
    assert_eq!((report.cancelled, report.delivered), (3, 3));
    assert_balanced(&broker);
}

#[test]
fn a_delivery_that_ends_well_after_the_deadline_was_not_cut_off() {
    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let (gate, _s) = gated(&topic);
    topic.publish(1).unwrap();
    gate.wait_until_entered();
    let draining = {
        let broker = broker.clone();
        thread::spawn(move || broker.drain(Duration::ZERO))
    };
    wait_for("the stop", || broker.observe(|_| ()).is_err());
    gate.open();
    let report = match draining.join().unwrap() {
        Ok(report) => complete(Ok(report)),
        // The machine was too busy for the handler to return in time.
        late => incomplete(late),
    };
    assert_eq!(report.delivered, 1 - report.remaining);
    assert_eq!(report.cut_off, report.remaining);
}

#[test]
fn delayed_and_buffered_messages_are_in_the_report_as_far_as_they_were_accepted() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.publish(0).unwrap();
    topic.publish_after(HOUR, 1).unwrap();
    let mut buffer = topic.buffered(Batched::of(8)).unwrap();
    buffer.publish(2).unwrap();
    let report = incomplete(broker.drain(HANG));
    assert_eq!((report.published, report.delivered), (2, 1));
    assert_eq!((report.messages_dropped, report.cut_off), (1, 1));
    // What was only held is handed back.
    assert_eq!(buffer.flush().unwrap_err().into_inner(), [2.into()]);
    assert_balanced(&broker);
}

// Its deadline.

#[test]
fn the_deadline_holds_on_the_callers_own_thread() {
    let broker = Broker::builder().workers(0).build().unwrap();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| {
        thread::sleep(MS);
        Ok(())
    });
    // A second's work.
    topic.publish_batch(0..1_000).unwrap();
    let report = incomplete(broker.drain(5 * MS));
    assert!(report.delivered < 1_000, "{report}");
    assert_eq!(report.cut_off, 1_000 - report.delivered);
    assert_balanced(&broker);
}

#[test]
fn the_deadline_holds_against_a_handler_that_does_not_return() {
    let broker = threaded(2);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let (gate, _s) = gated(&topic);
    topic.publish_batch(0..4).unwrap();
    gate.wait_until_entered();
    let began = Instant::now();
    let report = incomplete(broker.drain(MS * 50));
    let took = began.elapsed();
    assert!(took >= MS * 50, "it gave the handler its time: {took:?}");
    // The handler is still inside: it was not waited for.
    assert!(report.remaining >= 1, "{report}");
    assert_eq!(report.cut_off, 4);
    assert_eq!(report.published, 4);
    assert_eq!(broker.drain(HANG).unwrap_err().report(), &report);
    // What a handler does afterwards is counted all the same.
    gate.open();
    // An end is counted before its place is given back: see both.
    wait_for("the end", || {
        let metrics = broker.metrics();
        metrics.deliveries().open() == 0 && metrics.balance().is_ok()
    });
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.cancelled), (1, 3));
}

#[test]
fn a_deadline_of_zero_cuts_off_at_once_and_an_endless_one_ends_with_the_work() {
    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let s = topic.subscribe("s", |_| Err(Nack::retry_after(HOUR, "later")));
    let s = s.unwrap();
    topic.publish_batch(0..5).unwrap();
    // A worker that has one in hand would be given a moment, which may be too short.
    wait_for("the attempts", || s.metrics().counts.awaiting_retry == 5);
    let began = Instant::now();
    let report = incomplete(broker.drain(Duration::ZERO));
    assert!(began.elapsed() < HANG, "there is an hour of work");
    assert_eq!((report.published, report.remaining), (5, 0));
    assert_balanced(&broker);

    let broker = threaded(1);
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.publish_batch(0..5).unwrap();
    let report = complete(broker.drain(Duration::MAX));
    assert_eq!(report.delivered, 5);
    assert_balanced(&broker);
}

// Asking more than once.

#[test]
fn a_second_drain_returns_the_same_report() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.publish_batch(0..5).unwrap();
    let first = complete(broker.drain(HANG));
    assert_eq!(first.delivered, 5);
    assert_eq!(broker.drain(Duration::ZERO), Ok(first));
    assert_balanced(&broker);
}

#[test]
fn two_threads_that_drain_get_one_report() {
    for _ in 0..20 {
        let broker = threaded(2);
        let topic = broker.topic::<u64>("t").open().unwrap();
        let _s = topic.subscribe("s", |_| Ok(()));
        topic.publish_batch(0..500).unwrap();
        let barrier = Arc::new(Barrier::new(2));
        let drains = [(); 2].map(|()| {
            let (broker, barrier) = (broker.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                complete(broker.drain(HANG))
            })
        });
        let [first, second] = drains.map(|drain| drain.join().unwrap());
        assert_eq!(first, second);
        assert_eq!(first.delivered, 500);
        assert_balanced(&broker);
    }
}

// Under fire.

#[test]
fn every_receipt_given_out_while_it_begins_is_in_the_report() {
    for (round, overflow) in [
        Overflow::Reject,
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Block { timeout: HANG },
    ]
    .into_iter()
    .cycle()
    .take(48)
    .enumerate()
    {
        let broker = threaded(2);
        let topic = broker
            .topic::<u64>("t")
            .capacity(64)
            .overflow(overflow)
            .open()
            .unwrap();
        let handled = Arc::new(AtomicU64::new(0));
        let counter = handled.clone();
        let _s = topic.subscribe("s", move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let publishers: Vec<_> = (0..3)
            .map(|who| {
                let topic = topic.clone();
                thread::spawn(move || hammer(&topic, who))
            })
            .collect();
        wait_for("some traffic", || handled.load(Ordering::Relaxed) > 200);
        let report = complete(broker.drain(HANG));
        let accepted: u64 = publishers
            .into_iter()
            .map(|publisher| publisher.join().unwrap())
            .sum();
        assert_eq!(report.published, accepted, "round {round}, {overflow:?}");
        assert_eq!(report.delivered, report.made);
        assert_eq!(report.delivered, handled.load(Ordering::Relaxed));
        assert_balanced(&broker);
    }
}

/// Publishes in every way until it is refused for good; answers how many
/// messages were accepted.
fn hammer(topic: &Topic<u64>, who: u64) -> u64 {
    let mut accepted = 0;
    for round in who.. {
        let refused = match round % 3 {
            0 => match topic.publish(round) {
                Ok(_) => {
                    accepted += 1;
                    None
                }
                Err(error) => Some(matches!(error, PublishError::Closed(_))),
            },
            1 => match topic.publish_batch([round; 5]) {
                Ok(receipt) => {
                    accepted += receipt.accepted() as u64;
                    None
                }
                Err(partial) => {
                    accepted += partial.accepted as u64;
                    Some(matches!(partial.error, PublishError::Closed(_)))
                }
            },
            _ => match topic.publish_after(Duration::from_micros(50), round) {
                Ok(_) => {
                    accepted += 1;
                    None
                }
                Err(error) => Some(matches!(error, PublishError::Closed(_))),
            },
        };
        if refused == Some(true) {
            break;
        }
    }
    accepted
}

#[test]
fn subscriptions_and_topics_made_while_it_begins_are_refused_or_drained() {
    for _ in 0..30 {
        let broker = threaded(2);
        let topic = broker.topic::<u64>("t").open().unwrap();
        let (captured, rounds) = (Arc::new(()), Arc::new(AtomicU64::new(0)));
        let maker = {
            let (broker, topic) = (broker.clone(), topic.clone());
            let (captured, rounds) = (captured.clone(), rounds.clone());
            thread::spawn(move || {
                for round in 0.. {
                    rounds.store(round, Ordering::SeqCst);
                    let inner = captured.clone();
                    let made = topic.subscribe(&format!("s{round}"), move |_| {
                        let _ = &inner;
                        Ok(())
                    });
                    match made {
                        Ok(sub) if round % 2 == 0 => sub.detach(),
                        Ok(sub) => drop(sub.unsubscribe(Unsubscribe::Cancel)),
                        Err(error) => {
                            assert_eq!(error, SubscribeError::Closed);
                            break;
                        }
                    }
                    let opened = broker.topic::<u64>(&format!("t{round}")).open();
                    match opened {
                        Ok(topic) => drop(topic.publish(round)),
                        Err(error) => {
                            assert_eq!(error, OpenError::Closed);
                            break;
                        }
                    }
                    // Refused as soon as the drain has begun.
                    let _ = topic.publish(round);
                    if round > 20 {
                        // On a busy machine the drain may come late, and each
                        // message goes to every subscription made until then.
                        thread::park_timeout(MS);
                    }
                }
            })
        };
        wait_for("some traffic", || rounds.load(Ordering::SeqCst) > 5);
        let report = complete(broker.drain(HANG));
        maker.join().unwrap();
        assert_eq!(report.delivered + report.cancelled, report.made);
        assert_balanced(&broker);
        drop((broker, topic));
        assert_eq!(Arc::strong_count(&captured), 1);
    }
}

// Without a drain.

#[test]
fn dropping_the_broker_cancels_what_is_left_and_frees_what_was_captured() {
    for workers in [0, 1, 2] {
        let broker = Broker::builder().workers(workers).build().unwrap();
        let topic = broker.topic::<Arc<()>>("t").open().unwrap();
        let (captured, payload) = (Arc::new(()), Arc::new(()));
        let inner = captured.clone();
        let sub = topic.subscribe("s", move |d| {
            let _ = &inner;
            match d.id().get() % 3 {
                0 => Err(Nack::retry_after(HOUR, "later")),
                1 => Err(Nack::dead_letter("never")),
                _ => Ok(()),
            }
        });
        for _ in 0..30 {
            topic.publish(payload.clone()).unwrap();
        }
        topic.publish_after(HOUR, payload.clone()).unwrap();
        broker.run_until_idle();
        drop(broker);
        let closed = topic.publish(payload.clone());
        assert!(matches!(closed, Err(PublishError::Closed(_))));
        drop(closed);
        assert_eq!(Arc::strong_count(&captured), 1, "{workers} workers");
        topic.metrics().balance().unwrap();
        drop((sub, topic));
        assert_eq!(Arc::strong_count(&payload), 1, "{workers} workers");
    }
}

#[test]
fn after_a_drain_and_with_all_handles_gone_nothing_captured_is_left() {
    for workers in [0, 2] {
        let broker = Broker::builder().workers(workers).build().unwrap();
        let captured = Arc::new(());
        let topic = broker
            .topic::<Arc<()>>("t")
            .retry(Backoff::none())
            .open()
            .unwrap();
        let held = || captured.clone();
        let (single, batch, observer) = (held(), held(), held());
        let (own_topic, own_broker) = (topic.clone(), broker.clone());
        // Handlers that hold on to their own topic and, weakly or not, to each
        // other's: a cycle through the engine unless it lets go of handlers.
        let a = topic.subscribe("a", move |_| {
            let _ = (&single, &own_topic);
            Err(Nack::retry("dead"))
        });
        let b = topic
            .subscription("b")
            .subscribe_batches(Batched::of(7).until_full(), move |_| {
                let _ = &batch;
                Ok(())
            });
        let watching = broker.observe(move |_| {
            let _ = &observer;
        });
        for _ in 0..20 {
            topic.publish(held()).unwrap();
        }
        let report = complete(own_broker.drain(HANG));
        assert_eq!((report.delivered, report.dead_lettered), (20, 20));
        assert_balanced(&broker);
        drop((own_broker, broker));
        drop((a, b, watching));
        drop(topic);
        assert_eq!(Arc::strong_count(&captured), 1, "{workers} workers");
    }
}

#[test]
fn a_drain_of_an_idle_broker_is_immediate() {
    let broker = threaded(2);
    // Held to less than its deadline by `complete`.
    let report = complete(broker.drain(HANG));
    assert_eq!(report.published, 0);
    assert_rests_balanced(&broker);
}

#[test]
fn a_drain_by_hand_waits_for_the_thread_that_runs_the_broker() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (entered, is_inside) = mpsc::channel();
    let slow = move |_: &millstream::Delivery<'_, u32>| {
        let _ = entered.send(());
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    };
    topic.subscribe("slow", slow).expect("subscribes").detach();
    topic.publish_batch(0..4).expect("there is room");
    let runner = broker.clone();
    let runner = std::thread::spawn(move || runner.run_until_idle());
    is_inside.recv().expect("it is called");
    let report = broker.drain(HANG).expect("in time");
    runner.join().expect("it did not panic");
    assert_eq!(report.delivered, 4);
}
