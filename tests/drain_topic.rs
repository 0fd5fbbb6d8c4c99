//! A drain of one topic closes it, works off what it has, ends its subscriptions, and
//! reports, while the rest of the broker goes on.

use std::sync::mpsc;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::{DrainError, RecvError, RemoveError, SubscribeError};
use millstream::event::EventKind;
use millstream::metrics::DrainReport;
use millstream::{
    Backoff, Batched, Delivery, LaneFull, Nack, NoSubscribers, Overflow, PublishError, Pull,
};

const MS: Duration = Duration::from_millis(1);

fn incomplete(drained: Result<DrainReport, DrainError>) -> DrainReport {
    match drained {
        Err(DrainError::Incomplete(report)) => report,
        other => panic!("{other:?} is not incomplete"),
    }
}

#[test]
fn its_queue_its_lanes_and_what_is_due_in_time_are_worked_off_and_its_neighbor_goes_on() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .strategy(Batched::of(100).until_full());
    let topic = topic.open().unwrap();
    let other = broker.topic::<u32>("other").open().unwrap();
    let (seen, sub) = read(&topic, "s");
    let batches = topic.subscription("batches");
    let batches = batches.subscribe_batches(Batched::of(50).until_full(), |_| Ok(()));
    let _batches = batches.unwrap();
    let (heard, others) = read(&other, "s");
    topic.publish_batch(0..10).unwrap();
    let report = topic.drain(HOUR).unwrap();
    assert!(report.is_complete());
    let counts = (report.published, report.made, report.delivered);
    assert_eq!(counts, (10, 20, 20));
    assert_eq!(seen.take(), (0..10).collect::<Vec<_>>());
    assert!(sub.has_ended() && topic.is_closed());
    // A second drain reports the same.
    let again = topic.drain(HOUR).unwrap();
    assert_eq!(again.delivered, report.delivered);

    other.publish(1).unwrap();
    advance(&broker, &clock, MS);
    assert_eq!(heard.take(), [1]);
    assert!(!others.has_ended() && !other.is_closed() && !broker.is_closed());
    assert_rests_balanced(&broker);
    let report = broker.drain(HOUR).unwrap();
    assert_eq!((report.published, report.delivered), (11, 21));
    assert_balanced(&broker);
}

#[test]
fn a_closed_topic_refuses_publishes_and_subscriptions_and_hands_payloads_back() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("a.t").open().unwrap();
    let patterns = broker.subscription::<u32>("p").matching("a.*");
    let patterns = patterns.subscribe(|_| Ok(())).unwrap();
    let pull = topic.subscription("pull").pull(Pull::default()).unwrap();
    topic.drain(HOUR).unwrap();
    assert!(matches!(topic.publish(7), Err(PublishError::Closed(7))));
    let delayed = topic.publish_after(MS, 8);
    assert!(matches!(delayed, Err(PublishError::Closed(8))));
    assert!(topic.publish_batch([9]).unwrap_err().error.is_closed());
    let late = topic.subscribe("late", |_| Ok(()));
    assert_eq!(late.unwrap_err(), SubscribeError::Closed);
    assert_eq!(pull.recv().unwrap_err(), RecvError::Ended);
    // Patterns have left it, and don't come back.
    assert!(patterns.topics().is_empty());
    patterns.add("a.>").unwrap();
    assert!(patterns.topics().is_empty() && !patterns.has_ended());
    // It can be removed and opened anew.
    let in_use = broker.remove_topic("a.t").unwrap_err();
    assert_eq!(in_use, RemoveError::InUse { handles: 1 });
    drop(topic);
    broker.remove_topic("a.t").unwrap();
    let topic = broker.topic::<u32>("a.t").open().unwrap();
    topic.publish(7).unwrap();
    broker.run_until_idle();
    assert_eq!(patterns.metrics().counts.delivered, 1);
    assert_rests_balanced(&broker);
}

#[test]
fn retries_and_delayed_messages_after_the_deadline_are_cut_off_without_waiting() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").retry(Backoff::fixed(HOUR)).open();
    let topic = topic.unwrap();
    // A neighbor whose deadlines come all the time is not waited for.
    let busy = broker
        .topic::<u32>("busy")
        .retry(Backoff::fixed(MS).max_attempts(u32::MAX));
    let busy = busy.open().unwrap();
    let _busy = busy.subscribe("s", |_| Err(Nack::retry("again"))).unwrap();
    busy.publish(0).unwrap();
    let fails = |delivery: &Delivery<'_, u32>| match delivery.payload() {
        0 => Err(Nack::retry("not now")),
        _ => Ok(()),
    };
    let _s = topic.subscribe("s", fails).unwrap();
    topic.publish(0).unwrap();
    topic.publish_after(HOUR, 1).unwrap();
    topic.publish_after(MS * 20, 2).unwrap();
    let report = incomplete(topic.drain(HOUR / 2));
    assert!(report.took < HANG / 2, "{report}");
    assert_eq!((report.delivered, report.cancelled), (1, 1));
    assert_eq!((report.messages_dropped, report.cut_off), (1, 2));
    // The losses are told again by a second drain, which loses nothing itself.
    assert_eq!(incomplete(topic.drain(HOUR)).cut_off, 2);
    assert_balanced(&broker);
}

