//! Promise: a subscription with `.observe_only()` never holds anybody up. What finds no room is
//! skipped and counted, and its handler is told of each gap once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced, manual, read, threaded};
use millstream::error::{SettingError, SubscribeError};
use millstream::event::{DropCause, EventKind};
use millstream::{
    Broker, Delivery, LaneFull, Nack, Pull, Subscription, SubscriptionBuilder, Topic,
};

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

/// Subscribes what writes down each payload, with the gap before it.
fn observe(builder: SubscriptionBuilder<'_, u32>) -> (Log<(u32, u64)>, Subscription) {
    let log = Log::new();
    let subscription = builder.observe_only().subscribe({
        let log = log.clone();
        move |delivery| {
            log.push((*delivery.payload(), delivery.missed()));
            Ok(())
        }
    });
    (log, subscription.expect("subscribes"))
}

fn publish(broker: &Broker, topic: &Topic<u32>, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        topic.publish(number).expect("there is room");
    }
    broker.run_until_idle();
}

#[test]
fn an_observer_that_stands_still_holds_nobody_up_and_is_told_of_its_gaps() {
    let newest = ([(1, 0), (2, 0), (6, 3)], [(7, 0), (8, 0), (11, 2)]);
    let oldest = ([(4, 3), (5, 0), (6, 0)], [(9, 2), (10, 0), (11, 0)]);
    let cases = [
        (None, newest.0, newest.1),
        (Some(LaneFull::DropNewest), newest.0, newest.1),
        (Some(LaneFull::DropOldest), oldest.0, oldest.1),
    ];
    for (policy, first, second) in cases {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let builder = topic.subscription("observer").capacity(2);
        let builder = match policy {
            Some(policy) => builder.when_full(policy),
            None => builder,
        };
        let (seen, observer) = observe(builder);
        let (log, _working) = read(&topic, "working");
        observer.pause();
        publish(&broker, &topic, 1..=5);
        assert_eq!(log.take(), [1, 2, 3, 4, 5], "the others go on");
        assert_eq!(topic.metrics().queued, 0);
        let metrics = observer.metrics();
        assert_eq!((metrics.missed, metrics.counts.dropped), (3, 3));
        observer.resume();
        broker.run_until_idle();
        publish(&broker, &topic, 6..=6);
        assert_eq!(seen.take(), first, "{policy:?}");
        observer.pause();
        publish(&broker, &topic, 7..=10);
        observer.resume();
        broker.run_until_idle();
        publish(&broker, &topic, 11..=11);
        assert_eq!(seen.take(), second, "{policy:?}");
        assert_eq!(observer.metrics().missed, 5);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn events_tell_of_what_was_skipped_and_nobody_else_misses_anything() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let drops = Log::new();
    let _observation = broker.observe({
        let drops = drops.clone();
        move |event| {
            if let EventKind::Dropped { cause } = *event.kind() {
                let subscription = event.subscription().map(str::to_owned);
                drops.push((subscription, event.id().map(|id| id.get()), cause));
            }
        }
    });
    let (_seen, observer) = observe(topic.subscription("observer").capacity(1));
    let others = Log::new();
    let _other = topic.subscribe("other", {
        let others = others.clone();
        move |delivery: &Delivery<'_, u32>| {
            others.push(delivery.missed());
            Ok::<(), Nack>(())
        }
    });
    observer.pause();
    publish(&broker, &topic, 1..=2);
    let observer = Some("observer".to_owned());
    assert_eq!(drops.take(), [(observer, Some(2), DropCause::LaneFull)]);
    assert_eq!(others.take(), [0, 0]);
    assert_balanced(&broker);
}

