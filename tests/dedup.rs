//! A topic with dedup accepts each dedup id once: the second message with it gets the
//! receipt of the first, and is dropped. An id is remembered for the window and up to
//! the bound, and only for a message that was accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{
    HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::dead_letters::RedriveOptions;
use millstream::error::OpenError;
use millstream::{
    Batched, Broker, Dedup, Message, Nack, NoSubscribers, Overflow, PublishError, Topic, Tracker,
};

const WINDOW: Duration = Duration::from_secs(60);

fn dedup() -> Dedup {
    Dedup::window(WINDOW).ids(100)
}

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").dedup(dedup()).open().expect("opens")
}

fn once(topic: &Topic<u32>, payload: u32, id: &str) -> Result<u64, u64> {
    let receipt = topic.message(payload).dedup_id(id).publish();
    let receipt = receipt.expect("accepted, now or before");
    match receipt.is_duplicate() {
        false => Ok(receipt.id().get()),
        true => Err(receipt.id().get()),
    }
}

#[test]
fn a_duplicate_gets_the_first_receipt_and_is_not_delivered() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (log, _subscription) = read(&topic, "s");
    let events = Log::new();
    let _observation = broker.observe({
        let events = events.clone();
        move |event| events.push(event.to_string())
    });
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    assert_eq!(topic.publish(2).expect("no id").id().get(), 2);
    assert_eq!(once(&topic, 3, "a"), Err(1));
    assert_eq!(once(&topic, 4, "b"), Ok(3), "a duplicate takes no number");
    broker.run_until_idle();
    assert_eq!(once(&topic, 5, "a"), Err(1), "delivered is not forgotten");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 4]);
    let metrics = assert_balanced(&broker);
    let counts = metrics.topic("t").expect("it is open");
    assert_eq!(
        (counts.published, counts.duplicates, counts.rejected),
        (3, 2, 0)
    );
    drop(broker);
    let told = events.take();
    let told: Vec<_> = told
        .iter()
        .filter(|told| told.starts_with("dupl"))
        .collect();
    assert_eq!(told, ["duplicate t #1", "duplicate t #1"]);
}

#[test]
fn the_payload_of_a_duplicate_is_dropped_once_and_at_once() {
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (broker, _clock) = manual();
    let topic = broker.topic("t").dedup(dedup()).open().expect("opens");
    let dropped = Arc::new(AtomicUsize::new(0));
    for drops in [0, 1, 2] {
        let message = topic.message(Counts(Arc::clone(&dropped))).dedup_id("a");
        message.publish().expect("accepted, now or before");
        assert_eq!(dropped.load(Ordering::Relaxed), drops);
    }
    assert_balanced(&broker);
}

#[test]
fn an_id_is_forgotten_when_its_window_is_over() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (log, _subscription) = read(&topic, "s");
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    advance(&broker, &clock, WINDOW - Duration::from_nanos(1));
    assert_eq!(once(&topic, 2, "a"), Err(1), "and stays as old as it is");
    advance(&broker, &clock, Duration::from_nanos(1));
    assert_eq!(once(&topic, 3, "a"), Ok(2));
    assert_eq!(once(&topic, 4, "a"), Err(2));
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 3]);
    assert_balanced(&broker);
}

#[test]
fn of_more_ids_than_the_bound_the_oldest_is_forgotten_first() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").dedup(dedup().ids(2));
    let topic = topic.open().expect("opens");
    for (payload, id) in [(1, "a"), (2, "b"), (3, "c")] {
        assert_eq!(once(&topic, payload, id), Ok(u64::from(payload)));
    }
    assert_eq!(once(&topic, 4, "b"), Err(2));
    assert_eq!(once(&topic, 5, "a"), Ok(4));
    assert_eq!(once(&topic, 6, "b"), Ok(5), "it was the oldest then");
    assert_balanced(&broker);
}

