//! Promise 5, retries: a retry goes only to the subscription that failed. Its
//! place in the lane is reserved while it waits, so its return can be neither
//! rejected nor dropped. It occupies no worker while it waits, it never comes
//! early, and the same settings and seed of the broker give the same delays on every
//! run.
//!
//! The policies: a delay that is fixed, grows linearly (the default: 250 ms,
//! 500 ms, then the dead letters) or doubles, with a cap, jitter, a limit in attempts
//! and in time, a classifier; or whatever the user implements.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::error::{OpenError, SubscribeError};
use millstream::event::EventKind;
use millstream::retry::{Class, Decision, FailedAttempt, FailureKind, RetryPolicy, retry_fn};
use millstream::{
    Backoff, Batched, Broker, BrokerBuilder, Delivery, LaneFull, ManualClock, Nack, OnFailure,
    PublishError, Pull, Subscription, SubscriptionBuilder, Topic,
};

const MS: Duration = Duration::from_millis(1);

/// How long each retry of one delivery that always fails was put off, measured
/// by when the handler is entered again.
fn delays(policy: impl RetryPolicy) -> Vec<Duration> {
    delays_asked(policy, None)
}

/// The same, where the handler asks for a delay of its own.
fn delays_asked(policy: impl RetryPolicy, wish: Option<Duration>) -> Vec<Duration> {
    let (broker, clock) = manual();
    let topic = broker.topic::<()>("t").retry(policy).open().expect("opens");
    let entered = Log::new();
    let _broken = topic
        .subscribe("s", {
            let (entered, clock) = (entered.clone(), clock.clone());
            move |_| {
                entered.push(clock.elapsed());
                Err(match wish {
                    None => Nack::retry("no"),
                    Some(wish) => Nack::retry_after(wish, "not before"),
                })
            }
        })
        .expect("subscribes");
    topic.publish(()).expect("there is room");
    broker.run_until_idle();
    while let Some(wait) = broker.next_deadline() {
        advance(&broker, &clock, wait);
    }
    assert_eq!(assert_balanced(&broker).deliveries().dead_lettered, 1);
    let entered = entered.take();
    entered.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_failed_delivery_is_retried_only_for_the_subscription_that_failed() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let subscribe = |name: &str, fails: bool| {
        let log = log.clone();
        let subscribed = topic.subscribe(name, move |d| {
            log.push((d.subscription().to_owned(), *d.payload(), d.attempt()));
            match d.attempt() {
                1 if fails && *d.payload() == 2 => Err(Nack::retry("not yet")),
                _ => Ok(()),
            }
        });
        subscribed.expect("subscribes")
    };
    let _good = subscribe("good", false);
    let _flaky = subscribe("flaky", true);
    topic.publish_batch(1..=3).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take().len(), 6);
    advance(&broker, &clock, 3_600 * 1_000 * MS);
    assert_eq!(log.take(), [("flaky".to_owned(), 2, 2)]);
    assert_balanced(&broker);
}

#[test]
fn the_default_is_linear_250_ms_then_500_ms_then_the_dead_letters() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let entered = Log::new();
    let _broken = topic
        .subscribe("s", {
            let (entered, clock) = (entered.clone(), clock.clone());
            move |_| {
                entered.push(clock.elapsed());
                Err(Nack::retry("no"))
            }
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    for _ in 0..=1_000 {
        broker.run_until_idle();
        clock.advance(MS);
    }
    assert_eq!(entered.take(), [Duration::ZERO, 250 * MS, 750 * MS]);
    let letters = topic.dead_letters().list();
    let [letter] = &letters[..] else {
        panic!("one letter, but: {letters:?}");
    };
    assert_eq!(letter.reason(), DeadReason::Exhausted);
    assert_eq!((letter.attempts(), letter.at()), (3, 750 * MS));
    assert_balanced(&broker);
}

#[test]
fn each_shape_gives_its_delays() {
    let capped = Backoff::exponential(10 * MS).cap(50 * MS).max_attempts(6);
    assert_eq!(delays(Backoff::default()), [250 * MS, 500 * MS]);
    assert_eq!(delays(Backoff::none()), []);
    assert_eq!(delays(Backoff::fixed(7 * MS).max_attempts(4)), [7 * MS; 3]);
    assert_eq!(
        delays(Backoff::linear(3 * MS).max_attempts(4)),
        [3, 6, 9].map(|n| n * MS)
    );
    assert_eq!(
        delays(Backoff::exponential(MS).max_attempts(6)),
        [1, 2, 4, 8, 16].map(|n| n * MS)
    );
    assert_eq!(delays(capped), [10, 20, 40, 50, 50].map(|n| n * MS));
}

#[test]
fn a_retry_is_not_early_by_a_nanosecond() {
    let (broker, clock) = manual();
    let delay = Duration::from_nanos(1_234_567);
    let topic = broker.topic::<()>("t").retry(Backoff::fixed(delay)).open();
    let topic = topic.expect("opens");
    let attempts = Log::new();
    let _flaky = topic
        .subscribe("s", {
            let attempts = attempts.clone();
            move |d| {
                attempts.push(d.attempt());
                match d.attempt() {
                    1 => Err(Nack::retry("not yet")),
                    _ => Ok(()),
                }
            }
        })
        .expect("subscribes");
    topic.publish(()).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, delay - Duration::from_nanos(1));
    assert_eq!(attempts.take(), [1]);
    // A tick of the wheel is 100 µs.
    advance(&broker, &clock, Duration::from_micros(100));
    assert_eq!(attempts.take(), [2]);
    assert_balanced(&broker);
}

