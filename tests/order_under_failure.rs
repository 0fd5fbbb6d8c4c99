//! Promise 6, order under failure: `Reorder` lets others pass, `BlockKey` holds back
//! those of the same key wherever they are, `BlockSubscription` holds back all. A key
//! whose delivery is exhausted goes on, or is parked. Nothing is lost, and the books
//! balance, whatever is changed meanwhile.

use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::{DeadLetterOverflow, DeadReason};
use millstream::error::SubscribeError;
use millstream::event::EventKind;
use millstream::{
    Backoff, Batched, Broker, DeliveryBatch, LaneFull, Nack, OnExhausted, OnFailure, Subscription,
    Topic, Unsubscribe, Unsubscribed,
};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// One message: its key, its number, and how many attempts fail.
type Order = (&'static str, u32, u32);

fn open(broker: &Broker, attempts: u32) -> Topic<Order> {
    let retry = Backoff::fixed(10 * MS).max_attempts(attempts);
    let topic = broker.topic::<Order>("orders").retry(retry).open();
    topic.expect("opens")
}

fn publish(topic: &Topic<Order>, orders: &[Order]) {
    for order in orders {
        let message = topic.message(*order).key(order.0);
        message.publish().expect("there is room");
    }
}

/// Writes down what succeeds; fails as often as the message says.
fn subscribe(
    topic: &Topic<Order>,
    log: &Log<(&'static str, u32)>,
    mode: OnFailure,
) -> Subscription {
    let subscription = topic.subscription("book").on_failure(mode);
    subscription.subscribe(scribe(log)).expect("subscribes")
}

fn scribe(
    log: &Log<(&'static str, u32)>,
) -> impl FnMut(&millstream::Delivery<'_, Order>) -> Result<(), Nack> + Send + 'static {
    let log = log.clone();
    move |d| {
        let (key, number, failures) = *d.payload();
        if d.generation() == 0 && d.attempt() <= failures {
            return Err(Nack::retry("not yet"));
        }
        log.push((key, number));
        Ok(())
    }
}

const ORDERS: [Order; 6] = [
    ("a", 1, 1),
    ("a", 2, 0),
    ("b", 1, 0),
    ("a", 3, 1),
    ("b", 2, 0),
    ("a", 4, 0),
];

#[test]
fn by_default_others_pass() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let _book = subscribe(&topic, &log, OnFailure::Reorder);
    publish(&topic, &ORDERS);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 2), ("b", 1), ("b", 2), ("a", 4)]);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 1), ("a", 3)]);
    assert_balanced(&broker);
}

#[test]
fn a_blocked_key_waits_and_other_keys_go_on() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let book = subscribe(&topic, &log, OnFailure::BlockKey);
    publish(&topic, &ORDERS);
    topic.publish(("", 0, 0)).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [("b", 1), ("b", 2), ("", 0)]);
    let metrics = book.metrics();
    assert_eq!((metrics.blocked_keys, metrics.held), (1, 3));
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 1), ("a", 2)]);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 3), ("a", 4)]);
    let metrics = book.metrics();
    assert_eq!((metrics.blocked_keys, metrics.held), (0, 0));
    assert_balanced(&broker);
}

#[test]
fn a_blocked_subscription_waits_as_a_whole() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let _book = subscribe(&topic, &log, OnFailure::BlockSubscription);
    publish(&topic, &ORDERS);
    broker.run_until_idle();
    assert_eq!(log.take(), []);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 1), ("a", 2), ("b", 1)]);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 3), ("b", 2), ("a", 4)]);
    assert_balanced(&broker);
}

#[test]
fn an_exhausted_delivery_frees_its_key() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 2), Log::new());
    let _book = subscribe(&topic, &log, OnFailure::BlockKey);
    publish(&topic, &[("a", 1, 9), ("a", 2, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), []);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 2)]);
    assert_eq!(topic.dead_letters().len(), 1);
    assert_balanced(&broker);
}

