//! Promise: a paused subscription is handed nothing, and loses nothing. No attempt is burnt, and no
//! worker is kept. What waits expires as ever, retries that are due wait with the rest, and the
//! pauses of a subscription, its topic and its broker are apart.

use std::time::Duration;

use crate::harness::{HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read};
use millstream::error::TryRecvError;
use millstream::metrics::WaitingFor;
use millstream::{Backoff, Batched, Broker, LaneFull, Nack, OnFailure, Pull, Subscription, Topic};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

fn reason(subscription: &Subscription) -> Option<WaitingFor> {
    subscription
        .metrics()
        .waiting_for
        .map(|waiting| waiting.reason)
}

/// Subscribes in each way that has a handler.
fn of_each_kind(topic: &Topic<u32>, log: &Log<u32>) -> Vec<Subscription> {
    let push = |log: &Log<u32>| {
        let log = log.clone();
        move |delivery: &millstream::Delivery<'_, u32>| {
            log.push(*delivery.payload());
            Ok(())
        }
    };
    let batches = {
        let log = log.clone();
        move |batch: &mut millstream::DeliveryBatch<'_, u32>| {
            batch
                .iter()
                .for_each(|delivery| log.push(*delivery.payload()));
            Ok(())
        }
    };
    let plain = topic.subscribe("plain", push(log));
    let keyed = topic
        .subscription("keyed")
        .on_failure(OnFailure::BlockKey)
        .subscribe(push(log));
    let shared = topic
        .subscription("shared")
        .concurrency(2)
        .subscribe_shared(push(log));
    let batched = topic
        .subscription("batched")
        .subscribe_batches(Batched::of(2), batches);
    [plain, keyed, shared, batched]
        .into_iter()
        .map(|subscribed| subscribed.expect("subscribes"))
        .collect()
}

#[test]
fn a_paused_subscription_of_any_kind_is_handed_nothing_until_it_is_resumed() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let subscriptions = of_each_kind(&topic, &log);
    for subscription in &subscriptions {
        let name = subscription.name().to_owned();
        topic.publish(1).expect("there is room");
        topic.publish(2).expect("there is room");
        broker.run_until_idle();
        log.take();

        subscription.pause();
        assert!(subscription.is_paused());
        topic.publish(3).expect("there is room");
        topic.publish(4).expect("there is room");
        broker.run_until_idle();
        let others = log.take().len();
        assert_eq!(subscription.metrics().queued, 2, "{name}");
        assert_eq!(reason(subscription), Some(WaitingFor::Paused), "{name}");
        assert_eq!(others, 6, "the others have got both");
        advance(&broker, &clock, 5 * MS);
        let waiting = subscription.metrics().waiting_for.expect("it waits");
        assert_eq!(waiting.since, Some(5 * MS), "{name}");
        assert_balanced(&broker);

        subscription.resume();
        broker.run_until_idle();
        assert_eq!(log.take(), [3, 4], "{name}");
        assert_eq!(reason(subscription), None, "{name}");
    }
    assert_rests_balanced(&broker);
}

#[test]
fn the_pauses_of_a_subscription_its_topic_and_its_broker_are_apart() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, subscription) = read(&topic, "s");
    broker.pause();
    topic.pause();
    subscription.pause();
    topic.publish(1).expect("there is room");
    let (late, _late) = read(&topic, "late");
    topic.publish(2).expect("there is room");
    let other = broker.topic::<u32>("other").open().expect("opens");
    let (elsewhere, _elsewhere) = read(&other, "s");
    other.publish(3).expect("there is room");
    for resume in [&(|| subscription.resume()) as &dyn Fn(), &|| topic.resume()] {
        broker.run_until_idle();
        assert_eq!((log.len(), late.len(), elsewhere.len()), (0, 0, 0));
        resume();
    }
    broker.run_until_idle();
    assert!(broker.is_paused() && !topic.is_paused() && !subscription.is_paused());
    assert_eq!((log.len(), late.len(), elsewhere.len()), (0, 0, 0));
    broker.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2]);
    assert_eq!(late.take(), [2]);
    assert_eq!(elsewhere.take(), [3]);
    assert_rests_balanced(&broker);
}

