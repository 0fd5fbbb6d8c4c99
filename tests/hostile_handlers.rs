//! Handlers are hostile: a handler, and any other code of the user's that the
//! engine calls, may panic, block, publish to its own full topic, subscribe,
//! unsubscribe itself, swap and drain. No worker dies, nothing deadlocks, nobody
//! else pays for it, and the books balance.

use std::error::Error;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::error::{DrainError, SettingError};
use millstream::event::Observation;
use millstream::retry::{Class, Decision, FailedAttempt, RetryPolicy};
use millstream::strategy::{Backlog, Plan, Strategy};
use millstream::{
    Backoff, Batched, Broker, Immediate, Nack, Overflow, PublishError, Subscription, Topic,
    Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);

/// Panics without a word from the panic hook, which would only fill the output.
fn quiet_panic() -> ! {
    resume_unwind(Box::new("a quiet panic"))
}

/// Runs `body` on a thread of its own: what hangs fails, and doesn't hang the
/// test.
fn within<R: Send + 'static>(limit: Duration, body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let answer = body();
        // Nobody listens any more if the limit has passed.
        let _ = done.send(answer);
    });
    match finished.recv_timeout(limit) {
        Ok(answer) => {
            thread.join().expect("it has answered");
            answer
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => unreachable!("it would have answered"),
        },
    }
}

// Panics, wherever the engine calls out.

#[test]
fn a_handler_that_panics_is_retried_and_then_dead_lettered_with_the_text() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .retry(Backoff::fixed(MS).max_attempts(2))
        .open()
        .unwrap();
    let _s = topic.subscribe("s", |_| quiet_panic()).unwrap();
    let others = Log::new();
    let log = others.clone();
    let _other = topic.subscribe("other", move |d| {
        log.push(*d.payload());
        Ok(())
    });
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    advance(&broker, &clock, MS);

    let letters = topic.dead_letters().list();
    assert_eq!(letters.len(), 3);
    for letter in &letters {
        assert_eq!(letter.subscription(), "s");
        assert_eq!(letter.attempts(), 2);
        assert_eq!(letter.error(), Some("a quiet panic"));
        assert_eq!(letter.reason(), DeadReason::Exhausted);
    }
    assert_eq!(others.take(), [0, 1, 2], "the neighbor noticed nothing");
    assert_balanced(&broker);
}

#[test]
fn panics_and_errors_among_those_called_in_a_row_are_of_their_own_deliveries_alone() {
    const MESSAGES: u64 = 300;
    // By a clock that stands still calls are as short as can be, and come 32 in a row.
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let calls = Log::new();
    let log = calls.clone();
    let subscription = topic
        .subscription("s")
        .retry(Backoff::fixed(MS).max_attempts(1));
    let _s = subscription.subscribe(move |d| {
        log.push(*d.payload());
        match d.payload() % 7 {
            3 | 4 => quiet_panic(),
            6 => Err(Nack::retry("an error")),
            _ => Ok(()),
        }
    });
    topic.publish_batch(0..MESSAGES).unwrap();
    broker.run_until_idle();
    assert!(
        calls.take().into_iter().eq(0..MESSAGES),
        "each once, in order"
    );

    let letters = topic.dead_letters().list().into_iter();
    let failed: Vec<_> = letters
        .map(|letter| (*letter.payload(), letter.error().map(str::to_owned)))
        .collect();
    let expected: Vec<_> = (0..MESSAGES)
        .filter_map(|payload| match payload % 7 {
            3 | 4 => Some((payload, Some("a quiet panic".to_owned()))),
            6 => Some((payload, Some("an error".to_owned()))),
            _ => None,
        })
        .collect();
    assert_eq!(failed, expected);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered + counts.failed, MESSAGES);
}

#[test]
fn a_batch_handler_that_panics_fails_every_element_and_each_comes_back_alone() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .retry(Backoff::fixed(MS))
        .open()
        .unwrap();
    let sizes = Log::new();
    let log = sizes.clone();
    let _s = topic
        .subscription("s")
        .subscribe_batches(Batched::of(4), move |batch| {
            log.push(batch.len());
            if batch.len() > 1 {
                quiet_panic();
            }
            Ok(())
        })
        .unwrap();
    topic.publish_batch(0..4).unwrap();
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(sizes.take(), [4, 1, 1, 1, 1]);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.failed), (4, 4));
}