fn parking(topic: &Topic<Order>, log: &Log<(&'static str, u32)>) -> Subscription {
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let subscription = subscription.on_exhausted(OnExhausted::ParkKey);
    subscription.subscribe(scribe(log)).expect("subscribes")
}

#[test]
fn followers_of_a_parked_key_join_the_dead_letters_and_return_in_order() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 2), Log::new());
    let book = parking(&topic, &log);
    publish(
        &topic,
        &[("a", 1, 9), ("a", 2, 0), ("b", 1, 0), ("a", 3, 0)],
    );
    broker.run_until_idle();
    advance(&broker, &clock, 10 * MS);
    publish(&topic, &[("a", 4, 0), ("b", 2, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("b", 1), ("b", 2)]);
    let letters = topic.dead_letters();
    let list = letters.list();
    let dead: Vec<_> = list
        .iter()
        .map(|letter| (letter.payload().1, letter.reason()))
        .collect();
    let parked = DeadReason::KeyParked;
    let expected = [
        (1, DeadReason::Exhausted),
        (2, parked),
        (3, parked),
        (4, parked),
    ];
    assert_eq!(dead, expected);
    assert_eq!(list[1].attempts(), 0, "a follower was never tried");
    assert_eq!(book.metrics().parked_keys, 1);

    publish(&topic, &[("a", 5, 0)]);
    let redrive = letters.redrive(|_| true);
    assert_eq!(redrive.redriven, 4);
    broker.run_until_idle();
    let returned = [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5)];
    assert_eq!(log.take(), returned);
    assert_eq!(book.metrics().parked_keys, 0);
    assert_balanced(&broker);
}

#[test]
fn a_parked_key_stays_parked_while_any_of_its_letters_is_left() {
    let (broker, _clock) = manual();
    let (topic, log) = (open(&broker, 1), Log::new());
    let _book = parking(&topic, &log);
    publish(&topic, &[("a", 1, 9), ("a", 2, 0)]);
    broker.run_until_idle();
    let letters = topic.dead_letters();
    assert_eq!(
        letters.redrive(|letter| letter.payload().1 == 1).redriven,
        1
    );
    publish(&topic, &[("a", 3, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 1)]);
    assert_eq!(letters.len(), 2);
    assert_eq!(letters.purge(|_| true), 2);
    publish(&topic, &[("a", 4, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 4)]);
    assert_balanced(&broker);
}

#[test]
fn a_redriven_key_that_fails_again_is_parked_again_in_order() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let log = Log::new();
    let calls = log.clone();
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let _book = subscription
        .on_exhausted(OnExhausted::ParkKey)
        .subscribe(move |d| {
            calls.push((d.payload().0, d.payload().1));
            if d.generation() < 2 && d.payload().1 == 1 {
                return Err(Nack::retry("not yet"));
            }
            Ok(())
        })
        .expect("subscribes");
    publish(&topic, &[("a", 1, 0), ("a", 2, 0), ("a", 3, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 1)]);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 3);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 1)], "the others follow it back");
    publish(&topic, &[("a", 4, 0)]);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 3);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 1), ("a", 2), ("a", 3), ("a", 4)]);
    assert_balanced(&broker);
}

#[test]
fn a_redrive_without_room_for_one_leaves_those_behind_it() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let log = Log::new();
    let subscription = topic.subscription("book").capacity(2);
    let subscription = subscription.on_failure(OnFailure::BlockKey);
    let subscription = subscription.on_exhausted(OnExhausted::ParkKey);
    let _book = subscription.subscribe(scribe(&log)).expect("subscribes");
    for round in 0..3 {
        publish(&topic, &[("a", round, 9)]);
        broker.run_until_idle();
    }
    let letters = topic.dead_letters();
    let redrive = letters.redrive(|_| true);
    assert_eq!((redrive.redriven, redrive.no_room), (2, 1));
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 0), ("a", 1)]);
    let _ = letters.redrive(|_| true);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 2)]);
    assert_balanced(&broker);
}

#[test]
fn past_the_hold_all_keys_wait_and_nothing_is_lost() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let book = subscription
        .hold(2)
        .subscribe(scribe(&log))
        .expect("subscribes");
    publish(&topic, &[("a", 1, 1)]);
    broker.run_until_idle();
    publish(
        &topic,
        &[
            ("a", 2, 0),
            ("b", 1, 0),
            ("a", 3, 0),
            ("a", 4, 0),
            ("b", 2, 0),
        ],
    );
    broker.run_until_idle();
    assert_eq!(log.take(), [("b", 1)], "b waits too, behind a 4");
    assert_eq!((book.metrics().held, book.metrics().queued), (2, 4));
    advance(&broker, &clock, 10 * MS);
    let rest = [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 2)];
    assert_eq!(log.take(), rest);
    assert_balanced(&broker);
}

#[test]
fn a_full_lane_of_followers_makes_the_topic_wait() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let _book = subscription
        .capacity(3)
        .subscribe(scribe(&log))
        .expect("subscribes");
    publish(
        &topic,
        &[("a", 1, 1), ("a", 2, 0), ("a", 3, 0), ("b", 1, 0)],
    );
    broker.run_until_idle();
    assert_eq!(log.take(), []);
    assert_eq!(topic.metrics().queued, 1);
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("a", 1), ("a", 2), ("a", 3), ("b", 1)]);
    assert_balanced(&broker);
}