/// The delays that events told of, by message and attempt, for 50 messages that
/// two subscriptions fail twice each.
fn jittered(broker: &Broker, policy: Backoff, mut to_the_end: impl FnMut()) -> Vec<String> {
    let topic = broker.topic::<u32>("t").retry(policy).open();
    let topic = topic.expect("opens");
    let _subscriptions = ["a", "b"].map(|name| {
        let subscribed = topic.subscribe(name, |_| Err(Nack::retry("no")));
        subscribed.expect("subscribes")
    });
    let log = Log::new();
    let _observation = broker.observe({
        let log = log.clone();
        move |event| {
            if let EventKind::RetryScheduled { delay } = event.kind() {
                assert!(*delay <= 8 * MS);
                log.push(event.to_string());
            }
        }
    });
    topic.publish_batch(0..50).expect("there is room");
    to_the_end();
    let mut delays = log.take();
    assert_eq!(delays.len(), 2 * 2 * 50);
    delays.sort();
    delays
}

fn spread() -> Backoff {
    Backoff::exponential(4 * MS).jitter()
}

fn jittered_by_hand(seed: Option<u64>, policy: Backoff) -> Vec<String> {
    let clock = ManualClock::new();
    let builder = Broker::builder().workers(0).manual_clock(&clock);
    let builder = seed.into_iter().fold(builder, BrokerBuilder::seed);
    let broker = builder.build().expect("valid");
    let delays = jittered(&broker, policy, || {
        broker.run_until_idle();
        for _ in 0..200 {
            advance(&broker, &clock, MS / 2);
        }
    });
    assert_balanced(&broker);
    delays
}

#[test]
fn jitter_repeats_with_the_brokers_seed_on_any_number_of_threads() {
    let by_hand = jittered_by_hand(Some(crate::harness::SEED), spread());
    assert_eq!(
        jittered_by_hand(Some(crate::harness::SEED), spread()),
        by_hand
    );
    assert_ne!(jittered_by_hand(Some(43), spread()), by_hand);
    for workers in [1, 4] {
        let broker = threaded(workers);
        let on_threads = jittered(&broker, spread(), || drop(assert_rests_balanced(&broker)));
        assert_eq!(on_threads, by_hand, "with {workers} workers");
    }
    let mut different: Vec<_> = by_hand
        .iter()
        .map(|event| event.rsplit(' ').next().expect("it ends with the delay"))
        .collect();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 190, "only {} delays", different.len());
}

#[test]
fn no_two_brokers_draw_the_same_jitter_unless_they_are_told_to() {
    assert_ne!(
        jittered_by_hand(None, spread()),
        jittered_by_hand(None, spread())
    );
    // A number that everybody gives to the policy doesn't make them equal either.
    let told = || Backoff::exponential(4 * MS).full_jitter(42);
    assert_ne!(
        jittered_by_hand(None, told()),
        jittered_by_hand(None, told())
    );
    assert_ne!(
        jittered_by_hand(Some(1), told()),
        jittered_by_hand(Some(1), spread()),
    );
}

