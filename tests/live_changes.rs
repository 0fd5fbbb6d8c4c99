//! Settings that change while traffic runs, and calls that join a topic with settings.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::{OpenError, SettingError};
use millstream::event::EventKind;
use millstream::retry::{Class, Decision, FailedAttempt, RetryPolicy, retry_fn};
use millstream::strategy::Strategy;
use millstream::{
    Backoff, Batched, Broker, Delivery, Immediate, LaneFull, Nack, NoSubscribers, OnFailure,
    Overflow, Pull, TopicBuilder, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

type Topic<'b> = TopicBuilder<'b, u8>;

/// The setting for which a call that joins topic `t` is refused, if it is.
fn clash<'b>(broker: &'b Broker, set: impl FnOnce(Topic<'b>) -> Topic<'b>) -> Option<&'static str> {
    match set(broker.topic::<u8>("t")).open() {
        Ok(_) => None,
        Err(OpenError::Clash { setting, .. }) => Some(setting),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn joining_with_an_equal_strategy_or_retry_policy_is_no_clash() {
    let (broker, _clock) = manual();
    let patient = Backoff::exponential(MS).cap(MS * 9).full_jitter(3);
    let sorted = patient.clone().classify(|_| Class::Retry);
    let topic = broker.topic::<u8>("t").open().unwrap();
    assert_eq!(clash(&broker, |topic| topic.strategy(Immediate)), None);
    assert_eq!(
        clash(&broker, |topic| topic.retry(Backoff::default())),
        None
    );

    // The topic's settings of now count, not those that it was opened with.
    topic.set_strategy(Batched::of(7).linger(MS)).unwrap();
    topic.set_retry(sorted.clone()).unwrap();
    let batched = |size| {
        let strategy = Batched::of(size).linger(MS);
        clash(&broker, |topic| topic.strategy(strategy))
    };
    assert_eq!([batched(7), batched(8)], [None, Some("strategy")]);
    let immediate = clash(&broker, |topic| topic.strategy(Immediate));
    assert_eq!(immediate, Some("strategy"));
    assert_eq!(clash(&broker, |topic| topic.retry(sorted.clone())), None);
    let unsorted = clash(&broker, |topic| topic.retry(patient));
    assert_eq!(unsorted, Some("retry"));
    assert_balanced(&broker);
}

#[test]
fn every_setting_of_a_backoff_counts() {
    let of = || Backoff::fixed(MS);
    let all = [
        of(),
        Backoff::linear(MS),
        Backoff::fixed(MS * 2),
        of().cap(MS),
        of().jitter(),
        of().max_attempts(9),
        of().max_elapsed(MS),
        of().classify(|_| Class::Retry),
        of().classify(|_| Class::Retry),
    ];
    for (at, one) in all.iter().enumerate() {
        for (other_at, other) in all.iter().enumerate() {
            assert_eq!(one == other, at == other_at, "{one:?} and {other:?}");
        }
        assert_eq!(*one, one.clone());
    }
}

#[test]
fn an_arc_agrees_with_its_clones_and_with_nothing_else() {
    let (broker, _clock) = manual();
    let strategy: Arc<dyn Strategy> = Arc::new(Immediate);
    let retry: Arc<dyn RetryPolicy> = Arc::new(retry_fn(|_| Decision::Exhausted));
    let opening = broker.topic::<u8>("t").strategy(strategy.clone());
    let _t = opening.retry(retry.clone()).open().unwrap();
    assert_eq!(clash(&broker, |topic| topic.strategy(strategy)), None);
    assert_eq!(clash(&broker, |topic| topic.retry(retry)), None);
    let other: Arc<dyn Strategy> = Arc::new(Immediate);
    let other = clash(&broker, |topic| topic.strategy(other));
    assert_eq!(other, Some("strategy"));
    assert_balanced(&broker);
}

#[test]
fn policies_that_cannot_be_compared_clash() {
    /// A policy that can't be compared with itself without a panic.
    struct Touchy;
    impl RetryPolicy for Touchy {
        fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
            Decision::Exhausted
        }
        fn same_as(&self, _: &Self) -> bool {
            panic!("not with that one")
        }
    }
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    let decide = |_: &FailedAttempt<'_>| Decision::Exhausted;
    topic.set_retry(retry_fn(decide)).unwrap();
    let closures = clash(&broker, |topic| topic.retry(retry_fn(decide)));
    assert_eq!(closures, Some("retry"));
    topic.set_retry(Touchy).unwrap();
    let touchy = clash(&broker, |topic| topic.retry(Touchy));
    assert_eq!(touchy, Some("retry"));
    assert_balanced(&broker);
}

fn retaining(broker: &Broker, capacity: usize) -> millstream::Topic<u32> {
    let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
    topic.capacity(capacity).open().unwrap()
}

#[test]
fn a_lowered_capacity_drops_nothing_and_admits_nobody_until_there_is_room() {
    let (broker, _clock) = manual();
    let topic = retaining(&broker, 4);
    topic.publish_batch(1..=4).unwrap();
    topic.set_capacity(2).unwrap();
    assert!(topic.publish(5).unwrap_err().is_full());
    let (seen, _s) = read(&topic, "s");
    broker.run_until_idle();
    topic.publish_batch(5..=6).unwrap();
    assert!(topic.publish(7).unwrap_err().is_full());
    broker.run_until_idle();
    assert_eq!(seen.take(), [1, 2, 3, 4, 5, 6]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_raised_capacity_holds_far_more_than_the_queue_was_allocated_for_in_order() {
    for partitions in [None, Some(1)] {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
        let topic = partitions.into_iter().fold(topic, TopicBuilder::partitions);
        let topic = topic.capacity(64).open().unwrap();
        topic.publish_batch(0..64).unwrap();
        topic.set_capacity(10_000).unwrap();
        for at in 64..5_000 {
            topic.publish(at).unwrap();
        }
        topic.publish_batch(5_000..10_000).unwrap();
        assert!(topic.publish(0).unwrap_err().is_full());
        let (seen, _s) = read(&topic, "s");
        broker.run_until_idle();
        topic.publish_batch(10_000..10_100).unwrap();
        broker.run_until_idle();
        assert!(seen.take().into_iter().eq(0..10_100));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn what_spills_stays_in_order_while_the_queue_is_worked_off_and_evicted() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").overflow(Overflow::DropOldest);
    let topic = topic.capacity(64).open().unwrap();
    let pull = topic.subscription("p").capacity(64);
    let pull = pull.pull(Pull::default()).unwrap();
    let mut next = 0_u32;
    let mut publish = |count: u32| {
        for _ in 0..count {
            topic.publish(next).unwrap();
            next += 1;
        }
    };
    publish(64);
    topic.set_capacity(2_000).unwrap();
    publish(1_000);
    let mut seen = Vec::new();
    let mut take = |most: usize| {
        while seen.len() < most {
            let leases = pull.recv_batch(64, Duration::ZERO).unwrap();
            seen.extend(leases.iter().map(|lease| *lease.payload()));
            leases.ack_all().unwrap();
        }
    };
    // The queue that was allocated first has room again, and others have spilled.
    take(256);
    publish(1_000);
    take(512);
    publish(3_000);
    let dropped = topic.metrics().dropped;
    assert!(dropped > 0);
    take(next as usize - dropped as usize);
    assert!(seen.is_sorted() && seen.last() == Some(&(next - 1)));
    assert_rests_balanced(&broker);
}

#[test]
fn a_raised_capacity_wakes_publishers_that_wait() {
    let broker = threaded(1);
    let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
    let block = Overflow::Block { timeout: HANG };
    let topic = topic.capacity(1).overflow(block).open().unwrap();
    topic.publish(0).unwrap();
    let (blocked, told) = mpsc::channel();
    let watch = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::Backpressure { .. }) {
            let _ = blocked.send(());
        }
    });
    let _watch = watch.unwrap();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| topic.publish(1).map(drop));
        told.recv_timeout(HANG).unwrap();
        topic.set_capacity(2).unwrap();
        publisher.join().unwrap().unwrap();
    });
    assert_eq!(topic.metrics().published, 2);
    let _s = topic.subscribe("s", |_| Ok(())).unwrap();
    assert!(broker.wait_until_idle(HANG));
    assert_rests_balanced(&broker);
}

