//! Time to live: what nobody has handled in time is not handled late. It ends, and
//! makes room, by itself. A letter that is redriven has no time to live any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::event::{DropCause, EventKind};
use millstream::{
    Backoff, Batched, Broker, LaneFull, Nack, NoSubscribers, OnExhausted, OnExpired, OnFailure,
    Overflow, PublishError, Pull, PullSubscription, SubscriptionBuilder, Topic, Unsubscribe,
    Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// A topic whose messages live for a second, and whose failures are not retried.
fn short_lived(broker: &Broker) -> Topic<u32> {
    let builder = broker.topic("t").ttl(SECOND);
    builder.retry(Backoff::none()).open().expect("opens")
}

/// A message fails, and is redriven an hour after it has outlived its time: it gets
/// to the handler all the same, whatever the subscription is like.
fn is_handled_after_its_time(
    subscribe: impl Fn(SubscriptionBuilder<'_, u32>, Log<(u16, u32)>) -> millstream::Subscription,
) {
    let (broker, clock) = manual();
    let topic = short_lived(&broker);
    let log = Log::new();
    let _subscription = subscribe(topic.subscription("s"), log.clone());
    topic.message(1).key("k").publish().expect("has room");
    broker.run_until_idle();
    advance(&broker, &clock, HOUR);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    broker.run_until_idle();
    advance(&broker, &clock, HOUR);
    // Twice: it failed once more, and was tried again after that.
    assert_eq!(log.take(), [(1, 1), (1, 2)]);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.expired), (1, 0));
}

/// Fails first attempts for good, and the first of what is redriven for a while.
fn judge(log: &Log<(u16, u32)>, generation: u16, attempt: u32) -> Result<(), Nack> {
    if generation == 0 {
        return Err(Nack::dead_letter("a bug"));
    }
    log.push((generation, attempt));
    match attempt {
        1 => Err(Nack::retry_after(HOUR, "not yet")),
        _ => Ok(()),
    }
}

#[test]
fn a_letter_that_is_redriven_after_its_time_to_live_is_handled_and_retried() {
    for on_failure in [
        OnFailure::Reorder,
        OnFailure::BlockKey,
        OnFailure::BlockSubscription,
    ] {
        is_handled_after_its_time(|builder, log| {
            let retry = Backoff::fixed(MS).max_attempts(5);
            let builder = builder.on_failure(on_failure).retry(retry);
            let subscribed = builder.subscribe(move |d| judge(&log, d.generation(), d.attempt()));
            subscribed.expect("subscribes")
        });
    }
}

#[test]
fn a_letter_that_is_redriven_after_its_time_to_live_is_handled_in_batches_and_in_parallel() {
    is_handled_after_its_time(|builder, log| {
        let builder = builder.retry(Backoff::fixed(MS).max_attempts(5));
        let subscribed = builder.subscribe_batches(Batched::of(1), move |batch| {
            let delivery = batch.get(0).expect("never empty");
            judge(&log, delivery.generation(), delivery.attempt())
        });
        subscribed.expect("subscribes")
    });
    is_handled_after_its_time(|builder, log| {
        let builder = builder.retry(Backoff::fixed(MS).max_attempts(5));
        let subscribed = builder
            .concurrency(4)
            .subscribe_shared(move |d| judge(&log, d.generation(), d.attempt()));
        subscribed.expect("subscribes")
    });
}

#[test]
fn a_letter_that_is_redriven_after_its_time_to_live_can_be_leased() {
    let (broker, clock) = manual();
    let topic = short_lived(&broker);
    let worker = topic
        .subscription("s")
        .pull(Pull::default())
        .expect("subscribes");
    topic.publish(1).expect("has room");
    let lease = worker.try_recv().expect("it is there");
    lease.nack(Nack::dead_letter("a bug")).expect("in time");
    advance(&broker, &clock, HOUR);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    advance(&broker, &clock, HOUR);
    let lease = worker.try_recv().expect("it is still worth handling");
    assert_eq!((lease.generation(), lease.attempt()), (1, 1));
    // Its deadline passes: what was redriven is retried whenever that is.
    advance(&broker, &clock, HOUR);
    assert!(lease.ack().is_err(), "overdue");
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.expired, topic.dead_letters().len()), (0, 1));
}