#[test]
fn jitter_is_another_for_each_topic_subscription_message_attempt_and_redrive() {
    struct Draws(Log<u64>);
    impl RetryPolicy for Draws {
        fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
            self.0.push(failed.random());
            match failed.attempt() {
                1 | 2 => Decision::RetryAfter(MS),
                _ => Decision::Exhausted,
            }
        }
    }
    let (broker, clock) = manual();
    let drawn = Log::new();
    let _subscriptions = ["billing", "shipping"].map(|name| {
        let subscription = broker.subscription::<u32>(name).matching("orders.*");
        let subscription = subscription.retry(Draws(drawn.clone()));
        let subscribed = subscription.subscribe(|_| Err(Nack::retry("the database is down")));
        subscribed.expect("subscribes")
    });
    let topics = ["orders.eu", "orders.us", "orders.asia"]
        .map(|name| broker.topic::<u32>(name).open().expect("opens"));
    for topic in &topics {
        topic.publish_batch(0..10).expect("there is room");
    }
    let go_on = || {
        broker.run_until_idle();
        advance(&broker, &clock, MS);
        advance(&broker, &clock, MS);
    };
    go_on();
    for topic in &topics {
        assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 20);
    }
    go_on();
    let drawn = drawn.take();
    assert_eq!(drawn.len(), 3 * 2 * 10 * 3 * 2);
    let different: std::collections::BTreeSet<_> = drawn.iter().collect();
    assert_eq!(different.len(), drawn.len());
    assert_balanced(&broker);
}

#[test]
fn no_retry_comes_later_than_max_elapsed_after_the_first_attempt() {
    let policy = Backoff::fixed(10 * MS).max_attempts(u32::MAX);
    assert_eq!(delays(policy.clone().max_elapsed(35 * MS)), [10 * MS; 3]);
    assert_eq!(delays(policy.clone().max_elapsed(40 * MS)), [10 * MS; 4]);
    assert_eq!(delays(policy.max_elapsed(9 * MS)), []);
}

#[test]
fn max_elapsed_counts_from_the_first_attempt_and_not_from_the_publish() {
    let (broker, clock) = manual();
    let policy = Backoff::fixed(10 * MS).max_attempts(9).max_elapsed(10 * MS);
    let topic = broker.topic::<()>("t").retry(policy).open().expect("opens");
    let attempts = Log::new();
    let _broken = topic
        .subscribe("s", {
            let attempts = attempts.clone();
            move |d| {
                attempts.push(d.attempt());
                Err(Nack::retry("no"))
            }
        })
        .expect("subscribes");
    topic.publish(()).expect("there is room");
    advance(&broker, &clock, 1_000 * MS);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(attempts.take(), [1, 2]);
    let _ = topic.dead_letters().redrive(|_| true);
    advance(&broker, &clock, 1_000 * MS);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(attempts.take(), [1, 2], "a new generation has its own time");
    assert_balanced(&broker);
}

#[derive(Debug)]
struct Timeout;

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl std::error::Error for Timeout {}

#[test]
fn a_classifier_can_tell_errors_apart_by_their_type() {
    let (broker, clock) = manual();
    let policy = Backoff::fixed(MS).max_attempts(2).classify(|failed| {
        match (failed.kind(), failed.error()) {
            (FailureKind::Panic, _) => Class::Discard,
            (_, Some(error)) if error.is::<std::num::ParseIntError>() => Class::DeadLetter,
            (_, Some(error)) if error.downcast_ref::<Timeout>().is_some() => Class::Retry,
            _ => panic!("an error that the handler doesn't have: {failed:?}"),
        }
    });
    let topic = broker
        .topic::<&str>("t")
        .retry(policy)
        .open()
        .expect("opens");
    let attempts = Log::new();
    let _handler = topic
        .subscribe("s", {
            let attempts = attempts.clone();
            move |d| {
                attempts.push((*d.payload(), d.attempt()));
                match *d.payload() {
                    "panic" => panic!("boom"),
                    "timeout" => return Err(Timeout.into()),
                    number => number.parse::<u32>()?,
                };
                Ok(())
            }
        })
        .expect("subscribes");
    topic
        .publish_batch(["7", "seven", "timeout", "panic"])
        .expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(
        attempts.take(),
        [
            ("7", 1),
            ("seven", 1),
            ("timeout", 1),
            ("panic", 1),
            ("timeout", 2)
        ]
    );
    let letters = topic.dead_letters().list();
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| (*letter.payload(), letter.reason(), letter.error()))
        .collect();
    assert_eq!(
        reasons,
        [
            (
                "seven",
                DeadReason::Rejected,
                Some("invalid digit found in string")
            ),
            ("timeout", DeadReason::Exhausted, Some("timed out")),
        ]
    );
    assert_eq!(assert_balanced(&broker).deliveries().dropped, 1);
}

#[test]
fn a_nack_overrules_the_delay_but_not_the_limits() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<()>("t")
        .retry(Backoff::fixed(MS).max_attempts(3));
    let topic = topic.open().expect("opens");
    let entered = Log::new();
    let _asking = topic
        .subscribe("s", {
            let (entered, clock) = (entered.clone(), clock.clone());
            move |_| {
                entered.push(clock.elapsed());
                Err(Nack::retry_after(20 * MS, "busy until then"))
            }
        })
        .expect("subscribes");
    topic.publish(()).expect("there is room");
    for _ in 0..=100 {
        broker.run_until_idle();
        clock.advance(MS);
    }
    assert_eq!(entered.take(), [Duration::ZERO, 20 * MS, 40 * MS]);
    assert_eq!(
        topic.dead_letters().list()[0].reason(),
        DeadReason::Exhausted
    );
    assert_balanced(&broker);
}

