//! A buffering publisher loses nothing, keeps its order, and holds nothing back
//! for longer than it was told to.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::{
    Batched, Broker, BufferedPublisher, ManualClock, Message, NoSubscribers, Overflow,
    PublishError, Subscription, Topic,
};

const LINGER: Duration = Duration::from_millis(2);

/// A topic of ten places that hands messages on by ones, and what it delivered.
fn topic(broker: &Broker, overflow: Overflow) -> (Topic<u64>, Log<u64>, Subscription) {
    let topic = broker.topic("t").capacity(10).overflow(overflow);
    let topic = topic.open().unwrap();
    let log = Log::new();
    let delivered = log.clone();
    let subscription = topic.subscribe("s", move |delivery| {
        delivered.push(*delivery.payload());
        Ok(())
    });
    (topic, log, subscription.unwrap())
}

/// A message in front, so that the topic is busy until the broker runs.
fn occupy(topic: &Topic<u64>) {
    topic.publish(0).unwrap();
}

fn rejecting() -> (Broker, ManualClock, Topic<u64>, Log<u64>, Subscription) {
    let (broker, clock) = manual();
    let (topic, log, subscription) = topic(&broker, Overflow::Reject);
    (broker, clock, topic, log, subscription)
}

#[test]
fn a_topic_with_nothing_to_do_is_not_kept_waiting() {
    let (broker, _clock, topic, log, _subscription) = rejecting();
    broker.run_until_idle();
    let mut publisher = topic.buffered(Batched::of(4)).unwrap();
    publisher.publish(1).unwrap();
    assert_eq!(publisher.buffered(), 0);
    publisher.publish(2).unwrap();
    assert_eq!(publisher.buffered(), 1, "the topic is busy with the first");
    broker.run_until_idle();
    assert_eq!(log.take(), [1]);
    publisher.flush().unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [2]);
    assert_balanced(&broker);
}

#[test]
fn a_full_buffer_goes_as_one_chunk() {
    let (broker, _clock, topic, log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(4)).unwrap();
    for number in 1..=3 {
        publisher.publish(number).unwrap();
        assert_eq!(topic.metrics().published, 1, "it has not been accepted");
    }
    publisher.publish(4).unwrap();
    assert_eq!(topic.metrics().published, 5);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3, 4]);
    let receipt = publisher.flush().unwrap();
    assert_eq!(receipt.accepted(), 4);
    assert_eq!(receipt.first().unwrap().get(), 2);
    assert_eq!(receipt.last().unwrap().get(), 5);
    assert_eq!(publisher.flush().unwrap().accepted(), 0);
    assert_balanced(&broker);
}

#[test]
fn the_oldest_message_lingers_no_longer_than_it_may() {
    let (broker, clock, topic, log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(4).linger(LINGER)).unwrap();
    publisher.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [0]);
    advance(&broker, &clock, LINGER / 2);
    publisher.publish(2).unwrap();
    assert!(log.take().is_empty());
    advance(&broker, &clock, LINGER / 2);
    assert_eq!(log.take(), [1, 2]);
    assert_balanced(&broker);
}

#[test]
fn a_call_for_a_chunk_that_has_left_waits_for_the_next_one() {
    let (broker, clock, topic, log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(2).linger(LINGER)).unwrap();
    publisher.publish(1).unwrap();
    publisher.publish(2).unwrap();
    clock.advance(LINGER / 2);
    publisher.publish(3).unwrap();
    advance(&broker, &clock, LINGER / 2);
    assert_eq!(
        log.take(),
        [0, 1, 2],
        "the third has lingered half its time"
    );
    advance(&broker, &clock, LINGER / 2);
    assert_eq!(log.take(), [3]);
    assert_balanced(&broker);
}

#[test]
fn an_empty_buffer_asks_for_no_wake_ups() {
    let (broker, clock, topic, log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(2).linger(LINGER)).unwrap();
    publisher.publish(1).unwrap();
    publisher.publish(2).unwrap();
    advance(&broker, &clock, LINGER);
    assert_eq!(log.take(), [0, 1, 2]);
    assert_eq!(broker.next_deadline(), None);
    drop(publisher);
    assert_balanced(&broker);
}