#[test]
fn the_retries_of_a_redriven_letter_are_measured_from_its_first_attempt_since() {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(MS).max_elapsed(SECOND);
    let topic = broker.topic::<u32>("t").retry(retry).open().expect("opens");
    let log = Log::new();
    let _subscription = topic.subscribe("s", {
        let log = log.clone();
        move |d| {
            log.push((d.generation(), d.attempt()));
            match (d.generation(), d.attempt()) {
                (0, _) => Err(Nack::dead_letter("a bug")),
                (_, 1) => Err(Nack::retry("not yet")),
                _ => Ok(()),
            }
        }
    });
    topic.publish(1).expect("has room");
    broker.run_until_idle();
    advance(&broker, &clock, HOUR);
    let _ = topic.dead_letters().redrive(|_| true);
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [(0, 1), (1, 1), (1, 2)]);
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 1);
}

#[test]
fn a_redriven_letter_that_fails_again_is_a_letter_again() {
    let (broker, clock) = manual();
    let topic = short_lived(&broker);
    let fail = |_: &millstream::Delivery<'_, u32>| Err(Nack::retry("a bug"));
    let _subscription = topic.subscribe("s", fail).expect("subscribes");
    topic.publish(1).expect("has room");
    broker.run_until_idle();
    for generation in 1..4 {
        advance(&broker, &clock, HOUR);
        assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
        broker.run_until_idle();
        let letters = topic.dead_letters().list();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].generation(), generation);
        assert_eq!(letters[0].reason(), DeadReason::Exhausted);
    }
    assert_balanced(&broker);
}

/// A topic that keeps four messages for whoever comes.
fn retaining(broker: &Broker, overflow: Overflow) -> Topic<u32> {
    let builder = broker.topic("t").capacity(4).overflow(overflow);
    let builder = builder.no_subscribers(NoSubscribers::Retain);
    builder.open().expect("opens")
}

fn fill(topic: &Topic<u32>, ttls: [Option<Duration>; 4]) {
    for (payload, ttl) in ttls.into_iter().enumerate() {
        let message = topic.message(payload as u32);
        let message = match ttl {
            Some(ttl) => message.ttl(ttl),
            None => message,
        };
        message.publish().expect("has room");
    }
}

#[test]
fn what_expires_while_nobody_subscribes_is_dropped_and_makes_room_by_itself() {
    let (broker, clock) = manual();
    let topic = retaining(&broker, Overflow::Reject);
    let causes = Log::new();
    let _observation = broker.observe({
        let causes = causes.clone();
        move |event| {
            if let EventKind::Dropped { cause } = event.kind() {
                causes.push(*cause);
            }
        }
    });
    fill(&topic, [Some(SECOND); 4]);
    broker.run_until_idle();
    assert_eq!(broker.next_deadline(), Some(SECOND));
    advance(&broker, &clock, SECOND - MS);
    assert_eq!(topic.metrics().queued, 4, "not yet");
    advance(&broker, &clock, MS);
    let metrics = assert_balanced(&broker);
    let topic_metrics = metrics.topic("t").expect("it is open");
    assert_eq!((topic_metrics.queued, topic_metrics.dropped), (0, 4));
    assert_eq!(causes.take(), [DropCause::Expired; 4]);
    assert_eq!(broker.next_deadline(), None, "nothing is left to look for");
    topic.publish(4).expect("there is room");
    assert!(!broker.wait_until_idle(HANG) || topic.metrics().queued == 1);
}

