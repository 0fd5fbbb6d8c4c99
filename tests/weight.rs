//! A topic with a weight limit holds messages up to that weight, exactly, besides its
//! capacity. What doesn't fit meets the overflow policy; what never can is refused at
//! once. The weight goes when the message leaves the topic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::OpenError;
use millstream::{
    Batched, Broker, Message, NoSubscribers, Overflow, PublishError, Topic, TopicBuilder,
};

const MS: Duration = Duration::from_millis(1);

/// A payload is its own weight.
fn weighed(broker: &Broker, limit: u64) -> TopicBuilder<'_, u64> {
    broker.topic("t").weight_limit(limit, |payload| *payload)
}

fn weight(topic: &Topic<u64>) -> u64 {
    topic.metrics().weight
}

fn is_too_heavy<P>(error: &PublishError<P>) -> bool {
    matches!(error, PublishError::Invalid { invalid, .. } if invalid.setting() == "weight")
}

#[test]
fn messages_fit_up_to_the_limit_and_go_when_they_are_dispatched() {
    for partitions in [None, Some(2)] {
        let (broker, _clock) = manual();
        let topic = weighed(&broker, 10);
        let topic = partitions
            .into_iter()
            .fold(topic, |topic, n| topic.partitions(n));
        let topic = topic.open().expect("opens");
        let (log, _subscription) = read(&topic, "s");
        for payload in [4, 5] {
            topic.publish(payload).expect("it fits");
        }
        assert_eq!(topic.publish(2), Err(PublishError::Full(2)));
        topic.publish(1).expect("it fits");
        topic.publish(0).expect("it weighs nothing");
        assert_eq!(weight(&topic), 10);
        broker.run_until_idle();
        assert_eq!(weight(&topic), 0, "lanes don't weigh");
        topic.publish(10).expect("it fits");
        broker.run_until_idle();
        let mut log = log.take();
        log.sort_unstable();
        assert_eq!(log, [0, 1, 4, 5, 10]);
        assert_balanced(&broker);
    }
}

#[test]
fn a_message_heavier_than_the_limit_is_refused_at_once_and_handed_back() {
    let broker = threaded(1);
    let block = Overflow::Block { timeout: HOUR };
    let topic = weighed(&broker, 10).overflow(block).open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    let refused = topic.publish(11).expect_err("it can never fit");
    let text = "weight is too high, but it must not exceed the topic's weight limit";
    assert_eq!(refused.to_string(), text);
    assert!(is_too_heavy(&refused) && !refused.is_full());
    assert_eq!(refused.into_inner(), 11);
    let partial = topic.publish_batch([1, 2, 11, 3]).expect_err("the third");
    assert_eq!((partial.accepted, is_too_heavy(&partial.error)), (2, true));
    assert_eq!(partial.into_inner(), [11, 3]);
    let late = topic.publish_after(HOUR, 12).expect_err("it can never fit");
    assert!(is_too_heavy(&late));
    let message = || Message::new(13).key("k");
    let partial = topic.publish_messages([message(), message().after(HOUR)]);
    let rest = partial.expect_err("the first").into_inner();
    assert_eq!(rest, [message(), message().after(HOUR)], "as they were");
    let mut buffer = topic.buffered(Batched::of(4)).expect("valid");
    assert!(broker.wait_until_idle(HANG));
    let refused = buffer
        .publish_message(message())
        .expect_err("the topic starves");
    assert_eq!(refused.into_inner(), message());
    assert_rests_balanced(&broker);
    assert_eq!((log.take(), weight(&topic)), (vec![1, 2], 0));
    assert_eq!(topic.metrics().rejected, 0, "it made no sense");
}