#[test]
fn without_a_linger_only_size_and_flush_count() {
    let (broker, clock, topic, log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(4).until_full()).unwrap();
    publisher.publish(1).unwrap();
    advance(&broker, &clock, Duration::from_secs(3_600));
    assert_eq!(log.take(), [0]);
    publisher.flush().unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [1]);
    assert_balanced(&broker);
}

#[test]
fn dropping_it_publishes_what_it_holds() {
    let (broker, _clock, topic, log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(4)).unwrap();
    publisher.publish(1).unwrap();
    drop(publisher);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1]);
    assert_balanced(&broker);
}

#[test]
fn a_full_topic_is_felt_once_the_buffer_is_full_too() {
    let (broker, _clock, topic, log, _subscription) = rejecting();
    for number in 0..8 {
        topic.publish(number).unwrap();
    }
    let mut publisher = topic.buffered(Batched::of(4)).unwrap();
    for number in 8..12 {
        publisher.publish(number).unwrap();
    }
    assert_eq!(publisher.buffered(), 2, "there was room for two");
    publisher.publish(12).unwrap();
    publisher.publish(13).unwrap();
    let refused = publisher.publish(14).unwrap_err();
    assert!(matches!(refused, PublishError::Full(14)), "{refused:?}");
    assert_eq!(publisher.buffered(), 4, "what it held, it holds");
    assert_eq!(topic.metrics().rejected, 1);
    broker.run_until_idle();
    publisher.publish(14).unwrap();
    publisher.flush().unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), (0..15).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_lingering_flush_that_is_refused_is_tried_again() {
    let (broker, clock, topic, log, _subscription) = rejecting();
    // Delayed messages hold all places until they are due.
    for number in 0..10 {
        topic.publish_after(3 * LINGER / 2, number).unwrap();
    }
    let mut publisher = topic.buffered(Batched::of(4).linger(LINGER)).unwrap();
    publisher.publish(10).unwrap();
    advance(&broker, &clock, LINGER);
    assert_eq!(publisher.buffered(), 1);
    advance(&broker, &clock, LINGER);
    assert_eq!(publisher.buffered(), 0);
    assert_eq!(log.take(), (0..11).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_flush_hands_back_what_was_refused() {
    let (broker, _clock, topic, log, _subscription) = rejecting();
    for number in 0..9 {
        topic.publish(number).unwrap();
    }
    let mut publisher = topic.buffered(Batched::of(4)).unwrap();
    for number in 9..12 {
        publisher.publish(number).unwrap();
    }
    let partial = publisher.flush().unwrap_err();
    assert_eq!(partial.accepted, 1);
    assert_eq!(partial.into_inner(), [10, 11].map(Message::new));
    assert_eq!(publisher.buffered(), 0);
    drop(publisher);
    broker.run_until_idle();
    assert_eq!(log.take(), (0..10).collect::<Vec<_>>());
    assert_eq!(topic.metrics().rejected, 2);
    assert_balanced(&broker);
}

#[test]
fn what_a_dropped_publisher_could_not_publish_is_counted() {
    let (broker, _clock, topic, _log, _subscription) = rejecting();
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(4)).unwrap();
    publisher.publish(1).unwrap();
    publisher.publish(2).unwrap();
    broker.drain(Duration::ZERO).unwrap();
    drop(publisher);
    assert_eq!(topic.metrics().rejected, 2);
    assert_balanced(&broker);
}

#[test]
fn overflow_that_drops_is_told_by_the_next_flush() {
    let (broker, _clock) = manual();
    let (topic, log, _subscription) = topic(&broker, Overflow::DropOldest);
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(5)).unwrap();
    for number in 1..=15 {
        publisher.publish(number).unwrap();
    }
    let receipt = publisher.flush().unwrap();
    assert_eq!((receipt.accepted(), receipt.evicted()), (15, 6));
    broker.run_until_idle();
    assert_eq!(log.take(), (6..=15).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let (broker, _clock, topic, _log, _subscription) = rejecting();
    for size in [0, 11] {
        let refused = topic.buffered(Batched::of(size)).unwrap_err();
        assert_eq!(refused.setting(), "batch_size");
    }
    assert_balanced(&broker);
}

#[test]
fn a_publisher_that_waits_for_room_waits_for_workers_and_they_not_for_it() {
    let broker = threaded(1);
    let (topic, log, _subscription) = topic(&broker, Overflow::Block { timeout: HANG });
    let mut publisher = topic.buffered(Batched::of(8).linger(LINGER)).unwrap();
    for number in 0..10_000 {
        publisher.publish(number).unwrap();
    }
    publisher.flush().unwrap();
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), (0..10_000).collect::<Vec<_>>());
}