#[test]
fn a_message_that_was_refused_may_be_published_again() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").dedup(dedup()).capacity(1);
    let topic = topic.no_subscribers(NoSubscribers::Reject).open();
    let topic = topic.expect("opens");
    let refused = topic.message(1).dedup_id("a").publish();
    assert_eq!(refused, Err(PublishError::NoSubscribers(1)));
    let (log, subscription) = read(&topic, "s");
    assert_eq!(once(&topic, 2, "a"), Ok(1));
    let refused = topic.message(3).dedup_id("b").publish();
    assert_eq!(refused, Err(PublishError::Full(3)));
    assert_eq!(once(&topic, 4, "a"), Err(1), "though the topic is full");
    broker.run_until_idle();
    assert_eq!(once(&topic, 5, "b"), Ok(2));
    broker.run_until_idle();
    assert_eq!(log.take(), [2, 5]);
    drop(subscription);
    assert_eq!(once(&topic, 6, "a"), Err(1), "though nobody subscribes");
    let counts = topic.metrics();
    assert_eq!((counts.rejected, counts.duplicates), (2, 2));
    broker.drain(Duration::ZERO).expect("nothing is left");
    assert_eq!(once(&topic, 7, "a"), Err(1), "though it is closed");
    let refused = topic.message(8).dedup_id("c").publish();
    assert_eq!(refused, Err(PublishError::Closed(8)));
    assert_balanced(&broker);
}

#[test]
fn a_message_that_was_dropped_or_taken_back_may_be_published_again() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").dedup(dedup()).capacity(1);
    let topic = topic.overflow(Overflow::DropNewest).open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    let dropped = topic.message(2).dedup_id("b").publish().expect("dropped");
    assert!(dropped.is_dropped() && !dropped.is_duplicate());
    broker.run_until_idle();
    assert_eq!(once(&topic, 3, "b"), Ok(3));
    broker.run_until_idle();
    let late = topic.message(4).dedup_id("c").after(WINDOW / 2);
    let late = late.publish().expect("accepted").id();
    assert_eq!(
        once(&topic, 5, "c"),
        Err(late.get()),
        "from its acceptance on"
    );
    let back = topic.cancel_delayed(late).expect("not yet due");
    assert_eq!(back, Message::new(4).dedup_id("c"));
    assert_eq!(topic.publish_messages([back]).expect("again").accepted(), 1);
    advance(&broker, &clock, WINDOW);
    assert_eq!(log.take(), [1, 3, 4]);
    assert_balanced(&broker);
}

#[test]
fn a_dedup_id_in_a_topic_that_remembers_none_is_refused_and_hands_all_back() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let text = "dedup_id is set, but it needs a topic that was opened with dedup";
    let refused = topic.message(1).dedup_id("a").publish().expect_err("none");
    assert_eq!(refused.to_string(), text);
    assert_eq!(refused.into_inner(), 1);
    let late = topic.message(2).dedup_id("a").after(WINDOW).publish();
    assert_eq!(late.expect_err("none").into_inner(), 2);
    let named = || Message::new(4).dedup_id("a");
    let batch = [Message::new(3), named(), Message::new(5)];
    let partial = topic.publish_messages(batch).expect_err("the second");
    assert_eq!(partial.accepted, 1);
    assert_eq!(partial.into_inner(), [named(), Message::new(5)]);
    let mut buffer = topic.buffered(Batched::of(8)).expect("valid");
    let refused = buffer.publish_message(named()).expect_err("none");
    assert_eq!((refused.to_string().as_str(), buffer.buffered()), (text, 0));
    assert_eq!(refused.into_inner(), named());
    assert_eq!(topic.metrics().published, 1);
    assert_balanced(&broker);
}