#[test]
fn a_batch_has_one_of_each_key_so_that_none_passes_a_failure() {
    let (broker, clock) = manual();
    let topic = open(&broker, 3);
    let log = Log::new();
    let batches = log.clone();
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let handler = move |batch: &mut DeliveryBatch<'_, Order>| {
        let mut done = Vec::new();
        for (at, d) in batch.iter().enumerate() {
            let (key, number, failures) = *d.payload();
            if d.attempt() <= failures {
                batch.nack(at, Nack::retry("not yet"));
            } else {
                done.push((key, number));
            }
        }
        batches.push(done);
        Ok(())
    };
    let _book = subscription
        .subscribe_batches(Batched::of(2), handler)
        .expect("subscribes");
    publish(
        &topic,
        &[("a", 1, 1), ("a", 2, 0), ("b", 1, 0), ("b", 2, 0)],
    );
    topic.flush();
    broker.run_until_idle();
    let taken: Vec<_> = log.take().concat();
    assert_eq!(taken, [("b", 1), ("b", 2)]);
    advance(&broker, &clock, 10 * MS);
    topic.flush();
    broker.run_until_idle();
    let taken: Vec<_> = log.take().concat();
    assert_eq!(taken, [("a", 1), ("a", 2)]);
    assert_balanced(&broker);
}

#[test]
fn the_mode_changes_while_deliveries_wait() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let book = subscribe(&topic, &log, OnFailure::Reorder);
    publish(&topic, &[("a", 1, 1)]);
    broker.run_until_idle();
    book.set_on_failure(OnFailure::BlockKey)
        .expect("makes sense");
    publish(&topic, &[("a", 2, 1), ("a", 3, 0), ("b", 1, 0)]);
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [("b", 1)],
        "2 holds 3; 1 held nobody and holds nobody"
    );
    advance(&broker, &clock, 5 * MS);
    book.set_on_failure(OnFailure::Reorder)
        .expect("makes sense");
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 3)]);
    book.set_on_failure(OnFailure::BlockSubscription)
        .expect("makes sense");
    advance(&broker, &clock, 5 * MS);
    assert_eq!(log.take(), [("a", 1), ("a", 2)]);
    assert_balanced(&broker);
}

#[test]
fn a_key_that_is_parked_goes_on_when_parking_ends() {
    let (broker, _clock) = manual();
    let (topic, log) = (open(&broker, 1), Log::new());
    let book = parking(&topic, &log);
    publish(&topic, &[("a", 1, 9), ("a", 2, 0)]);
    broker.run_until_idle();
    book.set_on_exhausted(OnExhausted::FreeKey)
        .expect("makes sense");
    publish(&topic, &[("a", 3, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 3)]);
    assert_eq!(topic.dead_letters().len(), 2, "the letters stay");
    assert_balanced(&broker);
}

#[test]
fn settings_that_make_no_sense_are_refused_when_they_are_made() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let refused = |build: &dyn Fn(
        millstream::SubscriptionBuilder<'_, Order>,
    ) -> Result<Subscription, SubscribeError>| {
        let SubscribeError::Invalid(invalid) = build(topic.subscription("s")).expect_err("refused")
        else {
            panic!("another error");
        };
        invalid.to_string()
    };
    let ok = |_: &millstream::Delivery<'_, Order>| Ok(());
    assert_eq!(
        refused(&|s| s
            .on_failure(OnFailure::BlockKey)
            .when_full(LaneFull::DropOldest)
            .subscribe(ok)),
        "when_full is DropOldest, but it would tear gaps into the order that on_failure is to keep"
    );
    assert_eq!(
        refused(&|s| s
            .on_failure(OnFailure::BlockSubscription)
            .when_full(LaneFull::DeadLetter)
            .subscribe(ok)),
        "when_full is DeadLetter, but it would tear gaps into the order that on_failure is to keep"
    );
    assert_eq!(
        refused(&|s| s.on_exhausted(OnExhausted::ParkKey).subscribe(ok)),
        "on_exhausted is ParkKey, but it needs OnFailure::BlockKey, or there are no keys to park"
    );
    assert_eq!(
        refused(&|s| s.hold(7).subscribe(ok)),
        "hold is 7, but it needs OnFailure::BlockKey or several consumers, or nothing is ever set aside"
    );
    assert_eq!(
        refused(&|s| s.on_failure(OnFailure::BlockKey).hold(0).subscribe(ok)),
        "hold is 0, but it must be at least 1"
    );
    assert_eq!(
        refused(&|s| s
            .on_failure(OnFailure::BlockKey)
            .capacity(4)
            .hold(5)
            .subscribe(ok)),
        "hold is 5, but it must be between 1 and the lane's capacity"
    );
    let plain = topic.subscription("plain").when_full(LaneFull::DropOldest);
    let plain = plain.subscribe(ok).expect("subscribes");
    assert!(plain.set_on_failure(OnFailure::BlockKey).is_err());
    assert!(plain.set_on_exhausted(OnExhausted::ParkKey).is_err());
    assert!(plain.set_hold(0).is_err());
    assert!(plain.set_hold(7).is_err(), "nothing is ever set aside");
}

