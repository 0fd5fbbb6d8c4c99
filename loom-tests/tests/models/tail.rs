//! The open batch at the tail of a queue, and the full ones before it. Three messages fill a
//! batch in the models.

use loom::thread;
use millstream_loom_tests::{Preemptions, assert_settled, logged, model, worker};

#[test]
fn a_full_batch_is_not_overtaken_by_the_open_one() {
    model("full batch, open batch", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4));
        let worker = worker(&broker);
        for value in 1..=4 {
            topic.publish(value).unwrap();
        }
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3, 4]);
        assert_settled(&broker);
    });
}

#[test]
fn who_publishes_while_the_dispatcher_goes_to_rest_rings() {
    model("publish, dispatcher at rest", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        let publisher = {
            let topic = topic.clone();
            thread::spawn(move || topic.publish(2).unwrap())
        };
        worker.join().unwrap();
        publisher.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn a_chunk_of_its_own_goes_behind_what_was_published_before_it() {
    model("open batch, chunk", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4));
        let worker = worker(&broker);
        topic.publish(1).unwrap();
        topic.publish_batch([2, 3]).unwrap();
        topic.publish(4).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3, 4]);
        assert_settled(&broker);
    });
}