#[test]
fn batches_and_buffers_drop_their_duplicates_and_keep_the_order_of_the_others() {
    for partitions in [None, Some(1), Some(3)] {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").dedup(dedup()).capacity(8);
        let topic = partitions
            .into_iter()
            .fold(topic, |topic, n| topic.partitions(n));
        let topic = topic.open().expect("opens");
        let (log, _subscription) = read(&topic, "s");
        assert_eq!(once(&topic, 0, "a"), Ok(1));
        let messages = |from: u32| {
            [
                Message::new(from).key("k"),
                Message::new(from + 1).dedup_id("a").key("k"),
                Message::new(from + 2).dedup_id(format!("b{from}")).key("k"),
                Message::new(from + 3).dedup_id(format!("b{from}")).key("k"),
                Message::new(from + 4).key("k"),
            ]
        };
        let receipt = topic.publish_messages(messages(10)).expect("there is room");
        assert_eq!((receipt.accepted(), receipt.duplicates()), (3, 2));
        assert_eq!(receipt.last().map(|id| id.get()), Some(4));
        let mut buffer = topic.buffered(Batched::of(5)).expect("valid");
        for message in messages(20) {
            buffer.publish_message(message).expect("there is room");
        }
        let receipt = buffer.flush().expect("there is room");
        assert_eq!((receipt.accepted(), receipt.duplicates()), (3, 2));
        // The first two of these find room or need none, and the last is refused.
        let partial = topic.publish_messages(messages(30)).expect_err("too many");
        assert_eq!((partial.accepted, partial.into_inner().len()), (2, 3));
        broker.run_until_idle();
        let mut log = log.take();
        if partitions == Some(3) {
            log.sort_unstable();
        }
        assert_eq!(log, [0, 10, 12, 14, 20, 22, 24, 30]);
        assert_eq!(assert_balanced(&broker).topics[0].duplicates, 5);
    }
}

#[test]
fn a_tracked_duplicate_ends_as_dropped() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let (_log, _subscription) = read(&topic, "s");
    let publish = |tracker: &Tracker| {
        let message = topic.message(1).dedup_id("a").tracked(tracker);
        message.publish().expect("there is room").id()
    };
    let (first, second) = (topic.tracker(), topic.tracker());
    assert_eq!(publish(&first), publish(&second));
    assert_eq!(first.outcome(), None);
    assert_eq!(second.outcome().expect("at once").dropped, 1);
    broker.run_until_idle();
    assert!(first.outcome().expect("delivered").is_delivered());
}

#[test]
fn a_handler_sees_the_id_and_a_letter_that_goes_elsewhere_is_not_taken_for_a_duplicate() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let seen = Log::new();
    for name in ["x", "y"] {
        let seen = seen.clone();
        let handler = topic.subscribe(name, move |delivery| {
            seen.push(delivery.dedup_id().map(str::to_owned));
            Err(Nack::dead_letter("no"))
        });
        handler.expect("subscribes").detach();
    }
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    broker.run_until_idle();
    assert_eq!(seen.take(), [Some("a".to_owned()), Some("a".to_owned())]);
    let other = broker.topic("other").dedup(dedup()).open().expect("opens");
    let options = RedriveOptions::new().to(&other);
    let redrive = topic.dead_letters().redrive_with(options, |_| true);
    assert_eq!(redrive.expect("valid").redriven, 2);
    assert_eq!(other.metrics().duplicates, 0);
    assert_balanced(&broker);
}

#[test]
fn the_bounds_change_while_traffic_runs_and_keep_what_is_within_both() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    assert_eq!(once(&topic, 2, "b"), Ok(2));
    let longer = Dedup::window(2 * WINDOW).ids(1);
    topic.set_dedup(longer).expect("valid");
    advance(&broker, &clock, WINDOW);
    assert_eq!(once(&topic, 3, "b"), Err(2), "by the new window");
    assert_eq!(once(&topic, 4, "a"), Ok(3), "by the new bound");
    assert!(topic.set_dedup(longer.ids(0)).is_err());
    let join = |dedup| broker.topic::<u32>("t").dedup(dedup).open();
    assert!(join(longer).is_ok());
    let clash = join(dedup()).expect_err("another window");
    assert!(matches!(
        clash,
        OpenError::Clash {
            setting: "dedup",
            ..
        }
    ));
    let zero = broker
        .topic::<u32>("zero")
        .dedup(Dedup::window(Duration::ZERO));
    assert!(matches!(zero.open(), Err(OpenError::Invalid(_))));
    let without = broker.topic::<u32>("without").open().expect("opens");
    assert!(without.set_dedup(longer).is_err());
    assert_balanced(&broker);
}