#[test]
fn what_is_held_ends_with_its_subscription() {
    for (mode, letters) in [(Unsubscribe::Cancel, 0), (Unsubscribe::DeadLetter, 3)] {
        let (broker, _clock) = manual();
        let (topic, log) = (open(&broker, 3), Log::new());
        let book = subscribe(&topic, &log, OnFailure::BlockKey);
        publish(&topic, &[("a", 1, 1), ("a", 2, 0), ("a", 3, 0)]);
        broker.run_until_idle();
        let _ = book.unsubscribe(mode);
        assert_eq!(topic.dead_letters().len(), letters);
        assert_balanced(&broker);
        assert!(broker.drain(HANG).expect("drains").is_complete());
    }
}

#[test]
fn a_drain_finishes_what_is_held() {
    let broker = threaded(2);
    let (topic, log) = (open(&broker, 3), Log::new());
    let _book = subscribe(&topic, &log, OnFailure::BlockKey);
    publish(&topic, &ORDERS);
    let report = broker.drain(HANG).expect("drains");
    assert_eq!(report.delivered, 6);
    let of_a: Vec<_> = log
        .take()
        .into_iter()
        .filter(|(key, _)| *key == "a")
        .collect();
    assert_eq!(of_a, [("a", 1), ("a", 2), ("a", 3), ("a", 4)]);
}

#[test]
fn what_expires_frees_its_key() {
    let (broker, clock) = manual();
    let (topic, log) = (open(&broker, 3), Log::new());
    let _book = subscribe(&topic, &log, OnFailure::BlockKey);
    let short = topic.message(("a", 1, 9)).key("a").ttl(5 * MS);
    short.publish().expect("there is room");
    publish(&topic, &[("a", 2, 0)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 2)], "a retry would come too late");
    let late = topic.message(("b", 1, 0)).key("b").ttl(5 * MS);
    publish(&topic, &[("b", 0, 1)]);
    late.publish().expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [("b", 0)]);
    assert_eq!(broker.metrics().deliveries().expired, 2);
    assert_balanced(&broker);
}

const KEYS: [&str; 4] = ["", "a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever fails, and whatever is changed meanwhile between modes that keep
    /// order, each key's messages succeed in the order in which they were published.
    #[test]
    fn order_per_key_survives_failures(
        orders in proptest::collection::vec((0..4_usize, 0..3_u32), 1..60),
        hold in 1..20_usize,
        whole in any::<bool>(),
        chunk in 1..9_usize,
    ) {
        let (broker, clock) = manual();
        let (topic, log) = (open(&broker, 5), Log::new());
        let mode = if whole { OnFailure::BlockSubscription } else { OnFailure::BlockKey };
        let mut subscription = topic.subscription("book").on_failure(mode);
        if !whole {
            subscription = subscription.hold(hold);
        }
        let _book = subscription.subscribe(scribe(&log)).expect("subscribes");
        let orders: Vec<Order> = orders
            .iter()
            .enumerate()
            .map(|(number, (key, failures))| (KEYS[*key], number as u32, *failures))
            .collect();
        for some in orders.chunks(chunk) {
            for order in some {
                let message = topic.message(*order);
                let message = if order.0.is_empty() { message } else { message.key(order.0) };
                message.publish().expect("there is room");
            }
            advance(&broker, &clock, 3 * MS);
        }
        for _ in 0..200 {
            advance(&broker, &clock, 10 * MS);
        }
        let done = log.take();
        prop_assert_eq!(done.len(), orders.len());
        for key in &KEYS[1..] {
            let of_key: Vec<_> = done.iter().filter(|(other, _)| other == key).collect();
            prop_assert!(of_key.is_sorted(), "{:?}", of_key);
        }
        if whole {
            prop_assert!(done.iter().map(|(_, number)| number).is_sorted());
        }
        assert_balanced(&broker);
    }
}