struct Unplanned(Arc<AtomicUsize>);

impl Strategy for Unplanned {
    fn plan(&self, _: &Backlog) -> Plan {
        self.0.fetch_add(1, Ordering::Relaxed);
        quiet_panic()
    }

    fn name(&self) -> &str {
        "unplanned"
    }
}

#[test]
fn a_strategy_that_panics_delivers_everything() {
    let (broker, _clock) = manual();
    let asked = Arc::new(AtomicUsize::new(0));
    let topic = broker
        .topic::<u64>("t")
        .strategy(Unplanned(asked.clone()))
        .open()
        .unwrap();
    let _s = topic.subscribe("s", |_| Ok(())).unwrap();
    let hooks = Log::new();
    let log = hooks.clone();
    let _o = broker.observe(move |event| {
        if event.name() == "hook_panicked" {
            log.push(event.to_string());
        }
    });
    topic.publish_batch(0..5).unwrap();
    broker.run_until_idle();
    assert!(asked.load(Ordering::Relaxed) > 0);
    assert!(hooks.len() > 0, "the panic is told");
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 5);
}

struct Undecided;

impl RetryPolicy for Undecided {
    fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
        quiet_panic()
    }
}

#[test]
fn a_retry_policy_or_a_classifier_that_panics_loses_nothing() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").retry(Undecided).open().unwrap();
    let _policy = topic.subscribe("policy", |_| Err(Nack::retry("no")));
    let _classifier = topic
        .subscription("classifier")
        .retry(Backoff::fixed(MS).classify(|_| -> Class { quiet_panic() }))
        .subscribe(|_| Err(Nack::retry("no")))
        .unwrap();
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    let letters = topic.dead_letters().list();
    assert_eq!(letters.len(), 6);
    for letter in letters {
        assert_eq!(letter.reason(), DeadReason::PolicyPanicked);
    }
    assert_balanced(&broker);
}

#[test]
fn an_observer_that_panics_is_counted_and_stops_neither_events_nor_deliveries() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(())).unwrap();
    let seen = Log::new();
    let log = seen.clone();
    let _bad = broker.observe(|_| quiet_panic()).unwrap();
    let _good = broker.observe(move |event| log.push(event.name())).unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    let metrics = assert_balanced(&broker);
    let seen = seen.take();
    assert!(seen.contains(&"delivered"), "{seen:?}");
    assert_eq!(metrics.observer_panics, seen.len() as u64);
    assert_eq!(metrics.deliveries().delivered, 1);
}

struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        if !std::thread::panicking() {
            quiet_panic();
        }
    }
}

#[test]
fn a_payload_that_panics_when_dropped_harms_nobody_wherever_it_is_dropped() {
    let (broker, clock) = manual();
    let drops = Arc::new(AtomicUsize::new(0));
    let bomb = || Bomb(drops.clone());
    let topic = broker
        .topic("t")
        .capacity(4)
        .overflow(Overflow::DropOldest)
        .dead_letter_capacity(1)
        .retry(Backoff::none())
        .open()
        .unwrap();
    // Unrouted.
    topic.publish(bomb()).unwrap();
    broker.run_until_idle();
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    let even = topic
        .subscribe("even", |d| match d.id().get() % 2 {
            0 => Ok(()),
            _ => Err(Nack::retry("odd")),
        })
        .unwrap();
    // Evicted from the queue by the publisher: six, of which four share a batch, with
    // which they go.
    for _ in 0..10 {
        topic.publish(bomb()).unwrap();
    }
    assert_eq!(drops.load(Ordering::Relaxed), 5);
    // Delivered and dead-lettered. One letter stays in the store, and with it
    // the batch that its message belongs to.
    broker.run_until_idle();
    assert_eq!(drops.load(Ordering::Relaxed), 9);
    assert_eq!(topic.dead_letters().purge(|_| true), 1);
    assert_eq!(drops.load(Ordering::Relaxed), 11);
    // Delayed, and then delivered, unrouted or dropped by the end.
    topic.publish_after(MS, bomb()).unwrap();
    advance(&broker, &clock, MS);
    topic.publish(bomb()).unwrap();
    even.unsubscribe(Unsubscribe::Cancel);
    topic.publish_after(MS, bomb()).unwrap();
    let report = *broker.drain(Duration::ZERO).unwrap_err().report();
    assert_eq!(report.published, 14);
    assert_balanced(&broker);
    drop((topic, broker));
    assert_eq!(drops.load(Ordering::Relaxed), 14, "each exactly once");
}

