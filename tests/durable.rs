//! Durable topics: what was acknowledged outlives the process, and subscriptions resume.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::error::{OpenError, SubscribeError};
use millstream::protect::{Priorities, Priority};
use millstream::store::{Codec, CodecError, Durability, Raw, Retention, Start, Store, StoreError};
use millstream::{Broker, LaneFull, Message, Nack, Overflow, Topic, Unsubscribe};
use parking_lot::Mutex;

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("durable-{}-{number}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn store(&self) -> Store {
        Store::open(&self.0).expect("it opens")
    }

    fn manual(&self) -> Broker {
        let builder = Broker::builder().workers(0).store(self.store());
        builder.build().expect("it builds")
    }

    fn threaded(&self) -> Broker {
        let builder = Broker::builder().workers(2).store(self.store());
        builder.build().expect("it builds")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn notes(broker: &Broker) -> Topic<String> {
    let topic = broker.topic::<String>("notes").durable(Raw);
    topic.open().expect("it opens")
}

fn texts(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

type Seen = Arc<Mutex<Vec<u64>>>;

fn seen(seen: &Seen) -> Vec<u64> {
    seen.lock().clone()
}

#[test]
fn what_was_published_is_there_when_the_store_is_opened_again_and_numbers_go_on() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    let receipt = topic.publish("1".to_owned()).expect("stored");
    assert_eq!(receipt.durability(), Durability::Synced);
    let batch = topic.publish_batch(texts(2..=100)).expect("stored");
    assert_eq!(
        (batch.accepted(), batch.durability()),
        (99, Durability::Synced)
    );
    drop((broker, topic));

    let broker = directory.manual();
    let topic = notes(&broker);
    let receipt = topic.publish("101".to_owned()).expect("stored");
    assert_eq!(receipt.id().get(), 101);
    let records = topic.read(Start::Earliest).expect("all are there");
    for (number, record) in (1..).zip(records) {
        let record = record.expect("it can be read");
        assert_eq!(record.id.get(), number);
        assert_eq!(record.message, Message::new(number.to_string()));
    }
    assert_eq!(topic.read(Start::Earliest).expect("all").count(), 101);
    let metrics = broker.metrics();
    assert_eq!(metrics.topics[0].published, 1, "in this process");
    metrics.balance().expect("balanced");
}

#[test]
fn priorities_are_stored_too() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    topic.publish("normal".to_owned()).expect("stored");
    for level in [Priority::Low, Priority::Urgent] {
        let message = topic.message(level.to_string()).priority(level);
        message.publish().expect("stored");
    }
    drop((broker, topic));
    let broker = directory.manual();
    let topic = notes(&broker);
    let order = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&order);
    let _subscription = topic
        .subscription("s")
        .from(Start::Earliest)
        .priorities(Priorities::strict())
        .subscribe(move |delivery| {
            assert_eq!(delivery.priority().to_string(), *delivery.payload());
            calls.lock().push(delivery.payload().clone());
            Ok(())
        })
        .expect("subscribes");
    broker.run_until_idle();
    assert_eq!(*order.lock(), ["urgent", "normal", "low"]);
    broker.metrics().balance().expect("balanced");
}

#[test]
fn keys_and_headers_are_stored_too() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    let message = Message::new("x".to_owned())
        .key("ada")
        .header("from", "ann")
        .header_bytes("digest", [0, 0xff]);
    topic.publish_messages([message.clone()]).expect("stored");
    drop((broker, topic));
    let topic = notes(&directory.manual());
    let mut records = topic.read(Start::Earliest).expect("it is there");
    let record = records.next().expect("one").expect("it can be read");
    assert_eq!(record.message, message);
}

/// Takes more away than it has put there.
struct Careless;

impl Codec<String> for Careless {
    fn encode(&self, text: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.clear();
        into.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }
}

