//! Dead letters that are handed to a subscriber, with their payload.

use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::{
    DeadLetter, DeadLetterOverflow, DeadReason, LetterAction, LetterSubscription,
};
use millstream::error::SubscribeError;
use millstream::metrics::LetterSubscriptionMetrics;
use millstream::{Broker, Delivery, Nack, OnExhausted, OnFailure, Topic, Unsubscribe};

const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker, name: &str) -> Topic<u32> {
    broker.topic(name).open().expect("opens")
}

/// Subscribes what fails the first generation of everything.
fn failing(topic: &Topic<u32>) {
    let handler = |delivery: &Delivery<'_, u32>| match delivery.generation() {
        0 => Err(Nack::dead_letter("in its first life")),
        _ => Ok(()),
    };
    topic.subscribe("s", handler).expect("subscribes").detach();
}

/// Subscribes to the dead letters what writes down payloads, and then decides.
fn deciding(
    topic: &Topic<u32>,
    name: &str,
    mut decide: impl FnMut(&DeadLetter<u32>) -> LetterAction + Send + 'static,
) -> (Log<u32>, LetterSubscription) {
    let log = Log::new();
    let entries = log.clone();
    let subscribed = topic.dead_letters().subscribe(name, move |letter| {
        entries.push(*letter.payload());
        Ok(decide(letter))
    });
    (log, subscribed.expect("subscribes"))
}

/// Calls, kept, purged, redriven, snoozed, failed.
fn counts(of: &LetterSubscriptionMetrics) -> [u64; 6] {
    [
        of.calls,
        of.kept,
        of.purged,
        of.redriven,
        of.snoozed,
        of.failed,
    ]
}

#[test]
fn a_letter_is_handed_over_with_all_that_is_known_of_it() {
    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct NoAnswer(#[source] std::num::ParseIntError);

    let (broker, clock) = manual();
    let topic = open(&broker, "t");
    let handler = |_: &Delivery<'_, u32>| {
        let cause = "x".parse::<u32>().expect_err("it is no number");
        Err(Nack::dead_letter_with(NoAnswer(cause)))
    };
    let _failing = topic.subscribe("s", handler).expect("subscribes");
    let message = topic.message(7).key("k").header("h", "v");
    message.publish().expect("there is room");
    broker.run_until_idle();
    clock.advance(SECOND);
    let seen = Log::new();
    let entries = seen.clone();
    let subscribed = topic.dead_letters().subscribe("desk", move |letter| {
        assert_eq!((letter.topic(), letter.subscription()), ("t", "s"));
        assert_eq!((letter.key(), letter.header("h")), (Some("k"), Some("v")));
        assert_eq!((letter.id().get(), letter.attempts()), (1, 1));
        assert_eq!(letter.reason(), DeadReason::Rejected);
        assert_eq!(letter.age(), SECOND);
        let error = letter.error().expect("an attempt has failed");
        assert!(error.starts_with("no answer: invalid digit"), "{error}");
        entries.push(letter.clone());
        Ok(LetterAction::Keep)
    });
    let desk = subscribed.expect("subscribes");
    broker.run_until_idle();
    assert_eq!(*seen.take()[0].payload(), 7);
    assert_eq!(counts(&desk.metrics()), [1, 1, 0, 0, 0, 0]);
    assert_eq!(topic.dead_letters().len(), 1, "it is kept");
    assert_rests_balanced(&broker);
}

#[test]
fn letters_that_were_there_come_first_and_each_comes_once() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "t");
    failing(&topic);
    topic.publish_batch([1, 2]).expect("there is room");
    broker.run_until_idle();
    let (log, _desk) = deciding(&topic, "desk", |_| LetterAction::Keep);
    topic.publish_batch([3, 4]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3, 4]);
    broker.run_until_idle();
    assert_eq!((log.len(), topic.dead_letters().len()), (0, 4));
    assert_rests_balanced(&broker);
}