#[test]
fn max_elapsed_is_judged_by_the_delay_that_the_handler_asked_for() {
    let limited = |own| Backoff::fixed(own).max_attempts(4).max_elapsed(60 * MS);
    // The policy's own delay would be in time, or too late: it isn't the one used.
    assert_eq!(delays_asked(limited(MS), Some(61 * MS)), []);
    assert_eq!(delays_asked(limited(120 * MS), Some(MS)), [MS; 3]);
    assert_eq!(
        delays_asked(limited(MS).max_attempts(u32::MAX), Some(25 * MS)),
        [25 * MS; 2]
    );
}

#[test]
fn a_delay_that_the_handler_asked_for_is_bounded_by_the_cap_and_not_jittered() {
    let policy = || Backoff::fixed(MS).cap(20 * MS).jitter();
    assert_eq!(delays_asked(policy(), Some(19 * MS)), [19 * MS; 2]);
    assert_eq!(delays_asked(policy(), Some(86_400_000 * MS)), [20 * MS; 2]);
}

#[test]
fn a_lease_that_is_refused_with_a_delay_is_judged_by_it_too() {
    let (broker, clock) = manual();
    let policy = Backoff::fixed(120 * MS)
        .max_attempts(9)
        .max_elapsed(60 * MS);
    let topic = broker.topic::<()>("t").retry(policy).open().expect("opens");
    let pull = topic
        .subscription("s")
        .pull(Pull::default())
        .expect("valid");
    topic.publish(()).expect("there is room");
    let refuse = |delay| {
        let lease = pull.try_recv().expect("there is one");
        lease
            .nack(Nack::retry_after(delay, "not before"))
            .expect("in time");
        broker.run_until_idle();
    };
    refuse(60 * MS);
    advance(&broker, &clock, 60 * MS);
    refuse(MS);
    assert_eq!(broker.next_deadline(), None);
    let letters = topic.dead_letters().list();
    assert_eq!(letters[0].reason(), DeadReason::Exhausted);
    assert_balanced(&broker);
}

#[test]
fn a_policy_may_be_a_closure_a_box_or_shared_and_keeps_all_its_decisions() {
    let twice = || {
        retry_fn(|failed| match failed.attempt() {
            1 | 2 => Decision::RetryAfter(7 * MS),
            _ => Decision::Exhausted,
        })
    };
    assert_eq!(delays(twice()), [7 * MS; 2]);
    let chosen: Box<dyn RetryPolicy> = match delays(twice()).len() {
        2 => Box::new(twice()),
        _ => Box::new(Backoff::default()),
    };
    assert_eq!(delays(chosen), [7 * MS; 2]);
    assert_eq!(delays_asked(Arc::new(twice()), Some(9 * MS)), [9 * MS; 2]);
    let capped = Backoff::fixed(MS).cap(3 * MS).max_attempts(3);
    let shared: Arc<dyn RetryPolicy> = Arc::new(capped);
    assert_eq!(delays_asked(shared, Some(9 * MS)), [3 * MS; 2]);
    let (broker, _clock) = manual();
    let broken: Box<dyn RetryPolicy> = Box::new(Backoff::fixed(MS).max_attempts(0));
    let refused = broker.topic::<()>("t").retry(broken).open();
    assert!(refused.is_err(), "it is checked behind its box, too");
}

#[test]
fn a_policy_of_the_users_own_has_the_last_word_on_a_delay_that_was_asked_for() {
    /// Says nothing of its own: the wish counts, if there is a retry at all.
    struct Plain;
    impl RetryPolicy for Plain {
        fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
            match failed.attempt() {
                1 | 2 => Decision::RetryAfter(5 * MS),
                _ => Decision::Exhausted,
            }
        }
    }
    /// Doubles what is asked for.
    struct Doubling;
    impl RetryPolicy for Doubling {
        fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
            panic!("nothing was asked for: {failed:?}")
        }

        fn decide_requested(&self, failed: &FailedAttempt<'_>, asked: Duration) -> Decision {
            match failed.attempt() {
                1 | 2 => Decision::RetryAfter(asked * 2),
                _ => Decision::Exhausted,
            }
        }
    }
    assert_eq!(delays(Plain), [5 * MS; 2]);
    assert_eq!(delays_asked(Plain, Some(30 * MS)), [30 * MS; 2]);
    assert_eq!(delays_asked(Doubling, Some(30 * MS)), [60 * MS; 2]);
}