#[test]
fn who_finds_a_topic_full_of_what_has_expired_is_let_in() {
    for has_run in [false, true] {
        for overflow in [Overflow::Reject, Overflow::DropOldest, Overflow::DropNewest] {
            let (broker, clock) = manual();
            let builder = broker.topic::<u32>("t").capacity(4).overflow(overflow);
            let builder = builder.no_subscribers(NoSubscribers::Retain);
            let topic = builder.ttl(SECOND).open().expect("opens");
            fill(&topic, [None, Some(HOUR), None, None]);
            if has_run {
                broker.run_until_idle();
            }
            clock.advance(SECOND);
            for payload in 4..7 {
                let receipt = topic.publish(payload).expect("three have expired");
                assert!(
                    !receipt.is_dropped() && receipt.evicted() == 0,
                    "{overflow:?}"
                );
            }
            match (overflow, topic.publish(7)) {
                (Overflow::Reject, Err(PublishError::Full(7))) => {}
                (Overflow::DropOldest, Ok(receipt)) => assert_eq!(receipt.evicted(), 1),
                (Overflow::DropNewest, Ok(receipt)) => assert!(receipt.is_dropped()),
                (_, other) => panic!("{overflow:?} answered {other:?}"),
            }
            let (log, _subscription) = read(&topic, "live");
            broker.run_until_idle();
            let expected = match overflow {
                Overflow::DropOldest => [4, 5, 6, 7],
                _ => [1, 4, 5, 6],
            };
            assert_eq!(log.take(), expected, "what lives keeps its order");
            assert_balanced(&broker);
        }
    }
}

#[test]
fn what_expires_behind_what_lives_for_ever_makes_room() {
    let (broker, clock) = manual();
    let topic = retaining(&broker, Overflow::Reject);
    fill(&topic, [None, Some(2 * SECOND), None, Some(SECOND)]);
    broker.run_until_idle();
    for payload in 4..6 {
        let refused = topic.publish(payload);
        assert!(matches!(refused, Err(PublishError::Full(_))));
        advance(&broker, &clock, SECOND);
        assert_eq!(topic.metrics().queued, 3);
        topic.publish(payload).expect("one has expired");
    }
    let (log, _subscription) = read(&topic, "live");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 2, 4, 5]);
    assert_balanced(&broker);
}

#[test]
fn a_time_of_its_own_is_known_though_the_topic_rests() {
    let (broker, clock) = manual();
    let topic = retaining(&broker, Overflow::Reject);
    topic.publish(0).expect("has room");
    broker.run_until_idle();
    topic.message(1).ttl(SECOND).publish().expect("has room");
    broker.run_until_idle();
    assert_eq!(broker.next_deadline(), Some(SECOND));
    advance(&broker, &clock, SECOND);
    assert_eq!(topic.metrics().queued, 1);
    assert_eq!(broker.next_deadline(), None);
    assert_balanced(&broker);
}

#[test]
fn a_delayed_message_lives_from_when_it_is_due() {
    let (broker, clock) = manual();
    let topic = retaining(&broker, Overflow::Reject);
    let message = topic.message(0).ttl(SECOND).after(HOUR);
    message.publish().expect("has room");
    advance(&broker, &clock, HOUR);
    assert_eq!(topic.metrics().queued, 1);
    advance(&broker, &clock, SECOND - MS);
    assert_eq!(topic.metrics().queued, 1);
    advance(&broker, &clock, MS);
    assert_eq!(topic.metrics().queued, 0);
    assert_balanced(&broker);
}

#[test]
fn what_expires_in_any_partition_makes_room() {
    for has_run in [false, true] {
        let (broker, clock) = manual();
        let builder = broker.topic::<u32>("t").capacity(64).partitions(4);
        let builder = builder.no_subscribers(NoSubscribers::Retain);
        let topic = builder.ttl(SECOND).open().expect("opens");
        for n in 0..64 {
            let message = topic.message(n).key(n.to_string());
            let message = if n % 2 == 0 {
                message.ttl(HOUR)
            } else {
                message
            };
            message.publish().expect("has room");
        }
        if has_run {
            broker.run_until_idle();
        }
        clock.advance(SECOND);
        for n in 64..96 {
            topic
                .message(n)
                .key("k")
                .publish()
                .expect("half have expired");
        }
        assert!(matches!(topic.publish(96), Err(PublishError::Full(96))));
        advance(&broker, &clock, SECOND);
        assert_eq!(topic.metrics().queued, 32);
        topic.set_partitions(2).expect("it is split");
        advance(&broker, &clock, HOUR);
        assert_eq!(topic.metrics().queued, 0, "in no table");
        assert_balanced(&broker);
    }
}

