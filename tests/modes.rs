//! The same promises hold however workers idle, and whether latencies are recorded
//! or not.

use crate::harness::{HANG, assert_balanced, assert_rests_balanced};
use millstream::metrics::LatencySummary;
use millstream::{Broker, Histograms, Idle};
use std::sync::mpsc;

const MESSAGES: u64 = 10_000;

#[test]
fn workers_that_spin_deliver_rest_and_drain() {
    for workers in [1, 2] {
        let broker = Broker::builder().workers(workers).idle(Idle::Spin);
        let broker = broker.build().unwrap();
        let topic = broker.topic("t").open().unwrap();
        let (handled, replies) = mpsc::channel();
        let subscription = topic.subscribe("s", move |delivery| {
            handled.send(*delivery.payload())?;
            Ok(())
        });
        let _subscription = subscription.unwrap();
        for number in 0..MESSAGES {
            topic.publish(number).unwrap();
            assert_eq!(replies.recv_timeout(HANG), Ok(number));
        }
        assert_rests_balanced(&broker);
        topic.publish(MESSAGES).unwrap();
        broker.drain(HANG).unwrap();
        assert_eq!(replies.recv_timeout(HANG), Ok(MESSAGES));
    }
}

#[test]
fn without_histograms_everything_is_counted_all_the_same() {
    for (histograms, recorded) in [(Histograms::On, 10), (Histograms::Off, 0)] {
        let broker = Broker::builder().workers(0).histograms(histograms);
        let broker = broker.build().unwrap();
        let topic = broker.topic("t").open().unwrap();
        let subscription = topic.subscribe("s", |_| Ok(())).unwrap();
        for number in 0..10 {
            topic.publish(number).unwrap();
        }
        broker.run_until_idle();
        let metrics = subscription.metrics();
        assert_eq!(metrics.counts.delivered, 10);
        for summary in [metrics.queue_wait, metrics.handler, metrics.end_to_end] {
            assert_eq!(summary.count, recorded);
            assert_eq!(summary == LatencySummary::default(), recorded == 0);
        }
        assert_balanced(&broker);
    }
}