#[test]
fn the_handler_decides_what_becomes_of_a_letter() {
    let (broker, clock) = manual();
    let topic = open(&broker, "t");
    failing(&topic);
    let (log, desk) = deciding(&topic, "desk", |letter| match *letter.payload() {
        0 => LetterAction::Keep,
        1 => LetterAction::Purge,
        2 => LetterAction::Redrive,
        _ if letter.age() < SECOND => LetterAction::Snooze(SECOND),
        _ => LetterAction::Purge,
    });
    topic.publish_batch(0..4).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3]);
    assert_eq!(counts(&desk.metrics()), [4, 1, 1, 1, 1, 0]);
    assert_eq!(desk.metrics().put_off, 1);
    assert_eq!(
        topic.metrics().deliveries().delivered,
        1,
        "the redriven one"
    );
    advance(&broker, &clock, SECOND - Duration::from_nanos(1));
    assert_eq!(log.len(), 0);
    assert_eq!(broker.next_deadline(), Some(Duration::from_nanos(1)));
    advance(&broker, &clock, Duration::from_millis(2));
    assert_eq!(log.take(), [3]);
    assert_eq!(counts(&desk.metrics()), [5, 1, 2, 1, 1, 0]);
    let left = topic.dead_letters().list();
    assert_eq!(left.iter().map(|l| *l.payload()).collect::<Vec<_>>(), [0]);
    assert_eq!(topic.metrics().letter_subscriptions, [desk.metrics()]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_letter_at_which_the_handler_fails_stays_and_comes_again_ever_later() {
    let (broker, clock) = manual();
    let topic = open(&broker, "t");
    failing(&topic);
    let log = Log::new();
    let (entries, mut calls) = (log.clone(), 0);
    let subscribed = topic.dead_letters().subscribe("desk", move |letter| {
        entries.push(*letter.payload());
        if *letter.payload() == 8 {
            return Ok(LetterAction::Purge);
        }
        calls += 1;
        match calls {
            1 => Err("no database")?,
            2 => resume_unwind(Box::new("a bug")),
            _ => Ok(LetterAction::Purge),
        }
    });
    let desk = subscribed.expect("subscribes");
    let errors = Log::new();
    let told = errors.clone();
    let observed = broker.observe(move |event| {
        if event.name().starts_with("letter_") {
            told.push(event.to_string());
        }
    });
    let _observation = observed.expect("observes");
    topic.publish_batch([7, 8]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [7, 8],
        "nobody waits behind a letter that fails"
    );
    assert!(broker.wait_until_idle(HANG), "nor does the broker");
    for (wait, calls) in [(SECOND, 1), (SECOND, 0), (SECOND, 1), (300 * SECOND, 0)] {
        advance(&broker, &clock, wait + Duration::from_millis(2));
        assert_eq!(log.take().len(), calls);
    }
    assert_eq!(counts(&desk.metrics()), [4, 0, 2, 0, 0, 2]);
    assert_eq!(
        errors.take(),
        [
            "letter_failed t/s #1 DEAD_LETTER by desk: no database",
            "letter_handled t/s #2 DEAD_LETTER by desk (purge)",
            "letter_failed t/s #1 DEAD_LETTER by desk: a bug",
            "letter_handled t/s #1 DEAD_LETTER by desk (purge)",
        ]
    );
    assert!(topic.dead_letters().is_empty());
    assert_rests_balanced(&broker);
}

#[test]
fn a_redrive_that_can_not_go_leaves_the_letter_for_later() {
    let (broker, clock) = manual();
    let topic = open(&broker, "t");
    let subscribed = topic.subscribe("s", |_| Err(Nack::dead_letter("no")));
    let subscription = subscribed.expect("subscribes");
    topic.publish(7).expect("there is room");
    broker.run_until_idle();
    subscription.unsubscribe(Unsubscribe::Cancel);
    let (log, desk) = deciding(&topic, "desk", |_| LetterAction::Redrive);
    broker.run_until_idle();
    assert_eq!(counts(&desk.metrics()), [1, 0, 0, 0, 0, 1]);
    assert_eq!((topic.dead_letters().len(), desk.metrics().put_off), (1, 1));
    let subscribed = topic.subscribe("s", |_| Ok(()));
    let subscription = subscribed.expect("subscribes");
    advance(&broker, &clock, SECOND + Duration::from_millis(2));
    assert_eq!(log.take(), [7, 7]);
    assert_eq!(counts(&desk.metrics()), [2, 0, 0, 1, 0, 1]);
    assert_eq!(desk.metrics().put_off, 0);
    assert_eq!(subscription.metrics().counts.delivered, 1);
    assert_rests_balanced(&broker);
}

#[test]
fn a_parked_key_keeps_its_order_through_a_subscriber_that_redrives() {
    let (broker, clock) = manual();
    let topic = open(&broker, "t");
    let log = Log::new();
    let entries = log.clone();
    let builder = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let builder = builder.on_exhausted(OnExhausted::ParkKey);
    let subscribed = builder.subscribe(move |delivery| {
        if *delivery.payload() == 1 && delivery.generation() < 2 {
            return Err(Nack::dead_letter("not yet"));
        }
        entries.push(*delivery.payload());
        Ok(())
    });
    let _subscription = subscribed.expect("subscribes");
    for payload in 1..=4 {
        let message = topic.message(payload).key("k");
        message.publish().expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 4);
    let (_, desk) = deciding(&topic, "desk", |_| LetterAction::Redrive);
    for _ in 0..60 {
        advance(&broker, &clock, 10 * SECOND);
    }
    assert_eq!(log.take(), [1, 2, 3, 4]);
    assert!(topic.dead_letters().is_empty());
    assert_eq!(desk.metrics().put_off, 0);
    assert_rests_balanced(&broker);
}

#[test]
fn every_subscriber_sees_every_letter_that_another_leaves() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "t");
    failing(&topic);
    let (first, _first) = deciding(&topic, "first", |letter| match letter.payload() % 2 {
        0 => LetterAction::Keep,
        _ => LetterAction::Purge,
    });
    topic.publish_batch(0..4).expect("there is room");
    broker.run_until_idle();
    let (second, _second) = deciding(&topic, "second", |_| LetterAction::Purge);
    broker.run_until_idle();
    assert_eq!(
        (first.take(), second.take()),
        (vec![0, 1, 2, 3], vec![0, 2])
    );
    assert!(topic.dead_letters().is_empty());
    assert_rests_balanced(&broker);
}