#[derive(Debug)]
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        quiet_panic()
    }
}

impl Error for Unprintable {}

#[derive(Debug)]
struct Undroppable;

impl fmt::Display for Undroppable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error that won't go quietly")
    }
}

impl Error for Undroppable {}

impl Drop for Undroppable {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            quiet_panic();
        }
    }
}

/// Fails three messages twice each with an error, in a handler for single
/// deliveries and in one for batches.
fn fail_with<E: Error + Send + Sync + 'static>(error: fn() -> E) {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .retry(Backoff::fixed(MS).max_attempts(2))
        .open()
        .unwrap();
    let _single = topic
        .subscribe("single", move |_| Err(Nack::from(error())))
        .unwrap();
    let _whole = topic
        .subscription("whole")
        .subscribe_batches(Batched::of(3), move |_| Err(Nack::from(error())))
        .unwrap();
    let _each = topic
        .subscription("each")
        .subscribe_batches(Batched::of(3), move |batch| {
            (0..batch.len()).for_each(|at| {
                batch.nack(at, Nack::from(error()));
            });
            Ok(())
        })
        .unwrap();
    // The nacks of a handler that panics in the end are dropped unused.
    let _panics = topic
        .subscription("panics")
        .subscribe_batches(Batched::of(3), move |batch| {
            batch.nack(0, Nack::from(error()));
            quiet_panic()
        })
        .unwrap();
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    let letters = topic.dead_letters().list();
    for name in ["single", "whole", "each", "panics"] {
        let of = letters
            .iter()
            .filter(|letter| letter.subscription() == name);
        assert_eq!(of.clone().count(), 3, "{name}");
        assert!(of.clone().all(|letter| letter.attempts() == 2), "{name}");
    }
    assert_balanced(&broker);
}

#[test]
fn an_error_that_panics_when_printed_is_a_failure_like_any_other() {
    fail_with(|| Unprintable);
}

#[test]
fn an_error_that_panics_when_dropped_is_a_failure_like_any_other() {
    fail_with(|| Undroppable);
}

/// A strategy that replaces itself, so that the engine is the last to hold it.
struct Fleeting {
    topic: Topic<u64>,
    _bomb: Bomb,
}

impl Strategy for Fleeting {
    fn plan(&self, backlog: &Backlog) -> Plan {
        self.topic.set_strategy(Immediate).unwrap();
        Immediate.plan(backlog)
    }

    fn name(&self) -> &str {
        "fleeting"
    }
}

impl RetryPolicy for Fleeting {
    fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
        self.topic.set_retry(Backoff::none()).unwrap();
        Decision::RetryAfter(MS)
    }
}

#[test]
fn a_strategy_or_policy_that_panics_when_dropped_loses_nothing() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let drops = Arc::new(AtomicUsize::new(0));
    let fleeting = || Fleeting {
        topic: topic.clone(),
        _bomb: Bomb(drops.clone()),
    };
    topic.set_strategy(fleeting()).unwrap();
    topic.set_retry(fleeting()).unwrap();
    let _s = topic
        .subscribe("s", |d| match d.attempt() {
            1 => Err(Nack::retry("once")),
            _ => Ok(()),
        })
        .unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(drops.load(Ordering::Relaxed), 2);
    advance(&broker, &clock, MS);
    topic.publish(2).unwrap();
    broker.run_until_idle();
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.dead_lettered), (1, 1));
}

