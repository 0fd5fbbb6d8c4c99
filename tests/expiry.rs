//! Time to live: what nobody has handled in time is not handled late. It ends, and
//! makes room, by itself. A letter that is redriven has no time to live any more.

mod harness;

use std::time::Duration;

use harness::{Log, advance, assert_balanced, manual};
use millstream::{
    Backoff, Batched, Broker, DeadReason, Nack, OnFailure, Pull, SubscriptionBuilder, Topic,
};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// A topic whose messages live for a second, and whose failures are not retried.
fn short_lived(broker: &Broker) -> Topic<u32> {
    let builder = broker.topic("t").ttl(Duration::from_secs(1));
    builder.retry(Backoff::none()).open().expect("opens")
}

/// A message fails, and is redriven an hour after it has outlived its time: it gets
/// to the handler all the same, whatever the subscription is like.
fn is_handled_after_its_time(
    subscribe: impl Fn(SubscriptionBuilder<'_, u32>, Log<(u16, u32)>) -> millstream::Subscription,
) {
    let (broker, clock) = manual();
    let topic = short_lived(&broker);
    let log = Log::new();
    let _subscription = subscribe(topic.subscription("s"), log.clone());
    topic.message(1).key("k").publish().expect("has room");
    broker.run_until_idle();
    advance(&broker, &clock, HOUR);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    broker.run_until_idle();
    advance(&broker, &clock, HOUR);
    // Twice: it failed once more, and was tried again after that.
    assert_eq!(log.take(), [(1, 1), (1, 2)]);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.expired), (1, 0));
}

/// Fails first attempts for good, and the first of what is redriven for a while.
fn judge(log: &Log<(u16, u32)>, generation: u16, attempt: u32) -> Result<(), Nack> {
    if generation == 0 {
        return Err(Nack::dead_letter("a bug"));
    }
    log.push((generation, attempt));
    match attempt {
        1 => Err(Nack::retry_after(HOUR, "not yet")),
        _ => Ok(()),
    }
}

#[test]
fn a_letter_that_is_redriven_after_its_time_to_live_is_handled_and_retried() {
    for on_failure in [
        OnFailure::Reorder,
        OnFailure::BlockKey,
        OnFailure::BlockSubscription,
    ] {
        is_handled_after_its_time(|builder, log| {
            let retry = Backoff::fixed(MS).max_attempts(5);
            let builder = builder.on_failure(on_failure).retry(retry);
            let subscribed = builder.subscribe(move |d| judge(&log, d.generation(), d.attempt()));
            subscribed.expect("subscribes")
        });
    }
}

#[test]
fn a_letter_that_is_redriven_after_its_time_to_live_is_handled_in_batches_and_in_parallel() {
    is_handled_after_its_time(|builder, log| {
        let builder = builder.retry(Backoff::fixed(MS).max_attempts(5));
        let subscribed = builder.subscribe_batches(Batched::of(1), move |batch| {
            let delivery = batch.get(0).expect("never empty");
            judge(&log, delivery.generation(), delivery.attempt())
        });
        subscribed.expect("subscribes")
    });
    is_handled_after_its_time(|builder, log| {
        let builder = builder.retry(Backoff::fixed(MS).max_attempts(5));
        let subscribed =
            builder.subscribe_concurrent(4, move |d| judge(&log, d.generation(), d.attempt()));
        subscribed.expect("subscribes")
    });
}

#[test]
fn a_letter_that_is_redriven_after_its_time_to_live_can_be_leased() {
    let (broker, clock) = manual();
    let topic = short_lived(&broker);
    let worker = topic
        .subscription("s")
        .pull(Pull::default())
        .expect("subscribes");
    topic.publish(1).expect("has room");
    let lease = worker.try_recv().expect("it is there");
    lease.nack(Nack::dead_letter("a bug")).expect("in time");
    advance(&broker, &clock, HOUR);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    advance(&broker, &clock, HOUR);
    let lease = worker.try_recv().expect("it is still worth handling");
    assert_eq!((lease.generation(), lease.attempt()), (1, 1));
    // Its deadline passes: what was redriven is retried whenever that is.
    advance(&broker, &clock, HOUR);
    assert!(lease.ack().is_err(), "overdue");
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.expired, topic.dead_letters().len()), (0, 1));
}

#[test]
fn the_retries_of_a_redriven_letter_are_measured_from_its_first_attempt_since() {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(MS).max_elapsed(Duration::from_secs(1));
    let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
    let log = Log::new();
    let _subscription = topic.subscribe("s", {
        let log = log.clone();
        move |d| {
            log.push((d.generation(), d.attempt()));
            match (d.generation(), d.attempt()) {
                (0, _) => Err(Nack::dead_letter("a bug")),
                (_, 1) => Err(Nack::retry("not yet")),
                _ => Ok(()),
            }
        }
    });
    topic.publish(1).expect("has room");
    broker.run_until_idle();
    advance(&broker, &clock, HOUR);
    topic.dead_letters().redrive(|_| true);
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [(0, 1), (1, 1), (1, 2)]);
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 1);
}

#[test]
fn a_redriven_letter_that_fails_again_is_a_letter_again() {
    let (broker, clock) = manual();
    let topic = short_lived(&broker);
    let fail = |_: &millstream::Delivery<'_, u32>| Err(Nack::retry("a bug"));
    let _subscription = topic.subscribe("s", fail).expect("subscribes");
    topic.publish(1).expect("has room");
    broker.run_until_idle();
    for generation in 1..4 {
        advance(&broker, &clock, HOUR);
        assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
        broker.run_until_idle();
        let letters = topic.dead_letters().list();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].generation(), generation);
        assert_eq!(letters[0].reason(), DeadReason::Exhausted);
    }
    assert_balanced(&broker);
}
