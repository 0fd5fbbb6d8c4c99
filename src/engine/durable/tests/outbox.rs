//! Crashes at every change of the disk, of a broker whose handler publishes with its acks. Each
//! order has one bill in the end. And threads that publish the same dedup ids meet.

use std::time::Duration;

use super::{FOREVER, Seen};
use crate::log::fs::sim::{FaultKind, Faults, Random, SimFs};
use crate::log::store::Store;
use crate::pure::policy::dedup::Dedup;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, Thread, explore, spawn};
use crate::types::durable::codec::Raw;
use crate::types::durable::durability::Durability;
use crate::types::durable::start::Start;
use crate::types::error::store::StoreError;
use crate::{Backoff, Broker, Message, Nack, Subscription, Topic};

/// A broker that the calling thread runs, and its two topics.
struct Shop {
    broker: Broker,
    orders: Topic<String>,
    bills: Topic<String>,
    /// The highest attempt that the handler has seen.
    attempts: Arc<AtomicU32>,
    _billing: Subscription,
}

impl Shop {
    /// Opens the store. Its handler fails now and then, after it has published.
    fn open(fs: &SimFs, seed: u64) -> Result<Self, StoreError> {
        let store = Store::builder("data")
            .segment_size(4_096)
            .start_in(Arc::new(fs.clone()))?;
        let broker = Broker::builder().workers(0).store(store).build();
        let broker = broker.expect("it builds");
        let open = |name: &str, level| {
            let topic = broker.topic::<String>(name).durable(Raw).durability(level);
            topic.open().map_err(|_| StoreError::Closed)
        };
        let levels = [Durability::Written, Durability::Synced];
        let orders = open("orders", levels[seed as usize % 2])?;
        let bills = open("bills", levels[seed as usize / 2 % 2])?;
        let attempts = Arc::new(AtomicU32::new(0));
        let retry = Backoff::fixed(Duration::ZERO).max_attempts(1_000);
        let billing = orders.subscription("billing").durable().retry(retry);
        let billing = billing.from(Start::Earliest).subscribe({
            let (bills, attempts) = (bills.clone(), Arc::clone(&attempts));
            let mut random = Random(seed);
            move |order| {
                attempts.fetch_max(order.attempt(), Ordering::Relaxed);
                order.publish(&bills, order.payload().clone())?;
                match random.one_in(3) {
                    true => Err(Nack::retry("not yet")),
                    false => Ok(()),
                }
            }
        });
        Ok(Self {
            broker,
            orders,
            bills,
            attempts,
            _billing: billing.map_err(|_| StoreError::Closed)?,
        })
    }

    /// Publishes some orders, and handles them, unless the store fails.
    fn trade(&self, count: u64) {
        for order in 0..count {
            let _ = self.orders.publish(format!("{order:0>100}"));
            if order % 2 == 1 {
                self.broker.run_until_idle();
            }
        }
        self.broker.run_until_idle();
        self.broker.metrics().balance().expect("balanced");
    }

    /// Handles what is left, and compares.
    fn compare(&self) {
        self.broker.run_until_idle();
        let stored = |topic: &Topic<String>| {
            let records = topic.read(Start::Earliest).expect("they are there");
            let records = records.map(|record| record.expect("sound").message.into_inner());
            let mut all: Vec<String> = records.collect();
            all.sort();
            all
        };
        assert_eq!(stored(&self.bills), stored(&self.orders));
        self.broker.metrics().balance().expect("balanced");
    }
}

/// Opens what is left of the disk if the broker ends after any of its changes. Nothing is billed
/// twice, and nothing is forgotten.
pub(crate) fn crash_everywhere(seed: u64) {
    let fs = SimFs::default();
    fs.record();
    let shop = Shop::open(&fs, seed).expect("it opens");
    shop.trade(5);
    drop(shop);
    let disk = SimFs::default();
    for (at, change) in fs.journal().iter().enumerate() {
        let seed = seed ^ (at as u64) << 8;
        let cut = disk.after_power_cut(&mut Random(seed));
        for disk in [disk.after_kill(), cut] {
            let shop = Shop::open(&disk, seed).expect("a crash is mended");
            shop.compare();
        }
        disk.apply(change);
    }
    count_on();
}