#[test]
fn a_nack_that_says_dead_letter_or_discard_is_not_put_to_the_policy() {
    struct NeverAsked;
    impl RetryPolicy for NeverAsked {
        fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
            panic!("asked about {failed:?}")
        }
    }
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .retry(NeverAsked)
        .open()
        .expect("opens");
    let _knowing = topic
        .subscribe("s", |d| match d.payload() {
            1 => Err(Nack::dead_letter("poison")),
            _ => Err(Nack::discard("noise")),
        })
        .expect("subscribes");
    topic.publish_batch([1, 2]).expect("there is room");
    broker.run_until_idle();
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.dead_lettered, counts.dropped), (1, 1));
    assert_eq!(
        topic.dead_letters().list()[0].reason(),
        DeadReason::Rejected
    );
}

#[test]
fn a_policy_of_the_users_own_decides_and_sees_what_it_needs() {
    struct ByAttempt(Log<String>);
    impl RetryPolicy for ByAttempt {
        fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
            self.0.push(format!(
                "{} after {:?}: {:?} {}",
                failed.attempt(),
                failed.elapsed(),
                failed.kind(),
                failed.text()
            ));
            match failed.attempt() {
                1 => Decision::RetryAfter(5 * MS),
                2 => Decision::RetryAfter(Duration::ZERO),
                _ if failed.text() == "drop me" => Decision::Discard,
                _ => Decision::DeadLetter,
            }
        }
    }
    let (broker, clock) = manual();
    let seen = Log::new();
    let topic = broker.topic::<&str>("t").retry(ByAttempt(seen.clone()));
    let topic = topic.open().expect("opens");
    let _broken = topic
        .subscribe("s", |d| match d.attempt() {
            1 => panic!("boom"),
            _ => Err(Nack::retry(*d.payload())),
        })
        .expect("subscribes");
    for payload in ["drop me", "keep me"] {
        topic.publish(payload).expect("there is room");
        broker.run_until_idle();
        advance(&broker, &clock, 5 * MS);
        assert_eq!(
            seen.take(),
            [
                "1 after 0ns: Panic boom".to_owned(),
                format!("2 after 5ms: Error {payload}"),
                format!("3 after 5ms: Error {payload}"),
            ]
        );
    }
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.dropped, counts.dead_lettered), (1, 1));
    assert_eq!(*topic.dead_letters().list()[0].payload(), "keep me");
}

#[test]
fn a_subscription_may_have_a_policy_of_its_own() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<()>("t").retry(Backoff::none()).open();
    let topic = topic.expect("opens");
    let _patient = topic
        .subscription("patient")
        .retry(Backoff::fixed(Duration::ZERO).max_attempts(4))
        .subscribe(|_| Err(Nack::retry("no")))
        .expect("subscribes");
    let _ordinary = topic
        .subscribe("ordinary", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    topic.publish(()).expect("there is room");
    broker.run_until_idle();
    let metrics = topic.metrics();
    let attempts = |name| {
        metrics
            .subscription(name)
            .expect("subscribed")
            .counts
            .attempts
    };
    assert_eq!((attempts("patient"), attempts("ordinary")), (4, 1));
    assert_balanced(&broker);
}