#[test]
fn a_codec_can_only_harm_the_payload_that_it_is_at() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = broker.topic("notes").durable(Careless).open();
    let notes = topic.expect("it opens");
    let messages = texts(1..=3).into_iter();
    let messages = messages.map(|text| Message::new(text).key("a key"));
    notes.publish_messages(messages).expect("they are stored");
    let stored: Vec<_> = notes
        .read(Start::Earliest)
        .expect("it is durable")
        .map(|record| record.expect("it is whole").message.into_inner())
        .collect();
    assert_eq!(stored, texts(1..=3));
}

#[test]
fn a_durable_subscription_resumes_where_it_was() {
    let directory = Directory::new();
    let handled = Seen::default();
    let subscribe = |topic: &Topic<String>| {
        let handled = Arc::clone(&handled);
        let billing = topic.subscription("billing").durable();
        billing.subscribe(move |note| {
            handled.lock().push(note.id().get());
            Ok(())
        })
    };
    for run in 0..3 {
        let broker = directory.manual();
        let topic = notes(&broker);
        if run > 0 {
            // While it is away, others publish.
            topic.publish_batch(texts(1..=5)).expect("stored");
        }
        let billing = subscribe(&topic).expect("subscribed");
        topic.publish_batch(texts(1..=5)).expect("stored");
        broker.run_until_idle();
        broker.metrics().balance().expect("balanced");
        drop((billing, broker, topic));
    }
    assert_eq!(seen(&handled), (1..=25).collect::<Vec<_>>());
}

#[test]
fn a_delivery_that_was_not_done_comes_again_and_says_that_it_was_stored() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    let billing = topic.subscription("billing").durable();
    let billing = billing
        .subscribe(|note| match note.id().get() {
            2 => Err(Nack::retry("not now")),
            _ => Ok(()),
        })
        .expect("subscribed");
    topic.publish_batch(texts(1..=3)).expect("stored");
    broker.run_until_idle();
    drop((billing, broker, topic));

    let broker = directory.manual();
    let topic = notes(&broker);
    let again = Seen::default();
    let _billing = topic.subscription("billing").durable().subscribe({
        let again = Arc::clone(&again);
        move |note| {
            assert!(note.is_replayed());
            again.lock().push(note.id().get());
            Ok(())
        }
    });
    broker.run_until_idle();
    assert_eq!(seen(&again), [2]);
}