#[test]
fn many_that_expire_at_once_are_ended_in_steps() {
    let (broker, clock) = manual();
    let builder = broker.topic::<u32>("t").capacity(10_000).ttl(SECOND);
    let builder = builder.no_subscribers(NoSubscribers::Retain);
    let topic = builder.open().expect("opens");
    for n in 0..10_000 {
        let message = topic.message(n);
        let message = if n % 10 == 0 {
            message.ttl(HOUR)
        } else {
            message
        };
        message.publish().expect("has room");
    }
    advance(&broker, &clock, SECOND);
    assert_eq!(topic.metrics().queued, 1_000);
    let (log, _subscription) = read(&topic, "live");
    broker.run_until_idle();
    let lived: Vec<_> = (0..10_000).step_by(10).collect();
    assert_eq!(log.take(), lived);
    assert_balanced(&broker);
}

fn publish(topic: &Topic<u32>, payloads: std::ops::Range<u32>) {
    for payload in payloads {
        topic.publish(payload).expect("has room");
    }
}

/// An idle subscription with room for four, which nobody pulls from.
fn idle(topic: &Topic<u32>) -> PullSubscription<u32> {
    let builder = topic.subscription("idle").capacity(4);
    builder.pull(Pull::default()).expect("subscribes")
}

#[test]
fn an_idle_subscription_whose_deliveries_have_expired_holds_up_nobody() {
    for by_the_clock in [false, true] {
        let (broker, clock) = manual();
        let topic = broker.topic("t").ttl(SECOND).open().expect("opens");
        let idle = idle(&topic);
        let (log, _live) = read(&topic, "live");
        publish(&topic, 0..4);
        broker.run_until_idle();
        assert_eq!(idle.metrics().queued, 4);
        clock.advance(SECOND);
        if by_the_clock {
            broker.run_until_idle();
            assert_eq!(idle.metrics().queued, 0);
        }
        topic.publish(4).expect("has room");
        broker.run_until_idle();
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        let lease = idle.try_recv().expect("the last one lives");
        assert_eq!(*lease.payload(), 4);
        lease.ack().expect("in time");
        assert_eq!(idle.metrics().counts.expired, 4);
        assert_balanced(&broker);
        advance(&broker, &clock, HOUR);
        assert_eq!(broker.next_deadline(), None);
    }
}

#[test]
fn what_expires_in_the_topic_behind_a_full_lane_has_expired_for_each_subscription() {
    let (broker, clock) = manual();
    let builder = broker.topic("t").capacity(4).retry(Backoff::fixed(HOUR));
    let topic = builder.open().expect("opens");
    let idle = idle(&topic);
    let (log, live) = read(&topic, "live");
    // For ever in the lane, and a second in the topic.
    publish(&topic, 0..4);
    broker.run_until_idle();
    fill(&topic, [Some(SECOND), None, Some(SECOND), Some(SECOND)]);
    broker.run_until_idle();
    assert!(matches!(topic.publish(9), Err(PublishError::Full(9))));
    advance(&broker, &clock, SECOND);
    let topic_metrics = topic.metrics();
    assert_eq!((topic_metrics.queued, topic_metrics.dispatched), (1, 7));
    assert_eq!(idle.metrics().counts.expired, 3);
    assert_eq!(live.metrics().counts.expired, 3);
    assert_balanced(&broker);
    assert_eq!(log.take(), [0, 1, 2, 3]);
    idle.try_recv()
        .expect("it is there")
        .ack()
        .expect("in time");
    broker.run_until_idle();
    assert_eq!(log.take(), [1], "the one that lives");
    assert_balanced(&broker);
}

