//! A redrive that is awaited waits for room, for its rate and for another topic, and occupies no
//! thread meanwhile. Wherever it is given up, no letter is lost and none goes twice.

use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, bell, block_on, manual, poll,
    read, threaded,
};
use millstream::dead_letters::{Redrive, RedriveOptions};
use millstream::futures::RedriveFuture;
use millstream::{Broker, Delivery, Nack, NoSubscribers, Overflow, Pull, PullSubscription, Topic};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

/// Fails the first generation of everything.
fn failing(delivery: &Delivery<'_, u32>) -> Result<(), Nack> {
    match delivery.generation() {
        0 => Err(Nack::dead_letter("in its first life")),
        _ => Ok(()),
    }
}

/// Subscribes by a lane for one delivery, makes letters of these payloads, and fills the lane.
fn full_lane(broker: &Broker, topic: &Topic<u32>, payloads: &[u32]) -> PullSubscription<u32> {
    let builder = topic.subscription("s").capacity(1);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    for payload in payloads {
        topic.publish(*payload).expect("there is room");
        broker.run_until_idle();
        let lease = worker.try_recv().expect("it is there");
        lease.nack(Nack::dead_letter("no")).expect("in time");
    }
    topic.publish(0).expect("there is room");
    broker.run_until_idle();
    worker
}

fn take(worker: &PullSubscription<u32>) -> u32 {
    let lease = worker.try_recv().expect("it is there");
    let payload = *lease.payload();
    lease.ack().expect("in time");
    payload
}

fn counts(redrive: Redrive) -> [usize; 5] {
    [
        redrive.redriven,
        redrive.no_room,
        redrive.no_subscription,
        redrive.behind,
        redrive.refused,
    ]
}

fn redrive(topic: &Topic<u32>, options: RedriveOptions<u32>) -> RedriveFuture {
    topic.dead_letters().redrive_with_async(options, |_| true)
}

#[track_caller]
fn assert_ready(redrive: &mut RedriveFuture, expected: [usize; 5]) {
    match poll(redrive, Waker::noop()) {
        Poll::Ready(redrive) => assert_eq!(counts(redrive.expect("sound")), expected),
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn it_is_woken_when_there_is_room_and_goes_on_with_the_next_letter() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = full_lane(&broker, &topic, &[1, 2]);
    let (bell, waker) = bell();
    let mut redrive = redrive(&topic, RedriveOptions::new().wait(HOUR));
    for (number, expected) in [0, 1].into_iter().enumerate() {
        assert!(poll(&mut redrive, &waker).is_pending(), "the lane is full");
        assert_eq!(bell.count(), number);
        assert_eq!(topic.dead_letters().len(), 2 - number);
        assert_eq!(take(&worker), expected);
        assert_eq!(bell.count(), number + 1);
    }
    assert_ready(&mut redrive, [2, 0, 0, 0, 0]);
    assert_eq!(take(&worker), 2);
    assert_balanced(&broker);
}

#[test]
fn it_waits_no_longer_than_it_may_in_all() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let worker = full_lane(&broker, &topic, &[1, 2]);
    let (bell, waker) = bell();
    let mut redrive = redrive(&topic, RedriveOptions::new().wait(5 * MS));
    assert!(poll(&mut redrive, &waker).is_pending());
    advance(&broker, &clock, 4 * MS);
    assert_eq!(bell.count(), 0);
    assert!(poll(&mut redrive, &waker).is_pending());
    take(&worker);
    assert!(poll(&mut redrive, &waker).is_pending(), "the second waits");
    advance(&broker, &clock, 2 * MS);
    assert_eq!(bell.count(), 2);
    assert_ready(&mut redrive, [1, 1, 0, 0, 0]);
    assert_eq!(topic.dead_letters().len(), 1);
    assert_balanced(&broker);
}