#[test]
fn dead_letters_outlive_the_process_until_they_are_gone() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    let subscribe = |topic: &Topic<String>| {
        let billing = topic.subscription("billing").durable();
        billing.subscribe(|note| match note.payload().as_str() {
            "bad" if note.generation() == 0 => Err(Nack::dead_letter("no such account")),
            _ => Ok(()),
        })
    };
    let billing = subscribe(&topic).expect("subscribed");
    for text in ["bad", "good", "bad", "bad"] {
        topic.publish(text.to_owned()).expect("stored");
    }
    broker.run_until_idle();
    let purged = topic.dead_letters().purge(|letter| letter.id().get() == 3);
    assert_eq!(purged, 1);
    drop((billing, broker, topic));

    let broker = directory.manual();
    let topic = notes(&broker);
    let billing = subscribe(&topic).expect("subscribed");
    let letters = topic.dead_letters().list();
    let left: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                letter.id().get(),
                letter.payload().as_str(),
                letter.attempts(),
            )
        })
        .collect();
    assert_eq!(left, [(1, "bad", 1), (4, "bad", 1)]);
    assert_eq!(letters[0].error(), Some("no such account"));
    assert_eq!(
        topic
            .dead_letters()
            .redrive(|letter| letter.id().get() == 4)
            .redriven,
        1
    );
    broker.run_until_idle();
    assert_eq!(billing.metrics().counts.delivered, 1);
    broker.metrics().balance().expect("balanced");
    drop((letters, billing, broker, topic));

    let broker = directory.manual();
    let topic = notes(&broker);
    let _billing = subscribe(&topic).expect("subscribed");
    broker.run_until_idle();
    let left = topic.dead_letters().list();
    assert_eq!(
        left.iter()
            .map(|letter| letter.id().get())
            .collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn a_letter_that_was_redriven_in_vain_is_a_letter_again_when_its_subscription_is() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    let subscribe = || {
        let billing = topic.subscription("billing").durable();
        billing.subscribe(|note| match note.generation() {
            0 => Err(Nack::dead_letter("no such account")),
            _ => Err(Nack::retry("not now")),
        })
    };
    let billing = subscribe().expect("subscribed");
    topic.publish_batch(texts(1..=3)).expect("stored");
    broker.run_until_idle();
    let second = topic
        .dead_letters()
        .redrive(|letter| letter.id().get() == 2);
    assert_eq!(second.redriven, 1);
    broker.run_until_idle();
    let taken = subscribe();
    assert!(matches!(taken, Err(SubscribeError::NameTaken { .. })));
    assert_eq!(topic.dead_letters().len(), 2);
    billing.unsubscribe(Unsubscribe::Cancel);
    let _billing = subscribe().expect("subscribed");
    broker.run_until_idle();
    let letters = topic.dead_letters().list();
    let mut ids: Vec<u64> = letters.iter().map(|letter| letter.id().get()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    broker.metrics().balance().expect("balanced");
}

#[test]
fn retention_takes_no_message_that_a_dead_letter_needs() {
    let directory = Directory::new();
    for run in 0..2 {
        let store = Store::builder(&directory.0).segment_size(4 << 10).open();
        let broker = Broker::builder().workers(0).store(store.expect("it opens"));
        let broker = broker.build().expect("it builds");
        let topic = broker.topic::<String>("notes").durable(Raw);
        let topic = topic.retention(Retention::new().bytes(8 << 10)).open();
        let topic = topic.expect("it opens");
        let billing = topic.subscription("billing").durable();
        let billing = billing.subscribe(|note| match note.id().get() {
            1 => Err(Nack::dead_letter("no such account")),
            _ => Ok(()),
        });
        let _billing = billing.expect("subscribed");
        if run == 0 {
            for _ in 0..100 {
                topic.publish("x".repeat(1_000)).expect("stored");
                broker.run_until_idle();
            }
            assert!(topic.read(Start::Seq(1)).is_err());
        }
        let letters = topic.dead_letters().list();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].payload().len(), 1_000);
    }
}

#[test]
fn a_slow_durable_subscription_holds_up_nobody_and_misses_nothing() {
    let directory = Directory::new();
    let broker = directory.threaded();
    let topic = broker.topic::<String>("notes").durable(Raw);
    let topic = topic
        .durability(Durability::Written)
        .capacity(64)
        .overflow(Overflow::Block {
            timeout: Duration::from_secs(60),
        })
        .open()
        .expect("it opens");
    let (slow, fast) = (Seen::default(), Seen::default());
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock();
    let _slow = topic.subscription("slow").durable().capacity(4).subscribe({
        let (slow, gate) = (Arc::clone(&slow), Arc::clone(&gate));
        move |note| {
            drop(gate.lock());
            slow.lock().push(note.id().get());
            Ok(())
        }
    });
    let _fast = topic.subscribe("fast", {
        let fast = Arc::clone(&fast);
        move |note| {
            fast.lock().push(note.id().get());
            Ok(())
        }
    });
    for _ in 0..40 {
        topic.publish_batch(texts(1..=50)).expect("stored");
    }
    // More than the topic and the lane hold, while the slow one is still at the first.
    while seen(&fast).len() < 2_000 {
        std::thread::yield_now();
    }
    assert_eq!(seen(&slow).len(), 0);
    drop(held);
    for _ in 0..40 {
        topic.publish_batch(texts(1..=50)).expect("stored");
    }
    while seen(&slow).len() < 4_000 || seen(&fast).len() < 4_000 {
        std::thread::yield_now();
    }
    assert_eq!(seen(&slow), (1..=4_000).collect::<Vec<_>>());
    assert_eq!(seen(&fast), (1..=4_000).collect::<Vec<_>>());
    assert!(broker.wait_until_idle(Duration::from_secs(60)));
    broker.metrics().balance().expect("balanced");
}