#[test]
fn of_publishers_that_meet_one_is_accepted_and_the_others_get_its_receipt() {
    const IDS: u32 = 200;
    for (capacity, timeout) in [(1, HOUR), (1_024, HOUR)] {
        let broker = threaded(2);
        let topic = broker
            .topic("t")
            .dedup(Dedup::window(HOUR))
            .capacity(capacity);
        let topic = topic.overflow(Overflow::Block { timeout }).open();
        let topic = topic.expect("opens");
        let (log, _subscription) = read(&topic, "s");
        let receipts = Log::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for id in 0..IDS {
                        receipts.push((id, once(&topic, id, &id.to_string())));
                    }
                });
            }
        });
        assert_rests_balanced(&broker);
        let mut delivered = log.take();
        delivered.sort_unstable();
        assert_eq!(delivered, (0..IDS).collect::<Vec<_>>());
        let receipts = receipts.take();
        for id in 0..IDS {
            let of = receipts.iter().filter(|(of, _)| *of == id);
            let is_first = |(_, receipt): &&(u32, Result<u64, u64>)| receipt.is_ok();
            let (first, others): (Vec<_>, Vec<_>) = of.copied().partition(|one| is_first(&one));
            assert_eq!((first.len(), others.len()), (1, 3));
            let first = first[0].1.expect("it is the first");
            assert!(others.iter().all(|(_, other)| *other == Err(first)));
        }
        assert_eq!(topic.metrics().duplicates, 3 * u64::from(IDS));
    }
}

#[test]
fn a_publisher_that_waits_for_room_keeps_its_id_from_nobody() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").dedup(dedup()).capacity(1);
    let topic = topic.no_subscribers(NoSubscribers::Retain);
    let topic = topic.overflow(Overflow::Block { timeout: HOUR }).open();
    let topic = topic.expect("opens");
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    std::thread::scope(|scope| {
        let waits = [2, 3].map(|payload| {
            scope.spawn({
                let topic = &topic;
                move || once(topic, payload, "b")
            })
        });
        // Whether they wait already or not, nobody else does.
        let refused = topic.message(4).dedup_id("b").try_publish();
        assert_eq!(refused, Err(PublishError::Full(4)));
        assert_eq!(once(&topic, 5, "a"), Err(1));
        let (log, _subscription) = read(&topic, "s");
        let mut answers = waits.map(|waits| waits.join().expect("it returns"));
        answers.sort_unstable();
        assert_eq!(answers, [Ok(2), Err(2)]);
        assert_rests_balanced(&broker);
        assert_eq!(log.len(), 2);
    });
}

#[cfg(feature = "async")]
#[test]
fn futures_find_duplicates_when_they_are_polled() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").dedup(dedup()).capacity(1);
    let topic = topic.no_subscribers(NoSubscribers::Retain);
    let topic = topic.overflow(Overflow::Block { timeout: HOUR }).open();
    let topic = topic.expect("opens");
    let context = &mut Context::from_waker(Waker::noop());
    let message = |payload, id: &'static str| topic.message(payload).dedup_id(id);
    assert_eq!(once(&topic, 1, "a"), Ok(1));
    let mut again = pin!(message(2, "a").publish_async());
    let Poll::Ready(Ok(receipt)) = again.as_mut().poll(context) else {
        panic!("a duplicate needs no room");
    };
    assert!(receipt.is_duplicate());
    let mut waits = pin!(message(3, "b").publish_async());
    assert!(waits.as_mut().poll(context).is_pending());
    let mut batch =
        pin!(topic.publish_messages_async([
            Message::new(4).dedup_id("a"),
            Message::new(5).dedup_id("b"),
        ]));
    assert!(batch.as_mut().poll(context).is_pending());
    let (_log, _subscription) = read(&topic, "s");
    assert!(broker.wait_until_idle(HOUR));
    let Poll::Ready(Ok(receipt)) = batch.as_mut().poll(context) else {
        panic!("there is room");
    };
    assert_eq!((receipt.accepted(), receipt.duplicates()), (1, 1));
    let Poll::Ready(Ok(receipt)) = waits.as_mut().poll(context) else {
        panic!("the other one was first");
    };
    assert!(receipt.is_duplicate());
    assert_rests_balanced(&broker);
}
