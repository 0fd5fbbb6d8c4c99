//! A buffering publisher that is full while a worker flushes what has lingered.

use std::time::Duration;

use millstream::{Batched, NoSubscribers};
use millstream_loom_tests::{Log, Preemptions, assert_settled, logged, manual, model, worker};

#[test]
fn order_is_kept_between_the_publisher_and_the_worker_that_flush() {
    model("buffer, worker", Preemptions::up_to(2), || {
        let (broker, clock, topic, log) = logged(|open| open.capacity(8).strategy(Batched::of(8)));
        // Something to wait for, so that the buffer does.
        topic.publish(1).unwrap();
        let linger = Duration::from_millis(1);
        let mut buffered = topic.buffered(Batched::of(2).linger(linger)).unwrap();
        buffered.publish(2).unwrap();
        clock.advance(linger);
        let worker = worker(&broker);
        buffered.publish(3).unwrap();
        let receipt = buffered.flush().unwrap();
        assert_eq!(receipt.accepted(), 2);
        worker.join().unwrap();
        topic.flush();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3]);
        assert_settled(&broker);
    });
}

#[test]
fn what_lingers_while_a_worker_flushes_is_flushed_too() {
    model("buffer, linger, worker", Preemptions::up_to(2), || {
        let (broker, clock, topic, log) = logged(|open| open.capacity(8).strategy(Batched::of(8)));
        topic.publish(1).unwrap();
        let linger = Duration::from_millis(1);
        let mut buffered = topic.buffered(Batched::of(3).linger(linger)).unwrap();
        buffered.publish(2).unwrap();
        clock.advance(linger);
        let worker = worker(&broker);
        buffered.flush().unwrap();
        buffered.publish(3).unwrap();
        clock.advance(linger);
        broker.run_until_idle();
        worker.join().unwrap();
        // One of them has looked after the last linger; what it left has one more.
        clock.advance(linger);
        broker.run_until_idle();
        assert_eq!(buffered.buffered(), 0);
        topic.flush();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3]);
        assert_settled(&broker);
    });
}

#[test]
fn what_waits_for_room_is_published_when_there_is_some() {
    model("buffer, room", Preemptions::up_to(1), || {
        let (broker, clock) = manual();
        let topic = broker.topic("t").capacity(1);
        let topic = topic.no_subscribers(NoSubscribers::Retain).open().unwrap();
        topic.publish(1).unwrap();
        let linger = Duration::from_millis(1);
        let mut buffers = [2, 3].map(|number| {
            let mut buffered = topic.buffered(Batched::of(1).linger(linger)).unwrap();
            buffered.publish(number).unwrap();
            buffered
        });
        // One stands in line already, the other comes while room is made.
        drop(buffers[1].flush().unwrap_err());
        let log = Log::new();
        let worker = worker(&broker);
        topic.subscribe("s", log.handler()).unwrap().detach();
        buffers[1].publish(3).unwrap();
        clock.advance(linger);
        broker.run_until_idle();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(buffers.each_ref().map(|buffered| buffered.buffered()), [0, 0]);
        assert_eq!(log.read().len(), 3);
        assert_settled(&broker);
    });
}