#[test]
fn an_observer_that_takes_itself_off_and_panics_when_dropped_stops_no_other() {
    within(HANG, || {
        let broker = threaded(1);
        let topic = broker.topic::<u64>("t").open().unwrap();
        let _s = topic.subscribe("s", |_| Ok(())).unwrap();
        let drops = Arc::new(AtomicUsize::new(0));
        let own = Arc::new(Mutex::new(None));
        let (mine, bomb) = (own.clone(), Bomb(drops.clone()));
        let bad = broker.observe(move |_| {
            let _ = &bomb;
            drop::<Option<Observation>>(mine.lock().unwrap().take());
        });
        *own.lock().unwrap() = Some(bad.unwrap());
        let seen = Log::new();
        let log = seen.clone();
        let _good = broker.observe(move |event| log.push(event.name()));
        for round in 0..3 {
            topic.publish(round).unwrap();
            assert_rests_balanced(&broker);
        }
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        let delivered = seen
            .take()
            .iter()
            .filter(|name| **name == "delivered")
            .count();
        assert_eq!(delivered, 3);
    });
}

/// A panic whose own payload panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            quiet_panic();
        }
    }
}

#[test]
fn a_panic_whose_payload_panics_costs_one_attempt_and_no_more() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .retry(Backoff::none())
        .open()
        .unwrap();
    let _s = topic
        .subscribe("s", |d| match d.id().get() {
            1 => resume_unwind(Box::new(Grenade)),
            _ => Ok(()),
        })
        .unwrap();
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.dead_lettered), (2, 1));
}

#[test]
fn a_captured_value_that_panics_when_dropped_does_not_stop_the_unsubscribe() {
    let (broker, _clock) = manual();
    let drops = Arc::new(AtomicUsize::new(0));
    let topic = broker.topic::<u64>("t").open().unwrap();
    let bomb = Bomb(drops.clone());
    let sub = topic
        .subscribe("s", move |_| {
            let _ = &bomb;
            Ok(())
        })
        .unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    let ended = sub.unsubscribe(Unsubscribe::Cancel);
    assert!(matches!(ended, Unsubscribed::Ended(last) if last.counts.delivered == 1));
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    assert_balanced(&broker);
}

#[test]
fn workers_survive_ten_thousand_panics() {
    within(HANG, || {
        let broker = threaded(2);
        let topic = broker
            .topic::<u64>("t")
            .overflow(Overflow::Block { timeout: HANG })
            .retry(Backoff::fixed(Duration::ZERO).max_attempts(2))
            .open()
            .unwrap();
        let _s = topic.subscribe("s", |_| quiet_panic()).unwrap();
        topic.publish_batch(0..5_000).unwrap();
        let counts = assert_rests_balanced(&broker).deliveries();
        assert_eq!((counts.attempts, counts.failed), (10_000, 10_000));
        assert_eq!(counts.dead_lettered, 5_000);

        // Both workers are still there: two handlers wait for each other.
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let meet = |name: &str| {
            let (topic, barrier) = (broker.topic::<u64>(name).open().unwrap(), barrier.clone());
            let sub = topic.subscribe("meet", move |_| {
                barrier.wait();
                Ok(())
            });
            sub.unwrap().detach();
            topic.publish(1).unwrap();
        };
        meet("left");
        meet("right");
        assert_rests_balanced(&broker);
    });
}

// Publishing from inside a handler.

/// What a handler that publishes to its own topic of two places, when it is
/// full, is answered.
fn publish_to_own_full_topic(broker: &Broker, overflow: Overflow) -> (usize, usize, usize) {
    let topic = broker
        .topic::<u64>("own")
        .capacity(2)
        .overflow(overflow)
        .open()
        .unwrap();
    let answers = Log::new();
    let (log, own) = (answers.clone(), topic.clone());
    let _s = topic
        .subscribe("s", move |d| {
            if *d.payload() == 0 {
                // More than fit: the worker that would make room is this one.
                (0..4).for_each(|_| log.push(own.publish(1)));
            }
            Ok(())
        })
        .unwrap();
    topic.publish(0).unwrap();
    if broker.run_until_idle() > 0 {
        assert_balanced(broker);
    } else {
        assert_rests_balanced(broker);
    }
    let answers = answers.take();
    assert_eq!(answers.len(), 4);
    let full = |answer: &&_| matches!(answer, Err(PublishError::Full(1)));
    let receipts = || answers.iter().flatten();
    (
        answers.iter().filter(full).count(),
        receipts().filter(|receipt| receipt.is_dropped()).count(),
        receipts().map(|receipt| receipt.evicted() as usize).sum(),
    )
}