#[test]
fn a_policy_swapped_while_retries_wait_decides_from_the_next_failure_on() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .retry(Backoff::fixed(100 * MS))
        .open();
    let topic = topic.expect("opens");
    let entered = Log::new();
    let own = topic
        .subscribe("s", {
            let (entered, clock) = (entered.clone(), clock.clone());
            move |d| {
                entered.push((*d.payload(), d.attempt(), clock.elapsed()));
                Err(Nack::retry("no"))
            }
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    // The retry that was granted stands; the one after it is the new policy's.
    topic.set_retry(Backoff::fixed(5 * MS)).expect("valid");
    for _ in 0..110 {
        advance(&broker, &clock, MS);
    }
    assert_eq!(
        entered.take(),
        [(1, 1, Duration::ZERO), (1, 2, 100 * MS), (1, 3, 105 * MS)]
    );
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    own.set_retry(Backoff::none()).expect("valid");
    for _ in 0..10 {
        advance(&broker, &clock, MS);
    }
    assert_eq!(entered.take(), [(2, 1, 110 * MS), (2, 2, 115 * MS)]);
    assert_eq!(topic.dead_letters().len(), 2);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_takes_back_the_retries_that_wait_for_its_places() {
    for when_full in [
        LaneFull::Wait,
        LaneFull::DropOldest,
        LaneFull::DropNewest,
        LaneFull::DeadLetter,
    ] {
        let (broker, clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(4).open().expect("opens");
        let log = Log::new();
        let _flaky = topic
            .subscription("s")
            .capacity(3)
            .when_full(when_full)
            .subscribe({
                let log = log.clone();
                move |d| {
                    log.push((*d.payload(), d.attempt()));
                    match d.attempt() {
                        1 => Err(Nack::retry("not yet")),
                        _ => Ok(()),
                    }
                }
            })
            .expect("subscribes");
        topic.publish_batch(0..3).expect("there is room");
        broker.run_until_idle();
        let metrics = topic.metrics();
        assert_eq!(
            metrics
                .subscription("s")
                .expect("subscribed")
                .counts
                .awaiting_retry,
            3
        );
        log.take();
        // The lane is full of waiting retries, and in the end the topic is too.
        for payload in 10..20 {
            let _ = topic.publish(payload);
            broker.run_until_idle();
        }
        assert_eq!(log.len(), 0, "{when_full:?}: nothing new found a place");
        advance(&broker, &clock, 250 * MS);
        let again = log.take();
        assert_eq!(again[..3], [(0, 2), (1, 2), (2, 2)], "{when_full:?}");
        let counts = assert_balanced(&broker).deliveries();
        assert_eq!(counts.delivered, 3, "{when_full:?}");
    }
}

#[test]
fn retries_that_wait_occupy_no_worker() {
    let broker = threaded(1);
    let failing = broker.topic::<u32>("failing");
    let failing = failing.retry(Backoff::fixed(3_600 * 1_000 * MS)).open();
    let failing = failing.expect("opens");
    let _broken = failing
        .subscribe("s", |_| Err(Nack::retry("in an hour")))
        .expect("subscribes");
    failing.publish_batch(0..1_000).expect("there is room");
    let other = broker.topic::<u32>("other").open().expect("opens");
    let (delivered, deliveries) = mpsc::channel();
    let _reader = other
        .subscribe("s", move |d| Ok(delivered.send(*d.payload())?))
        .expect("subscribes");
    for payload in 0..100 {
        other.publish(payload).expect("there is room");
        assert_eq!(deliveries.recv_timeout(HANG), Ok(payload));
    }
    let until = Instant::now() + HANG;
    let awaiting = || broker.metrics().deliveries().awaiting_retry;
    while awaiting() < 1_000 {
        assert!(Instant::now() < until, "only {} wait", awaiting());
        std::thread::yield_now();
    }
    broker
        .drain(Duration::ZERO)
        .expect_err("the retries are cut off");
    // A worker that still has the lane may end them later than the drain waits for.
    let cancelled = || broker.metrics().deliveries().cancelled;
    while cancelled() < 1_000 {
        assert!(Instant::now() < until, "only {} end", cancelled());
        std::thread::yield_now();
    }
    assert_balanced(&broker);
}

#[test]
fn a_neighbor_of_waiting_retries_is_delivered_without_delay() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let _picky = topic
        .subscribe("s", {
            let log = log.clone();
            move |d| match d.payload() % 2 {
                0 => Err(Nack::retry("even")),
                _ => {
                    log.push(*d.payload());
                    Ok(())
                }
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..100).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        (0..100).filter(|n| n % 2 == 1).collect::<Vec<_>>()
    );
    assert_eq!(assert_balanced(&broker).deliveries().awaiting_retry, 50);
}

#[test]
fn a_great_many_retries_wait_at_once_and_all_come_back() {
    // A million where it is compiled to be fast.
    const RETRIES: usize = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    let (broker, clock) = manual();
    let topic = broker
        .topic::<usize>("t")
        .capacity(1 << 20)
        .lane_capacity(1 << 20)
        .retry(Backoff::fixed(10_000 * MS).jitter())
        .open()
        .expect("opens");
    let _flaky = topic
        .subscribe("s", |d| match d.attempt() {
            1 => Err(Nack::retry("not yet")),
            _ => Ok(()),
        })
        .expect("subscribes");
    topic.publish_batch(0..RETRIES).expect("there is room");
    broker.run_until_idle();
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!(counts.awaiting_retry, RETRIES as u64);
    let mut delivered = 0;
    for _ in 0..10 {
        advance(&broker, &clock, 1_000 * MS);
        let now = broker.metrics().deliveries().delivered;
        let share = now - delivered;
        let tenth = RETRIES as u64 / 10;
        assert!(share.abs_diff(tenth) < tenth / 5, "{share} in a second");
        delivered = now;
    }
    advance(&broker, &clock, MS);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!(
        (counts.delivered, counts.awaiting_retry),
        (RETRIES as u64, 0)
    );
    assert_eq!(broker.next_deadline(), None);
}

#[test]
fn a_batch_handler_gets_each_retry_alone() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").retry(Backoff::fixed(MS)).open();
    let topic = topic.expect("opens");
    let log = Log::new();
    let _batches = topic
        .subscription("s")
        .subscribe_batches(Batched::of(4), {
            let log = log.clone();
            move |batch| {
                log.push(batch.iter().map(|d| *d.payload()).collect::<Vec<_>>());
                for (at, d) in batch.iter().enumerate() {
                    if d.attempt() == 1 && d.payload() % 2 == 1 {
                        batch.nack(at, Nack::retry("odd"));
                    }
                }
                Ok(())
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..4).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [vec![0, 1, 2, 3], vec![1], vec![3]]);
    assert_balanced(&broker);
}

#[test]
fn a_retry_is_not_made_if_the_message_expires_first() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<()>("t")
        .ttl(20 * MS)
        .retry(Backoff::fixed(15 * MS));
    let topic = topic.open().expect("opens");
    let attempts = Log::new();
    let _broken = topic
        .subscribe("s", {
            let attempts = attempts.clone();
            move |d| {
                attempts.push(d.attempt());
                Err(Nack::retry("no"))
            }
        })
        .expect("subscribes");
    topic.publish(()).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, 15 * MS);
    assert_eq!(attempts.take(), [1, 2]);
    assert_eq!(broker.next_deadline(), None);
    assert_eq!(assert_balanced(&broker).deliveries().expired, 1);
}

#[test]
fn policies_without_effect_are_refused_wherever_they_are_set() {
    for useless in [
        Backoff::fixed(2 * MS).cap(MS),
        Backoff::fixed(MS).max_attempts(0),
        Backoff::fixed(Duration::ZERO).max_elapsed(Duration::ZERO),
    ] {
        let useless = || useless.clone();
        let (broker, _clock) = manual();
        let refused = broker.topic::<u32>("t").retry(useless()).open();
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{refused:?}");
        let topic: Topic<u32> = broker.topic("t").open().expect("opens");
        assert!(topic.set_retry(useless()).is_err());
        assert!(
            topic
                .subscription("s")
                .retry(useless())
                .subscribe(|_| Ok(()))
                .is_err()
        );
        let subscription = topic.subscribe("s", |_| Ok(())).expect("the name is free");
        assert!(subscription.set_retry(useless()).is_err());
        let all = || broker.subscription::<u32>("all").matching(">");
        assert!(all().retry(useless()).subscribe(|_| Ok(())).is_err());
        let all = all().subscribe(|_| Ok(())).expect("the name is free");
        assert!(all.set_retry(useless()).is_err());
        assert_balanced(&broker);
    }
}

#[test]
fn a_lane_full_of_waiting_retries_is_felt_by_the_publisher_and_not_by_other_topics() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(2).open().expect("opens");
    let _flaky = topic
        .subscription("s")
        .capacity(2)
        .subscribe(|d| match d.attempt() {
            1 => Err(Nack::retry("not yet")),
            _ => Ok(()),
        })
        .expect("subscribes");
    let other = broker.topic::<u32>("other").open().expect("opens");
    let _reader = other.subscribe("s", |_| Ok(())).expect("subscribes");
    for _ in 0..2 {
        topic.publish_batch([1, 2]).expect("there is room");
        broker.run_until_idle();
    }
    let refused = topic.publish(3).expect_err("lane and topic are full");
    assert!(matches!(refused, PublishError::Full(3)), "{refused}");
    other.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(other.metrics().deliveries().delivered, 1);
    advance(&broker, &clock, 250 * MS);
    advance(&broker, &clock, 250 * MS);
    assert_eq!(topic.metrics().deliveries().delivered, 4);
    assert_balanced(&broker);
}