#[test]
fn a_batch_is_accepted_as_far_as_it_fits() {
    let (broker, _clock) = manual();
    let topic = weighed(&broker, 10).open().expect("opens");
    let partial = topic.publish_batch([4, 4, 4, 1]).expect_err("the third");
    assert_eq!((partial.accepted, partial.error.is_full()), (2, true));
    assert_eq!(partial.into_inner(), [4, 1]);
    let messages = || [Message::new(2), Message::new(3).key("k")];
    let partial = topic.publish_messages(messages()).expect_err("the second");
    assert_eq!(partial.accepted, 1);
    assert_eq!(partial.into_inner(), messages()[1..]);
    assert_eq!(weight(&topic), 10);
    broker.run_until_idle();
    assert_eq!((weight(&topic), topic.metrics().unrouted), (0, 3));
    assert_balanced(&broker);
}

#[test]
fn what_does_not_fit_meets_the_overflow_policy() {
    let (broker, _clock) = manual();
    let topic = weighed(&broker, 2_000).capacity(4_096);
    let topic = topic.overflow(Overflow::DropOldest).open().expect("opens");
    for _ in 0..2_000 {
        topic.publish(1).expect("it fits");
    }
    let receipt = topic.publish(1_999).expect("the others make room");
    assert_eq!(receipt.evicted(), 1_999);
    assert_eq!((weight(&topic), topic.metrics().queued), (2_000, 2));
    topic.set_overflow(Overflow::DropNewest).expect("valid");
    assert!(topic.publish(7).expect("accepted").is_dropped());
    let receipt = topic.publish_batch([7, 8]).expect("accepted");
    assert_eq!(receipt.dropped(), 2);
    assert_eq!((weight(&topic), topic.metrics().queued), (2_000, 2));
    broker.run_until_idle();
    assert_eq!(weight(&topic), 0);
    assert_balanced(&broker);
}

#[test]
fn a_strategy_that_waits_for_more_than_fits_hands_on_what_there_is() {
    let (broker, _clock) = manual();
    let topic = weighed(&broker, 10).strategy(Batched::of(64).until_full());
    let topic = topic.open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    topic.publish_batch([5, 4]).expect("they fit");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "it waits");
    assert!(topic.publish(2).expect_err("it is full").is_full());
    broker.run_until_idle();
    assert_eq!((log.take(), weight(&topic)), (vec![5, 4], 0));
    topic.publish(2).expect("it fits");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "it waits again");
    assert_balanced(&broker);
}

#[test]
fn delayed_and_expired_messages_hold_their_weight_for_as_long_as_they_are_there() {
    let (broker, clock) = manual();
    let topic = weighed(&broker, 10).no_subscribers(NoSubscribers::Retain);
    let topic = topic.ttl(10 * MS).open().expect("opens");
    let late = topic.publish_after(HOUR, 6).expect("it fits").id();
    assert!(topic.publish(5).expect_err("too much").is_full());
    topic.cancel_delayed(late).expect("not yet due");
    assert_eq!(weight(&topic), 0);
    topic.publish_after(MS, 6).expect("it fits");
    topic.publish(4).expect("it fits");
    advance(&broker, &clock, 5 * MS);
    assert_eq!(weight(&topic), 10, "retained");
    clock.advance(20 * MS);
    topic.publish(9).expect("those that expired make room");
    assert_eq!(weight(&topic), 9);
    broker
        .drain(Duration::ZERO)
        .expect_err("nobody came for it");
    assert_eq!(weight(&topic), 0);
    assert_balanced(&broker);
}

#[test]
fn publishers_that_meet_never_exceed_the_limit_and_all_get_in() {
    const EACH: u64 = 400;
    let broker = threaded(2);
    let block = Overflow::Block { timeout: HOUR };
    let topic = weighed(&broker, 20).overflow(block).open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    let is_over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(weight(&topic));
            }
            most
        });
        let publishers = [1, 7, 20].map(|payload| {
            let topic = &topic;
            scope.spawn(move || {
                for _ in 0..EACH / 2 {
                    topic.publish(payload).expect("there will be room");
                }
                let batch = vec![payload; EACH as usize / 2];
                topic.publish_batch(batch).expect("there will be room");
            })
        });
        let joined = publishers.map(|publisher| publisher.join());
        is_over.store(true, Ordering::Relaxed);
        assert!(joined.iter().all(Result::is_ok));
        watch.join().expect("it only looks")
    });
    assert!(most <= 20, "{most}");
    assert_rests_balanced(&broker);
    assert_eq!((log.len() as u64, weight(&topic)), (3 * EACH, 0));
}