#[test]
fn order_per_key_survives_failures_on_threads() {
    let broker = threaded(2);
    let retry = Backoff::fixed(MS / 10).max_attempts(9);
    let topic = broker.topic::<Order>("orders").retry(retry).open();
    let topic = topic.expect("opens");
    let logs: Vec<_> = [OnFailure::BlockKey, OnFailure::BlockSubscription]
        .map(|mode| {
            let log = Log::new();
            let name = format!("{mode:?}");
            let subscription = topic.subscription(&name).on_failure(mode);
            let book = subscription.subscribe(scribe(&log)).expect("subscribes");
            book.detach();
            log
        })
        .into();
    for number in 0..2_000 {
        let key = KEYS[1 + number as usize % 3];
        let failures = u32::from(number % 7 == 0) + u32::from(number % 35 == 0);
        let mut message = Some((key, number, failures));
        while let Some(order) = message.take() {
            if let Err(refused) = topic.message(order).key(key).publish() {
                message = Some(refused.into_inner());
                std::thread::yield_now();
            }
        }
    }
    assert_rests_balanced(&broker);
    for log in logs {
        let done = log.take();
        assert_eq!(done.len(), 2_000);
        for key in &KEYS[1..] {
            let mut of_key = done.iter().filter(|(other, _)| other == key);
            assert!(of_key.by_ref().is_sorted());
        }
    }
}

/// Between two letters of one redrive the first may come back: the second is behind
/// it then, wherever it has got to.
#[test]
fn a_redrive_passes_no_letter_that_has_come_back_meanwhile() {
    let (broker, _clock) = manual();
    let (topic, log) = (open(&broker, 1), Log::new());
    let calls = log.clone();
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let _book = subscription
        .on_exhausted(OnExhausted::ParkKey)
        .subscribe(move |d| {
            if d.generation() < 2 && d.payload().1 == 1 {
                return Err(Nack::retry("not yet"));
            }
            calls.push((d.payload().0, d.payload().1));
            Ok(())
        })
        .expect("subscribes");
    publish(&topic, &[("a", 1, 0), ("a", 2, 0), ("a", 3, 0)]);
    broker.run_until_idle();
    let letters = topic.dead_letters();
    let first = letters.redrive(|_| {
        broker.run_until_idle();
        true
    });
    broker.run_until_idle();
    assert_eq!(log.take(), []);
    let second = letters.redrive(|_| true);
    broker.run_until_idle();
    assert_eq!((first.redriven, second.redriven), (1, 3));
    assert_eq!(log.take(), [("a", 1), ("a", 2), ("a", 3)]);
    assert_balanced(&broker);
}

/// A lane judges its parked keys one after the other. Of the second key, the first letter failed
/// again, the second waits to follow it, and the third is redriven before the second has.
#[cfg(feature = "async")]
#[test]
fn a_redriven_letter_passes_no_delivery_that_follows_into_the_store_just_then() {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Wake, Waker};

    use millstream::DeadLetters;

    /// Redrives some letters when the first delivery of a parked key has followed into the store.
    struct RedriveThen {
        letters: DeadLetters<Order>,
        chosen: fn(&Order) -> bool,
    }

    impl Wake for RedriveThen {
        fn wake(self: Arc<Self>) {
            let _ = self
                .letters
                .redrive(|letter| (self.chosen)(letter.payload()));
        }
    }

    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let log = Log::new();
    let calls = log.clone();
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let _book = subscription
        .on_exhausted(OnExhausted::ParkKey)
        .subscribe(move |d| {
            let (key, number, failures) = *d.payload();
            if u32::from(d.generation()) < failures {
                return Err(Nack::retry("not yet"));
            }
            calls.push((key, number));
            Ok(())
        })
        .expect("subscribes");
    let letters = topic.dead_letters();
    // Both keys do the same, so it makes no difference which of them is judged first.
    for key in ["a", "b"] {
        publish(
            &topic,
            &[(key, 1, 2), (key, 2, 0), (key, 3, 0), (key, 4, 0)],
        );
    }
    broker.run_until_idle();
    assert_eq!(letters.len(), 8);
    // The publishers of other keys want to hear how their messages end.
    let mut tracked = Vec::new();
    for key in ["c", "d", "e", "f"] {
        publish(&topic, &[(key, 1, 1)]);
        let tracker = topic.tracker();
        let message = topic.message((key, 2, 0)).key(key).tracked(&tracker);
        message.publish().expect("there is room");
        tracked.push(tracker);
    }
    let redrive = Arc::new(RedriveThen {
        letters: letters.clone(),
        // The fourth keeps its key parked.
        chosen: |order| ["a", "b"].contains(&order.0) && order.1 != 4,
    });
    let waker = Waker::from(redrive);
    for tracked in &mut tracked {
        let polled = Pin::new(tracked).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    let first = |order: &Order| order.1 <= 2;
    assert_eq!(
        letters.redrive(|letter| first(letter.payload())).redriven,
        4
    );
    broker.run_until_idle();
    for _ in 0..3 {
        let _ = letters.redrive(|_| true);
        broker.run_until_idle();
    }
    let done = log.take();
    for key in ["a", "b"] {
        let of_key = done.iter().filter(|(other, _)| *other == key);
        let numbers: Vec<_> = of_key.map(|(_, number)| *number).collect();
        assert_eq!(numbers, [1, 2, 3, 4], "{key}");
    }
    assert_balanced(&broker);
}