#[test]
fn what_a_filter_refuses_is_not_handled_from_the_log_either() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    topic.publish_batch(texts(1..=200)).expect("stored");
    let handled = Seen::default();
    let subscribe = || {
        let even = topic.subscription("even").durable().capacity(2);
        let even = even.from(Start::Earliest).filter(|note| {
            let number = note.id().get();
            number % 2 == 0 || number > 398
        });
        even.subscribe({
            let handled = Arc::clone(&handled);
            move |note| {
                handled.lock().push(note.id().get());
                Ok(())
            }
        })
    };
    let even = subscribe().expect("subscribed");
    // It has to catch up, falls behind, and catches up again.
    for _ in 0..4 {
        topic.publish_batch(texts(1..=50)).expect("stored");
        broker.run_until_idle();
    }
    let mut wanted: Vec<u64> = (1..=199).map(|half| 2 * half).collect();
    wanted.extend([399, 400]);
    assert_eq!(seen(&handled), wanted);
    let counts = even.metrics().counts;
    assert_eq!((counts.made, counts.filtered), (400, 199));
    broker.metrics().balance().expect("balanced");
    drop(even);
    // It was done with what it has refused.
    let _even = subscribe().expect("subscribed");
    broker.run_until_idle();
    assert_eq!(seen(&handled).len(), wanted.len());
}

#[test]
fn a_subscription_starts_where_it_is_told() {
    let directory = Directory::new();
    let broker = directory.manual();
    let topic = notes(&broker);
    topic.publish_batch(texts(1..=10)).expect("stored");
    let later = std::time::SystemTime::now() + Duration::from_millis(2);
    while std::time::SystemTime::now() < later {
        std::thread::yield_now();
    }
    topic.publish_batch(texts(11..=20)).expect("stored");
    let starts = [
        (Start::Earliest, 1),
        (Start::Seq(0), 1),
        (Start::Seq(7), 7),
        (Start::Time(later), 11),
        (Start::Latest, 21),
    ];
    for (at, (start, first)) in starts.into_iter().enumerate() {
        let found = Seen::default();
        let name = format!("audit-{at}");
        let audit = topic.subscription(&name).from(start).subscribe({
            let found = Arc::clone(&found);
            move |note| {
                found.lock().push(note.id().get());
                Ok(())
            }
        });
        let audit = audit.expect("subscribed");
        broker.run_until_idle();
        assert_eq!(seen(&found), (first..=20).collect::<Vec<_>>(), "{start:?}");
        drop(audit);
    }
}

#[test]
fn what_retention_has_taken_is_said_by_the_first_that_is_left() {
    let directory = Directory::new();
    let store = Store::builder(&directory.0).segment_size(4 << 10).open();
    let store = store.expect("it opens");
    let broker = Broker::builder().workers(0).store(store).build();
    let broker = broker.expect("it builds");
    let topic = broker.topic::<String>("notes").durable(Raw);
    let topic = topic.retention(Retention::new().bytes(8 << 10)).open();
    let topic = topic.expect("it opens");
    let _resumes = topic
        .subscription("resumes")
        .durable()
        .subscribe(|_| Ok(()));
    for _ in 0..100 {
        topic.publish("x".repeat(1_000)).expect("stored");
    }
    let trimmed = topic.read(Start::Seq(1)).expect_err("it is gone");
    let StoreError::Trimmed { first_available } = trimmed else {
        panic!("{trimmed}");
    };
    assert!((2..=95).contains(&first_available), "{first_available}");
    let refused = topic
        .subscription("early")
        .from(Start::Seq(1))
        .subscribe(|_| Ok(()));
    assert!(matches!(
        refused,
        Err(SubscribeError::Store(StoreError::Trimmed { .. }))
    ));
    let left = topic.read(Start::Earliest).expect("it is left");
    let ids: Vec<u64> = left.map(|record| record.expect("whole").id.get()).collect();
    assert_eq!(ids, (first_available..=100).collect::<Vec<_>>());
}

