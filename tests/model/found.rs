//! What the model has found, as small programs of their own.

use millstream::{Backoff, Nack, NoSubscribers, Overflow, PublishError, Topic};

use crate::harness::{self, Log, manual};
use crate::program::{TICK, batched, ticks};

#[test]
pub fn a_message_retained_for_nobody_makes_room_for_one_and_not_for_many() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .capacity(4)
        .overflow(Overflow::DropOldest)
        .no_subscribers(NoSubscribers::Retain)
        .open()
        .unwrap();
    (1..=4).for_each(|payload| {
        topic.publish(payload).unwrap();
    });
    broker.run_until_idle();
    let receipt = topic.publish(5).unwrap();
    assert_eq!(receipt.evicted(), 1, "one place was needed");
    let log = Log::new();
    let calls = log.clone();
    let _s = topic.subscribe("s", move |d| {
        calls.push(*d.payload());
        Ok(())
    });
    broker.run_until_idle();
    assert_eq!(log.take(), [2, 3, 4, 5]);
    broker.metrics().balance().unwrap();
}

#[test]
pub fn a_longer_linger_set_while_a_batch_waits_still_ends() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.set_strategy(batched(10, Some(50))).unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    topic.set_strategy(batched(10, Some(200))).unwrap();
    harness::advance(&broker, &clock, ticks(50));
    harness::advance(&broker, &clock, ticks(150));
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 1, "nobody would ever look again");
}

#[test]
pub fn a_batch_whose_first_message_was_evicted_still_ends_its_linger() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .capacity(4)
        .overflow(Overflow::DropOldest)
        .strategy(batched(10, Some(50)))
        .open()
        .unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.publish(1).unwrap();
    broker.run_until_idle();
    clock.advance(ticks(30));
    topic.publish_batch(2..=4).unwrap();
    assert_eq!(topic.publish(5).unwrap().evicted(), 1);
    broker.run_until_idle();
    harness::advance(&broker, &clock, ticks(20));
    harness::advance(&broker, &clock, ticks(30));
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 4, "nobody would ever look again");
}

#[test]
pub fn a_swap_judges_what_an_earlier_plan_had_let_through_but_a_full_lane_held_back() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let _s = topic
        .subscription("s")
        .capacity(1)
        .retry(Backoff::fixed(TICK))
        .subscribe(|d| match (d.id().get(), d.attempt()) {
            (1, 1) => Err(Nack::retry("hold the lane")),
            _ => Ok(()),
        });
    (1..=4).for_each(|payload| {
        topic.publish(payload).unwrap();
    });
    broker.run_until_idle();
    assert_eq!(topic.metrics().queued, 3);
    topic.set_strategy(batched(10, None)).unwrap();
    harness::advance(&broker, &clock, TICK);
    assert_eq!(topic.metrics().queued, 3, "three are no batch of ten");
    topic.flush();
    broker.run_until_idle();
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 4);
}

#[test]
pub fn a_batch_goes_when_delayed_messages_leave_it_no_room_to_grow() {
    let fill: [fn(&Topic<u64>); 2] = [
        |topic| {
            topic.publish_after(ticks(50), 0).unwrap();
            topic.publish(0).unwrap();
        },
        |topic| {
            topic.publish(0).unwrap();
            topic.publish_after(ticks(50), 0).unwrap();
        },
    ];
    for fill in fill {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u64>("t").capacity(3);
        let topic = topic.strategy(batched(3, None)).open().unwrap();
        let _s = topic.subscribe("s", |_| Ok(()));
        topic.publish(0).unwrap();
        broker.run_until_idle();
        fill(&topic);
        assert!(matches!(topic.publish(0), Err(PublishError::Full(0))));
        broker.run_until_idle();
        let counts = harness::assert_balanced(&broker).deliveries();
        assert_eq!(counts.delivered, 2, "publishers are refused meanwhile");
    }
}

#[test]
pub fn after_a_swap_to_smaller_batches_none_is_larger_than_the_new_size() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u64>("t")
        .capacity(8)
        .no_subscribers(NoSubscribers::Retain)
        .strategy(batched(3, None))
        .open()
        .unwrap();
    for payload in 1..=3 {
        topic.publish(payload).unwrap();
    }
    broker.run_until_idle();
    topic.set_strategy(batched(2, None)).unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    broker.run_until_idle();
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 2, "a batch of two, and one waits");
}

#[test]
pub fn a_message_that_expires_in_the_middle_of_a_batch_is_not_handled() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let calls = log.clone();
    let _s = topic
        .subscription("s")
        .subscribe_batches(batched(9, Some(10)), move |batch| {
            batch.iter().for_each(|d| calls.push(*d.payload()));
            Ok(())
        });
    topic.publish(1).unwrap();
    topic.message(2).ttl(ticks(5)).publish().unwrap();
    topic.publish(3).unwrap();
    broker.run_until_idle();
    harness::advance(&broker, &clock, ticks(10));
    assert_eq!(log.take(), [1, 3]);
    let counts = harness::assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.expired), (2, 1));
}