#[test]
fn what_is_left_of_a_chunk_behind_a_full_lane_expires() {
    for partitions in [None, Some(2)] {
        let (broker, clock) = manual();
        let builder = broker.topic("t").capacity(16).ttl(SECOND);
        let builder = match partitions {
            Some(count) => builder.partitions(count),
            None => builder,
        };
        let topic = builder.open().expect("opens");
        let idle = idle(&topic);
        topic.publish_batch(0..10).expect("has room");
        broker.run_until_idle();
        assert_eq!((topic.metrics().queued, idle.metrics().queued), (6, 4));
        clock.advance(SECOND);
        topic
            .publish_batch(10..26)
            .expect("all of them have expired");
        broker.run_until_idle();
        assert_eq!(idle.metrics().counts.expired, 10);
        assert_eq!((topic.metrics().queued, idle.metrics().queued), (12, 4));
        assert_balanced(&broker);
    }
}

#[test]
fn new_deliveries_of_a_parked_key_expire_where_they_wait() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let builder = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let builder = builder.on_exhausted(OnExhausted::ParkKey).capacity(4);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    topic.message(0).key("k").publish().expect("has room");
    let lease = worker.try_recv().expect("it is there");
    lease
        .nack(Nack::dead_letter("parks its key"))
        .expect("in time");
    for n in 1..4 {
        let message = topic.message(n).key("k").ttl(SECOND);
        message.publish().expect("has room");
    }
    advance(&broker, &clock, SECOND);
    let counts = worker.metrics().counts;
    assert_eq!(counts.dead_lettered + counts.expired, 4);
    assert_balanced(&broker);
}

#[test]
fn followers_of_a_held_key_that_have_expired_make_room_for_other_keys() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let builder = topic.subscription("s").capacity(16).hold(8);
    let builder = builder.retry(Backoff::fixed(HOUR));
    let log = Log::new();
    let subscribed = builder.on_failure(OnFailure::BlockKey).subscribe({
        let log = log.clone();
        move |d| match (d.key(), d.attempt()) {
            (Some("a"), 1) => Err(Nack::retry("in an hour")),
            _ => {
                log.push(*d.payload());
                Ok(())
            }
        }
    });
    let subscription = subscribed.expect("subscribes");
    topic.message(0).key("a").publish().expect("has room");
    broker.run_until_idle();
    for n in 1..16 {
        let message = topic.message(n).key("a").ttl(SECOND);
        message.publish().expect("has room");
    }
    topic.message(16).key("b").publish().expect("has room");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "lane and hold are full");
    advance(&broker, &clock, SECOND);
    assert_eq!(log.take(), [16]);
    let metrics = subscription.metrics();
    assert_eq!((metrics.counts.expired, metrics.queued), (15, 0));
    topic.message(17).key("a").publish().expect("has room");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "its key is still held");
    advance(&broker, &clock, HOUR);
    assert_eq!(log.take(), [0], "the next of it has failed in turn");
    advance(&broker, &clock, HOUR);
    assert_eq!(log.take(), [17]);
    assert_balanced(&broker);
}

#[test]
fn a_group_without_members_ends_what_expires() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").ttl(SECOND).open().expect("opens");
    let group = topic
        .subscription("g")
        .capacity(4)
        .group()
        .expect("subscribes");
    let (log, _live) = read(&topic, "live");
    for n in 0..12 {
        topic.publish(n).expect("has room");
        broker.run_until_idle();
        clock.advance(SECOND / 3);
    }
    broker.run_until_idle();
    assert_eq!(log.len(), 12);
    assert!(group.metrics().queued < 4);
    advance(&broker, &clock, SECOND);
    assert_eq!(group.metrics().counts.expired, 12);
    assert_balanced(&broker);
}

#[test]
fn what_lingers_for_a_batch_expires_meanwhile() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let batches = Batched::of(4).until_full();
    let subscribed = topic.subscription("s").subscribe_batches(batches, {
        let log = log.clone();
        move |batch| {
            batch.iter().for_each(|d| log.push(*d.payload()));
            Ok(())
        }
    });
    let subscription = subscribed.expect("subscribes");
    topic.publish(0).expect("has room");
    topic.message(1).ttl(SECOND).publish().expect("has room");
    topic.publish(2).expect("has room");
    advance(&broker, &clock, SECOND);
    assert_eq!((subscription.metrics().queued, log.len()), (2, 0));
    topic.publish(3).expect("has room");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "three are no batch of four");
    topic.publish(4).expect("has room");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 2, 3, 4]);
    assert_balanced(&broker);
}