/// Fails the first message for good.
fn fails_the_first(topic: &Topic<Order>, log: &Log<(&'static str, u32)>) -> Subscription {
    let log = log.clone();
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let subscription = subscription.on_exhausted(OnExhausted::ParkKey);
    let subscribed = subscription.subscribe(move |d| {
        if d.payload().1 == 1 && d.generation() == 0 {
            return Err(Nack::dead_letter("for good"));
        }
        log.push((d.payload().0, d.payload().1));
        Ok(())
    });
    subscribed.expect("subscribes")
}

#[test]
fn letters_park_their_key_for_whoever_parks_later() {
    let (broker, _clock) = manual();
    let (topic, log) = (open(&broker, 1), Log::new());
    let book = fails_the_first(&topic, &log);
    publish(&topic, &[("a", 1, 0)]);
    broker.run_until_idle();
    book.set_on_exhausted(OnExhausted::FreeKey)
        .expect("makes sense");
    book.set_on_exhausted(OnExhausted::ParkKey)
        .expect("makes sense");
    publish(&topic, &[("a", 2, 0)]);
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 2);
    let _ = book.unsubscribe(Unsubscribe::Cancel);
    let _book = fails_the_first(&topic, &log);
    publish(&topic, &[("a", 3, 0)]);
    broker.run_until_idle();
    assert_eq!((topic.dead_letters().len(), log.len()), (3, 0));
    let _ = topic.dead_letters().redrive(|_| true);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 1), ("a", 2), ("a", 3)]);
    assert_balanced(&broker);
}

#[test]
fn keys_are_parked_no_longer_than_their_letters_are_kept() {
    let (broker, _clock) = manual();
    let (topic, log) = (open(&broker, 1), Log::new());
    let book = fails_the_first(&topic, &log);
    for number in 0..500 {
        let message = topic.message(("any", 1, 0)).key(format!("key-{number}"));
        message.publish().expect("there is room");
        broker.run_until_idle();
    }
    assert_eq!(book.metrics().parked_keys, 500);
    topic.dead_letters().purge(|_| true);
    assert_eq!(book.metrics().parked_keys, 0);
    assert_balanced(&broker);
}

#[test]
fn a_batch_that_is_due_goes_whatever_has_to_wait_for_its_key() {
    let (broker, _clock) = manual();
    let topic = open(&broker, 1);
    let batches = |mode, name: &str, hold: Option<usize>| {
        let log = Log::new();
        let sizes = log.clone();
        let mut subscription = topic.subscription(name).on_failure(mode);
        if let Some(hold) = hold {
            subscription = subscription.hold(hold);
        }
        let handler = move |batch: &mut DeliveryBatch<'_, Order>| {
            sizes.push(batch.len());
            Ok(())
        };
        let batched = Batched::of(8).until_full();
        let subscribed = subscription.subscribe_batches(batched, handler);
        (subscribed.expect("subscribes"), log)
    };
    let whole = batches(OnFailure::BlockSubscription, "whole", None);
    let small = batches(OnFailure::BlockKey, "small", Some(4));
    for number in 0..8 {
        publish(&topic, &[(["a", "b"][number as usize % 2], number, 0)]);
    }
    broker.run_until_idle();
    assert_eq!(whole.1.take(), [1; 8]);
    assert_eq!(small.1.take().iter().sum::<usize>(), 8);
    assert_balanced(&broker);
}