#[test]
fn a_handler_may_publish_to_its_own_full_topic_under_every_policy() {
    let answers = |overflow| {
        let (broker, _clock) = manual();
        publish_to_own_full_topic(&broker, overflow)
    };
    assert_eq!(answers(Overflow::Reject), (2, 0, 0));
    assert_eq!(answers(Overflow::DropNewest), (0, 2, 0));
    assert_eq!(answers(Overflow::DropOldest), (0, 0, 2));
}

#[test]
fn inside_a_handler_block_answers_full_at_once() {
    let began = Instant::now();
    let full = within(HANG, || {
        publish_to_own_full_topic(&threaded(1), Overflow::Block { timeout: HANG * 2 }).0
    });
    assert_eq!(full, 2, "one worker: nobody makes room meanwhile");
    assert!(began.elapsed() < HANG);
}

/// Two topics whose handlers publish to each other until both are full.
fn ping_pong(workers: usize, overflow: Overflow) {
    within(HANG, move || {
        let broker = threaded(workers);
        let open = |name: &str| {
            let builder = broker.topic::<u64>(name).capacity(4).lane_capacity(2);
            builder.overflow(overflow).open().unwrap()
        };
        let (a, b) = (open("a"), open("b"));
        let refused = Arc::new(AtomicUsize::new(0));
        let forward = |from: &Topic<u64>, to: &Topic<u64>| {
            let (to, refused) = (to.clone(), refused.clone());
            let sub = from.subscribe("forward", move |d| {
                let left = *d.payload();
                // Twice as many each time: both topics are soon full.
                for _ in 0..2 {
                    if left > 0 && to.publish(left - 1).is_err() {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            });
            sub.unwrap().detach();
        };
        forward(&a, &b);
        forward(&b, &a);
        let publishers: Vec<_> = [&a, &b]
            .into_iter()
            .map(|topic| {
                let topic = topic.clone();
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        // Refusals are what this is about.
                        let _ = topic.publish(8);
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().unwrap();
        }
        let metrics = assert_rests_balanced(&broker);
        assert!(metrics.topics.iter().all(|topic| topic.queued == 0));
        let lost = metrics
            .topics
            .iter()
            .map(|topic| topic.rejected + topic.dropped);
        assert!(lost.sum::<u64>() > 0, "the topics have never been full");
    });
}

#[test]
fn a_cycle_of_two_full_topics_does_not_deadlock() {
    for workers in [1, 2] {
        ping_pong(workers, Overflow::Reject);
        ping_pong(workers, Overflow::DropOldest);
        ping_pong(workers, Overflow::DropNewest);
        ping_pong(workers, Overflow::Block { timeout: HANG });
    }
}

// Changing the engine from inside a handler.

/// A slot for a subscription that its own handler ends.
type OwnHandle = Arc<Mutex<Option<Subscription>>>;

fn end_own(own: &OwnHandle, mode: Unsubscribe) {
    let handle = own.lock().unwrap().take();
    if let Some(handle) = handle {
        assert_eq!(handle.unsubscribe(mode), Unsubscribed::Ending);
    }
}

#[test]
fn a_handler_that_unsubscribes_itself_gets_no_further_call_even_within_a_batch() {
    for (mode, cancelled, letters, calls) in [
        (Unsubscribe::Cancel, 7, 0, 3),
        (Unsubscribe::DeadLetter, 0, 7, 3),
        (Unsubscribe::Drain { timeout: HANG }, 0, 0, 10),
    ] {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u64>("t").open().unwrap();
        let own = OwnHandle::default();
        let log = Log::new();
        let (seen, handle) = (log.clone(), own.clone());
        let sub = topic.subscribe("s", move |d| {
            seen.push(d.id().get());
            if d.id().get() == 3 {
                end_own(&handle, mode);
            }
            Ok(())
        });
        *own.lock().unwrap() = Some(sub.unwrap());
        topic.publish_batch(0..10).unwrap();
        broker.run_until_idle();
        topic.publish(10).unwrap();
        broker.run_until_idle();
        assert_eq!(log.len(), calls, "{mode:?}");
        let metrics = assert_balanced(&broker);
        let counts = metrics.deliveries();
        assert_eq!(counts.delivered, calls as u64);
        assert_eq!(
            (counts.cancelled, counts.dead_lettered),
            (cancelled, letters)
        );
        let topic = metrics.topic("t").unwrap();
        assert!(topic.subscriptions.is_empty());
        assert_eq!(topic.unrouted, 1, "what came after found nobody");
    }
}

#[test]
fn a_handler_that_unsubscribes_itself_and_fails_is_not_called_again() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let own = OwnHandle::default();
    let log = Log::new();
    let (seen, handle) = (log.clone(), own.clone());
    let sub = topic.subscribe("s", move |d| {
        seen.push(d.attempt());
        end_own(&handle, Unsubscribe::Cancel);
        Err(Nack::retry("on my way out"))
    });
    *own.lock().unwrap() = Some(sub.unwrap());
    topic.publish(1).unwrap();
    broker.run_until_idle();
    advance(&broker, &clock, Duration::from_secs(3_600));
    assert_eq!(log.take(), [1]);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.failed, counts.cancelled), (1, 1));
}

