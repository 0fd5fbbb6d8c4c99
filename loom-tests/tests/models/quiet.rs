//! The quiet threshold: a dispatcher that waits for a batch is not rung by every
//! publisher, but by the one that completes it.

use std::time::Duration;

use loom::thread;
use millstream::{Batched, Immediate};
use millstream_loom_tests::{Preemptions, assert_settled, logged, model, worker};

#[test]
fn the_publisher_that_completes_a_batch_rings() {
    model("batch completed", Preemptions::up_to(3), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4).strategy(Batched::of(2)));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish(2).unwrap();
        worker.join().unwrap();
        // Only what is on the ready queue is run: a stranded batch stays.
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn two_publishers_complete_a_batch_between_them() {
    let most = Preemptions::up_to(2);
    model("batch completed by two", most, || {
        // In a topic that is split, messages get their numbers first, and are pushed then.
        let (broker, _clock, topic, log) =
            logged(|open| open.capacity(4).partitions(1).strategy(Batched::of(2)));
        let publishers = [1, 2].map(|value| {
            let topic = topic.clone();
            thread::spawn(move || topic.publish(value).unwrap())
        });
        broker.run_until_idle();
        for publisher in publishers {
            publisher.join().unwrap();
        }
        broker.run_until_idle();
        let mut seen = log.read();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn a_topic_filled_by_a_delayed_message_flushes() {
    model("topic filled by a delay", Preemptions::up_to(2), || {
        let (broker, clock, topic, log) = logged(|open| open.capacity(2).strategy(Batched::of(2)));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish_after(Duration::from_millis(1), 2).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1], "two places are taken, and none comes free");
        topic.set_strategy(Immediate).unwrap();
        clock.advance(Duration::from_millis(1));
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}
