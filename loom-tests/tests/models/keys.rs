//! Keys that wait for their retries, or are parked: nobody overtakes, and nothing is
//! stranded, whatever comes back or ends meanwhile.

use std::time::Duration;

use loom::thread;
use millstream::{
    Backoff, Broker, Delivery, ManualClock, Nack, OnExhausted, OnFailure, Topic, Unsubscribe,
    Unsubscribed,
};
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model, worker};

const DELAY: Duration = Duration::from_millis(1);

/// A topic whose messages get so many attempts.
fn open(attempts: u32) -> (Broker, ManualClock, Topic<u32>) {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(DELAY).max_attempts(attempts);
    let topic = broker.topic("t").capacity(4).retry(retry).open().unwrap();
    (broker, clock, topic)
}

fn publish(topic: &Topic<u32>, number: u32) {
    topic.message(number).key("a").publish().unwrap();
}

/// A handler that writes what it succeeds with: all but what `fails`.
fn scribe(
    log: &Log,
    fails: fn(&Delivery<'_, u32>) -> bool,
) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + 'static {
    let log = log.clone();
    move |delivery| {
        if fails(delivery) {
            return Err(Nack::retry("not yet"));
        }
        // Somewhere in here other threads may go on.
        thread::yield_now();
        log.add(*delivery.payload());
        Ok(())
    }
}

/// Message 1 fails so often, and message 2 waits for it.
fn blocked(
    failures: u32,
) -> (
    Broker,
    ManualClock,
    Topic<u32>,
    Log,
    millstream::Subscription,
) {
    let (broker, clock, topic) = open(failures + 1);
    let log = Log::new();
    let fails: fn(&Delivery<'_, u32>) -> bool = match failures {
        1 => |delivery| *delivery.payload() == 1 && delivery.attempt() == 1,
        _ => |delivery| *delivery.payload() == 1 && delivery.attempt() < 3,
    };
    let lane = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let subscription = lane.subscribe(scribe(&log, fails)).unwrap();
    // From the second turn on it takes two at a time.
    publish(&topic, 0);
    broker.run_until_idle();
    publish(&topic, 1);
    publish(&topic, 2);
    (broker, clock, topic, log, subscription)
}

#[test]
fn a_retry_goes_before_those_that_wait_for_it_and_those_that_come() {
    model(
        "blocked key, retry, publisher",
        Preemptions::up_to(2),
        || {
            let (broker, clock, topic, log, subscription) = blocked(1);
            subscription.detach();
            let timer = {
                let (broker, clock) = (broker.clone(), clock.clone());
                thread::spawn(move || {
                    broker.run_until_idle();
                    clock.advance(DELAY);
                    broker.run_until_idle();
                })
            };
            publish(&topic, 3);
            broker.run_until_idle();
            timer.join().unwrap();
            // If it was scheduled after the clock had been moved.
            clock.advance(DELAY);
            broker.run_until_idle();
            assert_eq!(log.read(), [0, 1, 2, 3]);
            assert_settled(&broker);
        },
    );
}

#[test]
fn a_retry_that_fails_again_keeps_back_those_that_were_taken_with_it() {
    model(
        "blocked key, two failures, publisher",
        Preemptions::up_to(2),
        || {
            let (broker, clock, topic, log, subscription) = blocked(2);
            subscription.detach();
            broker.run_until_idle();
            let publisher = {
                let topic = topic.clone();
                thread::spawn(move || publish(&topic, 3))
            };
            for _ in 0..2 {
                clock.advance(DELAY);
                broker.run_until_idle();
            }
            publisher.join().unwrap();
            broker.run_until_idle();
            assert_eq!(log.read(), [0, 1, 2, 3]);
            assert_settled(&broker);
        },
    );
}