#[test]
fn a_handler_that_drops_its_own_handle_ends_and_frees_what_it_captured() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let own = OwnHandle::default();
    let captured = Arc::new(());
    let (handle, held) = (own.clone(), captured.clone());
    let sub = topic.subscribe("s", move |_| {
        let _ = &held;
        drop(handle.lock().unwrap().take());
        Ok(())
    });
    *own.lock().unwrap() = Some(sub.unwrap());
    topic.publish_batch(0..5).unwrap();
    broker.run_until_idle();
    assert_eq!(Arc::strong_count(&captured), 1);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.cancelled), (1, 4));
}

#[test]
fn a_handler_may_subscribe_others_open_topics_swap_and_read_metrics() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let (inner, own, seen) = (broker.clone(), topic.clone(), log.clone());
    let _s = topic
        .subscribe("s", move |d| {
            let id = d.id().get();
            let name = format!("child-{id}");
            let calls = seen.clone();
            let child = own.subscribe(&name, move |d| {
                calls.push((id, d.id().get()));
                Ok(())
            })?;
            child.detach();
            let elsewhere = inner.topic::<u64>(&format!("topic-{id}")).open()?;
            elsewhere
                .publish(id)
                .map_err(|error| Nack::dead_letter(error.to_string()))?;
            own.set_strategy(Batched::of(4))?;
            inner.set_strategy(Immediate)?;
            own.set_retry(Backoff::none())?;
            own.flush();
            let metrics = inner.metrics();
            assert_eq!(metrics.topic("t").unwrap().deliveries().in_flight, 1);
            assert_eq!(inner.run_until_idle(), 0, "it runs already");
            assert!(!inner.wait_until_idle(HANG));
            assert!(!d.topic().is_empty());
            Ok(())
        })
        .unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [], "a child hears what comes after it");
    topic.publish(2).unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [(1, 2)]);
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.topics.len(), 3);
    assert_eq!(metrics.topics.iter().map(|t| t.unrouted).sum::<u64>(), 2);
    // A handler that holds its broker keeps it alive until it is ended.
    broker.drain(HANG).unwrap();
}

