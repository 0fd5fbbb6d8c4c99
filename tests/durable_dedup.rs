//! Dedup ids of durable topics: what the log has accepted is known when it is opened again.

use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use millstream::store::{Codec, CodecError, Raw, Start, Store};
use millstream::{Broker, Dedup, ManualClock, Message, Receipt, Topic};

const WINDOW: Duration = Duration::from_secs(60);

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("durable-dedup-{}-{number}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn broker(&self) -> (Broker, ManualClock) {
        let clock = ManualClock::new();
        let store = Store::builder(&self.0).segment_size(4_096);
        let builder = Broker::builder().workers(0).manual_clock(&clock);
        let builder = builder.store(store.open().expect("it opens"));
        (builder.build().expect("it builds"), clock)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(broker: &Broker, dedup: Dedup) -> Topic<String> {
    let topic = broker.topic::<String>("notes").durable(Raw).dedup(dedup);
    topic.open().expect("it opens")
}

fn publish(topic: &Topic<String>, id: &str) -> Receipt {
    let message = topic.message(id.to_owned()).dedup_id(id);
    message.publish().expect("stored")
}

fn stored(topic: &Topic<String>) -> Vec<String> {
    let records = topic.read(Start::Earliest).expect("they are there");
    let payload = |record: millstream::store::StoredRecord<String>| record.message.into_inner();
    records
        .map(|record| payload(record.expect("sound")))
        .collect()
}

fn assert_balanced(broker: &Broker) {
    broker.metrics().balance().expect("balanced");
}

#[test]
fn a_duplicate_gets_the_first_receipt_before_and_after_a_restart() {
    let directory = Directory::new();
    let dedup = Dedup::window(WINDOW);
    let (broker, _clock) = directory.broker();
    let topic = open(&broker, dedup);
    topic.publish("plain".to_owned()).expect("stored");
    let first = publish(&topic, "a");
    let again = publish(&topic, "a");
    assert!(!first.is_duplicate() && again.is_duplicate());
    assert_eq!(
        (again.id(), again.durability()),
        (first.id(), first.durability())
    );
    assert_balanced(&broker);
    drop((broker, topic));

    let (broker, _clock) = directory.broker();
    let topic = open(&broker, dedup);
    let later = publish(&topic, "a");
    assert!(later.is_duplicate());
    assert_eq!(later.id(), first.id());
    assert!(!publish(&topic, "b").is_duplicate());
    assert_eq!(stored(&topic), ["plain", "a", "b"]);
    let record = topic.read(Start::Seq(2)).expect("it is there").next();
    let record = record.expect("one").expect("sound");
    assert_eq!(record.message, Message::new("a".to_owned()).dedup_id("a"));
    assert_balanced(&broker);
}

#[test]
fn an_id_keeps_its_age_over_a_restart_and_is_forgotten_after_the_window() {
    let directory = Directory::new();
    let dedup = Dedup::window(WINDOW);
    let (broker, _clock) = directory.broker();
    let first = publish(&open(&broker, dedup), "a");
    drop(broker);
    let (broker, clock) = directory.broker();
    let topic = open(&broker, dedup);
    clock.advance(WINDOW / 2);
    assert!(publish(&topic, "a").is_duplicate());
    clock.advance(WINDOW);
    let anew = publish(&topic, "a");
    assert!(!anew.is_duplicate());
    assert!(anew.id() > first.id());
    assert_balanced(&broker);
}

#[test]
fn the_log_keeps_no_more_ids_than_the_topic() {
    let directory = Directory::new();
    // The log grows by many segments, each of which begins with what is remembered.
    let (broker, _clock) = directory.broker();
    let topic = open(&broker, Dedup::window(WINDOW).ids(4));
    for number in 0..500 {
        publish(&topic, &number.to_string());
        broker.run_until_idle();
    }
    drop((broker, topic));
    let (broker, _clock) = directory.broker();
    let topic = open(&broker, Dedup::window(WINDOW).ids(4));
    for number in 496..500 {
        assert!(publish(&topic, &number.to_string()).is_duplicate());
    }
    assert!(!publish(&topic, "495").is_duplicate());
    assert_balanced(&broker);
}

#[test]
fn of_threads_that_publish_one_id_at_once_one_is_accepted() {
    const THREADS: usize = 4;
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = open(&broker, Dedup::window(WINDOW));
    for round in 0..20 {
        let (id, start) = (round.to_string(), Barrier::new(THREADS));
        let receipts: Vec<Receipt> = thread::scope(|scope| {
            let publisher = || {
                start.wait();
                publish(&topic, &id)
            };
            let all: Vec<_> = (0..THREADS).map(|_| scope.spawn(publisher)).collect();
            all.into_iter()
                .map(|one| one.join().expect("no panic"))
                .collect()
        });
        let firsts = receipts.iter().filter(|receipt| !receipt.is_duplicate());
        assert_eq!(firsts.count(), 1);
        assert!(
            receipts
                .iter()
                .all(|receipt| receipt.id() == receipts[0].id())
        );
        broker.run_until_idle();
    }
    assert_eq!(stored(&topic).len(), 20);
    assert_balanced(&broker);
}

#[test]
fn a_batch_stores_each_id_once() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = open(&broker, Dedup::window(WINDOW));
    let message = |text: &str| Message::new(text.to_owned());
    let batch = topic.publish_messages([
        message("1"),
        message("2").dedup_id("a"),
        message("3").dedup_id("a"),
        message("4"),
    ]);
    let receipt = batch.expect("stored");
    assert_eq!((receipt.accepted(), receipt.duplicates()), (3, 1));
    assert_eq!(stored(&topic), ["1", "2", "4"]);
    assert_balanced(&broker);
}

