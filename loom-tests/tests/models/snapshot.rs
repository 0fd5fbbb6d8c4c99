//! A snapshot of the whole engine while it works: more never ends than began.

use millstream_loom_tests::{Preemptions, assert_settled, logged, manual, model, worker};

#[test]
fn a_live_snapshot_of_a_topic_shows_no_end_without_its_beginning() {
    model("snapshot, worker", Preemptions::up_to(3), || {
        let (broker, _clock, topic, _log) = logged(|open| open.capacity(4));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        let metrics = topic.metrics();
        let gone = metrics.dropped + metrics.unrouted + metrics.dispatched;
        assert!(gone <= metrics.published, "{metrics:?}");
        let counts = metrics.deliveries();
        assert!(counts.made <= metrics.dispatched, "{metrics:?}");
        assert!(counts.ended() <= counts.made, "{metrics:?}");
        assert!(counts.delivered <= counts.attempts, "{metrics:?}");
        worker.join().unwrap();
        assert_settled(&broker);
    });
}

#[test]
fn what_a_handler_gets_has_been_counted() {
    model("snapshot in a handler", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(4).open().unwrap();
        let observed = topic.clone();
        let subscription = topic.subscribe("s", move |delivery| {
            let metrics = observed.metrics();
            let counts = metrics.deliveries();
            assert!(u64::from(*delivery.payload()) <= counts.made);
            assert!(counts.made <= metrics.dispatched);
            Ok(())
        });
        subscription.unwrap().detach();
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish(2).unwrap();
        broker.run_until_idle();
        worker.join().unwrap();
        assert_settled(&broker);
    });
}
