//! A publisher learns how all deliveries of its messages have ended: each of them once, and not
//! before the last.

use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::dead_letters::DeadLetterOverflow;
use millstream::error::UnsettledError;
use millstream::{
    Backoff, Batched, Broker, LaneFull, Message, Nack, NoSubscribers, OnExhausted, OnExpired,
    OnFailure, Outcome, Overflow, Pull, Topic, Tracker, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

/// Delivered, dead-lettered, dropped, expired, cancelled, unrouted.
fn ends(outcome: Outcome) -> [u64; 6] {
    [
        outcome.delivered,
        outcome.dead_lettered,
        outcome.dropped,
        outcome.expired,
        outcome.cancelled,
        outcome.unrouted,
    ]
}

#[track_caller]
fn assert_ends(tracked: &Tracker, expected: [u64; 6]) {
    assert_eq!(tracked.outcome().map(ends), Some(expected));
}

fn send(topic: &Topic<u32>, payload: u32) -> Tracker {
    send_message(topic, Message::new(payload))
}

fn send_message(topic: &Topic<u32>, message: Message<u32>) -> Tracker {
    let tracker = topic.tracker();
    let sent = topic.publish_messages([message.tracked(&tracker)]);
    assert_eq!(sent.expect("there is room").accepted(), 1);
    tracker
}

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(2);
    broker.topic("t").retry(retry).open().unwrap()
}

#[test]
fn every_subscription_counts_once_and_a_retry_is_no_end() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (_log, _good) = read(&topic, "good");
    let _twice = topic.subscribe("twice", |delivery| match delivery.attempt() {
        1 => Err(Nack::retry("again")),
        _ => Ok(()),
    });
    let _dead = topic.subscribe("dead", |_| Err(Nack::dead_letter("no")));
    let _gone = topic.subscribe("gone", |_| Err(Nack::discard("no")));
    let _never = topic.subscribe("never", |_| Err(Nack::retry("never")));
    let once = topic.subscribe("requeues", {
        let mut calls = 0;
        move |_| {
            calls += 1;
            match calls {
                1 => Err(Nack::requeue("not now")),
                _ => Ok(()),
            }
        }
    });
    let tracked = send(&topic, 1);
    assert_eq!(tracked.outcome(), None);
    broker.run_until_idle();
    assert_eq!(tracked.outcome(), None, "two wait for their retry");
    assert_eq!(
        tracked.wait(),
        Err(UnsettledError),
        "nobody else would run it"
    );
    advance(&broker, &clock, MS);
    assert_ends(&tracked, [3, 2, 1, 0, 0, 0]);
    assert_eq!(tracked.wait().unwrap().ends(), 6);
    assert!(!tracked.wait().unwrap().is_delivered());
    assert_balanced(&broker);
    drop(once);
}

#[test]
fn a_redrive_reopens_nothing_and_counts_nothing_again() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let slow = topic.subscription("slow").pull(Pull::default()).unwrap();
    let _mended = topic.subscribe("mended", |delivery| match delivery.generation() {
        0 => Err(Nack::dead_letter("no")),
        _ => Ok(()),
    });
    let tracked = send(&topic, 1);
    broker.run_until_idle();
    let redriven = topic.dead_letters().redrive(|_| true);
    assert!(redriven.redriven > 0);
    broker.run_until_idle();
    assert_eq!(topic.metrics().deliveries().delivered, 1);
    let lease = slow.try_recv().unwrap();
    lease.nack(Nack::dead_letter("no")).unwrap();
    assert_ends(&tracked, [0, 2, 0, 0, 0, 0]);
    let redriven = topic.dead_letters().redrive(|_| true);
    assert!(redriven.redriven > 0);
    slow.try_recv().unwrap().ack().unwrap();
    broker.run_until_idle();
    assert_ends(&tracked, [0, 2, 0, 0, 0, 0]);
    assert_balanced(&broker);
}

#[test]
fn a_letter_that_the_store_does_not_keep_is_an_end_as_well() {
    for overflow in [
        DeadLetterOverflow::EvictOldest,
        DeadLetterOverflow::EvictNewest,
    ] {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").dead_letter_capacity(1);
        let topic = topic.dead_letter_overflow(overflow).open().unwrap();
        let _s = topic.subscribe("s", |_| Err(Nack::dead_letter("no")));
        let both = [send(&topic, 1), send(&topic, 2)];
        broker.run_until_idle();
        both.iter()
            .for_each(|one| assert_ends(one, [0, 1, 0, 0, 0, 0]));
        assert_balanced(&broker);
    }
}