#[test]
fn a_lane_that_sheds_what_is_too_much_ends_what_has_expired_first() {
    for when_full in [
        LaneFull::DropOldest,
        LaneFull::DropNewest,
        LaneFull::DeadLetter,
    ] {
        let (broker, clock) = manual();
        let topic = broker.topic::<u32>("t").open().expect("opens");
        let builder = topic.subscription("s").capacity(4).when_full(when_full);
        let batches = Batched::of(4).until_full();
        let subscribed = builder.subscribe_batches(batches, |_| Ok(()));
        let subscription = subscribed.expect("subscribes");
        topic.publish(0).expect("has room");
        for n in 1..3 {
            let message = topic.message(n).ttl(SECOND);
            message.publish().expect("has room");
        }
        broker.run_until_idle();
        clock.advance(SECOND);
        topic.publish_batch([3, 4, 5]).expect("has room");
        broker.run_until_idle();
        let counts = subscription.metrics().counts;
        assert_eq!((counts.expired, counts.delivered), (2, 4), "{when_full:?}");
        assert_balanced(&broker);
    }
}

#[test]
fn a_redrive_finds_the_room_of_what_has_expired() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").open().expect("opens");
    let idle = idle(&topic);
    topic.publish(0).expect("has room");
    let lease = idle.try_recv().expect("it is there");
    lease.nack(Nack::dead_letter("a bug")).expect("in time");
    fill(&topic, [Some(SECOND); 4]);
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().redrive(|_| true).no_room, 1);
    clock.advance(SECOND);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    let lease = idle.try_recv().expect("it came back");
    assert_eq!(lease.generation(), 1);
    lease.ack().expect("in time");
    assert_balanced(&broker);
}

#[test]
fn a_drain_counts_what_has_expired_as_expired() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").ttl(SECOND).open().expect("opens");
    let _idle = idle(&topic);
    publish(&topic, 0..8);
    broker.run_until_idle();
    assert!(!broker.wait_until_idle(HANG), "they wait to be pulled");
    clock.advance(SECOND);
    assert!(broker.wait_until_idle(HANG), "they are dead");
    let report = broker.drain(HANG).expect("nothing is left to do");
    assert_eq!((report.expired, report.cancelled), (8, 0));
    assert!(report.is_complete());
}

#[test]
fn nothing_is_looked_for_where_all_was_handled_in_time() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").ttl(SECOND).open().expect("opens");
    let (log, _subscription) = read(&topic, "live");
    for n in 0..10 {
        topic.publish(n).expect("has room");
        broker.run_until_idle();
        assert_eq!(broker.next_deadline(), None);
    }
    assert_eq!(log.len(), 10);
}

#[test]
fn a_topic_with_a_deadline_for_what_expires_can_be_removed_and_freed() {
    let (broker, clock) = manual();
    let payload = Arc::new(());
    let builder = broker.topic::<Arc<()>>("t").ttl(SECOND);
    let builder = builder.no_subscribers(NoSubscribers::Retain);
    let topic = builder.open().expect("opens");
    topic.publish(Arc::clone(&payload)).expect("has room");
    advance(&broker, &clock, SECOND);
    assert_eq!(Arc::strong_count(&payload), 1, "what has expired is let go");
    drop(topic);
    broker.remove_topic("t").expect("it is empty");
    assert_balanced(&broker);
}

// `OnExpired::DeadLetter`.

fn keeping(broker: &Broker) -> Topic<u32> {
    let builder = broker.topic("t").ttl(SECOND);
    let builder = builder.on_expired(OnExpired::DeadLetter);
    builder.open().expect("opens")
}

fn reasons(topic: &Topic<u32>) -> Vec<(String, u32, DeadReason)> {
    let letters = topic.dead_letters().list().into_iter();
    let read = |letter: millstream::dead_letters::DeadLetter<u32>| {
        let subscription = letter.subscription().to_owned();
        (subscription, *letter.payload(), letter.reason())
    };
    letters.map(read).collect()
}