#[test]
fn the_limit_changes_while_publishers_wait() {
    let broker = threaded(1);
    let topic = weighed(&broker, 10).no_subscribers(NoSubscribers::Retain);
    let topic = topic.overflow(Overflow::Block { timeout: HOUR }).open();
    let topic = topic.expect("opens");
    topic.publish(10).expect("it fits");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| topic.publish(5));
        topic.set_weight_limit(15).expect("valid");
        let receipt = waits.join().expect("it returns").expect("there is room");
        assert_eq!(receipt.id().get(), 2);
        let waits = scope.spawn(|| topic.publish(9));
        topic.set_weight_limit(8).expect("valid");
        let refused = waits.join().expect("it returns").expect_err("too heavy");
        assert!(is_too_heavy(&refused));
    });
    assert_eq!(weight(&topic), 15, "nothing is dropped");
    assert!(topic.try_publish(1).expect_err("too much").is_full());
    let (log, _subscription) = read(&topic, "s");
    assert_rests_balanced(&broker);
    assert_eq!((log.len(), weight(&topic)), (2, 0));
    let join = |limit| weighed(&broker, limit).open();
    assert!(join(8).is_ok());
    let clash = join(9).expect_err("another limit");
    assert!(matches!(
        clash,
        OpenError::Clash {
            setting: "weight_limit",
            ..
        }
    ));
    assert!(topic.set_weight_limit(0).is_err());
    let without = broker.topic::<u64>("without").open().expect("opens");
    assert!(without.set_weight_limit(8).is_err());
    let zero = broker.topic("zero").weight_limit(0, |(): &()| 0).open();
    assert!(matches!(zero, Err(OpenError::Invalid(_))));
}

#[test]
fn a_closure_that_panics_refuses_its_message_and_observers_are_told() {
    let (broker, _clock) = manual();
    let told = Log::new();
    let _observation = broker.observe({
        let told = told.clone();
        move |event| told.push(event.to_string())
    });
    let topic = broker.topic("t").weight_limit(10, |payload: &u64| {
        // Unwinds like any panic, but without a word from the panic hook.
        match payload {
            7 => std::panic::resume_unwind(Box::new("seven")),
            other => *other,
        }
    });
    let topic = topic.open().expect("opens");
    assert!(is_too_heavy(
        &topic.publish(7).expect_err("it can't be weighed")
    ));
    topic.publish(8).expect("it fits");
    broker.run_until_idle();
    assert_balanced(&broker);
    drop((topic, broker));
    let told = told.take();
    assert!(
        told.iter().any(|told| told == "hook_panicked t (weigh)"),
        "{told:?}"
    );
}

#[test]
fn a_buffer_waits_until_its_messages_fit() {
    let broker = threaded(1);
    let topic = weighed(&broker, 10).no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().expect("opens");
    topic.publish(9).expect("it fits");
    let mut buffer = topic.buffered(Batched::of(8).linger(MS)).expect("valid");
    for payload in [1, 2, 3] {
        buffer
            .publish(payload)
            .expect("there is room in the buffer");
    }
    let until = std::time::Instant::now() + HANG;
    while weight(&topic) < 10 {
        assert!(std::time::Instant::now() < until, "the first one fits");
        std::thread::yield_now();
    }
    let (log, _subscription) = read(&topic, "s");
    while log.len() < 4 {
        assert!(
            std::time::Instant::now() < until,
            "a worker publishes the rest"
        );
        std::thread::yield_now();
    }
    assert_eq!(buffer.flush().expect("nothing is left").accepted(), 3);
    assert_rests_balanced(&broker);
    assert_eq!((log.take(), weight(&topic)), (vec![9, 1, 2, 3], 0));
}