#[test]
fn a_strategy_that_waits_for_more_than_there_is_room_for_now_waits_no_longer() {
    let (broker, _clock) = manual();
    let strategy = Batched::of(100).until_full();
    let topic = broker.topic("t").capacity(200).strategy(strategy);
    let topic = topic.open().unwrap();
    let sub = topic.subscribe("s", |_| Ok(())).unwrap();
    topic.publish_batch(0..10).unwrap();
    broker.run_until_idle();
    assert_eq!(sub.metrics().counts.delivered, 0);
    topic.set_capacity(10).unwrap();
    broker.run_until_idle();
    assert_eq!(sub.metrics().counts.delivered, 10);
    assert_rests_balanced(&broker);
}

#[test]
fn a_lane_with_more_room_lets_its_topic_go_on_and_one_with_less_drops_nothing() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let pull = topic.subscription("p").capacity(2);
    let pull = pull.pull(Pull::default()).unwrap();
    topic.publish_batch(0..9).unwrap();
    broker.run_until_idle();
    assert_eq!((pull.metrics().queued, topic.metrics().queued), (2, 7));
    pull.set_capacity(5).unwrap();
    broker.run_until_idle();
    assert_eq!((pull.metrics().queued, topic.metrics().queued), (5, 4));
    // The default number of leases follows the capacity.
    let leases = pull.recv_batch(9, Duration::ZERO).unwrap();
    assert_eq!(leases.len(), 5);
    pull.set_capacity(3).unwrap();
    leases.ack_all().unwrap();
    broker.run_until_idle();
    assert_eq!((pull.metrics().queued, topic.metrics().queued), (3, 1));
    let leases = pull.recv_batch(9, Duration::ZERO).unwrap();
    assert_eq!(leases.len(), 3);
    leases.ack_all().unwrap();
    pull.recv().unwrap().ack().unwrap();
    assert_eq!(pull.metrics().counts.delivered, 9);
    assert_rests_balanced(&broker);
}