#[test]
fn expired_deliveries_can_be_letters_of_their_subscription_and_be_redriven() {
    let (broker, clock) = manual();
    let topic = keeping(&broker);
    let idle = idle(&topic);
    let (log, _live) = read(&topic, "live");
    publish(&topic, 0..4);
    broker.run_until_idle();
    advance(&broker, &clock, SECOND);
    let expected = (0..4).map(|n| ("idle".to_owned(), n, DeadReason::Expired));
    assert_eq!(reasons(&topic), expected.collect::<Vec<_>>());
    let counts = idle.metrics().counts;
    assert_eq!((counts.dead_lettered, counts.expired), (4, 0));
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 4);
    advance(&broker, &clock, HOUR);
    for n in 0..4 {
        let lease = idle.try_recv().expect("handled after all");
        assert_eq!(*lease.payload(), n);
        lease.ack().expect("in time");
    }
    assert_eq!(log.len(), 4);
    assert_balanced(&broker);
}

#[test]
fn what_expires_in_the_topic_is_a_letter_of_each_subscription_or_dropped_without_one() {
    let (broker, clock) = manual();
    let builder = broker
        .topic("t")
        .ttl(SECOND)
        .strategy(Batched::of(9).until_full());
    let builder = builder.no_subscribers(NoSubscribers::Retain);
    let builder = builder.on_expired(OnExpired::DeadLetter);
    let topic = builder.open().expect("opens");
    topic.publish(0).expect("has room");
    advance(&broker, &clock, SECOND);
    assert_eq!(
        (topic.metrics().dropped, topic.dead_letters().len()),
        (1, 0)
    );
    let _idle = idle(&topic);
    let (_log, _live) = read(&topic, "live");
    topic.publish(1).expect("has room");
    advance(&broker, &clock, SECOND);
    let expected = ["idle", "live"].map(|name| (name.to_owned(), 1, DeadReason::Expired));
    assert_eq!(reasons(&topic), expected);
    assert_balanced(&broker);
}

#[test]
fn a_retry_that_would_come_too_late_is_a_letter_with_its_history() {
    let (broker, _clock) = manual();
    let topic = keeping(&broker);
    let fail = |_: &millstream::Delivery<'_, u32>| Err(Nack::retry_after(HOUR, "not now"));
    let _subscription = topic.subscribe("s", fail).expect("subscribes");
    topic.publish(1).expect("has room");
    broker.run_until_idle();
    let letters = topic.dead_letters().list();
    assert_eq!(
        (letters.len(), letters[0].reason()),
        (1, DeadReason::Expired)
    );
    assert_eq!(
        (letters[0].attempts(), letters[0].error()),
        (1, Some("not now"))
    );
    assert_balanced(&broker);
}

#[test]
fn an_expired_letter_parks_no_key() {
    let (broker, clock) = manual();
    let topic = keeping(&broker);
    let builder = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let builder = builder.on_exhausted(OnExhausted::ParkKey);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    topic.message(0).key("k").publish().expect("has room");
    advance(&broker, &clock, SECOND);
    assert_eq!(reasons(&topic).len(), 1);
    topic.message(1).key("k").publish().expect("has room");
    let lease = worker.try_recv().expect("its key is free");
    assert_eq!(*lease.payload(), 1);
    lease.ack().expect("in time");
    assert_eq!(worker.metrics().parked_keys, 0);
    assert_balanced(&broker);
}

/// Its retry is due, and comes too late, when a letter before it parks the key.
#[test]
fn what_has_expired_follows_no_parked_key_into_the_dead_letters() {
    let (broker, clock) = manual();
    let topic = keeping(&broker);
    let builder = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let builder = builder.on_exhausted(OnExhausted::ParkKey);
    let time = clock.clone();
    let subscribed = builder.subscribe(move |delivery| {
        // So long that the lane takes one at a time, and so short that its turn goes on.
        time.advance(Duration::from_micros(10));
        match delivery.payload() {
            0 => Err(Nack::dead_letter("parks its key")),
            _ => Err(Nack::retry("later")),
        }
    });
    let subscription = subscribed.expect("subscribes");
    topic.message(0).key("k").publish().expect("has room");
    advance(&broker, &clock, SECOND);
    topic.message(1).key("k").publish().expect("has room");
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.awaiting_retry, 1);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    advance(&broker, &clock, HOUR);
    let expected = [(0, DeadReason::Rejected), (1, DeadReason::Expired)];
    let expected = expected.map(|(payload, reason)| ("s".to_owned(), payload, reason));
    assert_eq!(reasons(&topic), expected);
    assert_balanced(&broker);
}