#[test]
fn receivers_patterns_and_slots_observe_as_well() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let pull = topic.subscription("pull").capacity(2).observe_only();
    let pull = pull.pull(Pull::default()).expect("subscribes");
    let seen = Log::new();
    let note = {
        let seen = seen.clone();
        move |delivery: &Delivery<'_, u32>| {
            let name = delivery.subscription().to_owned();
            seen.push((name, *delivery.payload(), delivery.missed()));
            Ok(())
        }
    };
    let builder = topic.subscription("slots").capacity(2).observe_only();
    let slots = builder.concurrency(2).subscribe_shared(note.clone());
    let slots = slots.expect("subscribes");
    let builder = broker.subscription("pattern").matching("*");
    let pattern = builder.capacity(2).observe_only().subscribe(note);
    let pattern = pattern.expect("subscribes");
    slots.pause();
    pattern.pause();
    publish(&broker, &topic, 1..=4);
    assert_eq!(topic.metrics().queued, 0);
    let missed = [
        pull.metrics().missed,
        slots.metrics().missed,
        pattern.metrics().missed,
    ];
    assert_eq!(missed, [2, 2, 2]);
    slots.resume();
    pattern.resume();
    broker.run_until_idle();
    while let Ok(lease) = pull.try_recv() {
        lease.ack().expect("in time");
    }
    seen.take();
    publish(&broker, &topic, 5..=5);
    let lease = pull.try_recv().expect("it has come");
    assert_eq!((*lease.payload(), lease.delivery().missed()), (5, 2));
    lease.ack().expect("in time");
    let mut seen = seen.take();
    seen.sort();
    let expected = ["pattern", "slots"].map(|name| (name.to_owned(), 5, 2));
    assert_eq!(seen, expected);
    assert_rests_balanced(&broker);
}

fn refused<S: std::fmt::Debug>(result: Result<S, SubscribeError>) -> SettingError {
    match result {
        Err(SubscribeError::Invalid(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_observer_can_be_made_to_wait_neither_at_first_nor_later() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    for policy in [LaneFull::Wait, LaneFull::DeadLetter] {
        let builder = topic.subscription("s").observe_only().when_full(policy);
        assert_eq!(
            refused(builder.subscribe(|_| Ok(()))).setting(),
            "when_full"
        );
        let builder = broker.subscription("p").matching("*").observe_only();
        let builder = builder.when_full(policy);
        let subscribed = builder.subscribe(|_: &Delivery<'_, u32>| Ok(()));
        assert_eq!(refused(subscribed).setting(), "when_full");
    }
    #[cfg(feature = "log")]
    {
        let durable = topic.subscription("s").durable().observe_only();
        let error = refused(durable.subscribe(|_| Ok(())));
        assert_eq!(error.setting(), "observe_only");
    }
    let builder = topic.subscription("s").observe_only();
    let observer = builder.subscribe(|_| Ok(())).expect("subscribes");
    let waits = observer.set_when_full(LaneFull::Wait);
    assert_eq!(waits.expect_err("refused").setting(), "when_full");
    let oldest = observer.set_when_full(LaneFull::DropOldest);
    oldest.expect("it skips as well");
    assert_rests_balanced(&broker);
}

#[test]
fn under_load_what_was_seen_and_what_was_missed_add_up() {
    const COUNT: u64 = 20_000;
    for policy in [LaneFull::DropNewest, LaneFull::DropOldest] {
        let broker = threaded(2);
        let topic = broker.topic::<u64>("t").open().expect("opens");
        let told = Arc::new(AtomicU64::new(0));
        let builder = topic.subscription("observer").observe_only().capacity(8);
        let observer = builder.when_full(policy).subscribe({
            let told = Arc::clone(&told);
            move |delivery| {
                told.fetch_add(delivery.missed(), Ordering::Relaxed);
                Ok(())
            }
        });
        let observer = observer.expect("subscribes");
        let working = topic.subscribe("working", |_| Ok(())).expect("subscribes");
        for number in 0..COUNT {
            while topic.publish(number).is_err() {
                std::thread::yield_now();
            }
        }
        assert!(broker.wait_until_idle(HANG));
        assert_eq!(working.metrics().counts.delivered, COUNT);
        // What was missed last may have nothing behind it. One more tells of that.
        topic.publish(COUNT).expect("there is room");
        assert!(broker.wait_until_idle(HANG));
        let metrics = observer.metrics();
        assert_eq!(metrics.counts.delivered + metrics.missed, COUNT + 1);
        assert_eq!(told.load(Ordering::Relaxed), metrics.missed, "{policy:?}");
        assert_rests_balanced(&broker);
    }
}