#[test]
fn handlers_may_end_each_other_at_the_same_time() {
    within(HANG, || {
        for _ in 0..50 {
            let broker = threaded(2);
            let topic = broker.topic::<u64>("t").open().unwrap();
            let (left, right) = (OwnHandle::default(), OwnHandle::default());
            for (name, mine, other) in [("left", &left, &right), ("right", &right, &left)] {
                let victim = other.clone();
                let sub = topic.subscribe(name, move |_| {
                    end_own(&victim, Unsubscribe::Cancel);
                    Ok(())
                });
                *mine.lock().unwrap() = Some(sub.unwrap());
            }
            topic.publish_batch(0..10).unwrap();
            assert_rests_balanced(&broker);
        }
    });
}

#[test]
fn a_drain_inside_a_handler_only_begins_and_one_from_outside_finishes() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let (inner, own, seen) = (broker.clone(), topic.clone(), log.clone());
    let _s = topic
        .subscribe("s", move |_| {
            let drained = inner.drain(HANG);
            assert!(matches!(drained, Err(DrainError::InsideHandler(_))));
            seen.push(own.publish(9));
            Ok(())
        })
        .unwrap();
    topic.publish_batch(0..3).unwrap();
    broker.run_until_idle();
    for answer in log.take() {
        assert!(matches!(answer, Err(PublishError::Closed(9))));
    }
    assert!(broker.is_closed());
    let report = broker.drain(HANG).expect("nothing was cut off");
    assert_eq!((report.published, report.delivered), (3, 3));
    assert_balanced(&broker);
}

#[test]
fn the_last_broker_handle_may_be_dropped_inside_a_handler() {
    for workers in [0, 1, 2] {
        within(HANG, move || {
            let broker = Broker::builder().workers(workers).build().unwrap();
            let topic = broker.topic::<u64>("t").open().unwrap();
            let last = Arc::new(Mutex::new(None));
            let captured = Arc::new(());
            let held = captured.clone();
            let (mine, (dropped, was_dropped)) = (last.clone(), mpsc::channel());
            let sub = topic.subscribe("s", move |_| {
                let _ = &held;
                drop::<Option<Broker>>(mine.lock().unwrap().take());
                // The test may have ended in the meantime.
                let _ = dropped.send(());
                Ok(())
            });
            sub.unwrap().detach();
            *last.lock().unwrap() = Some(broker.clone());
            topic.publish_batch(0..5).unwrap();
            if workers == 0 {
                // This handle is in use while it runs, so it is not the last.
                broker.run_until_idle();
                drop(broker);
            } else {
                drop(broker);
                was_dropped.recv_timeout(HANG).unwrap();
            }
            let closed = topic.publish(9);
            assert!(matches!(closed, Err(PublishError::Closed(9))));
            let deadline = Instant::now() + HANG;
            while Arc::strong_count(&captured) > 1 {
                assert!(Instant::now() < deadline, "the handler is never dropped");
                std::thread::yield_now();
            }
            let deadline = Instant::now() + HANG;
            while let Err(imbalance) = topic.metrics().balance() {
                assert!(Instant::now() < deadline, "{imbalance}");
                std::thread::yield_now();
            }
        });
    }
}

// Slowness.

#[test]
fn a_handler_that_never_returns_delays_nobody_else() {
    within(HANG, || {
        let broker = threaded(2);
        let shared = broker
            .topic::<u64>("shared")
            .capacity(10_000)
            .lane_capacity(10_000)
            .open()
            .unwrap();
        let own = broker.topic::<u64>("own").open().unwrap();
        let release = Arc::new(AtomicBool::new(false));
        let held = release.clone();
        let _slow = shared
            .subscribe("slow", move |_| {
                // Against microseconds for the others: slower by any factor.
                while !held.load(Ordering::Acquire) {
                    std::thread::park_timeout(MS);
                }
                Ok(())
            })
            .unwrap();
        let fast = |topic: &Topic<u64>| topic.subscribe("fast", |_| Ok(())).unwrap();
        let (neighbor, stranger) = (fast(&shared), fast(&own));
        let deadline = Instant::now() + HANG;
        for round in 0..1_000 {
            shared.publish(round).unwrap();
            while own.publish(round).is_err() {
                assert!(Instant::now() < deadline, "the other topic is stuck");
                std::thread::yield_now();
            }
        }
        let delivered = |sub: &Subscription| sub.metrics().counts.delivered;
        while delivered(&neighbor) + delivered(&stranger) < 2_000 {
            assert!(
                Instant::now() < deadline,
                "the slow handler holds others up"
            );
            std::thread::yield_now();
        }
        assert_eq!(
            shared
                .metrics()
                .subscription("slow")
                .unwrap()
                .counts
                .delivered,
            0
        );
        release.store(true, Ordering::Release);
        let counts = assert_rests_balanced(&broker).deliveries();
        assert_eq!(counts.delivered, 3_000);
    });
}