// On real threads.

#[test]
fn a_publisher_blocked_by_what_expires_is_let_in() {
    let broker = threaded(1);
    let topic = retaining(&broker, Overflow::Block { timeout: HANG });
    fill(&topic, [Some(20 * MS), None, Some(40 * MS), None]);
    topic.publish(4).expect("one has expired");
    topic.publish(5).expect("another has expired");
    let (log, _subscription) = read(&topic, "live");
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), [1, 3, 4, 5]);
}

#[test]
fn behind_a_handler_that_hangs_what_has_expired_makes_room_for_others() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").ttl(HOUR).open().expect("opens");
    let (let_go, hang) = std::sync::mpsc::channel::<()>();
    let builder = topic.subscription("hangs").capacity(4);
    let hangs = builder.subscribe(move |_| {
        let _ = hang.recv();
        Ok(())
    });
    let hangs = hangs.expect("subscribes");
    let (_log, live) = read(&topic, "live");
    // The first is in the hands of the handler; it and three more fill the lane.
    fill(
        &topic,
        [Some(HOUR), Some(20 * MS), Some(20 * MS), Some(20 * MS)],
    );
    publish(&topic, 4..7);
    let until = Instant::now() + HANG;
    while live.metrics().counts.ended() < 7 {
        assert!(Instant::now() < until, "held up by what has expired");
        std::thread::yield_now();
    }
    assert_eq!(hangs.metrics().counts.expired, 3);
    assert!(live.metrics().counts.delivered >= 4, "all that live");
    drop(let_go);
    assert_rests_balanced(&broker);
    assert_eq!(hangs.metrics().counts.delivered, 4);
}

#[test]
fn a_drain_and_an_unsubscribe_do_not_wait_for_what_expires_meanwhile() {
    let broker = threaded(1);
    let topic = broker.topic("t").ttl(20 * MS).open().expect("opens");
    let first = idle(&topic);
    publish(&topic, 0..4);
    let until = Instant::now() + HANG;
    while first.metrics().counts.made < 4 {
        assert!(Instant::now() < until, "never dispatched");
        std::thread::yield_now();
    }
    let drain = Unsubscribe::Drain { timeout: HANG };
    let Unsubscribed::Ended(last) = first.unsubscribe(drain) else {
        panic!("no handler called this");
    };
    assert_eq!((last.counts.expired, last.counts.cancelled), (4, 0));
    let _second = idle(&topic);
    publish(&topic, 0..8);
    assert!(broker.wait_until_idle(HANG), "they die");
    publish(&topic, 0..8);
    let report = broker.drain(HANG).expect("complete");
    assert_eq!((report.expired, report.cancelled), (20, 0));
}

#[test]
fn what_is_tried_again_without_delay_expires_where_nobody_takes_it() {
    let (broker, clock) = manual();
    let policy = Backoff::fixed(Duration::ZERO).max_attempts(9);
    let topic = broker.topic("t").ttl(SECOND * 10).retry(policy);
    let topic: Topic<u32> = topic.open().expect("opens");
    let pull = topic.subscription("s").pull(Pull::default()).expect("fine");
    topic.publish(1).expect("has room");
    let lease = pull.try_recv().expect("one is there");
    topic
        .message(2)
        .ttl(SECOND * 5)
        .publish()
        .expect("has room");
    broker.run_until_idle();
    // The look that ends the second message forgets what is out.
    advance(&broker, &clock, SECOND * 6);
    assert_eq!(pull.metrics().counts.expired, 1);
    lease.nack(Nack::retry("not now")).expect("is good");
    advance(&broker, &clock, SECOND * 10);
    assert_eq!(pull.metrics().counts.expired, 2);
    assert_rests_balanced(&broker);
}