#[test]
fn each_kind_of_handler_and_order_ends_the_deliveries_it_was_given() {
    let orders = [
        OnFailure::Reorder,
        OnFailure::BlockKey,
        OnFailure::BlockSubscription,
    ];
    for on_failure in orders {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let answer = |payload: u32| match payload % 3 {
            0 => Ok(()),
            1 => Err(Nack::retry("twice")),
            _ => Err(Nack::dead_letter("no")),
        };
        let new = |name| topic.subscription(name).on_failure(on_failure);
        let each = new("each").subscribe(move |delivery| answer(*delivery.payload()));
        let batches = new("batches").subscribe_batches(Batched::of(4), move |batch| {
            for (at, delivery) in batch.iter().enumerate() {
                if let Err(nack) = answer(*delivery.payload()) {
                    batch.nack(at, nack);
                }
            }
            Ok(())
        });
        let (mut others, mut members) = (0, Vec::new());
        let mut subscriptions = vec![each.unwrap(), batches.unwrap()];
        if on_failure != OnFailure::BlockSubscription {
            others += 1;
            let several = new("several")
                .concurrency(3)
                .subscribe_shared(move |delivery| answer(*delivery.payload()));
            subscriptions.push(several.unwrap());
            others += 1;
            let group = new("group").group().unwrap();
            let member = group.join("m", move |delivery| answer(*delivery.payload()));
            members.push((group, member));
        }
        #[cfg(feature = "async")]
        if on_failure != OnFailure::BlockSubscription {
            others += 1;
            let later = new("async")
                .concurrency(3)
                .subscribe_async(move |delivery| {
                    let payload = *delivery.payload();
                    async move { answer(payload) }
                });
            subscriptions.push(later.unwrap());
        }
        let all = 2 + others;
        let sent: Vec<_> = (0..30)
            .map(|number| {
                let message = Message::new(number).key(format!("k{}", number % 2));
                // Messages without a tracker are among them.
                topic.publish(0).unwrap();
                (number, send_message(&topic, message))
            })
            .collect();
        for _ in 0..100 {
            advance(&broker, &clock, MS);
        }
        for (number, tracked) in sent {
            let expected = match number % 3 {
                0 => [all, 0, 0, 0, 0, 0],
                _ => [0, all, 0, 0, 0, 0],
            };
            assert_ends(&tracked, expected);
        }
        assert_balanced(&broker);
        drop((subscriptions, members));
    }
}

#[test]
fn leases_end_one_by_one_and_together() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let pull = Pull::default().ack_deadline(MS).credits(8);
    let worker = topic.subscription("w").pull(pull).unwrap();
    let sent: Vec<_> = (0..6).map(|number| send(&topic, number)).collect();
    broker.run_until_idle();
    let mut batch = worker.recv_batch(6, Duration::ZERO).unwrap();
    for lease in batch.extract_if(|lease| *lease.payload() >= 4) {
        match *lease.payload() {
            4 => lease.nack(Nack::discard("no")).unwrap(),
            _ => drop(lease),
        }
    }
    assert!(sent.iter().filter(|one| one.outcome().is_some()).count() == 1);
    batch.ack_all().unwrap();
    for one in &sent[..4] {
        assert_ends(one, [1, 0, 0, 0, 0, 0]);
    }
    assert_ends(&sent[4], [0, 0, 1, 0, 0, 0]);
    // The last is overdue twice.
    advance(&broker, &clock, MS);
    assert_eq!(sent[5].outcome(), None);
    let again = worker.try_recv().unwrap();
    advance(&broker, &clock, MS);
    assert!(again.ack().is_err());
    assert_ends(&sent[5], [0, 1, 0, 0, 0, 0]);
    assert_balanced(&broker);
}