#[test]
fn it_keeps_to_its_rate_by_the_clock_of_the_broker() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    topic.publish_batch(0..3).expect("there is room");
    broker.run_until_idle();
    let (bell, waker) = bell();
    let mut redrive = redrive(&topic, RedriveOptions::new().rate(10));
    for gone in 1..3 {
        assert!(poll(&mut redrive, &waker).is_pending());
        assert_eq!(topic.dead_letters().len(), 3 - gone);
        advance(&broker, &clock, 99 * MS);
        assert_eq!(bell.count(), gone - 1);
        advance(&broker, &clock, 2 * MS);
        assert_eq!(bell.count(), gone);
    }
    assert_ready(&mut redrive, [3, 0, 0, 0, 0]);
    assert_balanced(&broker);
}

#[test]
fn a_rate_of_zero_is_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let mut none = redrive(&topic, RedriveOptions::new().rate(0));
    let Poll::Ready(Err(error)) = poll(&mut none, Waker::noop()) else {
        panic!("nobody can keep it");
    };
    assert!(error.to_string().contains("at least one letter a second"));
}

#[test]
fn one_that_is_dropped_while_it_waits_leaves_the_other_letters_where_they_were() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = full_lane(&broker, &topic, &[1, 2, 3]);
    let letters = topic.dead_letters();
    let (bell, waker) = bell();
    // For room.
    let mut waits = redrive(&topic, RedriveOptions::new().wait(HOUR));
    assert!(poll(&mut waits, &waker).is_pending());
    drop(waits);
    assert_eq!(take(&worker), 0);
    assert_eq!((bell.count(), letters.len()), (0, 3));
    // For its time.
    let mut waits = redrive(&topic, RedriveOptions::new().rate(1));
    assert!(poll(&mut waits, &waker).is_pending());
    drop(waits);
    assert_eq!((bell.count(), letters.len()), (0, 2));
    assert_eq!(take(&worker), 1);
    // For room elsewhere: the letter that was claimed is back.
    let other = broker.topic::<u32>("other").capacity(1);
    let other = other.no_subscribers(NoSubscribers::Retain);
    let other = other.open().expect("opens");
    other.publish(9).expect("there is room");
    let options = RedriveOptions::new().to(&other).wait(HOUR);
    let mut waits = redrive(&topic, options);
    assert!(poll(&mut waits, &waker).is_pending());
    assert_eq!((letters.list().len(), letters.len()), (1, 2));
    drop(waits);
    assert_eq!((letters.list().len(), letters.len()), (2, 2));
    let (log, _desk) = read(&other, "desk");
    broker.run_until_idle();
    assert_eq!(log.take(), [9]);
    assert_eq!(bell.count(), 0);
    for expected in [2, 3] {
        assert!(letters.redrive_all().redriven > 0);
        assert_eq!(take(&worker), expected);
    }
    assert!(letters.is_empty());
    assert_balanced(&broker);
}

#[test]
fn it_waits_for_room_in_a_topic_that_rejects_and_not_in_one_that_drops() {
    for overflow in [Overflow::Reject, Overflow::DropNewest] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let _failing = topic.subscribe("s", failing).expect("subscribes");
        topic.publish_batch([1, 2, 3]).expect("there is room");
        broker.run_until_idle();
        let builder = broker.topic::<u32>("other").capacity(1).overflow(overflow);
        let other = builder.open().expect("opens");
        let (log, _desk) = read(&other, "desk");
        let (bell, waker) = bell();
        let options = RedriveOptions::new().to(&other).wait(5 * MS);
        let mut redrive = redrive(&topic, options);
        if overflow == Overflow::DropNewest {
            assert_ready(&mut redrive, [1, 2, 0, 0, 0]);
            continue;
        }
        assert!(poll(&mut redrive, &waker).is_pending());
        broker.run_until_idle();
        assert_eq!((log.take(), bell.count()), (vec![1], 1));
        assert!(poll(&mut redrive, &waker).is_pending());
        assert_eq!(other.metrics().rejected, 0);
        // Nobody runs the broker until the time is up.
        clock.advance(6 * MS);
        broker.run_until_idle();
        assert_eq!(log.take(), [2]);
        assert_ready(&mut redrive, [3, 0, 0, 0, 0]);
        broker.run_until_idle();
        assert_eq!(log.take(), [3]);
        assert_balanced(&broker);
    }
}

