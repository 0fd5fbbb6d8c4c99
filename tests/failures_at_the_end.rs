//! Failures that the end of a broker causes are not failures: a delivery whose handler
//! fails after a publish of its own was refused is cancelled. Every other failure is
//! one, whatever calls before it have met, and the handler's own last word holds.

use crate::harness::{HANG, assert_balanced, manual};
use millstream::dead_letters::DeadReason;
use millstream::{Backoff, Batched, Broker, Nack, Pull, Subscription, Topic};

/// Begins to end the broker: from inside of a handler, so that the others of its run
/// see it.
fn begin_end(broker: &Broker) {
    broker
        .drain(HANG)
        .expect_err("inside a handler it can only begin");
}

/// A manual broker whose topic makes a dead letter of each failure, and another topic.
fn topics() -> (Broker, Topic<u32>, Topic<u32>) {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").retry(Backoff::none()).open().unwrap();
    let other = broker.topic("other").open().unwrap();
    (broker, topic, other)
}

/// A subscription whose handler begins to end the broker.
fn ends(broker: &Broker, topic: &Topic<u32>) -> Subscription {
    let held = broker.clone();
    let subscribed = topic.subscribe("end", move |_| {
        begin_end(&held);
        Ok(())
    });
    subscribed.expect("subscribes")
}

/// Dead letters, and cancelled deliveries of the first topic, after the drain.
fn ended(broker: &Broker, topic: &Topic<u32>) -> (Vec<u32>, u64) {
    let report = match broker.drain(HANG) {
        Ok(report) => report,
        Err(error) => *error.report(),
    };
    assert_balanced(broker);
    let letters = topic.dead_letters().list();
    let letters = letters.iter().map(|letter| *letter.payload());
    (letters.collect(), report.cancelled)
}

#[test]
fn a_refusal_that_a_call_ignores_is_not_its_successors_fault() {
    let (broker, topic, other) = topics();
    let held = broker.clone();
    let s = topic.subscribe("s", move |delivery| match delivery.payload() {
        0 => {
            begin_end(&held);
            let _ = other.publish(1);
            Ok(())
        }
        1 => Ok(()),
        _ => Err(Nack::retry("of its own")),
    });
    let s = s.unwrap();
    // So that one reading of the clock does for several calls.
    for _ in 0..50 {
        topic.publish_batch([1; 64]).unwrap();
        broker.run_until_idle();
    }
    topic.publish_batch([0, 2, 1, 2]).unwrap();
    broker.run_until_idle();
    assert_eq!(ended(&broker, &topic), (vec![2, 2], 0));
    drop(s);
}

#[test]
fn a_refusal_by_another_broker_is_a_failure_like_any_other() {
    let (broker, topic, _) = topics();
    let (unrelated, _clock) = manual();
    let elsewhere = unrelated.topic::<u32>("elsewhere").open().unwrap();
    unrelated.drain(HANG).unwrap();
    let held = broker.clone();
    let s = topic.subscribe("s", move |delivery| {
        begin_end(&held);
        elsewhere.publish(*delivery.payload())?;
        Ok(())
    });
    topic.publish(7).unwrap();
    broker.run_until_idle();
    assert_eq!(ended(&broker, &topic), (vec![7], 0));
    drop(s);
}

#[test]
fn a_refusal_counts_though_another_broker_ran_in_the_call() {
    for refused_inside in [false, true] {
        let (broker, topic, other) = topics();
        let held = broker.clone();
        let s = topic.subscribe("s", move |delivery| {
            begin_end(&held);
            let (inner, _clock) = manual();
            let inner_topic = inner.topic::<u32>("t").open().unwrap();
            let onward = other.clone();
            let _s = inner_topic.subscribe("s", move |delivery| {
                let publish = refused_inside.then(|| onward.publish(*delivery.payload()));
                assert!(publish.is_none_or(|refused| refused.is_err()));
                Ok(())
            });
            if !refused_inside {
                let _ = other.publish(1);
            }
            inner_topic.publish(*delivery.payload()).unwrap();
            inner.run_until_idle();
            Err(Nack::retry("because of what was refused"))
        });
        topic.publish(7).unwrap();
        broker.run_until_idle();
        assert_eq!(ended(&broker, &topic), (vec![], 1));
        drop(s);
    }
}

#[test]
fn a_dead_letter_and_a_discard_are_the_handlers_own_word() {
    let (broker, topic, other) = topics();
    let held = broker.clone();
    let s = topic.subscribe("s", move |delivery| {
        begin_end(&held);
        let refused = other.publish(1).unwrap_err();
        Err(match delivery.payload() {
            0 => Nack::dead_letter("never works"),
            1 => Nack::discard("never matters"),
            2 => Nack::retry_after(HANG, "later"),
            _ => refused.into(),
        })
    });
    topic.publish_batch([0, 1, 2, 3]).unwrap();
    broker.run_until_idle();
    assert_eq!(ended(&broker, &topic), (vec![0], 2));
    let letters = topic.dead_letters().list();
    assert_eq!(letters[0].reason(), DeadReason::Rejected);
    assert_eq!(s.unwrap().metrics().counts.dropped, 1);
}

#[test]
fn in_a_batch_the_refusal_concerns_those_without_a_last_word() {
    let (broker, topic, other) = topics();
    let held = broker.clone();
    let s = topic
        .subscription("s")
        .subscribe_batches(Batched::of(4), move |batch| {
            begin_end(&held);
            let _ = other.publish(1);
            batch.nack(1, Nack::dead_letter("never works"));
            batch.nack(2, Nack::retry("perhaps because of the refusal"));
            Ok(())
        });
    topic.publish_batch([0, 1, 2, 3]).unwrap();
    broker.run_until_idle();
    assert_eq!(ended(&broker, &topic), (vec![1], 1));
    drop(s);
}

#[test]
fn of_leases_it_concerns_the_one_that_is_settled_next() {
    let (broker, topic, other) = topics();
    let worker = topic.subscription("s").pull(Pull::default()).unwrap();
    let end = ends(&broker, &other);
    topic.publish_batch([0, 1, 2, 3]).unwrap();
    let mut leases = worker.recv_batch(4, HANG).unwrap().into_iter();
    other.publish(0).unwrap();
    broker.run_until_idle();
    let mut next = || leases.next().unwrap();
    // Ignored by the first, and no business of the second.
    let _ = other.publish(1);
    next().ack().unwrap();
    next().nack(Nack::retry("of its own")).unwrap();
    let refused = other.publish(1).unwrap_err();
    next().nack(refused.into()).unwrap();
    let _ = other.publish(1);
    next().nack(Nack::dead_letter("never works")).unwrap();
    assert_eq!(ended(&broker, &topic), (vec![1, 3], 1));
    drop(end);
}

#[test]
fn of_leases_a_refusal_by_another_broker_concerns_none() {
    let (broker, topic, other) = topics();
    let worker = topic.subscription("s").pull(Pull::default()).unwrap();
    let end = ends(&broker, &other);
    topic.publish(7).unwrap();
    let lease = worker.recv().unwrap();
    other.publish(0).unwrap();
    broker.run_until_idle();
    let (unrelated, _clock) = manual();
    let elsewhere = unrelated.topic::<u32>("elsewhere").open().unwrap();
    unrelated.drain(HANG).unwrap();
    let refused = elsewhere.publish(1).unwrap_err();
    lease.nack(refused.into()).unwrap();
    assert_eq!(ended(&broker, &topic), (vec![7], 0));
    drop(end);
}
