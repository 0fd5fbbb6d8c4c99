//! The dead letters of all topics, whatever they carry: seen together and purged together.

use std::time::Duration;

use crate::harness::{HANG, advance, assert_rests_balanced, manual, threaded};
use millstream::dead_letters::DeadReason;
use millstream::{Broker, HeaderValue, Nack, OnExpired, Topic};

const MS: Duration = Duration::from_millis(1);

fn failing<T: Send + Sync + 'static>(topic: &Topic<T>, name: &str) {
    let subscribed = topic.subscribe(name, |_| Err(Nack::dead_letter("no")));
    subscribed.expect("subscribes").detach();
}

fn topics(broker: &Broker) -> (Topic<u32>, Topic<String>) {
    let numbers = broker.topic("numbers").open().expect("opens");
    let builder = broker.topic("texts").ttl(MS);
    let texts = builder
        .on_expired(OnExpired::DeadLetter)
        .open()
        .expect("opens");
    (numbers, texts)
}

#[test]
fn the_letters_of_all_topics_are_seen_together() {
    let (broker, clock) = manual();
    let (numbers, texts) = topics(&broker);
    let letters = broker.dead_letters();
    assert!(letters.is_empty() && letters.list().is_empty());
    failing(&numbers, "a");
    failing(&texts, "b");
    let message = texts.message("x".to_owned()).key("k").header("h", "v");
    message.publish().expect("there is room");
    clock.advance(MS);
    broker.run_until_idle();
    numbers.publish(7).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, 5 * MS);
    let list = letters.list();
    let names: Vec<_> = list.iter().map(|l| (l.topic(), l.subscription())).collect();
    assert_eq!(names, [("numbers", "a"), ("texts", "b")]);
    let [failed, expired] = &list[..] else {
        panic!("there are two");
    };
    assert_eq!(failed.reason(), DeadReason::Rejected);
    assert_eq!((failed.error(), failed.attempts()), (Some("no"), 1));
    assert_eq!((failed.id().get(), failed.generation()), (1, 0));
    assert_eq!((failed.age(), failed.at()), (5 * MS, MS));
    assert_eq!(expired.reason(), DeadReason::Expired);
    assert_eq!((expired.error(), expired.attempts()), (None, 0));
    assert_eq!((expired.key(), expired.header("h")), (Some("k"), Some("v")));
    assert_eq!(
        expired.headers().collect::<Vec<_>>(),
        [("h", HeaderValue::Text("v"))]
    );
    assert_eq!(letters.len(), 2);
    assert!(format!("{list:?}").contains("\"no\""));
    assert_rests_balanced(&broker);
}

#[test]
fn letters_are_purged_across_topics_by_what_is_seen_of_them() {
    let (broker, _clock) = manual();
    let (numbers, texts) = topics(&broker);
    for name in ["a", "b"] {
        failing(&numbers, name);
        failing(&texts, name);
    }
    numbers.publish_batch([1, 2]).expect("there is room");
    texts.publish("x".to_owned()).expect("there is room");
    broker.run_until_idle();
    let letters = broker.dead_letters();
    assert_eq!(letters.purge(|letter| letter.subscription() == "a"), 3);
    assert_eq!(letters.purge(|letter| letter.topic() == "texts"), 1);
    assert_eq!(
        letters.purge(|letter| letter.reason() == DeadReason::Expired),
        0
    );
    let left = numbers.dead_letters().list();
    assert!(left.iter().all(|letter| letter.subscription() == "b"));
    assert_eq!((left.len(), texts.dead_letters().len()), (2, 0));
    assert_eq!((letters.purge_all(), letters.len()), (2, 0));
    assert_rests_balanced(&broker);
}

#[test]
fn a_letter_that_several_purge_is_purged_once() {
    let broker = threaded(2);
    let (numbers, _texts) = topics(&broker);
    failing(&numbers, "a");
    numbers.publish_batch(0..500).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    let purged: usize = std::thread::scope(|scope| {
        let all = scope.spawn(|| broker.dead_letters().purge_all());
        let own = scope.spawn(|| numbers.dead_letters().purge_all());
        [all, own]
            .map(|purge| purge.join().expect("no panic"))
            .iter()
            .sum()
    });
    assert_eq!((purged, broker.dead_letters().len()), (500, 0));
    assert_rests_balanced(&broker);
}
