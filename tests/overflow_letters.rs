//! Promise: under `Overflow::DeadLetter` what finds its topic full becomes a dead letter of each
//! subscription that wants it. The receipt says so, a redrive brings it back, the store bounds it, and
//! no publisher waits.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, read_by, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::event::EventKind;
use millstream::{
    Batched, Broker, Dedup, NoSubscribers, Overflow, PublishError, Topic, TopicBuilder,
};

const MS: Duration = Duration::from_millis(1);

fn of(broker: &Broker, capacity: usize) -> TopicBuilder<'_, u32> {
    let builder = broker.topic("t").capacity(capacity);
    builder.overflow(Overflow::DeadLetter)
}

/// The subscription, the payload and the reason of each letter.
fn letters(topic: &Topic<u32>) -> Vec<(String, u32, DeadReason)> {
    let letters = topic.dead_letters().list();
    let each = letters.iter().map(|letter| {
        let name = letter.subscription().to_owned();
        (name, *letter.payload(), letter.reason())
    });
    each.collect()
}

#[test]
fn what_finds_the_topic_full_is_a_letter_of_each_subscription_and_comes_back() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 2).open().expect("opens");
    let (one, _one) = read(&topic, "one");
    let only_even = |delivery: &millstream::Delivery<'_, u32>| delivery.payload().is_multiple_of(2);
    let (two, even) = read_by(topic.subscription("two").filter(only_even));
    let events = Log::new();
    let _observation = broker.observe({
        let events = events.clone();
        move |event| {
            if let EventKind::DeadLetter { reason } = *event.kind() {
                events.push((event.id().expect("a message").get(), reason));
            }
        }
    });
    let receipts: Vec<_> = (1..=4).map(|number| topic.publish(number)).collect();
    let receipts: Vec<_> = receipts
        .into_iter()
        .map(|receipt| receipt.expect("accepted"))
        .collect();
    let ends = receipts
        .iter()
        .map(|receipt| (receipt.is_dead_letter(), receipt.is_dropped()));
    let queued = (false, false);
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [queued, queued, (true, false), (true, false)]
    );
    let reason = DeadReason::Overflow;
    let expected = [("one", 3), ("one", 4), ("two", 4)];
    let expected = expected.map(|(name, number)| (name.to_owned(), number, reason));
    assert_eq!(letters(&topic), expected);
    assert_balanced(&broker);
    broker.run_until_idle();
    assert_eq!(events.take(), [(3, reason), (4, reason), (4, reason)]);
    assert_eq!((one.take(), two.take()), (vec![1, 2], vec![2]));
    assert_eq!(even.metrics().counts.filtered, 2);
    let metrics = topic.metrics();
    assert_eq!(
        (metrics.published, metrics.dispatched, metrics.dropped),
        (4, 4, 0)
    );
    let _ = topic.dead_letters().redrive(|_| true);
    broker.run_until_idle();
    assert_eq!((one.take(), two.take()), (vec![3, 4], vec![4]));
    assert_eq!(letters(&topic), []);
    assert_rests_balanced(&broker);
}

#[test]
fn a_batch_and_a_buffer_say_how_many_became_letters() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 3).open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    let receipt = topic.publish_batch(0..8).expect("accepted");
    assert_eq!(
        (
            receipt.accepted(),
            receipt.dead_letters(),
            receipt.dropped()
        ),
        (8, 5, 0)
    );
    let buffer = topic.buffered(Batched::of(3));
    let mut buffer = buffer.expect("it makes sense");
    for number in 8..11 {
        buffer.publish(number).expect("accepted");
    }
    let receipt = buffer.flush().expect("accepted");
    assert_eq!(receipt.dead_letters(), 3);
    assert_eq!(topic.dead_letters().list().len(), 8);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    assert_rests_balanced(&broker);
}

#[test]
fn the_store_of_letters_bounds_the_memory_and_no_publisher_waits() {
    let (broker, _clock) = manual();
    let builder = of(&broker, 1).dead_letter_capacity(10);
    let topic = builder.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    for number in 0..1_000 {
        topic.publish(number).expect("accepted");
    }
    let metrics = topic.metrics();
    assert_eq!((metrics.queued, metrics.dead_letters), (1, 10));
    assert_eq!(metrics.letters_evicted, 989);
    assert_balanced(&broker);
    broker.run_until_idle();
    assert_eq!(log.take(), [0]);
    assert_rests_balanced(&broker);
}

