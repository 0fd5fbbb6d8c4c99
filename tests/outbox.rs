//! Messages that are published with the ack of a delivery: both are in the log, or neither is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::event::{DropCause, EventKind};
use millstream::store::{Codec, CodecError, Durability, Raw, Start, Store, StoreError};
use millstream::{
    Backoff, Batched, Broker, Dedup, Message, Nack, NoSubscribers, PublishError, Pull,
    Subscription, Topic,
};
use parking_lot::Mutex;

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("outbox-{}-{number}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn broker(&self, workers: usize) -> Broker {
        let store = Store::open(&self.0).expect("it opens");
        let builder = Broker::builder().workers(workers).store(store);
        builder.build().expect("it builds")
    }

    /// What a process leaves behind that is killed now.
    fn after_kill(&self) -> Self {
        let copy = Self::new();
        std::fs::create_dir_all(&copy.0).expect("it is new");
        for entry in std::fs::read_dir(&self.0).expect("it is there") {
            let path = entry.expect("it is there").path();
            let name = path.file_name().expect("it has one");
            std::fs::copy(&path, copy.0.join(name)).expect("it can be read");
        }
        copy
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(broker: &Broker, name: &str) -> Topic<String> {
    let topic = broker.topic::<String>(name).durable(Raw);
    topic.open().expect("it opens")
}

fn stored(topic: &Topic<String>) -> Vec<String> {
    let records = topic.read(Start::Earliest).expect("they are there");
    records
        .map(|record| record.expect("sound").message.into_inner())
        .collect()
}

fn assert_at_rest(broker: &Broker) {
    assert!(broker.wait_until_idle(Duration::from_secs(60)));
    broker.metrics().balance().expect("balanced");
}

/// Subscribes a handler that publishes a bill for each order, and then fails some attempts.
fn billing(
    orders: &Topic<String>,
    bills: &Topic<String>,
    outcome: impl Fn(&str, u32) -> Result<(), Nack> + Send + 'static,
) -> Subscription {
    let bills = bills.clone();
    let retry = Backoff::fixed(Duration::ZERO).max_attempts(3);
    let billing = orders.subscription("billing").durable().retry(retry);
    let billing = billing.subscribe(move |order| {
        let attempt = order.attempt();
        order.publish(&bills, format!("{} {attempt}", order.payload()))?;
        outcome(order.payload(), attempt)
    });
    billing.expect("subscribed")
}

#[test]
fn what_is_published_with_an_ack_comes_once_though_the_first_attempts_fail() {
    let directory = Directory::new();
    let broker = directory.broker(0);
    let (orders, bills) = (open(&broker, "orders"), open(&broker, "bills"));
    let _billing = billing(&orders, &bills, |order, attempt| match (order, attempt) {
        ("fails", 1) => Err(Nack::retry("not yet")),
        ("panics", 1) => panic!("not yet"),
        ("is put off", 1) => Err(Nack::snooze(Duration::ZERO, "not yet")),
        ("is lost", _) => Err(Nack::dead_letter("never")),
        ("is discarded", _) => Err(Nack::discard("never")),
        _ => Ok(()),
    });
    let payloads = ["works", "fails", "panics", "is lost", "is discarded"];
    orders
        .publish_batch(payloads.map(String::from))
        .expect("stored");
    broker.run_until_idle();
    let mut found = stored(&bills);
    found.sort();
    assert_eq!(found, ["fails 2", "panics 2", "works 1"]);
    let metrics = bills.metrics();
    assert_eq!((metrics.published, metrics.dropped), (7, 4), "rolled back");
    assert_at_rest(&broker);
}

#[test]
fn a_process_that_is_killed_before_the_ack_has_published_nothing() {
    let directory = Arc::new(Directory::new());
    let broker = directory.broker(0);
    let (orders, bills) = (open(&broker, "orders"), open(&broker, "bills"));
    let copy = Arc::new(Mutex::new(None));
    let _billing = orders.subscription("billing").durable().subscribe({
        let (bills, copy) = (bills.clone(), Arc::clone(&copy));
        let directory = Arc::clone(&directory);
        move |order| {
            order.publish(&bills, order.payload().clone())?;
            *copy.lock() = Some(directory.after_kill());
            Ok(())
        }
    });
    orders.publish("an order".to_owned()).expect("stored");
    broker.run_until_idle();
    assert_eq!(stored(&bills), ["an order"]);
    let before = copy.lock().take().expect("it was handled");
    let after = directory.after_kill();
    for (killed, found, comes_again) in [(before, 0, 1), (after, 1, 0)] {
        let broker = killed.broker(0);
        let (orders, bills) = (open(&broker, "orders"), open(&broker, "bills"));
        assert_eq!(stored(&bills).len(), found);
        let billing = billing(&orders, &bills, |_, _| Ok(()));
        broker.run_until_idle();
        assert_eq!(billing.metrics().counts.delivered, comes_again);
        assert_eq!(stored(&bills).len(), 1, "the effect is there once");
    }
}

#[test]
fn messages_to_several_topics_are_one_commit_and_keep_their_parts() {
    let directory = Directory::new();
    let broker = directory.broker(2);
    let orders = open(&broker, "orders");
    let bills = open(&broker, "bills");
    let parcels = broker.topic::<String>("parcels").durable(Raw);
    let parcels = parcels.durability(Durability::Written).open();
    let parcels = parcels.expect("it opens");
    let sent = Arc::new(Mutex::new(Vec::new()));
    let _sender = parcels.subscribe("sender", {
        let sent = Arc::clone(&sent);
        move |parcel| {
            sent.lock().push(parcel.key().map(String::from));
            Ok(())
        }
    });
    let _shop = orders.subscription("shop").durable().subscribe({
        let (bills, parcels) = (bills.clone(), parcels.clone());
        move |order| {
            order.publish(&bills, format!("for {}", order.payload()))?;
            for part in ["1", "2"] {
                let parcel = Message::new(part.to_owned()).key(order.payload().as_str());
                let published = order.publish_message(&parcels, parcel);
                published.map_err(|refused| Nack::retry(refused.to_string()))?;
            }
            Ok(())
        }
    });
    for order in ["a", "b"] {
        orders.publish(order.to_owned()).expect("stored");
    }
    assert_at_rest(&broker);
    assert_eq!(stored(&bills), ["for a", "for b"]);
    assert_eq!(stored(&parcels), ["1", "2", "1", "2"]);
    let keys = ["a", "a", "b", "b"].map(|key| Some(key.to_owned()));
    assert_eq!(*sent.lock(), keys);
}

/// Encodes nothing.
struct Refuses;

impl Codec<String> for Refuses {
    fn encode(&self, _: &String, _: &mut Vec<u8>) -> Result<(), CodecError> {
        Err("not this one".into())
    }

    fn decode(&self, _: &[u8]) -> Result<String, CodecError> {
        Err("not this one".into())
    }
}

#[test]
fn what_an_ack_cannot_publish_is_refused_at_once_with_the_payload() {
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    let (broker, other) = (directory.broker(0), elsewhere.broker(0));
    let orders = open(&broker, "orders");
    let foreign = open(&other, "bills");
    let plain = broker.topic::<String>("plain").open().expect("it opens");
    let strict = broker.topic::<String>("strict").durable(Refuses).open();
    let strict = strict.expect("it opens");
    let full = broker.topic::<String>("full").durable(Raw).capacity(1);
    let full = full.no_subscribers(NoSubscribers::Retain).open();
    let full = full.expect("it opens");
    let closed = open(&broker, "closed");
    closed.drain(Duration::ZERO).expect("it has nothing");
    let bills = open(&broker, "bills");
    let check = move |order: &millstream::Delivery<'_, String>| {
        let text = |payload: &str| payload.to_owned();
        let said = |refused: Result<(), PublishError<String>>| match refused {
            Err(PublishError::NotStored { payload, error }) => {
                assert_eq!(payload, "x");
                error.to_string()
            }
            other => panic!("{other:?}"),
        };
        assert!(said(order.publish(&foreign, text("x"))).contains("in another store"));
        assert!(said(order.publish(&plain, text("x"))).contains("the topic is not durable"));
        assert!(said(order.publish(&strict, text("x"))).contains("not this one"));
        let late = Message::new(text("x")).after(Duration::from_secs(1));
        let late = order.publish_message(&bills, late);
        assert!(late.expect_err("it is late").to_string().contains("delay"));
        order.publish(&full, text("1")).expect("there is room");
        let refused = order.publish(&full, text("2"));
        assert_eq!(refused, Err(PublishError::Full(text("2"))));
        let refused = order.publish(&closed, text("x"));
        assert_eq!(refused, Err(PublishError::Closed(text("x"))));
        Ok(())
    };
    let durable = orders.subscription("durable").durable();
    let durable = durable.subscribe(check).expect("subscribed");
    let live = orders.subscribe("live", {
        let bills = open(&broker, "bills");
        move |order| {
            let refused = order.publish(&bills, "x".to_owned());
            let refused = refused.expect_err("it has no cursor");
            assert!(refused.to_string().contains("subscription is not durable"));
            Ok(())
        }
    });
    let live = live.expect("subscribed");
    orders.publish("an order".to_owned()).expect("stored");
    broker.run_until_idle();
    for subscription in [&durable, &live] {
        assert_eq!(subscription.metrics().counts.delivered, 1);
    }
    broker.metrics().balance().expect("balanced");
}