#[test]
fn while_a_handler_has_a_letter_nobody_else_can_take_it() {
    let broker = threaded(2);
    let builder = broker.topic("t").dead_letter_capacity(2);
    let builder = builder.dead_letter_overflow(DeadLetterOverflow::EvictOldest);
    let topic: Topic<u32> = builder.open().expect("opens");
    failing(&topic);
    let (go, gate) = mpsc::channel::<()>();
    let (_log, desk) = deciding(&topic, "desk", move |_| {
        let _ = gate.recv();
        LetterAction::Keep
    });
    topic.publish(1).expect("there is room");
    while desk.metrics().running == 0 {
        thread::yield_now();
    }
    let letters = topic.dead_letters();
    assert_eq!(letters.list().len(), 1, "it is seen");
    assert_eq!(
        (letters.purge_all(), broker.dead_letters().purge_all()),
        (0, 0)
    );
    let redrive = letters.redrive_all();
    assert_eq!((redrive.redriven, redrive.behind), (0, 1));
    topic.publish_batch([2, 3]).expect("there is room");
    while topic.metrics().letters_evicted == 0 {
        thread::yield_now();
    }
    let left: Vec<_> = letters.list().iter().map(|l| *l.payload()).collect();
    assert_eq!(left, [1, 3], "a full store evicts another");
    drop(go);
    assert_rests_balanced(&broker);
    assert_eq!((desk.metrics().kept, letters.len()), (2, 2));
    assert_eq!(letters.purge_all(), 2);
}

#[test]
fn after_an_unsubscribe_no_call_starts_and_the_handler_is_gone() {
    let broker = threaded(2);
    let topic = open(&broker, "t");
    failing(&topic);
    let (guard, gone) = mpsc::channel::<()>();
    let (go, gate) = mpsc::channel::<()>();
    let (log, desk) = deciding(&topic, "desk", move |_| {
        let _keep = &guard;
        let _ = gate.recv();
        LetterAction::Purge
    });
    topic.publish_batch([1, 2]).expect("there is room");
    while desk.metrics().running == 0 {
        thread::yield_now();
    }
    let ending = thread::spawn(move || desk.unsubscribe());
    go.send(()).expect("it is waited for");
    drop(go);
    let last = ending
        .join()
        .expect("no panic")
        .expect("outside of handlers");
    assert!(
        gone.try_recv()
            .is_err_and(|error| error == mpsc::TryRecvError::Disconnected)
    );
    let calls = log.len() as u64;
    assert_eq!((last.calls, last.purged, last.running), (calls, calls, 0));
    topic.publish(3).expect("there is room");
    assert_rests_balanced(&broker);
    assert_eq!(log.len() as u64, calls);
    assert_eq!(topic.dead_letters().len() as u64, 3 - calls);
    let (again, _desk) = deciding(&topic, "desk", |_| LetterAction::Purge);
    assert_rests_balanced(&broker);
    assert_eq!(again.len() as u64, 3 - calls, "a new one sees them all");
}

