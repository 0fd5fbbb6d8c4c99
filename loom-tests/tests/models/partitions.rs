//! A topic split by key: while the number of partitions changes a key keeps its
//! order and nothing is stranded; and several dispatchers share their lanes.

use loom::thread;
use millstream::{Batched, LaneFull, Topic};
use millstream_loom_tests::{Log, Preemptions, assert_settled, logged, manual, model, worker};

fn publish(topic: &Topic<u32>, payload: u32) {
    topic.message(payload).key("a").publish().unwrap();
}

#[test]
fn a_key_keeps_its_order_when_it_moves() {
    model("change, 2 workers", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4).partitions(1));
        publish(&topic, 1);
        let worker = worker(&broker);
        topic.set_partitions(2).unwrap();
        publish(&topic, 2);
        broker.run_until_idle();
        worker.join().unwrap();
        // Whoever made the last thing ready has run it.
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn who_enters_the_old_partitions_too_late_finds_the_new_ones() {
    model("change, publisher", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4).partitions(1));
        let publisher = {
            let topic = topic.clone();
            thread::spawn(move || publish(&topic, 1))
        };
        topic.set_partitions(2).unwrap();
        publish(&topic, 2);
        broker.run_until_idle();
        publisher.join().unwrap();
        broker.run_until_idle();
        let mut seen = log.read();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn what_waits_for_its_batch_goes_on_when_its_partition_is_replaced() {
    model("change, pending batch", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) =
            logged(|open| open.capacity(4).partitions(1).strategy(Batched::of(2)));
        publish(&topic, 1);
        let worker = worker(&broker);
        topic.set_partitions(2).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1]);
        assert_settled(&broker);
    });
}

#[test]
fn two_dispatchers_fill_two_narrow_lanes() {
    let most = Preemptions {
        plain: Some(1),
        rmw: Some(2),
    };
    model("2 dispatchers, 2 full lanes", most, || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).partitions(2);
        let topic = topic.open().unwrap();
        let logs = [Log::new(), Log::new()];
        for (name, log) in ["a", "b"].into_iter().zip(&logs) {
            let lane = topic.subscription(name).capacity(1);
            lane.subscribe(log.handler()).unwrap().detach();
        }
        topic.publish(1).unwrap();
        topic.publish(2).unwrap();
        let worker = worker(&broker);
        broker.run_until_idle();
        worker.join().unwrap();
        for log in logs {
            let mut seen = log.read();
            seen.sort_unstable();
            assert_eq!(seen, [1, 2]);
        }
        assert_settled(&broker);
    });
}

#[test]
fn two_dispatchers_overrun_a_lane_that_drops_its_oldest() {
    model("2 dispatchers, drop-oldest", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).partitions(2);
        let topic = topic.open().unwrap();
        let log = Log::new();
        let lane = topic.subscription("s").capacity(1);
        let lane = lane.when_full(LaneFull::DropOldest);
        lane.subscribe(log.handler()).unwrap().detach();
        topic.publish(1).unwrap();
        topic.publish(2).unwrap();
        let worker = worker(&broker);
        broker.run_until_idle();
        worker.join().unwrap();
        assert_settled(&broker);
        let counts = broker.metrics().deliveries();
        assert_eq!(counts.dropped + log.read().len() as u64, 2);
    });
}