#[test]
fn settings_that_make_no_sense_together_are_refused() {
    let directory = Directory::new();
    let broker = directory.manual();
    let without = Broker::builder().workers(0).build().expect("it builds");
    let refused = without.topic::<String>("notes").durable(Raw).open();
    assert!(matches!(refused, Err(OpenError::Invalid(_))));
    let drops = broker
        .topic::<String>("notes")
        .durable(Raw)
        .overflow(Overflow::DropOldest);
    assert!(matches!(drops.open(), Err(OpenError::Invalid(_))));
    let letters = broker.topic::<String>("notes").durable(Raw);
    let letters = letters.overflow(Overflow::DeadLetter);
    assert!(matches!(letters.open(), Err(OpenError::Invalid(_))));
    let split = broker.topic::<String>("notes").durable(Raw).partitions(2);
    assert!(matches!(split.open(), Err(OpenError::Invalid(_))));
    let volatile = broker
        .topic::<String>("notes")
        .durability(Durability::Written);
    assert!(matches!(volatile.open(), Err(OpenError::Invalid(_))));
    let plain = broker.topic::<String>("plain").open().expect("it opens");
    let durable = plain.subscription("a").durable().subscribe(|_| Ok(()));
    assert!(matches!(durable, Err(SubscribeError::Invalid(_))));
    let behind = plain
        .subscription("a")
        .when_full(LaneFull::CatchUp)
        .subscribe(|_| Ok(()));
    assert!(matches!(behind, Err(SubscribeError::Invalid(_))));
    let topic = notes(&broker);
    let loses = topic
        .subscription("a")
        .durable()
        .when_full(LaneFull::DropNewest);
    assert!(matches!(
        loses.subscribe(|_| Ok(())),
        Err(SubscribeError::Invalid(_))
    ));
}

#[test]
fn a_store_has_one_opener() {
    let directory = Directory::new();
    let first = directory.store();
    assert!(matches!(
        Store::open(&directory.0),
        Err(StoreError::InUse { .. })
    ));
    drop(first);
    directory.store();
}

#[test]
fn a_topic_of_a_store_is_open_in_one_broker() {
    let directory = Directory::new();
    let store = directory.store();
    let broker = || {
        let builder = Broker::builder().workers(0).store(store.clone());
        builder.build().expect("it builds")
    };
    let (one, other) = (broker(), broker());
    let topic = notes(&one);
    let refused = other.topic::<String>("notes").durable(Raw).open();
    assert!(matches!(
        refused,
        Err(OpenError::Store(StoreError::TopicOpen { .. }))
    ));
    topic.publish("1".to_owned()).expect("stored");
    drop((topic, one));
    let topic = notes(&other);
    let receipt = topic.publish("2".to_owned()).expect("stored");
    assert_eq!(receipt.id().get(), 2);
}

#[test]
fn a_message_that_the_codec_cannot_read_stops_nobody_and_waits_for_a_codec_that_can() {
    struct Strict(bool);
    impl millstream::store::Codec<String> for Strict {
        fn encode(
            &self,
            text: &String,
            into: &mut Vec<u8>,
        ) -> Result<(), millstream::store::CodecError> {
            Raw.encode(text, into)
        }

        fn decode(&self, bytes: &[u8]) -> Result<String, millstream::store::CodecError> {
            match self.0 && bytes == b"2" {
                true => Err("no such version".into()),
                false => Raw.decode(bytes),
            }
        }
    }
    let directory = Directory::new();
    let open = |is_strict: bool| {
        let broker = directory.manual();
        let topic = broker.topic::<String>("notes").durable(Strict(is_strict));
        let topic = topic.open().expect("it opens");
        (broker, topic)
    };
    let (broker, topic) = open(true);
    drop(
        topic
            .subscription("billing")
            .durable()
            .subscribe(|_| Ok(())),
    );
    topic.publish_batch(texts(1..=3)).expect("stored");
    drop((broker, topic));
    for (is_strict, delivered, letters) in [(true, 2, 0), (true, 0, 0), (false, 0, 1)] {
        let (broker, topic) = open(is_strict);
        let billing = topic
            .subscription("billing")
            .durable()
            .subscribe(|_| Ok(()));
        let billing = billing.expect("it resumes");
        broker.run_until_idle();
        assert_eq!(billing.metrics().counts.delivered, delivered);
        assert_eq!(topic.dead_letters().len(), letters);
        broker.metrics().balance().expect("balanced");
    }
}
