//! Promise 4, attempts: they count entries into the handler, and they count for
//! one delivery, not for the message. An error and a panic count. An unsubscribe
//! and a shutdown don't. `max_attempts(n)` means at most `n` entries.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::metrics::DeliveryCounts;
use millstream::retry::FailureKind;
use millstream::{Backoff, Batched, Broker, Nack, Topic, Unsubscribe, Unsubscribed};

const MS: Duration = Duration::from_millis(1);

/// Waits for what other threads bring about.
fn wait_until(mut so: impl FnMut() -> bool, what: &str) {
    let until = Instant::now() + HANG;
    while !so() {
        assert!(Instant::now() < until, "{what}: never");
        std::thread::yield_now();
    }
}

fn counts(topic: &Topic<u32>, subscription: &str) -> DeliveryCounts {
    let metrics = topic.metrics();
    metrics
        .subscription(subscription)
        .expect("it is subscribed")
        .counts
}

/// A topic whose retries are due at once.
fn impatient(broker: &Broker, attempts: u32) -> Topic<u32> {
    let policy = Backoff::fixed(Duration::ZERO).max_attempts(attempts);
    broker.topic("t").retry(policy).open().expect("opens")
}

#[test]
fn attempts_are_counted_for_each_delivery_and_not_for_the_message() {
    let (broker, _clock) = manual();
    let topic = impatient(&broker, 5);
    let log = Log::new();
    let subscribe = |name: &str, succeeds_on: u32| {
        let log = log.clone();
        let subscribed = topic.subscribe(name, move |d| {
            log.push((d.subscription().to_owned(), *d.payload(), d.attempt()));
            match d.attempt() {
                attempt if attempt < succeeds_on => Err(Nack::retry("not yet")),
                _ => Ok(()),
            }
        });
        subscribed.expect("subscribes")
    };
    let _first = subscribe("first", 1);
    let _third = subscribe("third", 3);
    let _fifth = subscribe("fifth", 5);
    topic.publish_batch([7, 8]).expect("there is room");
    broker.run_until_idle();
    let entries = log.take();
    for (name, attempts) in [("first", 1), ("third", 3), ("fifth", 5)] {
        for payload in [7, 8] {
            let of = entries
                .iter()
                .filter(|(n, p, _)| n == name && *p == payload);
            let seen: Vec<_> = of.map(|(_, _, attempt)| *attempt).collect();
            assert_eq!(seen, (1..=attempts).collect::<Vec<_>>(), "{name}");
        }
        let counts = counts(&topic, name);
        assert_eq!(counts.attempts, 2 * u64::from(attempts));
        assert_eq!((counts.delivered, counts.dead_lettered), (2, 0));
    }
    assert_balanced(&broker);
}

#[test]
fn max_attempts_is_the_number_of_entries_whether_they_fail_or_panic() {
    for max_attempts in [1, 2, 3, 7] {
        for how in ["error", "panic"] {
            let (broker, _clock) = manual();
            let topic = impatient(&broker, max_attempts);
            let entries = Log::new();
            let _broken = topic
                .subscribe("s", {
                    let entries = entries.clone();
                    move |d| {
                        entries.push(d.attempt());
                        assert_eq!(how, "error", "boom");
                        Err(Nack::retry("no"))
                    }
                })
                .expect("subscribes");
            topic.publish(1).expect("there is room");
            broker.run_until_idle();
            assert_eq!(entries.take(), (1..=max_attempts).collect::<Vec<_>>());
            let letters = topic.dead_letters().list();
            let [letter] = &letters[..] else {
                panic!("one letter, but: {letters:?}");
            };
            assert_eq!(letter.attempts(), max_attempts);
            assert_eq!(letter.reason(), DeadReason::Exhausted);
            let counts = counts(&topic, "s");
            assert_eq!(counts.attempts, u64::from(max_attempts));
            assert_eq!(counts.failed, u64::from(max_attempts));
            assert_eq!(counts.retried, u64::from(max_attempts) - 1);
            assert_balanced(&broker);
        }
    }
}

