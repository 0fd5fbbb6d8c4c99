//! A drain against publishers: each is accepted, and accounted for, or refused.

use std::time::Duration;

use loom::thread;
use millstream::{Batched, PublishError};
use millstream_loom_tests::{Preemptions, assert_settled, drain, logged, model, worker};

#[test]
fn what_is_accepted_is_delivered_and_what_is_late_is_refused() {
    model("drain, publisher", Preemptions::up_to(3), || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4));
        let publisher = {
            let topic = topic.clone();
            thread::spawn(move || match topic.publish(1) {
                Ok(_) => 1,
                Err(PublishError::Closed(1)) => 0,
                Err(other) => panic!("{other}"),
            })
        };
        let report = drain(&broker);
        let accepted = publisher.join().unwrap();
        assert_eq!(report.published, accepted);
        // Cut off, if it took the publisher longer than a moment to push.
        assert_eq!(report.delivered + report.messages_dropped, accepted);
        assert_eq!(log.read().len() as u64, report.delivered);
        assert_settled(&broker);
    });
}

#[test]
fn a_batch_that_fills_is_flushed_by_the_drain() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(2),
    };
    model("drain, pending batch, worker", most, || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4).strategy(Batched::of(3)));
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        let report = drain(&broker);
        worker.join().unwrap();
        let cut_off = report.cancelled + report.messages_dropped;
        assert_eq!(report.delivered + cut_off, 1);
        assert_eq!(log.read().len() as u64, report.delivered);
        assert_settled(&broker);
    });
}

#[test]
fn a_delayed_message_is_delivered_or_counted_as_dropped() {
    model("drain, delayed publish", Preemptions::up_to(2), || {
        let (broker, clock, topic, log) = logged(|open| open.capacity(4));
        let publisher = {
            let topic = topic.clone();
            let delay = Duration::from_millis(1);
            thread::spawn(move || {
                let accepted = topic.publish_after(delay, 1).is_ok();
                clock.advance(delay);
                u64::from(accepted)
            })
        };
        drain(&broker);
        let accepted = publisher.join().unwrap();
        broker.run_until_idle();
        assert_settled(&broker);
        let metrics = broker.metrics();
        let dropped = metrics.topics[0].dropped;
        assert_eq!(dropped + log.read().len() as u64, accepted);
    });
}

#[test]
fn what_a_stage_publishes_is_delivered_before_the_next_one_is_refused() {
    let most = Preemptions {
        plain: Some(1),
        rmw: Some(0),
    };
    model("drain by stages, worker", most, || {
        let (broker, _clock, topic, log) = logged(|open| open.capacity(4));
        let first = broker.topic::<u32>("first").capacity(4).open().unwrap();
        let onward = topic.clone();
        let stage = first.subscribe("stage", move |delivery| {
            onward.publish(*delivery.payload())?;
            Ok(())
        });
        stage.unwrap().detach();
        first.publish(1).unwrap();
        let worker = worker(&broker);
        let report = broker.drain_pipeline(Duration::MAX).unwrap();
        worker.join().unwrap();
        assert!(report.is_complete());
        assert_eq!(report.delivered, 2);
        assert_eq!(log.read(), [1]);
        assert_settled(&broker);
    });
}