#[test]
fn what_was_refused_after_a_long_wait_lingers_again() {
    // One is stuck in the handler, the other one looks and finds nothing.
    let broker = threaded(2);
    let timeout = 10 * LINGER;
    let topic = broker.topic("t").capacity(4).lane_capacity(1);
    let topic: Topic<u64> = topic.overflow(Overflow::Block { timeout }).open().unwrap();
    let (go_on, gate) = mpsc::channel();
    let log = Log::new();
    let delivered = log.clone();
    let subscription = topic.subscribe("s", move |delivery| {
        gate.recv()?;
        delivered.push(*delivery.payload());
        Ok(())
    });
    let _subscription = subscription.unwrap();
    let mut publisher = topic.buffered(Batched::of(4).linger(LINGER)).unwrap();
    let mut accepted = 0;
    while publisher.publish(accepted).is_ok() {
        accepted += 1;
    }
    assert!(publisher.buffered() > 0, "the last wait was for these");
    for _ in 0..accepted {
        go_on.send(()).unwrap();
    }
    let until = Instant::now() + HANG;
    while log.len() < accepted as usize {
        assert!(Instant::now() < until, "nobody flushed it");
        thread::yield_now();
    }
    assert_rests_balanced(&broker);
}

#[test]
fn each_of_several_publishers_keeps_its_order_while_others_linger() {
    let broker = threaded(2);
    let topic = broker
        .topic("t")
        .capacity(1_024)
        .overflow(Overflow::Block { timeout: HANG });
    let topic: Topic<(usize, u64)> = topic.open().unwrap();
    let log = Log::new();
    let delivered = log.clone();
    let handler = move |delivery: &millstream::Delivery<'_, _>| {
        delivered.push(*delivery.payload());
        Ok(())
    };
    let _subscription = topic.subscribe("s", handler).unwrap();
    thread::scope(|scope| {
        for publisher in 0..3 {
            let linger = Duration::from_micros(50 << publisher);
            let mut buffered = topic.buffered(Batched::of(64).linger(linger)).unwrap();
            scope.spawn(move || {
                for number in 0..20_000 {
                    buffered.publish((publisher, number)).unwrap();
                    if number % 997 == 0 {
                        // Long enough for a worker to flush what is in it.
                        thread::sleep(linger * 2);
                    }
                }
            });
        }
    });
    assert_rests_balanced(&broker);
    let mut next = [0; 3];
    for (publisher, number) in log.take() {
        assert_eq!(number, next[publisher], "publisher {publisher}");
        next[publisher] += 1;
    }
    assert_eq!(next, [20_000; 3]);
}

/// A payload that publishes through the buffer that evicts it, when it goes.
struct Parting(Option<Arc<std::sync::Mutex<Option<BufferedPublisher<Parting>>>>>);

impl Drop for Parting {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take()
            && let Some(publisher) = shared.lock().expect("nobody panics").as_mut()
        {
            let _ = publisher.publish(Parting(None));
        }
    }
}

#[test]
fn what_a_lingering_flush_evicts_may_publish_through_the_same_buffer() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").capacity(2);
    let topic = topic
        .overflow(Overflow::DropOldest)
        .no_subscribers(NoSubscribers::Retain);
    let topic: Topic<Parting> = topic.open().unwrap();
    let buffered = topic.buffered(Batched::of(2).linger(LINGER)).unwrap();
    let shared = Arc::new(std::sync::Mutex::new(Some(buffered)));
    topic.publish(Parting(Some(Arc::clone(&shared)))).unwrap();
    topic.publish(Parting(None)).unwrap();
    let publish = |shared: &std::sync::Mutex<Option<BufferedPublisher<_>>>| {
        let mut publisher = shared.lock().expect("nobody panics");
        publisher.as_mut().map(|it| it.publish(Parting(None)))
    };
    publish(&shared).expect("it is there").unwrap();
    let (done, ended) = mpsc::channel();
    let moved = broker.clone();
    thread::spawn(move || {
        advance(&moved, &clock, LINGER);
        done.send(()).expect("the test waits");
    });
    let ended = ended.recv_timeout(HANG);
    ended.expect("the worker waits for its own lock");
    assert_eq!(topic.metrics().dropped, 1);
    drop(shared.lock().expect("nobody panics").take());
    assert_balanced(&broker);
}

