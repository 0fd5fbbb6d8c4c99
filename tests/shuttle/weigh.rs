//! Publishers that meet under a limit of weight.

use millstream::{Batched, Overflow};

use super::explore::explore;
use super::*;

/// What is published: who did, and the weight.
fn weight_of(sent: &Sent) -> u64 {
    sent.1
}

/// The limit is less than a batch of the strategy weighs, so that only the want of room
/// brings the messages on their way.
#[test]
fn publishers_wait_until_their_messages_fit() {
    explore(|| {
        let broker = broker();
        let block = Overflow::Block { timeout: FOREVER };
        let topic = broker.topic::<Sent>("a").weight_limit(4, weight_of);
        let topic = topic.overflow(block).strategy(Batched::of(64).until_full());
        let topic = topic.open().unwrap();
        let log = log(&topic, "x");
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 3)).unwrap();
                topic
                    .publish_batch([(publisher, 1), (publisher, 2)])
                    .unwrap();
            }
        });
        threads.push(thread::spawn({
            let topic = topic.clone();
            move || {
                assert!(topic.metrics().weight <= 4);
                topic.set_weight_limit(3).unwrap();
                topic.set_weight_limit(4).unwrap();
            }
        }));
        join(threads);
        assert!(topic.metrics().weight <= 4);
        assert_eq!(drain(&broker).delivered, 3 * PUBLISHERS);
        assert_eq!(
            (log.len() as u64, topic.metrics().weight),
            (3 * PUBLISHERS, 0)
        );
    });
}
