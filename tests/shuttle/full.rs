//! Publishers that meet a full topic which conflates, or the rate of a topic.

use millstream::protect::RateLimit;
use millstream::{Overflow, PublishError};

use super::explore::explore;
use super::*;

/// A value that found no older one to replace is refused. No other newest value is lost.
#[test]
fn publishers_conflate_in_a_full_topic() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(3);
        let topic = topic.overflow(Overflow::Conflate).open().unwrap();
        let log = log(&topic, "x");
        let accepted = Log::new();
        let mut threads = publishers({
            let (topic, accepted) = (topic.clone(), accepted.clone());
            move |publisher| {
                let mut newest = None;
                for number in 0..3 {
                    let message = topic.message((publisher, number));
                    match message.key(publisher.to_string()).publish() {
                        Ok(_) => newest = Some((publisher, number)),
                        Err(PublishError::Full(refused)) => assert_eq!(refused.1, number),
                        Err(other) => panic!("{other}"),
                    }
                }
                newest.into_iter().for_each(|newest| accepted.push(newest));
            }
        });
        threads.push(thread::spawn({
            let topic = topic.clone();
            move || topic.set_capacity(2).unwrap()
        }));
        join(threads);
        let report = drain(&broker);
        let metrics = topic.metrics();
        assert_eq!(metrics.dropped, metrics.conflated);
        assert_eq!(report.published, report.delivered + metrics.conflated);
        let handled = log.take();
        assert_in_order(&handled);
        for newest in accepted.take() {
            assert!(handled.contains(&newest), "{newest:?} of {handled:?}");
        }
    });
}

/// The one whose call comes may have gone, or find that another was faster.
#[test]
fn publishers_wait_for_the_rate() {
    explore(|| {
        let broker = broker();
        let block = Overflow::Block { timeout: FOREVER };
        let topic = broker.topic::<Sent>("a").capacity(2).overflow(block);
        let rate = |burst| RateLimit::new(1, SOON).burst(burst);
        let topic = topic.rate_limit(rate(1)).open().unwrap();
        let (log, given_up) = (log(&topic, "x"), Log::new());
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
                let rest = [(publisher, 1), (publisher, 2)];
                topic.publish_batch(rest).unwrap();
            }
        });
        threads.push(thread::spawn({
            let (topic, given_up) = (topic.clone(), given_up.clone());
            move || {
                if let Err(late) = topic.publish_timeout((PUBLISHERS, 0), SOON) {
                    assert!(late.retry_after().is_some() || late.is_full());
                    given_up.push(());
                }
                topic.set_rate_limit(Some(rate(2))).unwrap();
            }
        }));
        join(threads);
        let sent = 3 * PUBLISHERS + 1 - given_up.len() as u64;
        assert_eq!(drain(&broker).delivered, sent);
        assert_in_order(&log.take());
    });
}
