//! A whole service, with all that orders need from their intake to an end in good order.
//!
//! An intake waits for the checks. Payments keep the order of each customer, and come again from the
//! dead letters. Threads of the service's own ship, a ledger is written in batches, and reminders
//! are taken back.
//!
//! ```text
//! place ─▶ orders.new ─▶ checks ─▶ orders.valid ─▶ payment ─▶ orders.paid ─▶ shipping
//!               └────────── ledger ─────┴───────────────────────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millstream::dead_letters::{Redrive, RedriveOptions};
use millstream::error::StaleError;
use millstream::metrics::DrainReport;
use millstream::{
    Backoff, Batched, Broker, Message, MessageId, Nack, OnExhausted, OnFailure, Overflow,
    PublishError, Pull, SubscriptionOptions, Topic, TopicOptions,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Order {
    number: u32,
    customer: u32,
    cents: u32,
}

impl Order {
    fn key(&self) -> String {
        format!("customer-{}", self.customer)
    }
}

/// What is outside: a bank that is down at times, a warehouse, and the database of the ledger.
#[derive(Default)]
struct World {
    bank_is_down: AtomicBool,
    payments: Mutex<BTreeMap<u32, Vec<u32>>>,
    shipped: AtomicUsize,
    ledger: Mutex<Vec<(String, u32)>>,
}

impl World {
    /// Takes the money once, however often it is asked to.
    fn pay(&self, order: &Order) -> Result<(), std::io::Error> {
        if self.bank_is_down.load(Relaxed) {
            return Err(std::io::Error::other("no route to the bank"));
        }
        let mut payments = self.payments.lock().expect("nobody panics");
        let of_customer = payments.entry(order.customer).or_default();
        if !of_customer.contains(&order.number) {
            of_customer.push(order.number);
        }
        Ok(())
    }
}

/// Hands an order to the next stage. While that is full, the order waits, and no attempt counts.
fn pass_on(onward: &Topic<Order>, order: &Order) -> Result<(), Nack> {
    match onward.message(*order).key(order.key()).publish() {
        Err(full) if full.is_full() => Err(Nack::snooze(SECOND / 1_000, "the next stage is full")),
        published => Ok(published.map(drop)?),
    }
}

/// Reminders of orders that are not paid yet.
struct Reminders {
    topic: Topic<Order>,
    waiting: Mutex<HashMap<u32, MessageId>>,
}

impl Reminders {
    fn set(&self, order: Order) -> Result<(), PublishError<Order>> {
        let receipt = self.topic.publish_after(3_600 * SECOND, order)?;
        let mut waiting = self.waiting.lock().expect("nobody panics");
        waiting.insert(order.number, receipt.id());
        Ok(())
    }

    fn cancel(&self, number: u32) {
        let reminder = self.waiting.lock().expect("nobody panics").remove(&number);
        let _ = reminder.map(|id| self.topic.cancel_delayed(id)); // if it is not too late
    }
}

struct Service {
    broker: Broker,
    new: Topic<Order>,
    valid: Topic<Order>,
    reminders: Arc<Reminders>,
    shippers: Vec<JoinHandle<Result<(), StaleError>>>,
}

impl Service {
    fn start(world: &Arc<World>) -> Result<Self, Box<dyn Error>> {
        let broker = Broker::builder().workers(2).build()?;
        let retry = Backoff::exponential(SECOND / 1_000).max_attempts(4);
        let overflow = Overflow::Block { timeout: SECOND };
        let options = TopicOptions::new()
            .capacity(256)
            .overflow(overflow)
            .retry(retry);
        let open = |name| broker.topic::<Order>(name).options(&options).open();
        let (new, valid, paid) = (
            open("orders.new")?,
            open("orders.valid")?,
            open("orders.paid")?,
        );
        let reminders = Arc::new(Reminders {
            topic: open("reminders")?,
            waiting: Mutex::default(),
        });
        let in_order = SubscriptionOptions::new()
            .on_failure(OnFailure::BlockKey)
            .concurrency(4);

        let onward = valid.clone();
        let checks = new.subscription("checks").options(&in_order);
        let checks = checks.subscribe_shared(move |order| match order.payload() {
            Order { cents: 0, .. } => Err(Nack::dead_letter("an order without a total")),
            order => pass_on(&onward, order),
        })?;
        checks.detach();

        let payment = valid.subscription("payment").options(&in_order);
        let payment = payment.on_exhausted(OnExhausted::ParkKey).group()?;
        for teller in ["one", "two"] {
            let (world, onward) = (Arc::clone(world), paid.clone());
            let reminders = Arc::clone(&reminders);
            let teller = payment.member(teller).join_shared(move |order| {
                let order = order.payload();
                world.pay(order)?; // an error is retried, and then a dead letter
                pass_on(&onward, order)?;
                reminders.cancel(order.number);
                Ok(())
            })?;
            teller.detach();
        }
        payment.detach();

        let database = Arc::clone(world);
        let ledger = broker.subscription::<Order>("ledger").matching("orders.*");
        let ledger = ledger.filter(|order| order.payload().cents >= 10_000);
        let batches = Batched::of(64).linger(SECOND / 200);
        let ledger = ledger.subscribe_batches(batches, move |batch| {
            let rows = batch.iter();
            let rows = rows.map(|order| (order.topic().to_owned(), order.payload().number));
            database.ledger.lock().expect("nobody panics").extend(rows);
            Ok(())
        })?;
        ledger.detach();

        let parcels = paid.subscription("shipping").pull(Pull::default())?;
        let ship = |_| {
            let (parcels, world) = (parcels.clone(), Arc::clone(world));
            thread::spawn(move || {
                for parcel in &parcels {
                    world.shipped.fetch_add(1, Relaxed);
                    parcel.ack()?;
                }
                Ok(())
            })
        };
        Ok(Self {
            shippers: (0..2).map(ship).collect(),
            broker,
            new,
            valid,
            reminders,
        })
    }

    /// Takes one order. Returns whether it passed the checks.
    fn place(&self, order: Order) -> Result<bool, Box<dyn Error>> {
        self.reminders.set(order)?;
        let tracker = self.new.tracker();
        self.new
            .message(order)
            .key(order.key())
            .tracked(&tracker)
            .publish()?;
        let is_valid = tracker.wait_timeout(SECOND)?.is_delivered();
        if !is_valid {
            self.reminders.cancel(order.number);
        }
        Ok(is_valid)
    }

    /// Takes many orders, and waits for room meanwhile.
    fn import(&self, orders: impl Iterator<Item = Order>) -> Result<(), Box<dyn Error>> {
        let messages = orders.map(|order| Message::new(order).key(order.key()));
        self.new.publish_messages(messages)?;
        Ok(())
    }

    /// Tries again what the bank refused.
    fn retry_payments(&self) -> Result<Redrive, Box<dyn Error>> {
        let patient = RedriveOptions::new().wait(SECOND);
        Ok(self.valid.dead_letters().redrive_with(patient, |_| true)?)
    }

    /// Refuses new orders, and works off those that are there.
    fn stop(self) -> Result<DrainReport, Box<dyn Error>> {
        let report = self.broker.drain_pipeline(10 * SECOND)?;
        for shipper in self.shippers {
            shipper.join().expect("no shipper panics")?;
        }
        Ok(report)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let world = Arc::new(World::default());
    let service = Service::start(&world)?;
    let order = |number: u32| Order {
        number,
        customer: number % 10,
        cents: 100 * number,
    };
    assert!(!service.place(order(0))?, "it has no total");
    assert!(service.place(order(1))?);

    println!("the bank is down for the first orders, and up again for the others");
    assert!(service.broker.wait_until_idle(SECOND));
    world.bank_is_down.store(true, Relaxed);
    service.import((2..50).map(order))?;
    assert!(service.broker.wait_until_idle(10 * SECOND));
    world.bank_is_down.store(false, Relaxed);
    assert_eq!(service.retry_payments()?.redriven, 48);
    service.import((50..2_000).map(order))?;

    println!("{}", service.broker.metrics());
    let report = service.stop()?;
    println!("{report}");
    let payments = world.payments.lock().expect("nobody panics");
    assert!(payments.values().all(|numbers| numbers.is_sorted()));
    assert_eq!(payments.values().map(Vec::len).sum::<usize>(), 1_999);
    assert_eq!(world.shipped.load(Relaxed), 1_999);
    let ledger = world.ledger.lock().expect("nobody panics");
    assert_eq!(ledger.len(), 3 * 1_900, "each large order, at each stage");
    Ok(())
}