/// A store of so many letters, and a subscription that parks keys: every message fails
/// in its first so many generations.
fn small_store(
    broker: &Broker,
    letters: usize,
    overflow: DeadLetterOverflow,
    log: &Log<(&'static str, u32)>,
) -> (Topic<Order>, Subscription) {
    let topic = broker
        .topic::<Order>("orders")
        .dead_letter_capacity(letters);
    let topic = topic.dead_letter_overflow(overflow).retry(Backoff::none());
    let topic = topic.open().expect("opens");
    let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
    let subscription = subscription.on_exhausted(OnExhausted::ParkKey).capacity(16);
    let subscribed = subscription.subscribe(fails_in_generations(log));
    (topic, subscribed.expect("subscribes"))
}

fn fails_in_generations(
    log: &Log<(&'static str, u32)>,
) -> impl Fn(&millstream::Delivery<'_, Order>) -> Result<(), Nack> + Send + Sync + 'static {
    let log = log.clone();
    move |d| {
        let (key, number, failures) = *d.payload();
        if u32::from(d.generation()) < failures {
            return Err(Nack::retry("bad"));
        }
        log.push((key, number));
        Ok(())
    }
}

fn numbered(key: &'static str, numbers: std::ops::Range<u32>) -> Vec<Order> {
    numbers.map(|number| (key, number, 0)).collect()
}

#[test]
fn a_letter_that_was_not_kept_parks_nothing_and_those_behind_it_go_on() {
    let (broker, _clock) = manual();
    let log = Log::new();
    let (topic, book) = small_store(&broker, 1, DeadLetterOverflow::EvictNewest, &log);
    let told = Log::new();
    let parked = told.clone();
    let _observation = broker.observe(move |event| {
        if let EventKind::KeyParked { key } = event.kind() {
            parked.push(key.to_string());
        }
    });
    publish(&topic, &[("a", 0, 1)]);
    broker.run_until_idle();
    publish(&topic, &[("b", 0, 1)]);
    publish(&topic, &numbered("b", 1..10));
    broker.run_until_idle();
    assert_eq!(log.len(), 9);
    assert_eq!(book.metrics().parked_keys, 1, "the other key is parked");
    assert_eq!(told.take(), ["a"]);
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.topics[0].letters_evicted, 1);
}

#[test]
fn those_behind_a_parked_key_push_no_letter_out_but_wait_for_room() {
    let (broker, _clock) = manual();
    let log = Log::new();
    let (topic, book) = small_store(&broker, 3, DeadLetterOverflow::EvictOldest, &log);
    publish(&topic, &[("a", 0, 1)]);
    publish(&topic, &numbered("a", 1..10));
    publish(&topic, &numbered("b", 0..5));
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3, 4].map(|number| ("b", number)));
    let metrics = book.metrics();
    assert_eq!((metrics.held, metrics.queued), (7, 7));
    assert_eq!(topic.dead_letters().len(), 3);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 3);
    broker.run_until_idle();
    let all: Vec<_> = (0..10).map(|number| ("a", number)).collect();
    assert_eq!(log.take(), all);
    assert_eq!((book.metrics().held, book.metrics().parked_keys), (0, 0));
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.topics[0].letters_evicted, 0);
}

#[test]
fn those_that_wait_for_room_in_the_store_follow_when_a_purge_makes_some() {
    let (broker, _clock) = manual();
    let log = Log::new();
    let (topic, book) = small_store(&broker, 3, DeadLetterOverflow::EvictNewest, &log);
    publish(&topic, &[("x", 0, 9), ("y", 0, 9), ("a", 0, 1)]);
    publish(&topic, &numbered("a", 1..4));
    broker.run_until_idle();
    let letters = topic.dead_letters();
    assert_eq!((letters.len(), book.metrics().held), (3, 3));
    assert_eq!(letters.purge(|letter| letter.key() != Some("a")), 2);
    broker.run_until_idle();
    let dead: Vec<_> = letters.list().iter().map(|l| l.payload().1).collect();
    assert_eq!((dead, book.metrics().held), (vec![0, 1, 2], 1));
    assert_eq!(letters.purge(|_| true), 3);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 3)], "its key is free");
    assert_balanced(&broker);
}

#[test]
fn those_that_wait_for_room_in_the_store_go_on_when_the_letters_of_their_key_are_evicted() {
    let (broker, _clock) = manual();
    let log = Log::new();
    let (topic, book) = small_store(&broker, 2, DeadLetterOverflow::EvictOldest, &log);
    publish(&topic, &[("a", 0, 1)]);
    publish(&topic, &numbered("a", 1..4));
    broker.run_until_idle();
    assert_eq!(book.metrics().held, 2);
    publish(&topic, &[("x", 0, 9)]);
    broker.run_until_idle();
    assert_eq!(book.metrics().held, 2, "one letter of the key is left");
    publish(&topic, &[("y", 0, 9)]);
    broker.run_until_idle();
    assert_eq!(log.take(), [("a", 2), ("a", 3)]);
    assert_balanced(&broker);
}