#[test]
fn without_subscriptions_the_message_is_dropped_as_its_receipt_says() {
    for policy in [NoSubscribers::Discard, NoSubscribers::Retain] {
        let (broker, _clock) = manual();
        let builder = of(&broker, 1).no_subscribers(policy);
        let topic = builder.open().expect("opens");
        topic.publish(1).expect("accepted");
        let receipt = topic.publish(2).expect("accepted");
        assert!(receipt.is_dropped() && !receipt.is_dead_letter());
        assert_eq!((topic.metrics().dropped, letters(&topic).len()), (1, 0));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_subscription_that_came_later_gets_no_letter_of_an_earlier_message() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 1).open().expect("opens");
    let (_log, _one) = read(&topic, "one");
    topic.publish(1).expect("accepted");
    topic.publish(2).expect("accepted");
    let (_late_log, late) = read(&topic, "late");
    topic.publish(3).expect("accepted");
    let names: Vec<_> = letters(&topic)
        .into_iter()
        .map(|letter| (letter.0, letter.1))
        .collect();
    let expected = [("one", 2), ("one", 3), ("late", 3)];
    assert_eq!(
        names,
        expected.map(|(name, number)| (name.to_owned(), number))
    );
    broker.run_until_idle();
    assert_eq!(late.metrics().counts.dead_lettered, 1);
    assert_rests_balanced(&broker);
}

#[test]
fn ids_weights_and_delays_are_kept_as_far_as_they_can_be() {
    let (broker, clock) = manual();
    let builder = of(&broker, 2)
        .dedup(Dedup::window(MS * 1_000))
        .weight_limit(10, |n| u64::from(*n));
    let topic = builder.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    let put = |number: u32, id: &str| topic.message(number).dedup_id(id).publish();
    assert!(!put(8, "a").expect("accepted").is_dead_letter());
    assert!(
        put(7, "b").expect("accepted").is_dead_letter(),
        "too heavy beside the other"
    );
    let again = put(7, "b").expect("accepted");
    assert!(again.is_duplicate() && !again.is_dead_letter());
    assert_eq!(topic.metrics().weight, 8);
    assert!(matches!(put(11, "c"), Err(PublishError::Invalid { .. })));
    topic.publish(1).expect("accepted");
    let late = topic.message(1).after(5 * MS).publish().expect("accepted");
    assert!(
        late.is_dead_letter(),
        "it would take a place, and there is none"
    );
    broker.run_until_idle();
    advance(&broker, &clock, 9 * MS);
    assert_eq!(log.take(), [8, 1]);
    assert_eq!(topic.metrics().weight, 0);
    let _ = topic.dead_letters().redrive(|_| true);
    broker.run_until_idle();
    assert_eq!(log.take(), [7, 1]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_publisher_that_waits_for_the_end_hears_of_the_letter() {
    let (broker, _clock) = manual();
    let topic = of(&broker, 1).open().expect("opens");
    let (_log, _reader) = read(&topic, "s");
    topic.publish(1).expect("accepted");
    let tracker = topic.tracker();
    let tracked = topic.message(2).tracked(&tracker);
    tracked.publish().expect("accepted");
    let outcome = tracker.outcome().expect("it has ended");
    assert!(!outcome.is_delivered());
    assert_eq!(outcome.ends(), 1);
    broker.run_until_idle();
    assert_rests_balanced(&broker);
}

#[test]
fn racing_publishers_and_a_swap_of_the_policy_lose_nothing_uncounted() {
    const EACH: u32 = 2_000;
    let broker = threaded(1);
    let topic = of(&broker, 8)
        .dead_letter_capacity(1 << 16)
        .open()
        .expect("opens");
    let (log, _reader) = read(&topic, "s");
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for publisher in 0..4 {
            let (topic, refused) = (&topic, &refused);
            scope.spawn(move || {
                for number in 0..EACH {
                    match topic.publish(publisher * EACH + number) {
                        Ok(_) => {}
                        // Others took the room that it made, again and again.
                        Err(PublishError::Full(_)) => drop(refused.fetch_add(1, Relaxed)),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                topic
                    .set_overflow(Overflow::DropOldest)
                    .expect("it makes sense");
                topic
                    .set_overflow(Overflow::DeadLetter)
                    .expect("it makes sense");
            }
        });
    });
    assert!(broker.wait_until_idle(HANG));
    let dropped = topic.metrics().dropped as usize;
    assert_eq!(
        log.len() + dropped + letters(&topic).len() + refused.into_inner(),
        4 * EACH as usize
    );
    assert_rests_balanced(&broker);
}
