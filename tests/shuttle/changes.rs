//! Settings that change, topics that are drained and subscriptions that are taken up
//! again, while messages are on their way.

use millstream::error::AttachError;
use millstream::{LaneFull, Overflow, PublishError, Pull};

use super::explore::explore;
use super::*;

#[test]
fn capacities_change_while_publishers_and_their_topic_wait() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(1).lane_capacity(1);
        let block = Overflow::Block { timeout: FOREVER };
        let topic = topic.overflow(block).open().unwrap();
        let log = Log::new();
        let subscription = topic.subscribe("x", into(&log)).unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                for number in 0..2 {
                    topic.publish((publisher, number)).unwrap();
                }
            }
        });
        threads.push(thread::spawn(move || {
            for capacity in [3, 1, 2] {
                topic.set_capacity(capacity).unwrap();
                subscription.set_capacity(capacity).unwrap();
            }
            subscription.detach();
        }));
        join(threads);
        assert_eq!(drain(&broker).delivered, 8);
        assert_in_order(&log.take());
    });
}

#[test]
fn a_topic_and_a_lane_come_to_drop_their_oldest() {
    explore(|| {
        let broker = broker();
        // Room for a full batch besides the open one, if a few messages are one.
        let topic = broker.topic::<Sent>("a").capacity(3).lane_capacity(1);
        let topic = topic.open().unwrap();
        let log = Log::new();
        let subscription = topic.subscribe("x", into(&log)).unwrap();
        let accepted = Log::new();
        let mut threads = publishers({
            let (topic, accepted) = (topic.clone(), accepted.clone());
            move |publisher| {
                for number in 0..3 {
                    match topic.publish((publisher, number)) {
                        Ok(receipt) => accepted.push(receipt.id()),
                        Err(refused) => assert!(refused.is_full()),
                    }
                }
            }
        });
        threads.push(thread::spawn({
            let topic = topic.clone();
            move || {
                topic.set_overflow(Overflow::DropOldest).unwrap();
                subscription.set_when_full(LaneFull::DropOldest).unwrap();
                topic.set_ttl(Some(FOREVER)).unwrap();
                subscription.detach();
            }
        }));
        join(threads);
        let report = drain(&broker);
        assert_eq!(report.published, accepted.len() as u64);
        assert_eq!(report.dispatched, report.delivered + report.dropped);
        let log = log.take();
        assert_eq!(log.len() as u64, report.delivered);
        assert_in_order(&log);
    });
}

/// One topic ends, and what is published to another goes on.
#[test]
fn a_topic_is_drained_while_others_publish_and_subscribe() {
    explore(|| {
        let broker = broker();
        let [topic, other] = ["a", "b"].map(|name| broker.topic::<Sent>(name).open().unwrap());
        let logs = [&topic, &other].map(|topic| log(topic, "x"));
        let accepted = Log::new();
        let mut threads = publishers({
            let (topic, other, accepted) = (topic.clone(), other.clone(), accepted.clone());
            move |publisher| {
                for number in 0..2 {
                    other.publish((publisher, number)).unwrap();
                    match topic.publish((publisher, number)) {
                        Ok(receipt) => accepted.push(receipt.id()),
                        Err(refused) => assert!(matches!(refused, PublishError::Closed(_))),
                    }
                }
            }
        });
        threads.push(thread::spawn({
            let (broker, topic) = (broker.clone(), topic.clone());
            move || {
                if let Ok(late) = topic.subscribe("late", |_| Ok(())) {
                    late.detach();
                }
                let all = broker.subscription::<Sent>("all").matching("*");
                all.subscribe(|_| Ok(())).unwrap().detach();
            }
        }));
        let report = topic.drain(FOREVER).expect("all of it was worked off");
        join(threads);
        assert_eq!(report.published, accepted.len() as u64);
        assert_eq!(report.made, report.delivered);
        assert!(topic.metrics().subscriptions.is_empty(), "they have ended");
        let all = drain(&broker);
        assert_eq!(all.made, all.delivered);
        let [drained, others] = logs.map(|log| log.take());
        assert_eq!((drained.len() as u64, others.len()), (report.published, 8));
        assert_in_order(&drained);
        assert_in_order(&others);
    });
}

/// Either the new handle keeps it, or it is gone.
#[test]
fn the_last_handle_goes_while_a_pull_is_taken_up() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let pull = Pull::default().ack_deadline(FOREVER);
        let worker = topic.subscription("x").pull(pull).unwrap();
        let dropping = thread::spawn(move || drop(worker));
        let attached = topic.attach_pull("x");
        join(vec![dropping]);
        match attached {
            Ok(worker) => {
                topic.publish((0, 0)).unwrap();
                worker.recv().unwrap().ack().unwrap();
            }
            Err(error) => assert!(matches!(error, AttachError::Unknown { .. })),
        }
        drain(&broker);
    });
}
