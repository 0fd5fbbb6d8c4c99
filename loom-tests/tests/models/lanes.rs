//! Dispatch to lanes: a full lane holds its topic up without a worker, and its
//! first free place wakes it.

use millstream::LaneFull;
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model, worker};

#[test]
fn a_topic_that_waits_for_a_full_lane_goes_on_when_it_has_room() {
    model("full lane, 2 workers", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let log = Log::new();
        let lane = topic.subscription("s").capacity(1);
        lane.subscribe(log.handler()).unwrap().detach();
        topic.publish(1).unwrap();
        topic.publish(2).unwrap();
        let worker = worker(&broker);
        broker.run_until_idle();
        worker.join().unwrap();
        // Whoever made the last thing ready has run it.
        assert_eq!(log.read(), [1, 2]);
        assert_settled(&broker);
    });
}

#[test]
fn a_message_reaches_both_lanes_once_while_workers_share_them() {
    model("two lanes, 2 workers", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let logs = [Log::new(), Log::new()];
        for (name, log) in ["a", "b"].into_iter().zip(&logs) {
            topic.subscribe(name, log.handler()).unwrap().detach();
        }
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish(2).unwrap();
        broker.run_until_idle();
        worker.join().unwrap();
        for log in &logs {
            assert_eq!(log.read(), [1, 2]);
        }
        assert_settled(&broker);
    });
}

#[test]
fn a_lane_that_drops_its_oldest_hands_over_or_counts_each() {
    model("lane drops its oldest", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let log = Log::new();
        let lane = topic.subscription("s").capacity(1);
        let lane = lane.when_full(LaneFull::DropOldest);
        lane.subscribe(log.handler()).unwrap().detach();
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish(2).unwrap();
        broker.run_until_idle();
        worker.join().unwrap();
        assert_settled(&broker);
        let counts = broker.metrics().deliveries();
        let seen = log.read();
        assert_eq!(counts.dropped + seen.len() as u64, 2);
        assert!(seen == [1, 2] || seen == [2] || seen == [1], "{seen:?}");
    });
}

#[test]
fn a_subscription_that_joins_gets_what_is_published_after_it_and_nothing_before() {
    model("join, worker", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let logs = [Log::new(), Log::new()];
        topic.subscribe("a", logs[0].handler()).unwrap().detach();
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.subscribe("b", logs[1].handler()).unwrap().detach();
        topic.publish(2).unwrap();
        broker.run_until_idle();
        worker.join().unwrap();
        assert_eq!(logs[0].read(), [1, 2]);
        assert_eq!(logs[1].read(), [2]);
        assert_settled(&broker);
    });
}