#[test]
fn the_room_of_what_was_rolled_back_is_free_again_and_observers_hear_why() {
    let directory = Directory::new();
    let broker = directory.broker(0);
    let orders = open(&broker, "orders");
    let bills = broker.topic::<String>("bills").durable(Raw).capacity(1);
    let bills = bills.no_subscribers(NoSubscribers::Retain).open();
    let bills = bills.expect("it opens");
    let causes = Arc::new(Mutex::new(Vec::new()));
    let _observer = broker.observe({
        let causes = Arc::clone(&causes);
        move |event| {
            if let EventKind::Dropped { cause } = event.kind() {
                causes.lock().push(*cause);
            }
        }
    });
    let _billing = billing(&orders, &bills, |_, attempt| match attempt {
        3 => Ok(()),
        _ => Err(Nack::retry("not yet")),
    });
    orders.publish("an order".to_owned()).expect("stored");
    broker.run_until_idle();
    assert_eq!(stored(&bills), ["an order 3"]);
    assert_eq!(*causes.lock(), [DropCause::RolledBack; 2]);
    broker.metrics().balance().expect("balanced");
}

#[test]
fn a_dedup_id_makes_the_effect_come_once_whoever_publishes_it() {
    let directory = Directory::new();
    let broker = directory.broker(0);
    let orders = open(&broker, "orders");
    let bills = broker.topic::<String>("bills").durable(Raw);
    let bills = bills.dedup(Dedup::window(Duration::from_secs(60))).open();
    let bills = bills.expect("it opens");
    let _billing = orders.subscription("billing").durable().subscribe({
        let bills = bills.clone();
        move |order| {
            let bill =
                |text: &str| Message::new(text.to_owned()).dedup_id(order.payload().as_str());
            order.publish_message(&bills, bill("first")).expect("new");
            order
                .publish_message(&bills, bill("second"))
                .expect("a duplicate of the first");
            if order.payload() == "raced" {
                // Nobody waits for the handler, so this one is accepted, and the others are not.
                let receipt = bills
                    .message("raced".to_owned())
                    .dedup_id("raced")
                    .publish();
                assert!(!receipt.expect("stored").is_duplicate());
            }
            Ok(())
        }
    });
    for order in ["req-1", "req-1", "raced"] {
        orders.publish(order.to_owned()).expect("stored");
    }
    broker.run_until_idle();
    assert_eq!(stored(&bills), ["first", "raced"]);
    let again = bills
        .message("third".to_owned())
        .dedup_id("req-1")
        .publish();
    assert!(again.expect("stored").is_duplicate());
    assert_at_rest(&broker);
}