// Behind a full topic.

/// Counts how often publishers were told to wait.
fn backpressure(broker: &Broker) -> (Log<u64>, millstream::event::Observation) {
    let log = Log::new();
    let told = log.clone();
    let observation = broker.observe(move |event| {
        if event.name() == "backpressure" {
            told.push(event.sequence());
        }
    });
    (log, observation.unwrap())
}

/// A topic of four places that are taken, and stay so until somebody subscribes.
fn retained(broker: &Broker, overflow: Overflow) -> Topic<u64> {
    let topic = broker.topic("t").capacity(4).overflow(overflow);
    let topic = topic.no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().unwrap();
    topic.publish_batch(0..4).unwrap();
    topic
}

#[test]
fn behind_a_full_topic_a_buffer_sleeps_until_there_is_room() {
    for linger in [Duration::ZERO, LINGER] {
        let (broker, clock) = manual();
        let (told, _observation) = backpressure(&broker);
        let topic = retained(&broker, Overflow::Reject);
        let mut publisher = topic.buffered(Batched::of(4).linger(linger)).unwrap();
        for number in 4..7 {
            publisher.publish(number).unwrap();
        }
        broker.run_until_idle();
        advance(&broker, &clock, linger);
        for _ in 0..100 {
            assert_eq!(broker.next_deadline(), None, "nothing but room is awaited");
            advance(&broker, &clock, LINGER);
        }
        assert_eq!(told.len(), 1, "it waits once");
        assert_eq!(publisher.buffered(), 3);
        let (log, _subscription) = read(&topic, "s");
        broker.run_until_idle();
        assert_eq!(log.take(), (0..7).collect::<Vec<_>>());
        assert_eq!((publisher.buffered(), told.len()), (0, 1));
        assert_eq!(publisher.flush().unwrap().accepted(), 3);
        assert_balanced(&broker);
    }
}

#[test]
fn where_publishers_block_a_buffer_waits_for_room_without_a_worker() {
    let broker = threaded(1);
    let (told, _observation) = backpressure(&broker);
    let topic = retained(&broker, Overflow::Block { timeout: HANG });
    let mut publisher = topic.buffered(Batched::of(4).linger(LINGER)).unwrap();
    publisher.publish(4).unwrap();
    let until = Instant::now() + HANG;
    while told.len() == 0 {
        assert!(Instant::now() < until, "nobody tried");
        thread::yield_now();
    }
    let (log, _subscription) = read(&topic, "s");
    while log.len() < 5 {
        assert!(Instant::now() < until, "nobody told it of the room");
        thread::yield_now();
    }
    assert_rests_balanced(&broker);
    assert_eq!((log.take(), told.len()), ((0..5).collect::<Vec<_>>(), 1));
}

#[test]
fn several_buffers_are_served_in_the_order_in_which_they_came() {
    let (broker, clock) = manual();
    let (told, _observation) = backpressure(&broker);
    let topic = broker.topic("t").capacity(4).lane_capacity(1);
    let topic: Topic<u64> = topic.open().unwrap();
    let log = Log::new();
    let delivered = log.clone();
    let _subscription = topic
        .subscribe("s", move |delivery| {
            if delivery.attempt() == 1 {
                let pause = millstream::Nack::retry_after(LINGER, "one place at a time");
                return Err(pause);
            }
            delivered.push(*delivery.payload());
            Ok(())
        })
        .unwrap();
    topic.publish_batch(0..4).unwrap();
    broker.run_until_idle();
    topic.publish(4).unwrap();
    let linger = Batched::of(4).linger(Duration::ZERO);
    let mut buffers: Vec<_> = (0..4).map(|_| topic.buffered(linger).unwrap()).collect();
    for (buffer, number) in buffers.iter_mut().zip([10, 20, 30, 40]) {
        buffer.publish(number).unwrap();
        buffer.publish(number + 1).unwrap();
        broker.run_until_idle();
    }
    assert_eq!(told.len(), 4);
    for _ in 0..20 {
        advance(&broker, &clock, LINGER);
    }
    let expected = [0, 1, 2, 3, 4, 10, 11, 20, 21, 30, 31, 40, 41];
    assert_eq!(log.take(), expected);
    assert_eq!(told.len(), 4, "each has waited once");
    assert_balanced(&broker);
}

