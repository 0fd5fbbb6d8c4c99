//! Dead letters that are redriven while their lane is full or ends.

use loom::thread;
use millstream::{Backoff, Broker, Nack, Subscription, Topic, Unsubscribe};
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model};

/// A subscription that buried one letter.
fn buried() -> (Broker, Topic<u32>, Subscription, Log) {
    let (broker, _clock) = manual();
    let open = broker.topic("t").capacity(4).retry(Backoff::none());
    let topic = open.open().unwrap();
    let log = Log::new();
    let calls = log.clone();
    let lane = topic.subscription("s").capacity(2);
    let subscription = lane.subscribe(move |delivery| {
        calls.add(u32::from(delivery.generation()));
        match delivery.generation() {
            0 => Err(Nack::dead_letter("the first generation fails")),
            _ => Ok(()),
        }
    });
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 1);
    (broker, topic, subscription.unwrap(), log)
}

#[test]
fn a_letter_that_two_redrive_goes_once() {
    model("two redrives", Preemptions::up_to(3), || {
        let (broker, topic, _subscription, log) = buried();
        let other = {
            let topic = topic.clone();
            thread::spawn(move || topic.dead_letters().redrive(|_| true).redriven)
        };
        let redriven = topic.dead_letters().redrive(|_| true).redriven;
        let redriven = redriven + other.join().unwrap();
        broker.run_until_idle();
        assert_eq!(redriven, 1);
        assert!(topic.dead_letters().is_empty());
        assert_eq!(log.read(), [0, 1]);
        assert_settled(&broker);
    });
}

#[test]
fn a_letter_stays_or_ends_when_its_lane_ends_meanwhile() {
    model("redrive, unsubscribe", Preemptions::up_to(3), || {
        let (broker, topic, subscription, log) = buried();
        let redriver = {
            let topic = topic.clone();
            thread::spawn(move || topic.dead_letters().redrive(|_| true).redriven)
        };
        subscription.unsubscribe(Unsubscribe::Cancel);
        let calls = log.read().len();
        let redriven = redriver.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read().len(), calls, "called after the end");
        assert_eq!(topic.dead_letters().len(), 1 - redriven);
        assert_settled(&broker);
    });
}