#[test]
fn followers_of_a_parked_key_end_as_dead_letters() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let parking = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let parking = parking.on_exhausted(OnExhausted::ParkKey);
    let _s = parking.subscribe(|_| Err(Nack::dead_letter("no"))).unwrap();
    let sent: Vec<_> = (0..5)
        .map(|number| send_message(&topic, Message::new(number).key("k")))
        .collect();
    broker.run_until_idle();
    sent.iter()
        .for_each(|one| assert_ends(one, [0, 1, 0, 0, 0, 0]));
    assert_balanced(&broker);
}

#[test]
fn a_message_that_overflows_its_topic_or_a_lane_says_so() {
    for partitions in [None, Some(1)] {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
            let (broker, _clock) = manual();
            let mut builder = broker.topic("t").capacity(1).overflow(overflow);
            if let Some(partitions) = partitions {
                builder = builder.partitions(partitions);
            }
            let topic = builder.open().unwrap();
            let (log, _s) = read(&topic, "s");
            let both = [send(&topic, 1), send(&topic, 2)];
            let (dropped, kept) = match overflow {
                Overflow::DropOldest => (0, 1),
                _ => (1, 0),
            };
            assert_ends(&both[dropped], [0, 0, 1, 0, 0, 0]);
            assert_eq!(both[kept].outcome(), None);
            broker.run_until_idle();
            assert_ends(&both[kept], [1, 0, 0, 0, 0, 0]);
            assert_eq!(log.len(), 1);
            assert_balanced(&broker);
        }
    }
    for when_full in [
        LaneFull::DropOldest,
        LaneFull::DropNewest,
        LaneFull::DeadLetter,
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let lane = topic.subscription("s").capacity(1).when_full(when_full);
        let pull = lane.pull(Pull::default().credits(1)).unwrap();
        let sent: Vec<_> = (0..3).map(|number| send(&topic, number)).collect();
        broker.run_until_idle();
        let kept = if when_full == LaneFull::DropOldest {
            2
        } else {
            0
        };
        pull.try_recv().unwrap().ack().unwrap();
        for (at, one) in sent.iter().enumerate() {
            let expected = match when_full {
                _ if at == kept => [1, 0, 0, 0, 0, 0],
                LaneFull::DeadLetter => [0, 1, 0, 0, 0, 0],
                _ => [0, 0, 1, 0, 0, 0],
            };
            assert_ends(one, expected);
        }
        assert_balanced(&broker);
    }
}

#[test]
fn a_message_expires_in_the_queue_in_a_lane_and_before_its_retry() {
    for (on_expired, in_lane) in [
        (OnExpired::Drop, [0, 0, 0, 1, 0, 0]),
        (OnExpired::DeadLetter, [0, 1, 0, 0, 0, 0]),
    ] {
        let (broker, clock) = manual();
        let waits = broker.topic("waits").strategy(Batched::of(9).until_full());
        let waits = waits.on_expired(on_expired).open().unwrap();
        let (_log, _s) = read(&waits, "s");
        let topic = broker.topic("t").on_expired(on_expired);
        let topic = topic.retry(Backoff::fixed(5 * MS)).open().unwrap();
        let pull = topic.subscription("s").pull(Pull::default()).unwrap();
        let ttl = |topic: &Topic<u32>| send_message(topic, Message::new(1).ttl(2 * MS));
        let [queued, tried, in_lane_of_pull] = [ttl(&waits), ttl(&topic), ttl(&topic)];
        broker.run_until_idle();
        pull.try_recv().unwrap().nack(Nack::retry("later")).unwrap();
        for _ in 0..10 {
            advance(&broker, &clock, MS);
        }
        for one in [queued, tried, in_lane_of_pull] {
            assert_ends(&one, in_lane);
        }
        assert_balanced(&broker);
    }
    // What is retained for nobody is dropped.
    let (broker, clock) = manual();
    let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
    let topic: Topic<u32> = topic.ttl(MS).open().unwrap();
    let tracked = send(&topic, 1);
    advance(&broker, &clock, MS);
    assert_ends(&tracked, [0, 0, 1, 0, 0, 0]);
    assert_balanced(&broker);
}