/// Attempts are counted on when the subscription resumes.
fn count_on() {
    let fs = SimFs::default();
    for run in 1..=3 {
        let store = Store::builder("data").start_in(Arc::new(fs.clone()));
        let broker = Broker::builder()
            .workers(0)
            .store(store.expect("it opens"))
            .build()
            .expect("it builds");
        let topic = broker.topic::<String>("notes").durable(Raw).open();
        let topic = topic.expect("it opens");
        let seen = Arc::new(AtomicU32::new(0));
        let retry = Backoff::fixed(Duration::from_secs(3_600)).max_attempts(3);
        let notes = topic.subscription("all").durable().retry(retry).subscribe({
            let seen = Arc::clone(&seen);
            move |note| {
                seen.store(note.attempt(), Ordering::Relaxed);
                Err(Nack::retry("never"))
            }
        });
        let _notes = notes.expect("subscribed");
        if run == 1 {
            topic.publish("a".to_owned()).expect("stored");
        }
        broker.run_until_idle();
        assert_eq!(seen.load(Ordering::Relaxed), run);
        assert_eq!(topic.dead_letters().len(), usize::from(run == 3));
    }
}

#[test]
fn a_crash_at_any_change_of_the_disk_leaves_one_bill_for_each_order() {
    for seed in 0..if cfg!(millstream_shuttle) { 0 } else { 12 } {
        crash_everywhere(seed);
    }
}

#[test]
fn a_store_that_fails_at_any_operation_leaves_one_bill_for_each_order() {
    for seed in 0..if cfg!(millstream_shuttle) { 0 } else { 4 } {
        for at in 1.. {
            let fs = SimFs::default();
            let faults = Faults {
                at: Some(at),
                kind: FaultKind::Error,
                lies: false,
            };
            let shop = Shop::open(&fs, seed).expect("it opens");
            fs.fail(faults);
            shop.trade(5);
            let has_failed = fs.operations() >= at;
            drop(shop);
            let disk = fs.after_kill();
            let again = Shop::open(&disk, seed).expect("it opens again");
            again.compare();
            assert!(again.attempts.load(Ordering::Relaxed) < 1_000);
            if !has_failed {
                break;
            }
        }
    }
}

/// A handler publishes with its acks what another thread publishes, too.
#[test]
fn a_dedup_id_that_a_handler_and_a_thread_publish_at_once_is_accepted_once() {
    explore(|| {
        let store = Store::builder("data").start_in(Arc::new(SimFs::default()));
        let broker = Broker::builder().workers(2).store(store.expect("it opens"));
        let broker = broker.build().expect("it builds");
        let orders = broker.topic::<String>("orders").durable(Raw);
        let orders = orders.durability(Durability::Written).open();
        let orders = orders.expect("it opens");
        let bills = broker.topic::<String>("bills").durable(Raw);
        let bills = bills.durability(Durability::Written);
        let bills = bills.dedup(Dedup::window(FOREVER)).open();
        let bills = bills.expect("it opens");
        let seen = Seen::new();
        let _sender = bills.subscribe("sender", seen.handler());
        let _billing = orders.subscription("billing").durable().subscribe({
            let bills = bills.clone();
            move |order| {
                for id in ["a", "b"] {
                    let bill = Message::new(id.to_owned()).dedup_id(id);
                    let published = order.publish_message(&bills, bill);
                    published.map_err(|refused| Nack::retry(refused.to_string()))?;
                }
                Ok(())
            }
        });
        let thread = Thread {
            name: "publisher".to_owned(),
            stack_size: None,
        };
        let publisher = spawn(thread, {
            let bills = bills.clone();
            move || {
                for id in ["b", "a"] {
                    let bill = bills.message(id.to_owned()).dedup_id(id);
                    bill.publish().expect("stored");
                }
            }
        });
        orders.publish(String::new()).expect("stored");
        orders.publish(String::new()).expect("stored");
        publisher
            .expect("it starts")
            .join()
            .expect("it has published");
        assert!(broker.wait_until_idle(FOREVER));
        assert_eq!(*seen.ids.lock(), [1, 2], "each id once");
        broker.metrics().balance().expect("balanced");
    });
}
