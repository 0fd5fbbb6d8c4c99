//! A strategy swap while a batch is pending: nothing is stranded, nothing moves,
//! and nothing becomes younger.

use std::time::Duration;

use loom::thread;
use millstream::{Batched, Immediate};
use millstream_loom_tests::{Preemptions, assert_settled, logged, model, worker};

#[test]
fn what_the_old_strategy_held_goes_on_under_the_new_one() {
    model("swap, pending batch", Preemptions::up_to(3), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4).strategy(Batched::of(3)));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.set_strategy(Immediate).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1]);
        topic.publish(2).unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2], "nobody waits for a third any more");
        assert_settled(&broker);
    });
}

#[test]
fn order_is_kept_across_swaps_while_others_publish() {
    model("swap, publisher, worker", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4).strategy(Batched::of(2)));
        topic.publish(1).unwrap();
        let publisher = {
            let topic = topic.clone();
            thread::spawn(move || topic.publish_batch([2, 3]).unwrap())
        };
        let worker = worker(&broker);
        topic.set_strategy(Immediate).unwrap();
        publisher.join().unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3]);
        assert_settled(&broker);
    });
}

#[test]
fn age_is_kept_across_a_swap() {
    model("swap, age", Preemptions::up_to(3), || {
        let (broker, clock, topic, log) = logged(|open| open.capacity(4).strategy(Batched::of(3)));
        topic.publish(1).unwrap();
        clock.advance(Duration::from_millis(5));
        let worker = worker(&broker);
        let lingering = Batched::of(3).linger(Duration::from_millis(4));
        topic.set_strategy(lingering).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1], "it has waited for longer than that");
        assert_settled(&broker);
    });
}