#[test]
fn inside_a_handler_an_unsubscribe_only_begins_the_end() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "t");
    failing(&topic);
    let (hand, handed) = mpsc::channel::<LetterSubscription>();
    let (log, desk) = deciding(&topic, "desk", move |_| {
        let own = handed.try_recv().expect("one call only");
        assert_eq!(own.unsubscribe(), None);
        LetterAction::Keep
    });
    hand.send(desk).expect("it is there");
    topic.publish_batch([1, 2]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [1]);
    assert!(
        hand.send(deciding(&topic, "desk", |_| LetterAction::Keep).1)
            .is_err()
    );
    broker.run_until_idle();
    assert!(topic.metrics().letter_subscriptions.is_empty());
    assert_rests_balanced(&broker);
}

#[test]
fn a_pattern_covers_topics_of_its_type_opened_before_and_after() {
    let (broker, _clock) = manual();
    let before = open(&broker, "orders.eu");
    let other: Topic<String> = broker.topic("orders.text").open().expect("opens");
    let log = Log::new();
    let entries = log.clone();
    let subscribed =
        broker
            .dead_letters()
            .subscribe("alerts", "orders.>", move |letter: &DeadLetter<u32>| {
                entries.push((letter.topic().to_owned(), *letter.payload()));
                Ok(LetterAction::Purge)
            });
    let alerts = subscribed.expect("subscribes");
    let after = open(&broker, "orders.us");
    let elsewhere = open(&broker, "returns");
    for topic in [&before, &after, &elsewhere] {
        failing(topic);
        topic.publish(7).expect("there is room");
    }
    let _failing = other.subscribe("s", |_| Err(Nack::dead_letter("no")));
    other.publish("x".to_owned()).expect("there is room");
    broker.run_until_idle();
    let mut seen = log.take();
    seen.sort();
    assert_eq!(
        seen,
        [("orders.eu".to_owned(), 7), ("orders.us".to_owned(), 7)]
    );
    assert_eq!(alerts.metrics().purged, 2);
    assert_eq!(broker.dead_letters().len(), 2);
    let last = alerts.unsubscribe().expect("outside of handlers");
    assert_eq!((last.calls, last.name.as_str()), (2, "alerts"));
    after.publish(8).expect("there is room");
    let third = open(&broker, "orders.cn");
    assert!(third.metrics().letter_subscriptions.is_empty());
    assert_rests_balanced(&broker);
    assert_eq!(log.len(), 0);
}

#[test]
fn a_pattern_leaves_a_topic_that_is_removed_and_keeps_its_counts() {
    let (broker, _clock) = manual();
    let subscribed = broker
        .dead_letters()
        .subscribe("alerts", "t.>", |_: &DeadLetter<u32>| {
            Ok(LetterAction::Purge)
        });
    let alerts = subscribed.expect("subscribes");
    let topic = open(&broker, "t.a");
    let subscribed = topic.subscribe("s", |_| Err(Nack::dead_letter("no")));
    topic.publish(7).expect("there is room");
    broker.run_until_idle();
    subscribed
        .expect("subscribes")
        .unsubscribe(Unsubscribe::Cancel);
    let own = topic
        .dead_letters()
        .subscribe("own", |_| Ok(LetterAction::Keep));
    drop(topic);
    let refused = broker
        .remove_topic("t.a")
        .expect_err("it has a subscriber of its own");
    assert!(refused.to_string().contains("subscriptions"), "{refused}");
    drop(own);
    broker.run_until_idle();
    assert_eq!(broker.remove_topic("t.a"), Ok(()));
    assert!(!alerts.has_ended());
    assert_eq!(alerts.metrics().purged, 1);
    drop(open(&broker, "t.a"));
    assert_eq!(broker.metrics().topics[0].letter_subscriptions.len(), 1);
    assert_rests_balanced(&broker);
}