// What is due now goes now.

/// Fails twice, then answers `Ok`.
fn third_time_lucky(attempt: u32) -> Result<(), Nack> {
    match attempt {
        1 | 2 => Err(Nack::retry("not yet")),
        _ => Ok(()),
    }
}

#[test]
fn a_retry_without_delay_waits_for_no_clock() {
    type Subscribe = fn(SubscriptionBuilder<'_, u32>) -> Result<Subscription, SubscribeError>;
    let kinds: [Subscribe; 5] = [
        |builder| builder.subscribe(|d| third_time_lucky(d.attempt())),
        |builder| {
            builder.subscribe_batches(Batched::of(2).linger(Duration::ZERO), |batch| {
                third_time_lucky(batch.get(0).expect("none is empty").attempt())
            })
        },
        |builder| {
            builder
                .concurrency(2)
                .subscribe_shared(|d| third_time_lucky(d.attempt()))
        },
        |builder| {
            let builder = builder.on_failure(OnFailure::BlockKey);
            builder.subscribe(|d| third_time_lucky(d.attempt()))
        },
        |builder| {
            let builder = builder.on_failure(OnFailure::BlockSubscription);
            builder.subscribe(|d| third_time_lucky(d.attempt()))
        },
    ];
    for subscribe in kinds {
        // By the real clock, whose next tick nobody waits for here.
        let broker = Broker::builder().workers(0).build().expect("builds");
        let retry = Backoff::fixed(Duration::ZERO);
        let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
        let subscription = subscribe(topic.subscription("s")).expect("subscribes");
        for n in 0..10 {
            topic.message(n).key("k").publish().expect("there is room");
        }
        broker.run_until_idle();
        let counts = subscription.metrics().counts;
        assert_eq!(
            (counts.attempts, counts.retried, counts.delivered),
            (30, 20, 10)
        );
        assert_balanced(&broker);
    }
}

#[test]
fn a_lease_that_is_nacked_without_delay_can_be_taken_at_once() {
    for broker in [
        Broker::builder().workers(0).build().expect("builds"),
        threaded(1),
    ] {
        let retry = Backoff::fixed(Duration::ZERO);
        let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
        let pull = topic
            .subscription("s")
            .pull(Pull::default())
            .expect("subscribes");
        topic.publish(7).expect("there is room");
        let mut lease = pull
            .recv_timeout(HANG)
            .or_else(|_| pull.try_recv())
            .expect("there is one");
        for attempt in 2..=3 {
            lease.nack(Nack::retry("not yet")).expect("in time");
            lease = pull.try_recv().expect("it is there at once");
            assert_eq!(lease.attempt(), attempt);
        }
        lease.ack().expect("in time");
        assert_balanced(&broker);
    }
}

#[test]
fn a_retry_without_delay_keeps_the_order_of_its_key() {
    for (on_failure, concurrency) in [
        (OnFailure::BlockKey, None),
        (OnFailure::BlockKey, Some(2)),
        (OnFailure::BlockSubscription, None),
    ] {
        let (broker, _clock) = manual();
        let retry = Backoff::fixed(Duration::ZERO);
        let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
        let log = Log::new();
        let handler = {
            let log = log.clone();
            move |d: &Delivery<'_, u32>| {
                log.push((*d.payload(), d.attempt()));
                third_time_lucky(d.attempt())
            }
        };
        let builder = topic.subscription("s").on_failure(on_failure);
        let subscribed = match concurrency {
            None => builder.subscribe(handler),
            Some(count) => builder.concurrency(count).subscribe_shared(handler),
        };
        let _subscription = subscribed.expect("subscribes");
        for n in 0..20 {
            topic.message(n).key("k").publish().expect("there is room");
        }
        broker.run_until_idle();
        let expected = (0..20).flat_map(|n| [(n, 1), (n, 2), (n, 3)]);
        assert_eq!(log.take(), expected.collect::<Vec<_>>());
        assert_balanced(&broker);
    }
}