#[test]
fn errors_and_panics_count_together_and_the_letter_tells_them_apart() {
    let (broker, _clock) = manual();
    let topic = impatient(&broker, 4);
    let _broken = topic
        .subscribe("s", |d| match d.attempt() % 2 {
            0 => panic!("even"),
            _ => Err(Nack::retry("odd")),
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    let letters = topic.dead_letters().list();
    let failures: Vec<_> = letters[0]
        .failures()
        .map(|failure| (failure.attempt, failure.kind, failure.error))
        .collect();
    use FailureKind::{Error, Panic};
    assert_eq!(
        failures,
        [
            (4, Panic, "even"),
            (3, Error, "odd"),
            (2, Panic, "even"),
            (1, Error, "odd"),
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn each_element_of_a_batch_counts_its_own_attempts() {
    let (broker, _clock) = manual();
    let topic = impatient(&broker, 3);
    let log = Log::new();
    let _batches = topic
        .subscription("s")
        .subscribe_batches(Batched::of(4), {
            let log = log.clone();
            move |batch| {
                for (at, d) in batch.iter().enumerate() {
                    log.push((*d.payload(), d.attempt()));
                    if d.attempt() <= *d.payload() {
                        batch.nack(at, Nack::retry("not yet"));
                    }
                }
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..4).expect("there is room");
    broker.run_until_idle();
    let mut entries = log.take();
    entries.sort_unstable();
    assert_eq!(
        entries,
        [
            (0, 1),
            (1, 1),
            (1, 2),
            (2, 1),
            (2, 2),
            (2, 3),
            (3, 1),
            (3, 2),
            (3, 3),
        ]
    );
    let counts = counts(&topic, "s");
    assert_eq!(
        (counts.attempts, counts.delivered, counts.dead_lettered),
        (9, 3, 1)
    );
    assert_balanced(&broker);
}

#[test]
fn a_redrive_begins_again_at_one() {
    let (broker, _clock) = manual();
    let topic = impatient(&broker, 2);
    let entries = Log::new();
    let _broken = topic
        .subscribe("s", {
            let entries = entries.clone();
            move |d| {
                entries.push((d.generation(), d.attempt()));
                Err(Nack::retry("no"))
            }
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    for _ in 0..3 {
        broker.run_until_idle();
        let _ = topic
            .dead_letters()
            .redrive(|letter| letter.attempts() == 2);
    }
    broker.run_until_idle();
    let expected: Vec<_> = (0..4).flat_map(|g| [(g, 1), (g, 2)]).collect();
    assert_eq!(entries.take(), expected);
    assert_balanced(&broker);
}

#[test]
fn waiting_for_a_retry_is_no_attempt() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _broken = topic
        .subscribe("s", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    for _ in 0..249 {
        advance(&broker, &clock, MS);
        assert_eq!(counts(&topic, "s").attempts, 1);
    }
    advance(&broker, &clock, MS);
    assert_eq!(counts(&topic, "s").attempts, 2);
    assert_balanced(&broker);
}

#[test]
fn an_unsubscribe_is_no_attempt() {
    let (broker, _clock) = manual();
    for mode in [Unsubscribe::Cancel, Unsubscribe::DeadLetter] {
        let topic = broker.topic::<u32>("t").open().expect("opens");
        let subscription = topic
            .subscribe("s", |_| Err(Nack::retry("no")))
            .expect("subscribes");
        topic.publish(1).expect("there is room");
        broker.run_until_idle();
        let Unsubscribed::Ended(last) = subscription.unsubscribe(mode) else {
            panic!("outside of a handler it waits");
        };
        assert_eq!((last.counts.attempts, last.counts.failed), (1, 1));
        let letters = topic.dead_letters();
        for letter in letters.list() {
            assert_eq!(letter.attempts(), 1);
            assert_eq!(letter.reason(), DeadReason::Unsubscribed);
        }
        assert_eq!(letters.len(), usize::from(mode == Unsubscribe::DeadLetter));
    }
    assert_balanced(&broker);
}

#[test]
fn what_was_never_tried_leaves_with_no_attempts() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (entered, has_entered) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let subscription = topic
        .subscribe("s", move |_| {
            entered.send(()).expect("the test listens");
            // Answers at once, and with an error, when the test lets go.
            let _ = gate.recv();
            Ok(())
        })
        .expect("subscribes");
    topic.publish_batch(0..10).expect("there is room");
    has_entered
        .recv_timeout(HANG)
        .expect("the first is delivered");
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| subscription.unsubscribe(Unsubscribe::DeadLetter));
        // It marks the lane first, then waits for the handler.
        wait_until(|| topic_is_closing(&topic), "the lane closes");
        drop(go_on);
        ended.join().expect("it answers")
    });
    let Unsubscribed::Ended(last) = ended else {
        panic!("outside of a handler it waits");
    };
    assert_eq!((last.counts.attempts, last.counts.delivered), (1, 1));
    let letters = topic.dead_letters().list();
    assert_eq!(letters.len(), 9);
    assert!(
        letters
            .iter()
            .all(|letter| letter.attempts() == 0 && letter.error().is_none())
    );
    assert_rests_balanced(&broker);
}

/// Whether the name of the subscription is free again, which it is as soon as
/// the lane takes no more.
fn topic_is_closing(topic: &Topic<u32>) -> bool {
    topic.subscribe("s", |_| Ok(())).is_ok()
}

#[test]
fn a_failure_that_the_shutdown_causes_is_neither_retried_nor_dead_lettered() {
    let broker = threaded(2);
    let downstream = broker.topic::<u32>("downstream").open().expect("opens");
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (entered, has_entered) = mpsc::channel();
    let closed = Arc::new(AtomicBool::new(false));
    let entries = Arc::new(AtomicU32::new(0));
    let _forwarding = topic
        .subscribe("s", {
            let (closed, entries) = (Arc::clone(&closed), Arc::clone(&entries));
            move |d| {
                entries.fetch_add(1, Ordering::Relaxed);
                entered.send(()).expect("the test listens");
                while !closed.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                downstream.publish(*d.payload())?;
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    has_entered.recv_timeout(HANG).expect("it is delivered");
    let report = std::thread::scope(|scope| {
        let drained = scope.spawn(|| broker.drain(HANG));
        // Once it is refused here, it is refused in the handler as well.
        let refused = || broker.publish::<u32>("downstream", 2).is_err();
        wait_until(refused, "the broker refuses");
        closed.store(true, Ordering::Release);
        drained.join().expect("it answers")
    });
    let report = match &report {
        Ok(report) => report,
        Err(incomplete) => incomplete.report(),
    };
    assert_eq!((report.cancelled, report.dead_lettered), (1, 0), "{report}");
    let counts = counts(&topic, "s");
    assert_eq!((counts.failed, counts.retried), (0, 0));
    assert_eq!(entries.load(Ordering::Relaxed), 1);
    assert_balanced(&broker);
}

#[test]
fn a_shutdown_is_no_attempt_for_what_awaits_its_retry() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _broken = topic
        .subscribe("s", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    broker
        .drain(Duration::ZERO)
        .expect_err("the retry is due later");
    let counts = counts(&topic, "s");
    assert_eq!(
        (counts.attempts, counts.failed, counts.cancelled),
        (1, 1, 1)
    );
    assert_eq!(counts.dead_lettered, 0);
    assert_balanced(&broker);
}

#[test]
fn no_attempts_at_all_are_refused_when_the_topic_opens() {
    let (broker, _clock) = manual();
    let refused = broker
        .topic::<u32>("t")
        .retry(Backoff::fixed(MS).max_attempts(0))
        .open()
        .expect_err("the first delivery is an attempt");
    assert!(refused.to_string().contains("max_attempts"), "{refused}");
    assert_balanced(&broker);
}

/// An error and what it comes from.
#[derive(Debug)]
struct Failed(&'static str, Option<Box<Failed>>);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.1.as_ref()?)
    }
}

/// Fails with an error that is none to the type system.
fn boxed(error: Failed) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err(error.into())
}

#[test]
fn a_letter_an_event_and_the_policy_get_an_error_with_its_causes() {
    let (broker, _clock) = manual();
    let (seen, told) = (Log::new(), Log::new());
    let policy = Backoff::fixed(MS).classify({
        let seen = seen.clone();
        move |failed| {
            seen.push(failed.text().to_owned());
            millstream::retry::Class::DeadLetter
        }
    });
    let topic = broker.topic::<u32>("t").retry(policy).open();
    let topic = topic.expect("opens");
    let _observation = broker.observe({
        let told = told.clone();
        move |event| {
            if let millstream::event::EventKind::Failed { error, .. } = event.kind() {
                told.push(error.to_string());
            }
        }
    });
    let _s = topic.subscribe("s", |d| {
        let refused = Failed("connection refused", None);
        let failed = Failed("request failed", Some(Box::new(refused)));
        match d.payload() {
            1 => Err(failed)?,
            _ => boxed(failed).map_err(Nack::from_error),
        }
    });
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    let whole = "request failed: connection refused";
    assert_eq!(seen.take(), [whole, whole]);
    assert_eq!(told.take(), [whole, whole]);
    for letter in topic.dead_letters().list() {
        assert_eq!(letter.error(), Some(whole));
        assert_eq!(
            letter.failures().map(|f| f.error).collect::<Vec<_>>(),
            [whole]
        );
    }
    assert_balanced(&broker);
}

#[test]
fn a_text_is_cut_where_it_would_be_kept_for_too_long() {
    let (broker, _clock) = manual();
    let topic = impatient(&broker, 1);
    let _s = topic.subscribe("s", |d| match d.payload() {
        1 => Err(Nack::retry("é".repeat(1 << 20))),
        _ => panic!("{}", "é".repeat(1 << 20)),
    });
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    for letter in topic.dead_letters().list() {
        let text = letter.error().expect("it failed");
        assert_eq!((text.chars().count(), text.ends_with("é…")), (2_049, true));
    }
    assert_balanced(&broker);
}

#[test]
fn a_letter_shows_all_of_its_message() {
    let (broker, clock) = manual();
    let topic = impatient(&broker, 1);
    let _s = topic.subscribe("s", |_| Err(Nack::dead_letter("no")));
    let message = topic.message(7).key("k").header("trace", "t-1");
    message
        .header("tenant", "acme")
        .publish()
        .expect("there is room");
    advance(&broker, &clock, MS);
    clock.advance(MS);
    let letter = topic.dead_letters().list().remove(0);
    assert_eq!((letter.topic(), letter.subscription()), ("t", "s"));
    assert_eq!((*letter.payload(), letter.key()), (7, Some("k")));
    assert_eq!(letter.header("tenant"), Some("acme"));
    assert_eq!(letter.header("none"), None);
    let headers: Vec<_> = letter.headers().collect();
    assert_eq!(
        headers,
        [("trace", "t-1".into()), ("tenant", "acme".into())]
    );
    assert_eq!(letter.age(), 2 * MS);
    assert_balanced(&broker);
}
