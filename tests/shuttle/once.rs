//! Publishers that meet with one dedup id.

use millstream::{Dedup, Overflow, PublishError};

use super::explore::explore;
use super::*;

#[test]
fn publishers_of_one_id_wait_for_room_and_one_message_goes() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(1);
        let block = Overflow::Block { timeout: FOREVER };
        let topic = topic.dedup(Dedup::window(FOREVER)).overflow(block);
        let topic = topic.open().unwrap();
        let (log, receipts) = (log(&topic, "x"), Log::new());
        let mut threads = publishers({
            let (topic, receipts) = (topic.clone(), receipts.clone());
            move |publisher| {
                for number in 0..2 {
                    let message = topic.message((publisher, number));
                    let message = message.dedup_id(number.to_string());
                    receipts.push((number, message.publish().unwrap()));
                }
            }
        });
        threads.push(thread::spawn({
            let topic = topic.clone();
            move || topic.set_dedup(Dedup::window(FOREVER).ids(2)).unwrap()
        }));
        join(threads);
        let report = drain(&broker);
        assert_eq!((report.published, report.delivered), (2, 2));
        assert_eq!(topic.metrics().duplicates, 2 * (PUBLISHERS - 1));
        let receipts = receipts.take();
        for number in 0..2 {
            let of = || receipts.iter().filter(|(of, _)| *of == number);
            let firsts: Vec<_> = of().filter(|(_, one)| !one.is_duplicate()).collect();
            assert_eq!(firsts.len(), 1, "{receipts:?}");
            assert!(of().all(|(_, one)| one.id() == firsts[0].1.id()));
        }
        assert_eq!(log.len(), 2);
    });
}

/// Who is refused leaves the id to the next.
#[test]
fn a_publisher_that_is_refused_leaves_its_id_to_others() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(1);
        let topic = topic.dedup(Dedup::window(FOREVER)).open().unwrap();
        let (log, answers) = (log(&topic, "x"), Log::new());
        join(publishers({
            let (topic, answers) = (topic.clone(), answers.clone());
            move |publisher| {
                for number in 0..2 {
                    let message = topic.message((publisher, number));
                    match message.dedup_id(number.to_string()).publish() {
                        Ok(receipt) => answers.push((number, receipt.is_duplicate())),
                        Err(PublishError::Full(refused)) => assert_eq!(refused.1, number),
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }));
        assert!(broker.wait_until_idle(FOREVER));
        // There is room now, so that what nobody got in goes.
        for number in 0..2 {
            let message = topic.message((PUBLISHERS, number));
            let receipt = message.dedup_id(number.to_string()).publish().unwrap();
            answers.push((number, receipt.is_duplicate()));
            assert!(broker.wait_until_idle(FOREVER));
        }
        assert_eq!(drain(&broker).delivered, 2);
        let answers = answers.take();
        for number in 0..2 {
            let firsts = answers.iter().filter(|answer| **answer == (number, false));
            assert_eq!(firsts.count(), 1, "{answers:?}");
        }
        assert_eq!(log.len(), 2);
    });
}