#[test]
fn without_subscribers_a_message_is_unrouted_retained_or_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let tracked = send(&topic, 1);
    broker.run_until_idle();
    assert_ends(&tracked, [0, 0, 0, 0, 0, 1]);
    assert!(!tracked.outcome().unwrap().is_delivered());
    let retain = broker.topic("retain").no_subscribers(NoSubscribers::Retain);
    let retain = retain.open().unwrap();
    let retained = send(&retain, 1);
    broker.run_until_idle();
    assert_eq!(retained.outcome(), None);
    let (_log, _s) = read(&retain, "s");
    broker.run_until_idle();
    assert_ends(&retained, [1, 0, 0, 0, 0, 0]);
    let reject = broker
        .topic::<u32>("reject")
        .no_subscribers(NoSubscribers::Reject);
    let reject = reject.open().unwrap();
    let tracker = reject.tracker();
    let refused = reject.message(7).tracked(&tracker).publish();
    assert_eq!(refused.unwrap_err().into_inner(), 7);
    assert_ends(&tracker, [0; 6]);
    assert_balanced(&broker);
}

#[test]
fn an_unsubscribe_ends_each_delivery_as_its_mode_says() {
    for (mode, expected) in [
        (Unsubscribe::Cancel, [0, 0, 0, 0, 1, 0]),
        (Unsubscribe::DeadLetter, [0, 1, 0, 0, 0, 0]),
        // The retry is not due, and nobody moves the clock meanwhile.
        (Unsubscribe::Drain { timeout: HOUR }, [0, 0, 0, 0, 1, 0]),
    ] {
        for on_failure in [OnFailure::Reorder, OnFailure::BlockKey] {
            let (broker, _clock) = manual();
            let topic = open(&broker);
            let new = topic.subscription("s").on_failure(on_failure);
            let s = new.subscribe(|_| Err(Nack::retry("never"))).unwrap();
            let pull = topic.subscription("pull").on_failure(on_failure);
            let pull = pull.pull(Pull::default().ack_deadline(MS)).unwrap();
            let [tried, queued] = [send(&topic, 1), send(&topic, 2)];
            broker.run_until_idle();
            let lease = pull.try_recv().unwrap();
            drop(pull.unsubscribe(mode));
            drop(s.unsubscribe(mode));
            broker.run_until_idle();
            let both = expected.map(|ends| 2 * ends);
            assert_ends(&tried, both);
            assert_ends(&queued, both);
            assert!(lease.ack().is_err());
            assert_balanced(&broker);
        }
    }
}

#[test]
fn the_end_of_the_broker_ends_what_is_left() {
    for threads in [0, 2] {
        let broker = match threads {
            0 => manual().0,
            _ => threaded(threads),
        };
        let topic = broker.topic("t").no_subscribers(NoSubscribers::Retain);
        let topic: Topic<u32> = topic.open().unwrap();
        let other = broker.topic("other").retry(Backoff::fixed(HOUR));
        let other = other.open().unwrap();
        let s = other.subscribe("s", |_| Err(Nack::retry("later"))).unwrap();
        let queued = send(&topic, 1);
        let delayed = send_message(&topic, Message::new(2).after(HOUR));
        let waits_for_retry = send(&other, 1);
        match threads {
            0 => _ = broker.run_until_idle(),
            _ => {
                while other.metrics().deliveries().awaiting_retry == 0 {
                    thread::yield_now();
                }
            }
        }
        broker.drain(Duration::ZERO).unwrap_err();
        assert_ends(&queued, [0, 0, 1, 0, 0, 0]);
        assert_ends(&delayed, [0, 0, 1, 0, 0, 0]);
        assert_ends(&waits_for_retry, [0, 0, 0, 0, 1, 0]);
        assert_balanced(&broker);
        drop((topic, other, s, broker));
        assert_ends(&queued, [0, 0, 1, 0, 0, 0]);
    }
}

#[test]
fn a_delayed_message_ends_when_it_has_come_or_was_cancelled() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (_log, _s) = read(&topic, "s");
    let late = || {
        let tracker = topic.tracker();
        let sent = topic.message(1).after(MS).tracked(&tracker).publish();
        (tracker, sent.unwrap())
    };
    let ((comes, _), (cancelled, receipt)) = (late(), late());
    let back = topic.cancel_delayed(receipt.id()).unwrap();
    assert_ends(&cancelled, [0, 0, 1, 0, 0, 0]);
    assert_eq!(comes.outcome(), None);
    advance(&broker, &clock, MS);
    assert_ends(&comes, [1, 0, 0, 0, 0, 0]);
    // The message that came back has its tracker still.
    topic.publish_messages([back]).unwrap();
    assert_eq!(cancelled.outcome(), None);
    broker.run_until_idle();
    assert_ends(&cancelled, [1, 0, 1, 0, 0, 0]);
    assert_balanced(&broker);
}