#[test]
fn names_are_one_of_a_kind_and_a_closed_topic_or_broker_takes_no_subscriber() {
    let (broker, _clock) = manual();
    let (topic, other) = (open(&broker, "a"), open(&broker, "b"));
    let subscribe = |topic: &Topic<u32>, name| {
        let subscribed = topic
            .dead_letters()
            .subscribe(name, |_| Ok(LetterAction::Keep));
        subscribed.map(LetterSubscription::detach)
    };
    let by_pattern = |name, pattern| {
        let keep = |_: &DeadLetter<u32>| Ok(LetterAction::Keep);
        let subscribed = broker.dead_letters().subscribe(name, pattern, keep);
        subscribed.map(LetterSubscription::detach)
    };
    assert!(subscribe(&topic, "x").is_ok());
    assert!(
        matches!(subscribe(&topic, "x"), Err(SubscribeError::NameTaken { name }) if name == "x")
    );
    assert!(matches!(
        subscribe(&topic, ""),
        Err(SubscribeError::Name(_))
    ));
    assert!(matches!(
        by_pattern("y", "a.b*"),
        Err(SubscribeError::Pattern(_))
    ));
    let taken = by_pattern("x", "*");
    assert!(matches!(taken, Err(SubscribeError::NameTakenOn { topic, .. }) if topic == "a"));
    assert!(other.metrics().letter_subscriptions.is_empty());
    assert!(by_pattern("y", "*").is_ok());
    assert!(matches!(
        by_pattern("y", "*"),
        Err(SubscribeError::PatternNameTaken { .. })
    ));
    assert!(matches!(
        subscribe(&other, "y"),
        Err(SubscribeError::NameTaken { .. })
    ));
    other.drain(Duration::ZERO).expect("it has nothing");
    assert!(matches!(
        subscribe(&other, "z"),
        Err(SubscribeError::Closed)
    ));
    assert!(
        other.metrics().letter_subscriptions.is_empty(),
        "they have ended"
    );
    assert_rests_balanced(&broker);
    broker.drain(Duration::ZERO).expect("it has nothing");
    assert!(matches!(
        subscribe(&topic, "z"),
        Err(SubscribeError::Closed)
    ));
    assert!(matches!(by_pattern("z", "*"), Err(SubscribeError::Closed)));
}

#[test]
fn a_drain_hands_out_the_letters_it_makes_and_then_drops_the_handlers() {
    let broker = threaded(2);
    let topic = open(&broker, "t");
    failing(&topic);
    let (guard, gone) = mpsc::channel::<()>();
    let (log, desk) = deciding(&topic, "desk", move |letter| {
        let _keep = &guard;
        match letter.payload() % 2 {
            0 => LetterAction::Redrive,
            _ => LetterAction::Keep,
        }
    });
    desk.detach();
    topic.publish_batch(0..100).expect("there is room");
    let report = broker.drain(HANG).expect("all of it was worked off");
    assert_eq!((log.len(), report.delivered), (100, 50));
    assert_eq!(topic.dead_letters().len(), 50);
    assert!(
        gone.try_recv()
            .is_err_and(|error| error == mpsc::TryRecvError::Disconnected)
    );
    assert_balanced(&broker);
}

#[test]
fn a_letter_that_leaves_while_it_is_put_off_is_forgotten() {
    let (broker, clock) = manual();
    let topic = open(&broker, "t");
    failing(&topic);
    let (log, desk) = deciding(&topic, "desk", |_| LetterAction::Snooze(SECOND));
    topic.publish_batch([1, 2, 3]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(desk.metrics().put_off, 3);
    let letters = topic.dead_letters();
    assert_eq!(letters.purge(|letter| *letter.payload() == 1), 1);
    assert_eq!(letters.redrive(|letter| *letter.payload() == 2).redriven, 1);
    assert_eq!(desk.metrics().put_off, 1);
    log.take();
    advance(&broker, &clock, 2 * SECOND);
    assert_eq!(log.take(), [3]);
    assert_rests_balanced(&broker);
}