#[test]
fn a_buffer_whose_topic_nobody_subscribes_to_sleeps_until_somebody_does() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").no_subscribers(NoSubscribers::Reject);
    let topic: Topic<u64> = topic.open().unwrap();
    let (_, first) = read(&topic, "s");
    occupy(&topic);
    let mut publisher = topic.buffered(Batched::of(4).linger(LINGER)).unwrap();
    publisher.publish(1).unwrap();
    drop(first);
    broker.run_until_idle();
    advance(&broker, &clock, LINGER);
    assert_eq!(broker.next_deadline(), None);
    assert_eq!(publisher.buffered(), 1);
    let (log, _second) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.take(), [1]);
    assert_balanced(&broker);
}

#[test]
fn a_buffer_that_waits_for_room_passes_on_what_it_no_longer_wants() {
    let (broker, _clock) = manual();
    let topic = retained(&broker, Overflow::Reject);
    let linger = Batched::of(4).linger(Duration::ZERO);
    let mut buffers: Vec<_> = (0..3).map(|_| topic.buffered(linger).unwrap()).collect();
    for (buffer, number) in buffers.iter_mut().zip(10..) {
        buffer.publish(number).unwrap();
        broker.run_until_idle();
    }
    let (log, _subscription) = read(&topic, "s");
    // The first is called, but has nothing left when its turn comes.
    let refused = buffers[0].flush().unwrap_err();
    assert_eq!(refused.into_inner(), [Message::new(10)]);
    drop(buffers.remove(1));
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3, 12]);
    assert_eq!(topic.metrics().rejected, 2);
    assert_balanced(&broker);
}

#[test]
fn a_full_buffer_that_was_refused_goes_as_soon_as_there_is_room() {
    let (broker, clock) = manual();
    let topic = retained(&broker, Overflow::Reject);
    let long = Duration::from_secs(3_600);
    let mut publisher = topic.buffered(Batched::of(2).linger(long)).unwrap();
    publisher.publish(4).unwrap();
    publisher.publish(5).unwrap();
    assert!(publisher.publish(6).is_err());
    assert_eq!(broker.next_deadline(), None);
    let (log, _subscription) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.take(), (0..6).collect::<Vec<_>>());
    let _ = clock;
    assert_balanced(&broker);
}

#[test]
fn without_a_linger_a_full_topic_leaves_the_buffer_to_its_publisher() {
    let (broker, _clock) = manual();
    let topic = retained(&broker, Overflow::Reject);
    let mut publisher = topic.buffered(Batched::of(2).until_full()).unwrap();
    publisher.publish(4).unwrap();
    publisher.publish(5).unwrap();
    let (log, _subscription) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!((log.take(), publisher.buffered()), (vec![0, 1, 2, 3], 2));
    publisher.flush().unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [4, 5]);
    assert_balanced(&broker);
}

#[test]
fn the_end_of_the_broker_ends_the_wait_and_frees_the_buffer() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").capacity(1);
    let topic = topic.no_subscribers(NoSubscribers::Retain);
    let topic: Topic<Arc<()>> = topic.open().unwrap();
    let payload = Arc::new(());
    topic.publish(Arc::clone(&payload)).unwrap();
    let linger = Batched::of(1).linger(Duration::ZERO);
    let mut buffers: Vec<_> = (0..3).map(|_| topic.buffered(linger).unwrap()).collect();
    for buffer in &mut buffers {
        buffer.publish(Arc::clone(&payload)).unwrap();
        broker.run_until_idle();
    }
    broker.drain(Duration::ZERO).unwrap_err();
    let refused = buffers[1].flush().unwrap_err();
    assert!(
        matches!(refused.error, PublishError::Closed(_)),
        "{refused:?}"
    );
    assert_balanced(&broker);
    drop((buffers, refused, topic, broker));
    assert_eq!(Arc::strong_count(&payload), 1);
}