#[test]
fn a_drain_that_is_out_of_time_cancels_what_is_left_and_says_so() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let pull = topic.subscription("s").capacity(2).pull(Pull::default());
    let pull = pull.unwrap();
    topic.publish_batch(0..5).unwrap();
    broker.run_until_idle();
    let lease = pull.recv().unwrap();
    let report = incomplete(topic.drain(Duration::ZERO));
    assert_eq!((report.cancelled, report.messages_dropped), (2, 3));
    assert_eq!((report.cut_off, report.remaining), (5, 0));
    assert!(lease.ack().is_err(), "the lease is stale");
    assert!(pull.has_ended());
    assert_rests_balanced(&broker);
}

#[test]
fn messages_that_nobody_subscribed_to_are_dropped_and_counted() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().unwrap();
    topic.publish_batch(0..5).unwrap();
    let report = incomplete(topic.drain(HOUR));
    assert_eq!((report.messages_dropped, report.cut_off), (5, 5));
    assert_rests_balanced(&broker);
}

#[test]
fn a_blocked_publisher_learns_that_the_topic_has_closed() {
    let broker = threaded(1);
    let block = Overflow::Block { timeout: HANG };
    let topic = broker.topic("t").capacity(1).overflow(block);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open().unwrap();
    topic.publish(0).unwrap();
    let (blocked, told) = mpsc::channel();
    let watch = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::Backpressure { .. }) {
            let _ = blocked.send(());
        }
    });
    let _watch = watch.unwrap();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| topic.publish(1));
        told.recv_timeout(HANG).unwrap();
        incomplete(topic.drain(HANG));
        let refused = publisher.join().unwrap().unwrap_err();
        assert!(matches!(refused, PublishError::Closed(1)));
    });
    assert_rests_balanced(&broker);
}

#[test]
fn a_handler_that_is_refused_by_a_drained_topic_fails_as_ever() {
    let (broker, _clock) = manual();
    let from = broker.topic::<u32>("from").retry(Backoff::none()).open();
    let (from, to) = (from.unwrap(), broker.topic::<u32>("to").open().unwrap());
    let onward = to.clone();
    let hand_on = move |delivery: &Delivery<'_, u32>| {
        onward.publish(*delivery.payload())?;
        Ok(())
    };
    let _s = from.subscribe("s", hand_on).unwrap();
    to.drain(HOUR).unwrap();
    from.publish(1).unwrap();
    broker.run_until_idle();
    // The broker lives, so the delivery is a dead letter, and not cancelled.
    assert_eq!(from.dead_letters().len(), 1);
    assert_rests_balanced(&broker);
}

#[test]
fn stages_that_are_drained_in_the_order_of_their_messages_lose_nothing() {
    let broker = threaded(2);
    let stages = ["a", "b", "c"].map(|name| broker.topic::<u32>(name).open().unwrap());
    let hand_on = |to: &millstream::Topic<u32>| {
        let to = to.clone();
        move |delivery: &Delivery<'_, u32>| {
            to.publish(*delivery.payload())?;
            Ok(())
        }
    };
    let _a = stages[0].subscribe("s", hand_on(&stages[1])).unwrap();
    let _b = stages[1].subscribe("s", hand_on(&stages[2])).unwrap();
    let (seen, _c) = read(&stages[2], "s");
    stages[0].publish_batch(0..500).unwrap();
    for stage in &stages {
        let report = stage.drain(HANG).unwrap();
        assert_eq!((report.delivered, report.cut_off), (500, 0));
    }
    assert_eq!(seen.len(), 500);
    assert_rests_balanced(&broker);
}

#[test]
fn a_drain_inside_a_handler_only_begins() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let own = topic.clone();
    let sub = topic.subscribe("s", move |_| {
        let drained = own.drain(HOUR);
        assert!(matches!(drained, Err(DrainError::InsideHandler(_))));
        assert!(own.publish(2).unwrap_err().is_closed());
        Ok(())
    });
    let _sub = sub.unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    let report = topic.drain(HOUR).unwrap();
    assert_eq!((report.published, report.delivered), (1, 1));
    assert_rests_balanced(&broker);
}

#[test]
fn a_drain_of_a_topic_and_of_its_broker_account_for_every_message() {
    for _run in 0..20 {
        let broker = threaded(2);
        let topic = broker.topic::<u32>("t").partitions(2).open().unwrap();
        let lane = topic.subscription("s").when_full(LaneFull::DropOldest);
        let _s = lane.capacity(10).subscribe(|_| Ok(())).unwrap();
        let (published, reports) = std::thread::scope(|scope| {
            let publisher =
                scope.spawn(|| (0..).take_while(|at| topic.publish(*at).is_ok()).count());
            let own = scope.spawn(|| topic.drain(HANG));
            let all = scope.spawn(|| broker.drain(HANG));
            let reports = [own.join().unwrap(), all.join().unwrap()];
            (publisher.join().unwrap() as u64, reports)
        });
        for report in reports {
            let report = report.unwrap_or_else(|error| *error.report());
            assert!(report.published <= published);
            assert_eq!(report.remaining, 0);
        }
        let metrics = assert_balanced(&broker);
        assert_eq!(metrics.topic("t").unwrap().published, published);
    }
}