/// Nothing can wait for each other's room: the lane is full of those that wait for the
/// store, which is full of those that wait for the lane.
#[test]
fn a_full_store_is_redriven_into_a_lane_full_of_those_that_wait_for_it() {
    let (broker, _clock) = manual();
    let log = Log::new();
    let (topic, book) = small_store(&broker, 3, DeadLetterOverflow::EvictOldest, &log);
    publish(&topic, &[("a", 0, 1)]);
    publish(&topic, &numbered("a", 1..50));
    broker.run_until_idle();
    let metrics = book.metrics();
    assert_eq!((metrics.queued, metrics.held), (16, 16));
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 3);
    broker.run_until_idle();
    let all: Vec<_> = (0..50).map(|number| ("a", number)).collect();
    assert_eq!(log.take(), all);
    assert_balanced(&broker);
}

#[test]
fn an_end_accounts_for_those_that_wait_for_room_in_the_store() {
    for (mode, cancelled, dead) in [
        (Unsubscribe::Cancel, 4, 2),
        (Unsubscribe::Drain { timeout: MS }, 4, 2),
        (Unsubscribe::DeadLetter, 0, 6),
    ] {
        let (broker, _clock) = manual();
        let log = Log::new();
        let (topic, book) = small_store(&broker, 2, DeadLetterOverflow::EvictOldest, &log);
        publish(&topic, &[("a", 0, 1)]);
        publish(&topic, &numbered("a", 1..6));
        broker.run_until_idle();
        let Unsubscribed::Ended(last) = book.unsubscribe(mode) else {
            panic!("it was called outside of any handler");
        };
        let counts = (last.counts.cancelled, last.counts.dead_lettered);
        assert_eq!(counts, (cancelled, dead), "{mode:?}");
        assert_balanced(&broker);
    }
    let (broker, _clock) = manual();
    let log = Log::new();
    let (topic, _book) = small_store(&broker, 2, DeadLetterOverflow::EvictOldest, &log);
    publish(&topic, &[("a", 0, 1)]);
    publish(&topic, &numbered("a", 1..6));
    broker.run_until_idle();
    let report = broker.drain(MS).expect_err("four are left");
    assert!(report.to_string().contains("4 cut off"), "{report}");
    assert_balanced(&broker);
}

/// What is done to a topic whose store is small.
#[derive(Clone, Debug)]
enum Step {
    Publish { key: usize, failures: u32 },
    Run,
    Redrive,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let publish = (0..3_usize, prop_oneof![4 => Just(0_u32), 1 => 1..3_u32]);
    let publish = publish.prop_map(|(key, failures)| Step::Publish { key, failures });
    let step = prop_oneof![6 => publish, 2 => Just(Step::Run), 1 => Just(Step::Redrive)];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    /// Each key in order; nothing lost but what failed while the store was full and had
    /// been told to keep nothing new.
    #[test]
    fn a_small_store_loses_nothing_good_and_no_order(
        steps in steps(),
        letters in 1..6_usize,
        capacity in 1..8_usize,
        hands in 0..3_usize,
    ) {
        let (broker, _clock) = manual();
        let log = Log::new();
        let topic = broker.topic::<Order>("orders").dead_letter_capacity(letters);
        let topic = topic.dead_letter_overflow(DeadLetterOverflow::EvictNewest);
        let topic = topic.retry(Backoff::none()).open().expect("opens");
        let subscription = topic.subscription("book").on_failure(OnFailure::BlockKey);
        let subscription = subscription.on_exhausted(OnExhausted::ParkKey).capacity(capacity);
        let handler = fails_in_generations(&log);
        let book = match hands {
            0 => subscription.subscribe(handler),
            hands => subscription.concurrency(hands).subscribe_shared(handler),
        };
        let book = book.expect("subscribes");
        let (mut good, mut number) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Publish { key, failures } => {
                    let order = (["a", "b", "c"][key], number, failures);
                    number += 1;
                    publish(&topic, &[order]);
                    good.extend((failures == 0).then_some((order.0, order.1)));
                }
                Step::Run => {
                    broker.run_until_idle();
                }
                Step::Redrive => {
                    let _ = topic.dead_letters().redrive(|_| true);
                }
            }
        }
        broker.run_until_idle();
        for _ in 0..1_000 {
            if topic.dead_letters().is_empty() && book.metrics().queued == 0 {
                break;
            }
            let redrive = topic.dead_letters().redrive(|_| true);
            prop_assert!(redrive.redriven > 0, "stuck: {redrive:?}\n{}", broker.metrics());
            broker.run_until_idle();
        }
        let done = log.take();
        for key in ["a", "b", "c"] {
            let numbers: Vec<_> = done.iter().filter(|(other, _)| *other == key).collect();
            prop_assert!(numbers.is_sorted(), "{numbers:?}");
        }
        for one in good {
            prop_assert!(done.contains(&one), "{one:?} is lost");
        }
        assert_balanced(&broker);
    }
}
