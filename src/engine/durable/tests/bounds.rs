//! A commit takes so much, a message is encoded once, and one that is refused is told without an id.

use crate::engine::durable::tests::{FOREVER, Seen, open_with};
use crate::event::{DropCause, EventKind};
use crate::log::fs::sim::{FaultKind, Faults, SimFs};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::types::durable::codec::{Codec, CodecError, Raw};
use crate::types::durable::start::Start;
use crate::types::error::store::StoreError;
use crate::{Broker, PublishError, Topic};

#[test]
fn a_message_that_the_log_refuses_is_told_without_the_number_of_another() {
    let fs = SimFs::default();
    let (broker, topic) = open_with(&fs, 0, Raw);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let observed = broker.observe(move |event| {
        if let EventKind::Dropped { cause } = event.kind() {
            listener.lock().push((event.id(), *cause));
        }
    });
    let _observed = observed.expect("it observes");
    topic.publish("1".to_owned()).expect("stored");
    fs.fail(Faults {
        at: Some(1),
        kind: FaultKind::Error,
        lies: false,
    });
    let refused = topic.publish("2".to_owned()).expect_err("the disk fails");
    let PublishError::NotStored { payload, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(payload, "2");
    broker.run_until_idle();
    assert_eq!(*told.lock(), [(None, DropCause::NotStored)]);
    let metrics = broker.metrics();
    assert_eq!(metrics.topics[0].dropped, 1);
    metrics.balance().expect("balanced");
}

/// Counts the payloads that it encodes.
struct Counting(Arc<AtomicU64>);

impl Codec<String> for Counting {
    fn encode(&self, text: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Raw.encode(text, into)
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Raw.decode(bytes)
    }
}

/// Opens a topic that counts what it encodes.
fn counting(workers: usize) -> (Broker, Topic<String>, impl Fn() -> u64) {
    let count = Arc::new(AtomicU64::new(0));
    let codec = Counting(Arc::clone(&count));
    let (broker, topic) = open_with(&SimFs::default(), workers, codec);
    (broker, topic, move || count.load(Ordering::Relaxed))
}

fn texts(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| number.to_string())
}

#[test]
fn a_batch_is_encoded_once_however_often_it_waits_for_room() {
    let (broker, topic, encoded) = counting(2);
    let seen = Seen::new();
    let _seen = topic.subscribe("all", seen.handler()).expect("subscribed");
    let receipt = topic.publish_batch(texts(50)).expect("stored");
    assert_eq!(receipt.accepted(), 50);
    assert_eq!(seen.wait_for(50), (1..=50).collect::<Vec<_>>());
    assert_eq!(encoded(), 50);
    assert!(broker.wait_until_idle(FOREVER));
    broker.metrics().balance().expect("balanced");
}

#[test]
#[cfg(feature = "async")]
fn a_future_encodes_its_messages_once_however_often_it_is_polled() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    let (broker, topic, encoded) = counting(2);
    let _all = topic.subscribe("all", |_| Ok(())).expect("subscribed");
    let context = &mut Context::from_waker(Waker::noop());
    let mut batch = pin!(topic.publish_batch_async(texts(30)));
    let receipt = loop {
        if let Poll::Ready(receipt) = batch.as_mut().poll(context) {
            break receipt.expect("stored");
        }
        std::thread::yield_now();
    };
    assert_eq!(receipt.accepted(), 30);
    assert_eq!(encoded(), 30);
    broker.metrics().balance().expect("balanced");
}

#[test]
fn a_batch_that_one_commit_does_not_take_goes_in_several() {
    let fs = SimFs::default();
    let (broker, topic) = open_with(&fs, 2, Raw);
    topic.set_capacity(1_000).expect("it is a capacity");
    let texts: Vec<_> = texts(60).map(|text| text.repeat(100)).collect();
    let stored = topic.core.stored().expect("durable");
    let mut slot = None;
    let each = texts.iter().map(|text| (text, None));
    let encoded = stored.encode(&mut slot, each).expect("it encodes");
    assert!((2..20).contains(&encoded.len()), "{}", encoded.len());
    topic.publish_batch(texts.clone()).expect("stored");
    let records = topic.read(Start::Earliest).expect("they are there");
    let found: Vec<_> = records
        .map(|record| record.expect("whole").message.into_inner())
        .collect();
    assert_eq!(found, texts);
    broker.metrics().balance().expect("balanced");
}

#[test]
fn a_message_larger_than_a_commit_is_refused_with_its_payload_and_nothing_is_written() {
    /// Makes much of little.
    struct Verbose;
    impl Codec<String> for Verbose {
        fn encode(&self, text: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
            let size = text.parse::<usize>()?;
            into.resize(size, 0);
            Ok(())
        }

        fn decode(&self, _: &[u8]) -> Result<String, CodecError> {
            Err("it is not read".into())
        }
    }
    let fs = SimFs::default();
    let (broker, topic) = open_with(&fs, 0, Verbose);
    fs.record();
    let size = (64 << 20).to_string();
    let too_large = |error: &StoreError| matches!(error, StoreError::TooLarge { .. });
    match topic.publish(size.clone()) {
        Err(PublishError::NotStored { payload, error }) if too_large(&error) => {
            assert_eq!(payload, size);
        }
        other => panic!("{other:?}"),
    }
    match topic.publish_batch([size.clone(), "1".to_owned()]) {
        Err(refused) => {
            assert_eq!(refused.accepted, 0);
            let PublishError::NotStored { payload, error } = refused.error else {
                panic!("{refused:?}");
            };
            assert!(too_large(&error), "{error}");
            assert_eq!(payload, [size, "1".to_owned()]);
        }
        Ok(receipt) => panic!("{receipt:?}"),
    }
    assert_eq!(fs.changes(), 0);
    topic.publish("1".to_owned()).expect("it is small");
    broker.metrics().balance().expect("balanced");
}