#[test]
fn a_thread_waits_for_the_end_and_a_handler_does_not() {
    let broker = threaded(1);
    let topic = open(&broker);
    let replies = broker.topic::<u32>("replies").open().unwrap();
    let (log, _r) = read(&replies, "r");
    let answers = Log::new();
    let (to, told) = (replies.clone(), answers.clone());
    let _s = topic.subscribe("s", move |delivery| {
        let inner = to.tracker();
        to.message(*delivery.payload()).tracked(&inner).publish()?;
        told.push((inner.wait(), inner.wait_timeout(HANG)));
        Ok(())
    });
    let tracked = send(&topic, 7);
    assert!(tracked.wait_timeout(HANG).unwrap().is_delivered());
    assert_eq!(answers.take(), [(Err(UnsettledError), Err(UnsettledError))]);
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), [7]);
    let late = topic.tracker();
    let message = topic.message(1).after(HOUR).tracked(&late);
    let receipt = message.publish().unwrap();
    assert_eq!(late.wait_timeout(MS), Err(UnsettledError));
    thread::scope(|scope| {
        let waits = scope.spawn(|| late.wait());
        topic.cancel_delayed(receipt.id()).unwrap();
        assert_eq!(waits.join().unwrap().map(ends), Ok([0, 0, 1, 0, 0, 0]));
    });
    assert!(format!("{late:?} {}", late.wait().unwrap()).contains("1 dropped"));
}

#[test]
fn under_load_every_tracked_message_ends_exactly_as_often_as_it_has_subscriptions() {
    let broker = threaded(2);
    let topic = broker
        .topic("t")
        .retry(Backoff::fixed(Duration::ZERO).max_attempts(2));
    let topic = topic
        .capacity(64)
        .overflow(Overflow::DropOldest)
        .open()
        .unwrap();
    let _good = topic.subscribe("good", |_| Ok(())).unwrap();
    let _bad = topic
        .subscribe("bad", |_| Err(Nack::retry("never")))
        .unwrap();
    let lossy = topic.subscription("lossy").capacity(4);
    let lossy = lossy.when_full(LaneFull::DropOldest).subscribe(|_| Ok(()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let sent: Vec<_> = (0..3_000).map(|number| send(&topic, number)).collect();
                for one in sent {
                    let outcome = one.wait_timeout(HANG).unwrap();
                    match outcome.ends() {
                        3 => assert_eq!(outcome.dead_lettered, 1),
                        _ => assert_eq!(ends(outcome), [0, 0, 1, 0, 0, 0]),
                    }
                }
            });
        }
    });
    assert_rests_balanced(&broker);
    drop(lossy);
}

#[test]
fn what_a_filter_refuses_is_told_apart_and_no_end() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let odd = topic.subscription("odd").filter(|d| d.payload() % 2 == 1);
    let _odd = odd.subscribe(|_| Ok(())).expect("subscribes");
    let _all = topic.subscribe("all", |_| Ok(())).expect("subscribes");
    let tracked = [1, 2].map(|number| send(&topic, number));
    broker.run_until_idle();
    let [odd, even] = tracked.map(|tracked| tracked.outcome().expect("all has ended"));
    assert_eq!((odd.delivered, odd.filtered), (2, 0));
    assert_eq!((even.delivered, even.filtered), (1, 1));
    assert!(even.is_delivered());
    assert_balanced(&broker);
}