#[test]
fn a_letter_that_finds_no_room_elsewhere_in_time_stays_and_is_rejected_once() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    let other = broker.topic::<u32>("other").capacity(1);
    let other = other.no_subscribers(NoSubscribers::Retain);
    let other = other.open().expect("opens");
    other.publish(9).expect("there is room");
    let options = RedriveOptions::new().to(&other).wait(5 * MS);
    let mut redrive = redrive(&topic, options);
    assert!(poll(&mut redrive, Waker::noop()).is_pending());
    advance(&broker, &clock, 6 * MS);
    assert_ready(&mut redrive, [0, 1, 0, 0, 0]);
    assert_eq!(other.metrics().rejected, 1);
    assert_eq!(topic.dead_letters().list().len(), 1);
    assert_balanced(&broker);
}

/// Its next letter would go in a second, and the last one after the hang.
#[test]
fn the_end_of_the_broker_ends_its_wait() {
    let broker = threaded(2);
    let topic = open(&broker);
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    topic.publish_batch(0..1_000).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    let waits = redrive(&topic, RedriveOptions::new().rate(1).wait(HANG));
    let waiter = thread::spawn(move || block_on(waits).expect("sound"));
    while topic.dead_letters().len() == 1_000 {
        thread::yield_now();
    }
    assert!(broker.drain(HANG).expect("complete").is_complete());
    let redrive = waiter.join().expect("no panic");
    assert_eq!(redrive.redriven + redrive.no_subscription, 1_000);
    assert_eq!(topic.dead_letters().len(), redrive.no_subscription);
    assert_balanced(&broker);
}

#[test]
fn a_handler_may_await_it_with_a_rate() {
    let broker = threaded(1);
    let topic = open(&broker);
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    topic.publish_batch(0..3).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    let jobs = broker.topic::<()>("jobs").open().expect("opens");
    let (letters, done) = (topic.dead_letters(), Log::new());
    let told = done.clone();
    let subscribed = jobs.subscription("redriver").subscribe_async(move |_| {
        let options = RedriveOptions::new().rate(100).wait(HANG);
        let redrive = letters.redrive_with_async(options, |_| true);
        let told = told.clone();
        async move {
            told.push(redrive.await.expect("sound").redriven);
            Ok(())
        }
    });
    let _redriver = subscribed.expect("subscribes");
    jobs.publish(()).expect("there is room");
    assert_rests_balanced(&broker);
    assert_eq!(done.take(), [3]);
    assert!(topic.dead_letters().is_empty());
}

#[test]
fn threads_and_futures_that_redrive_the_same_letters_send_each_once() {
    let broker = threaded(2);
    let topic = open(&broker);
    let log = Log::new();
    let entries = log.clone();
    let builder = topic.subscription("s").capacity(8);
    let subscribed = builder.subscribe(move |delivery| {
        failing(delivery)?;
        entries.push(*delivery.payload());
        Ok(())
    });
    let _subscription = subscribed.expect("subscribes");
    topic.publish_batch(0..500).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    let options = || RedriveOptions::new().wait(HANG);
    let redriven: usize = thread::scope(|scope| {
        let futures = [(); 2].map(|()| {
            let waits = redrive(&topic, options());
            scope.spawn(|| block_on(waits).expect("sound"))
        });
        let by_thread = topic.dead_letters().redrive_with(options(), |_| true);
        let by_futures = futures.map(|future| future.join().expect("no panic").redriven);
        by_thread.expect("sound").redriven + by_futures.iter().sum::<usize>()
    });
    assert_eq!(redriven, 500);
    assert_rests_balanced(&broker);
    let mut payloads = log.take();
    payloads.sort_unstable();
    assert!(payloads.into_iter().eq(0..500));
    assert!(topic.dead_letters().is_empty());
}