#[test]
fn a_batch_handler_publishes_with_the_acks_of_those_that_it_did_not_nack() {
    let directory = Directory::new();
    let broker = directory.broker(0);
    let (orders, bills) = (open(&broker, "orders"), open(&broker, "bills"));
    let _billing = orders
        .subscription("billing")
        .durable()
        .subscribe_batches(Batched::of(8), {
            let bills = bills.clone();
            move |batch| {
                for (at, order) in batch.iter().enumerate() {
                    order.publish(&bills, order.payload().clone())?;
                    if order.payload() == "bad" {
                        batch.nack(at, Nack::dead_letter("never"));
                    }
                }
                Ok(())
            }
        });
    let payloads = ["1", "bad", "3"].map(String::from);
    orders.publish_batch(payloads).expect("stored");
    orders.flush();
    broker.run_until_idle();
    assert_eq!(stored(&bills), ["1", "3"]);
    assert_at_rest(&broker);
}

#[test]
fn a_lease_publishes_with_its_ack_and_with_nothing_else() {
    let directory = Directory::new();
    let broker = directory.broker(0);
    let (orders, bills) = (open(&broker, "orders"), open(&broker, "bills"));
    let billing = orders.subscription("billing").durable();
    let billing = billing.pull(Pull::default()).expect("subscribed");
    orders
        .publish_batch(["1", "2", "3"].map(String::from))
        .expect("stored");
    broker.run_until_idle();
    let mut leases = Vec::new();
    while let Ok(lease) = billing.try_recv() {
        lease
            .publish(&bills, lease.payload().clone())
            .expect("held");
        let refused = lease.delivery().publish(&bills, "x".to_owned());
        assert!(matches!(refused, Err(PublishError::NotStored { .. })));
        leases.push(lease);
    }
    leases[0].ack().expect("held");
    leases[1].nack(Nack::dead_letter("never")).expect("held");
    let refused = leases[0].publish(&bills, "late".to_owned());
    let Err(PublishError::NotStored { payload, error }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(payload, "late");
    assert!(matches!(*error, StoreError::Outbox { .. }));
    drop(leases);
    broker.run_until_idle();
    assert_eq!(stored(&bills), ["1"]);
    broker.metrics().balance().expect("balanced");
}

#[cfg(feature = "async")]
#[test]
fn an_async_handler_publishes_with_its_ack_and_its_clones_publish_nothing_later() {
    let directory = Directory::new();
    let broker = directory.broker(2);
    let (orders, bills) = (open(&broker, "orders"), open(&broker, "bills"));
    let kept = Arc::new(Mutex::new(Vec::new()));
    let billing = orders.subscription("billing").durable().concurrency(2);
    let _billing = billing.subscribe_async({
        let (bills, kept) = (bills.clone(), Arc::clone(&kept));
        move |order| {
            let (bills, kept) = (bills.clone(), Arc::clone(&kept));
            async move {
                order.publish(&bills, order.payload().clone())?;
                kept.lock().push(order.clone());
                match order.payload().as_str() {
                    "bad" => Err(Nack::dead_letter("never")),
                    _ => Ok(()),
                }
            }
        }
    });
    orders
        .publish_batch(["1", "bad", "3"].map(String::from))
        .expect("stored");
    assert_at_rest(&broker);
    for clone in kept.lock().drain(..) {
        let refused = clone.publish(&bills, "late".to_owned());
        assert!(matches!(refused, Err(PublishError::NotStored { .. })));
    }
    let mut found = stored(&bills);
    found.sort();
    assert_eq!(found, ["1", "3"]);
    assert_at_rest(&broker);
}