#[test]
fn a_message_published_after_no_time_is_published() {
    let broker = Broker::builder().workers(0).build().expect("builds");
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let _subscription = topic.subscribe("s", {
        let log = log.clone();
        move |d| {
            log.push(*d.payload());
            Ok(())
        }
    });
    topic
        .publish_after(Duration::ZERO, 1)
        .expect("there is room");
    let message = topic.message(2).after(Duration::ZERO);
    message.publish().expect("there is room");
    assert_eq!(topic.metrics().delayed, 0);
    topic.publish(3).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    assert_balanced(&broker);
}

#[test]
fn a_delivery_that_fails_over_and_over_without_delay_leaves_others_their_turns() {
    for concurrency in [None, Some(1)] {
        // By a clock that stands still.
        let (broker, _clock) = manual();
        let retry = Backoff::fixed(Duration::ZERO).max_attempts(10_000);
        let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
        let log = Log::new();
        let bad = {
            let log = log.clone();
            move |_: &Delivery<'_, u32>| {
                log.push("bad");
                Err(Nack::retry("never"))
            }
        };
        let builder = topic.subscription("bad");
        let bad = match concurrency {
            None => builder.subscribe(bad),
            Some(count) => builder.concurrency(count).subscribe_shared(bad),
        };
        let _bad = bad.expect("subscribes");
        let good = topic.subscribe("good", {
            let log = log.clone();
            move |_| {
                log.push("good");
                Ok(())
            }
        });
        let _good = good.expect("subscribes");
        topic.publish(1).expect("there is room");
        broker.run_until_idle();
        let calls = log.take();
        assert_eq!(calls.len(), 10_001);
        let at = calls.iter().position(|call| *call == "good");
        assert!(at < Some(2_000), "it waited for {at:?} calls");
        assert_balanced(&broker);
    }
}