#[test]
fn an_unsubscribe_ends_what_is_held_and_what_holds_it() {
    model("blocked key, unsubscribe", Preemptions::up_to(2), || {
        let (broker, clock, _topic, log, subscription) = blocked(1);
        let timer = {
            let (broker, clock) = (broker.clone(), clock.clone());
            thread::spawn(move || {
                broker.run_until_idle();
                clock.advance(DELAY);
                broker.run_until_idle();
            })
        };
        let Unsubscribed::Ended(last) = subscription.unsubscribe(Unsubscribe::Cancel) else {
            panic!("it was called outside of any handler");
        };
        let done = log.read();
        assert_eq!(last.counts.delivered, done.len() as u64);
        assert_eq!(
            last.counts.delivered + last.counts.cancelled,
            last.counts.made
        );
        timer.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), done, "called after the end");
        assert!([0, 1, 2].starts_with(&done), "{done:?}");
        assert_settled(&broker);
    });
}

/// So many messages are in the dead letters and park their key, which is to return.
fn parked(letters: u32, fails: fn(&Delivery<'_, u32>) -> bool) -> (Broker, Topic<u32>, Log) {
    let (broker, _clock, topic) = open(1);
    let log = Log::new();
    let lane = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let lane = lane.on_exhausted(OnExhausted::ParkKey);
    // Not by the lane's own runner, which files what comes back before it goes on.
    let handler = scribe(&log, fails);
    lane.concurrency(1)
        .subscribe_shared(handler)
        .unwrap()
        .detach();
    for number in 1..=letters {
        publish(&topic, number);
    }
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), letters as usize);
    (broker, topic, log)
}

fn redrive(topic: &Topic<u32>) -> usize {
    redrive_if(topic, |_| true)
}

fn redrive_if(topic: &Topic<u32>, chosen: fn(u32) -> bool) -> usize {
    let letters = topic.dead_letters();
    letters.redrive(|letter| chosen(*letter.payload())).redriven
}

#[test]
fn the_last_letter_of_a_parked_key_goes_before_what_was_published_since() {
    model(
        "parked key, redrive, publisher",
        Preemptions::up_to(2),
        || {
            let fails = |delivery: &Delivery<'_, u32>| {
                *delivery.payload() == 1 && delivery.generation() == 0
            };
            let (broker, topic, log) = parked(1, fails);
            let redriver = {
                let topic = topic.clone();
                let broker = broker.clone();
                thread::spawn(move || {
                    redrive(&topic);
                    broker.run_until_idle();
                })
            };
            publish(&topic, 2);
            topic.publish(9).unwrap();
            broker.run_until_idle();
            redriver.join().unwrap();
            broker.run_until_idle();
            // The second may have joined the first in time.
            redrive(&topic);
            broker.run_until_idle();
            let done = log.read().into_iter();
            assert!(done.filter(|number| *number < 9).eq([1, 2]));
            assert_settled(&broker);
        },
    );
}

#[test]
fn a_letter_that_fails_again_takes_those_redriven_behind_it_along() {
    model("parked key, two redriven", Preemptions::up_to(2), || {
        let fails =
            |delivery: &Delivery<'_, u32>| *delivery.payload() == 1 && delivery.generation() < 2;
        let (broker, topic, log) = parked(2, fails);
        let worker = worker(&broker);
        redrive(&topic);
        broker.run_until_idle();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), []);
        assert_eq!(redrive(&topic), 2);
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn a_letter_that_is_redriven_passes_no_delivery_that_follows_into_the_store() {
    model(
        "parked key, followers, two redriven",
        Preemptions::up_to(2),
        || {
            let fails = |delivery: &Delivery<'_, u32>| {
                *delivery.payload() == 1 && delivery.generation() < 2
            };
            let (broker, topic, log) = parked(4, fails);
            assert_eq!(redrive_if(&topic, |number| number <= 2), 2);
            let redriver = {
                let topic = topic.clone();
                // The last one keeps its key parked.
                thread::spawn(move || redrive_if(&topic, |number| number != 4))
            };
            broker.run_until_idle();
            redriver.join().unwrap();
            for _ in 0..2 {
                broker.run_until_idle();
                redrive(&topic);
            }
            broker.run_until_idle();
            assert_eq!(log.read(), [1, 2, 3, 4]);
            assert_settled(&broker);
        },
    );
}
