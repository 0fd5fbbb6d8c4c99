//! A buffering publisher that is full while a worker flushes what has lingered.

use std::time::Duration;

use millstream::Batched;
use millstream_loom_tests::{Preemptions, assert_settled, logged, model, worker};

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
