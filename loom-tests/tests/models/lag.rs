//! A topic whose lanes lag leaves its newest messages in the open batch, and takes them when
//! one of the lanes has run dry. One delivery that waits is many in the models.

use millstream_loom_tests::{Log, Preemptions, assert_settled, logged, model, worker};

#[test]
fn what_was_left_open_goes_on_when_the_lane_has_run_dry() {
    model("lag, 2 workers", Preemptions::up_to(3), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(12));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish(2).unwrap();
        broker.run_until_idle();
        topic.publish(3).unwrap();
        broker.run_until_idle();
        worker.join().unwrap();
        assert_eq!(log.read(), [1, 2, 3]);
        assert_settled(&broker);
    });
}

#[test]
fn what_was_left_open_goes_on_when_it_is_full() {
    model("lag, full batch", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(12));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        for value in 2..=5 {
            topic.publish(value).unwrap();
        }
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3, 4, 5]);
        assert_settled(&broker);
    });
}

#[test]
fn what_was_left_open_goes_on_when_somebody_joins() {
    model("lag, join", Preemptions::up_to(2), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(12));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        topic.publish(2).unwrap();
        let second = Log::new();
        topic.subscribe("b", second.handler()).unwrap().detach();
        topic.publish(3).unwrap();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1, 2, 3]);
        assert_eq!(second.read(), [3]);
        assert_settled(&broker);
    });
}