/// A codec that refuses one text.
struct Picky;

impl Codec<String> for Picky {
    fn encode(&self, payload: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
        match payload.as_str() {
            "bad" => Err("it is bad".into()),
            _ => Raw.encode(payload, into),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Raw.decode(bytes)
    }
}

#[test]
fn the_id_of_a_refused_message_is_not_remembered() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = broker.topic::<String>("notes").durable(Picky).capacity(1);
    let topic = topic.dedup(Dedup::window(WINDOW)).open().expect("it opens");
    let publish = |text: &str| {
        let message = topic.message(text.to_owned()).dedup_id("a");
        message.publish()
    };
    assert!(publish("bad").is_err());
    topic.publish("in the way".to_owned()).expect("stored");
    assert!(publish("good").is_err_and(|error| error.is_full()));
    broker.run_until_idle();
    assert!(!publish("good").expect("stored").is_duplicate());
    broker.run_until_idle();
    assert!(publish("good").expect("stored").is_duplicate());
    assert_eq!(stored(&topic), ["in the way", "good"]);
    assert_balanced(&broker);
}

#[cfg(feature = "async")]
#[test]
fn a_publisher_waits_for_a_future_that_has_claimed_its_id() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = open(&broker, Dedup::window(WINDOW));
    let message = || topic.message("a".to_owned()).dedup_id("a");
    let mut first = pin!(message().publish_async());
    let mut context = Context::from_waker(Waker::noop());
    // It has joined the log, and nobody polls it while the others wait.
    let early = first.as_mut().poll(&mut context);
    let second = publish(&topic, "a");
    assert!(second.is_duplicate());
    let first = match early {
        Poll::Ready(first) => first.expect("stored"),
        Poll::Pending => loop {
            if let Poll::Ready(first) = first.as_mut().poll(&mut context) {
                break first.expect("stored");
            }
        },
    };
    assert!(!first.is_duplicate());
    assert_eq!(first.id(), second.id());
    let mut third = pin!(message().publish_async());
    let Poll::Ready(third) = third.as_mut().poll(&mut context) else {
        panic!("a duplicate of a stored message is known at once");
    };
    assert!(third.expect("stored").is_duplicate());
    assert_balanced(&broker);
}

#[test]
fn a_durable_topic_weighs_its_messages() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = broker.topic::<String>("notes").durable(Raw);
    let topic = topic.weight_limit(10, |note: &String| note.len() as u64);
    let topic = topic.open().expect("it opens");
    topic.publish("1234567".to_owned()).expect("stored");
    let heavy = topic.publish("1234".to_owned());
    assert!(heavy.is_err_and(|error| error.is_full()));
    let batch = ["12", "3", "4"].map(String::from);
    let refused = topic
        .publish_batch(batch)
        .expect_err("the last is too much");
    assert_eq!(refused.accepted, 2);
    assert_eq!(topic.metrics().weight, 10);
    broker.run_until_idle();
    assert_eq!(topic.metrics().weight, 0);
    assert_eq!(stored(&topic), ["1234567", "12", "3"]);
    assert_balanced(&broker);
}