#[test]
fn an_observer_that_owns_another_can_be_taken_off() {
    let (broker, _clock) = manual();
    let inner = broker.observe(|_| {}).unwrap();
    let outer = broker
        .observe(move |_| {
            let _owned = &inner;
        })
        .unwrap();
    drop(outer);
    assert_balanced(&broker);
}

#[test]
fn user_code_that_holds_a_handle_does_not_keep_the_broker_alive() {
    /// A strategy that holds the topic it decides for.
    struct Holder {
        topic: Topic<u64>,
        _alive: Arc<()>,
    }

    impl Strategy for Holder {
        fn plan(&self, backlog: &Backlog) -> Plan {
            Immediate.plan(backlog)
        }

        fn name(&self) -> &str {
            self.topic.name()
        }
    }

    let alive = Arc::new(());
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    topic
        .set_strategy(Holder {
            topic: topic.clone(),
            _alive: alive.clone(),
        })
        .unwrap();
    let (heard, token) = (topic.clone(), alive.clone());
    let observation = broker.observe(move |_| {
        let _held = (&heard, &token);
    });
    observation.unwrap().detach();
    // A drain begun inside a handler sets a deadline on the lane, which is gone
    // long before it comes.
    let token = alive.clone();
    let mut own = None;
    let (sender, receiver) = std::sync::mpsc::channel::<Subscription>();
    let subscription = topic
        .subscribe("s", move |_| {
            let _held = &token;
            own = own.take().or_else(|| receiver.try_recv().ok());
            if let Some(own) = own.take() {
                let timeout = Duration::from_secs(3_600);
                own.unsubscribe(Unsubscribe::Drain { timeout });
            }
            Ok(())
        })
        .unwrap();
    sender.send(subscription).unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(broker.next_deadline(), None, "it took its deadline along");
    assert_balanced(&broker);
    drop((topic, broker));
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_batch_ends_where_its_iterator_first_says_so() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let mut asked = 0;
    let resumes = std::iter::from_fn(|| {
        asked += 1;
        (asked % 4 != 0).then_some(asked)
    });
    assert_eq!(topic.publish_batch(resumes).unwrap().accepted(), 3);
    assert_eq!(asked, 4, "nobody asks after the end");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn settings_that_panic_when_checked_and_again_when_dropped_are_one_panic_of_the_callers() {
    struct Twice;
    impl Drop for Twice {
        fn drop(&mut self) {
            quiet_panic();
        }
    }
    impl RetryPolicy for Twice {
        fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
            Decision::DeadLetter
        }
        fn check(&self) -> Result<(), SettingError> {
            quiet_panic()
        }
    }
    impl Strategy for Twice {
        fn plan(&self, backlog: &Backlog) -> Plan {
            Plan::Deliver {
                at_most: backlog.waiting(),
            }
        }
        fn name(&self) -> &str {
            "twice"
        }
        fn check(&self) -> Result<(), SettingError> {
            quiet_panic()
        }
    }
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let one = topic.subscribe("one", |_| Ok(())).unwrap();
    let many = broker.subscription("many").matching("t");
    let many = many
        .subscribe(|_: &millstream::Delivery<'_, u64>| Ok(()))
        .unwrap();
    let calls: [&dyn Fn(); 5] = [
        &|| drop(topic.set_retry(Twice)),
        &|| drop(topic.set_strategy(Twice)),
        &|| drop(broker.set_strategy(Twice)),
        &|| drop(one.set_retry(Twice)),
        &|| drop(many.set_retry(Twice)),
    ];
    for call in calls {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        panicked.expect_err("the check panics");
    }
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 2);
}