#[test]
fn what_waits_in_a_pause_expires_and_a_retry_that_is_due_burns_no_attempt() {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(MS).max_attempts(2);
    let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
    let log = Log::new();
    let calls = log.clone();
    let subscription = topic
        .subscribe("s", move |delivery| {
            calls.push((*delivery.payload(), delivery.attempt()));
            match delivery.attempt() {
                1 => Err(Nack::retry("once more")),
                _ => Ok(()),
            }
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    subscription.pause();
    topic
        .message(2)
        .ttl(5 * MS)
        .publish()
        .expect("there is room");
    advance(&broker, &clock, 10 * MS);
    assert_eq!(log.take(), [(1, 1)]);
    let counts = subscription.metrics().counts;
    assert_eq!((counts.expired, counts.attempts), (1, 1));
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [(1, 2)]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_message_with_a_time_of_its_own_expires_in_a_paused_lane_and_makes_room() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let build = |name| topic.subscription(name).capacity(1);
    let plain = build("plain").subscribe(|_| Ok(()));
    let keyed = build("keyed").on_failure(OnFailure::BlockKey);
    let keyed = keyed.subscribe(|_| Ok(()));
    let batched = build("batched").subscribe_batches(Batched::of(1), |_| Ok(()));
    let paused = [plain, keyed, batched].map(|subscribed| subscribed.expect("subscribes"));
    paused.iter().for_each(Subscription::pause);
    let short = topic.message(1).ttl(5 * MS);
    short.publish().expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(topic.metrics().queued, 1, "the lanes are full");
    advance(&broker, &clock, 5 * MS);
    assert_eq!(topic.metrics().queued, 0);
    for subscription in paused {
        let metrics = subscription.metrics();
        let name = subscription.name();
        assert_eq!((metrics.counts.expired, metrics.queued), (1, 1), "{name}");
        subscription.resume();
    }
    assert_rests_balanced(&broker);
}

#[test]
fn a_retry_that_came_due_in_a_pause_expires_though_its_lane_is_held() {
    for mode in [OnFailure::Reorder, OnFailure::BlockKey] {
        let (broker, clock) = manual();
        let retry = Backoff::fixed(MS).max_attempts(2);
        let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
        let builder = topic.subscription("s").on_failure(mode);
        let subscription = builder.subscribe(|_| Err(Nack::retry("once more")));
        let subscription = subscription.expect("subscribes");
        let short = topic.message(1).key("k").ttl(5 * MS);
        short.publish().expect("there is room");
        broker.run_until_idle();
        subscription.pause();
        advance(&broker, &clock, 2 * MS);
        let metrics = subscription.metrics();
        let waits = (metrics.queued, metrics.counts.awaiting_retry);
        assert_eq!(waits, (1, 0), "it waits for the resume alone");
        advance(&broker, &clock, 3 * MS);
        let counts = subscription.metrics().counts;
        assert_eq!((counts.expired, counts.attempts), (1, 1));
        subscription.resume();
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_paused_lane_fills_up_and_then_its_policy_holds() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, other) = read(&topic, "other");
    let paused = topic
        .subscription("paused")
        .capacity(2)
        .when_full(LaneFull::DropOldest)
        .subscribe(|_| Ok(()))
        .expect("subscribes");
    paused.pause();
    for payload in 1..=5 {
        topic.publish(payload).expect("there is room");
        broker.run_until_idle();
    }
    assert_eq!(log.take(), [1, 2, 3, 4, 5], "it holds up nobody");
    let metrics = paused.metrics();
    assert_eq!((metrics.queued, metrics.counts.dropped), (2, 3));
    assert_eq!(other.metrics().counts.delivered, 5);
    paused.resume();
    broker.run_until_idle();
    assert_rests_balanced(&broker);
}

#[test]
fn a_paused_pull_hands_out_no_lease_and_its_leases_are_settled_as_ever() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let pull = topic
        .subscription("s")
        .pull(Pull::default())
        .expect("pulls");
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    let lease = pull.try_recv().expect("one is there");
    pull.pause();
    assert!(matches!(pull.try_recv(), Err(TryRecvError::Empty)));
    lease.ack().expect("in time");
    pull.resume();
    pull.try_recv().expect("the other").ack().expect("in time");
    assert_rests_balanced(&broker);
}

#[test]
fn a_wait_that_is_over_is_told_no_longer_though_nobody_has_asked_since() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let pull = topic
        .subscription("s")
        .pull(Pull::default())
        .expect("pulls");
    pull.hold_off(5 * MS);
    topic.publish(1).expect("there is room");
    assert!(matches!(pull.try_recv(), Err(TryRecvError::Empty)));
    let reason = || pull.metrics().waiting_for.map(|waiting| waiting.reason);
    assert_eq!(reason(), Some(WaitingFor::HoldOff));
    advance(&broker, &clock, 5 * MS);
    assert_eq!(reason(), None);
    pull.try_recv().expect("it may go").ack().expect("in time");
    assert_rests_balanced(&broker);
}

#[test]
fn a_paused_pattern_pauses_the_topics_that_come_later_too() {
    let (broker, _clock) = manual();
    let log = Log::new();
    let calls = log.clone();
    let all = broker
        .subscription::<u32>("all")
        .matching("*")
        .subscribe(move |delivery| {
            calls.push(*delivery.payload());
            Ok(())
        })
        .expect("subscribes");
    all.pause();
    let topic = open(&broker);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    all.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [1]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_receiver_that_waits_through_a_pause_is_woken_by_the_resume() {
    let broker = crate::harness::threaded(1);
    let topic = open(&broker);
    let pull = topic
        .subscription("s")
        .pull(Pull::default())
        .expect("pulls");
    pull.pause();
    topic.publish(1).expect("there is room");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| pull.recv_timeout(HANG).map(|lease| lease.ack().is_ok()));
        while pull.metrics().queued == 0 {
            std::thread::yield_now();
        }
        pull.resume();
        assert!(waits.join().expect("no panic").expect("one comes"));
    });
    assert_rests_balanced(&broker);
}
