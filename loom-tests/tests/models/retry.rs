//! The hand-off of a retry to the timer wheel, against its own deadline, a drain
//! and an unsubscribe.

use std::time::Duration;

use loom::thread;
use millstream::{Backoff, Broker, ManualClock, Nack, Subscription, Topic, Unsubscribe};
use millstream_loom_tests::{Log, Preemptions, assert_settled, drain, manual, model};

const DELAY: Duration = Duration::from_millis(1);

struct World {
    broker: Broker,
    clock: ManualClock,
    log: Log,
    _topic: Topic<u32>,
}

/// A subscription whose handler fails the first of at most two attempts, and one
/// message for it.
fn failing() -> (World, Subscription) {
    let (broker, clock) = manual();
    let open = broker.topic("t").capacity(4);
    let topic = open.retry(Backoff::fixed(DELAY).max_attempts(2)).open();
    let topic = topic.unwrap();
    let log = Log::new();
    let attempts = log.clone();
    let handler = move |delivery: &millstream::Delivery<'_, u32>| {
        attempts.add(delivery.attempt());
        match delivery.attempt() {
            1 => Err(Nack::retry("the first always fails")),
            _ => Ok(()),
        }
    };
    let subscription = topic.subscribe("s", handler).unwrap();
    topic.publish(7).unwrap();
    let world = World {
        broker,
        clock,
        log,
        _topic: topic,
    };
    (world, subscription)
}

/// A worker that also sees the retry's time come.
fn work(world: &World) -> thread::JoinHandle<()> {
    let (broker, clock) = (world.broker.clone(), world.clock.clone());
    thread::spawn(move || {
        broker.run_until_idle();
        clock.advance(DELAY);
        broker.run_until_idle();
    })
}

#[test]
fn a_retry_that_is_due_before_its_lane_rests_is_not_lost() {
    model("retry fires at once", Preemptions::up_to(3), || {
        let (world, subscription) = failing();
        subscription.detach();
        let worker = work(&world);
        world.clock.advance(DELAY);
        world.broker.run_until_idle();
        worker.join().unwrap();
        // If it was scheduled after both clocks had been moved.
        world.clock.advance(DELAY);
        world.broker.run_until_idle();
        assert_eq!(world.log.read(), [1, 2]);
        assert_settled(&world.broker);
    });
}

#[test]
fn an_unsubscribe_ends_a_delivery_wherever_its_retry_is() {
    model("retry, unsubscribe", Preemptions::up_to(2), || {
        let (world, subscription) = failing();
        let worker = work(&world);
        subscription.unsubscribe(Unsubscribe::Cancel);
        let attempts = world.log.read().len();
        worker.join().unwrap();
        assert_eq!(world.log.read().len(), attempts, "called after the end");
        assert_settled(&world.broker);
        let counts = world.broker.metrics().deliveries();
        assert_eq!(counts.delivered + counts.cancelled, counts.made);
    });
}

#[test]
fn a_drain_accounts_for_a_delivery_wherever_its_retry_is() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(2),
    };
    model("retry, drain", most, || {
        let (world, subscription) = failing();
        subscription.detach();
        let worker = work(&world);
        let report = drain(&world.broker);
        assert_eq!(report.made, 1);
        assert_eq!(report.delivered + report.cancelled, 1);
        worker.join().unwrap();
        assert_settled(&world.broker);
    });
}