#[test]
fn one_tracker_sums_up_messages_however_they_are_published_and_wherever() {
    for partitions in [None, Some(2)] {
        let (broker, clock) = manual();
        let mut builder = broker.topic::<u32>("t").capacity(1_000);
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        let (topic, other) = (builder.open().unwrap(), broker.topic("other").open());
        let other: Topic<u32> = other.unwrap();
        let _good = topic.subscribe("good", |_| Ok(())).unwrap();
        let _bad = topic.subscribe("bad", |_| Err(Nack::dead_letter("no")));
        let _elsewhere = other.subscribe("s", |_| Ok(())).unwrap();
        let tracker = topic.tracker();
        assert_ends(&tracker, [0; 6]);
        let new = |number| Message::new(number).tracked(&tracker);
        let one = || topic.message(1).tracked(&tracker);
        one().publish().unwrap();
        one().key("k").try_publish().unwrap();
        one().ttl(HOUR).publish_timeout(MS).unwrap();
        one().after(MS).publish().unwrap();
        // Few join the open batch, and many are one of their own.
        for count in [3, 40, 100] {
            topic.publish_messages((0..count).map(new)).unwrap();
        }
        topic.publish_messages([new(1).after(MS)]).unwrap();
        let mut buffer = topic.buffered(Batched::of(4)).unwrap();
        (0..6).for_each(|number| buffer.publish_message(new(number)).unwrap());
        assert!(buffer.flush().unwrap().accepted() > 0);
        let by_calls = 4 + 143 + 1 + 6;
        #[cfg(not(feature = "async"))]
        let sent = by_calls;
        #[cfg(feature = "async")]
        let sent = {
            use std::task::{Context, Poll, Waker};
            let context = &mut Context::from_waker(Waker::noop());
            let mut one = std::pin::pin!(one().publish_async());
            assert!(matches!(one.as_mut().poll(context), Poll::Ready(Ok(_))));
            let many = topic.publish_messages_async((0..70).map(new));
            let mut many = std::pin::pin!(many);
            assert!(matches!(many.as_mut().poll(context), Poll::Ready(Ok(_))));
            by_calls + 71
        };
        topic.publish(7).unwrap();
        other.publish_messages([new(1)]).unwrap();
        assert_eq!(tracker.outcome(), None);
        broker.run_until_idle();
        assert_eq!(tracker.outcome(), None, "two are not due");
        advance(&broker, &clock, MS);
        assert_ends(&tracker, [sent + 1, sent, 0, 0, 0, 0]);
        assert_balanced(&broker);
    }
}

#[test]
fn a_batch_that_is_refused_in_part_has_its_accepted_messages_tracked_and_comes_back_with_the_tracker()
 {
    for partitions in [None, Some(1)] {
        let (broker, _clock) = manual();
        let mut builder = broker.topic::<u32>("t").capacity(2);
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        let topic = builder.open().unwrap();
        let (log, _s) = read(&topic, "s");
        let tracker = topic.tracker();
        let batch = (0..3).map(|number| Message::new(number).tracked(&tracker));
        let partial = topic.publish_messages(batch).unwrap_err();
        assert_eq!(partial.accepted, 2);
        let refused = topic.message(9).tracked(&tracker).try_publish();
        assert_eq!(refused.unwrap_err().into_inner(), 9);
        broker.run_until_idle();
        assert_ends(&tracker, [2, 0, 0, 0, 0, 0]);
        topic.publish_messages(partial.into_inner()).unwrap();
        assert_eq!(tracker.outcome(), None);
        broker.run_until_idle();
        assert_ends(&tracker, [3, 0, 0, 0, 0, 0]);
        assert_eq!(log.take(), [0, 1, 2]);
        assert_balanced(&broker);
    }
}

#[test]
fn each_message_of_a_batch_that_overflows_its_topic_is_counted_once() {
    for partitions in [None, Some(1)] {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
            let (broker, clock) = manual();
            let builder = broker.topic::<u32>("t").capacity(10).overflow(overflow);
            let builder = match partitions {
                Some(partitions) => builder.partitions(partitions),
                None => builder,
            };
            let topic = builder.open().unwrap();
            let (log, _s) = read(&topic, "s");
            let tracker = topic.tracker();
            let batch = (0..80).map(|number| Message::new(number).tracked(&tracker));
            topic.publish_messages(batch).unwrap();
            let late = topic.message(80).after(MS).tracked(&tracker);
            late.publish().unwrap();
            topic.publish_messages([Message::new(81)]).unwrap();
            broker.run_until_idle();
            advance(&broker, &clock, MS);
            let (outcome, delivered) = (tracker.outcome().unwrap(), log.len() as u64);
            // The last one has no tracker.
            let others = u64::from(overflow == Overflow::DropOldest);
            assert_eq!(outcome.delivered, delivered - others);
            assert_eq!(outcome.ends(), 81, "{outcome}");
            assert_eq!(outcome.delivered + outcome.dropped, 81);
            assert_balanced(&broker);
        }
    }
}