#[test]
fn a_topics_lane_capacity_is_that_of_later_subscriptions() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").lane_capacity(1).open().unwrap();
    let (small, pull) = (topic.subscription("small"), Pull::default());
    let small = small.when_full(LaneFull::DropNewest).pull(pull).unwrap();
    topic.set_lane_capacity(4).unwrap();
    let large = topic.subscription("large");
    let large = large.when_full(LaneFull::DropNewest).pull(pull).unwrap();
    topic.publish_batch(0..9).unwrap();
    broker.run_until_idle();
    assert_eq!((small.metrics().queued, large.metrics().queued), (1, 4));
    drop((small, large));
    broker.run_until_idle();
    assert_rests_balanced(&broker);
}

#[test]
fn a_topic_that_waits_for_a_full_lane_goes_on_when_the_lane_is_to_drop() {
    let policies = [
        (LaneFull::DropNewest, [0, 1]),
        (LaneFull::DeadLetter, [0, 1]),
        (LaneFull::DropOldest, [7, 8]),
    ];
    for (policy, left) in policies {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").open().unwrap();
        let pull = topic.subscription("p").capacity(2);
        let pull = pull.pull(Pull::default()).unwrap();
        topic.publish_batch(0..9_u32).unwrap();
        broker.run_until_idle();
        pull.set_when_full(policy).unwrap();
        broker.run_until_idle();
        let leases = pull.recv_batch(9, Duration::ZERO).unwrap();
        let payloads: Vec<_> = leases.iter().map(|lease| *lease.payload()).collect();
        assert_eq!(payloads, left, "{policy:?}");
        leases.ack_all().unwrap();
        let letters = topic.metrics().dead_letters;
        assert_eq!(letters > 0, policy == LaneFull::DeadLetter);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_lane_with_a_handler_drops_its_oldest_once_its_worker_has_agreed() {
    let broker = threaded(2);
    let topic = broker.topic("t").open().unwrap();
    let (entered, entries) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let seen = Log::new();
    let ours = seen.clone();
    let builder = topic.subscription("s").capacity(4);
    let sub = builder.subscribe(move |delivery: &Delivery<'_, u32>| {
        ours.push(*delivery.payload());
        entered.send(()).unwrap();
        let _ = released.recv();
        Ok(())
    });
    let sub = sub.unwrap();
    topic.publish(0).unwrap();
    entries.recv_timeout(HANG).unwrap();
    topic.publish_batch(1..9).unwrap();
    sub.set_when_full(LaneFull::DropOldest).unwrap();
    // The handler still runs, so the topic waits and nothing is dropped.
    assert_eq!(sub.metrics().counts.dropped, 0);
    drop(release);
    assert!(broker.wait_until_idle(HANG));
    let counts = sub.metrics().counts;
    assert_eq!(counts.delivered + counts.dropped, 9);
    let seen = seen.take();
    assert!(seen.is_sorted() && seen.last() == Some(&8), "{seen:?}");
    assert_rests_balanced(&broker);
}

#[test]
fn a_topic_comes_to_drop_its_oldest_and_ceases_to() {
    for partitions in [None, Some(2)] {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
        let topic = partitions.into_iter().fold(topic, TopicBuilder::partitions);
        let topic = topic.capacity(200).open().unwrap();
        let publish = |payload| topic.message(payload).key("k").publish();
        for at in 0..200 {
            publish(at).unwrap();
        }
        assert!(publish(200).unwrap_err().is_full());
        topic.set_overflow(Overflow::DropOldest).unwrap();
        for at in 200..300 {
            assert_eq!(publish(at).unwrap().evicted(), 1);
        }
        topic.set_overflow(Overflow::DropNewest).unwrap();
        assert!(publish(300).unwrap().is_dropped());
        topic.set_overflow(Overflow::Reject).unwrap();
        assert!(publish(300).unwrap_err().is_full());
        let (seen, _s) = read(&topic, "s");
        broker.run_until_idle();
        assert!(seen.take().into_iter().eq(100..300));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_time_to_live_holds_for_messages_accepted_from_then_on() {
    for partitions in [None, Some(1)] {
        let (broker, clock) = manual();
        let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
        let topic = partitions.into_iter().fold(topic, TopicBuilder::partitions);
        let topic = topic.open().unwrap();
        topic.publish(0).unwrap();
        topic.set_ttl(Some(MS * 100)).unwrap();
        topic.publish(1).unwrap();
        topic.set_ttl(Some(MS * 10)).unwrap();
        topic.publish(2).unwrap();
        topic.message(3).ttl(MS * 50).publish().unwrap();
        topic.set_ttl(None).unwrap();
        topic.publish(4).unwrap();
        let dropped = |at: u32, expected: u64| {
            assert_eq!(topic.metrics().dropped, expected, "at {at} ms");
        };
        broker.run_until_idle();
        dropped(0, 0);
        advance(&broker, &clock, MS * 11);
        dropped(11, 1);
        advance(&broker, &clock, MS * 40);
        dropped(51, 2);
        advance(&broker, &clock, MS * 50);
        dropped(101, 3);
        let (seen, _s) = read(&topic, "s");
        broker.run_until_idle();
        assert_eq!(seen.take(), [0, 4]);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn deliveries_expire_in_the_lanes_of_a_topic_that_got_its_time_to_live_later() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let failing = topic.subscription("failing").retry(Backoff::fixed(MS * 30));
    let failing = failing.subscribe(|_| Err(Nack::retry("not yet"))).unwrap();
    let pull = topic.subscription("p").pull(Pull::default()).unwrap();
    topic.publish(0_u32).unwrap();
    broker.run_until_idle();
    topic.set_ttl(Some(MS * 20)).unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(pull.metrics().queued, 2);
    advance(&broker, &clock, MS * 21);
    // A retry after its time is not made.
    assert_eq!(failing.metrics().counts.expired, 1);
    assert_eq!(pull.metrics().counts.expired, 1);
    for _retry in 0..2 {
        advance(&broker, &clock, MS * 31);
    }
    assert_eq!(failing.metrics().counts.dead_lettered, 1);
    let lease = pull.recv().unwrap();
    assert_eq!(*lease.payload(), 0);
    lease.ack().unwrap();
    assert_rests_balanced(&broker);
}

#[test]
fn a_pattern_subscription_sets_present_and_later_lanes() {
    let (broker, _clock) = manual();
    let one = broker.topic::<u32>("t.one").open().unwrap();
    let failing = |_: &Delivery<'_, u32>| Err(Nack::retry_after(MS * 1_000, "later"));
    let sub = broker.subscription("s").matching("t.*").subscribe(failing);
    let sub = sub.unwrap();
    sub.set_capacity(2).unwrap();
    sub.set_when_full(LaneFull::DropNewest).unwrap();
    let two = broker.topic::<u32>("t.two").open().unwrap();
    broker.run_until_idle();
    for topic in [&one, &two] {
        topic.publish_batch(0..5).unwrap();
        broker.run_until_idle();
    }
    assert_eq!(sub.metrics().counts.dropped, 6);
    sub.set_on_failure(OnFailure::BlockKey).unwrap();
    let clash = sub.set_when_full(LaneFull::DropOldest).unwrap_err();
    assert_eq!(clash.setting(), "when_full");
    let _ = sub.unsubscribe(Unsubscribe::Cancel);
    assert_rests_balanced(&broker);
}

#[test]
fn a_change_that_clashes_is_refused_as_the_builder_refuses_it() {
    let (broker, _clock) = manual();
    let refused = |changed: Result<(), SettingError>| changed.unwrap_err().setting();
    let topic = broker.topic::<u32>("t").partitions(4).open().unwrap();
    assert_eq!(refused(topic.set_capacity(0)), "capacity");
    assert_eq!(refused(topic.set_capacity((1 << 24) + 1)), "capacity");
    assert_eq!(refused(topic.set_capacity(3)), "partitions");
    assert_eq!(refused(topic.set_lane_capacity(0)), "lane_capacity");
    assert_eq!(refused(topic.set_ttl(Some(Duration::ZERO))), "ttl");
    let block = Overflow::Block { timeout: MS };
    assert_eq!(refused(topic.set_overflow(block)), "overflow");
    topic.set_capacity(4).unwrap();
    assert!(topic.set_partitions(5).is_err());

    let batches = topic.subscription("b");
    let batches = batches
        .subscribe_batches(Batched::of(10), |_| Ok(()))
        .unwrap();
    assert_eq!(refused(batches.set_capacity(9)), "batch_size");
    batches.set_capacity(10).unwrap();
    let pull = topic.subscription("p").pull(Pull::default().credits(8));
    let pull = pull.unwrap();
    assert_eq!(refused(pull.set_capacity(7)), "credits");
    let keyed = topic.subscription("k").on_failure(OnFailure::BlockKey);
    let keyed = keyed.hold(20).subscribe(|_| Ok(())).unwrap();
    assert_eq!(refused(keyed.set_capacity(19)), "hold");
    let dropping = keyed.set_when_full(LaneFull::DropOldest);
    assert_eq!(refused(dropping), "when_full");
    keyed.set_on_failure(OnFailure::Reorder).unwrap();
    keyed.set_when_full(LaneFull::DropOldest).unwrap();
    let blocking = keyed.set_on_failure(OnFailure::BlockKey);
    assert_eq!(refused(blocking), "when_full");
    // A hold that is the whole capacity follows it.
    let follows = topic.subscription("f").on_failure(OnFailure::BlockKey);
    let follows = follows.capacity(8).subscribe(|_| Ok(())).unwrap();
    follows.set_capacity(4).unwrap();
    assert_eq!(refused(follows.set_hold(5)), "hold");
    follows.set_capacity(16).unwrap();
    follows.set_hold(16).unwrap();
    assert_balanced(&broker);
}

#[test]
fn a_call_that_joins_is_compared_with_the_settings_of_now() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    topic.set_capacity(7).unwrap();
    topic.set_lane_capacity(8).unwrap();
    topic.set_overflow(Overflow::DropOldest).unwrap();
    topic.set_ttl(Some(MS)).unwrap();
    let joined = broker.topic::<u8>("t").capacity(7).lane_capacity(8);
    let joined = joined.overflow(Overflow::DropOldest).ttl(MS).open();
    drop(joined.unwrap());
    assert_eq!(
        clash(&broker, |topic| topic.capacity(1_024)),
        Some("capacity")
    );
    let overflow = clash(&broker, |topic| topic.overflow(Overflow::Reject));
    assert_eq!(overflow, Some("overflow"));
    assert_balanced(&broker);
}
