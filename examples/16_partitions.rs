//! Splits a topic by key, so that several workers dispatch it.
//!
//! Each account keeps its order, and the number of partitions changes while orders come in.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use millstream::error::PartitionsError;
use millstream::{Broker, Overflow, Topic, key_hash};

const ACCOUNTS: u32 = 20;
const ORDERS: u32 = 5_000;
const SECOND: Duration = Duration::from_secs(1);

struct Order {
    account: u32,
    number: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let orders = broker
        .topic::<Order>("orders")
        .partitions(2)
        .overflow(Overflow::Block { timeout: SECOND })
        .open()?;
    // The hash is frozen: any program can tell where a key goes.
    let partition = orders.partition_of("account-7");
    assert_eq!(partition as u64, key_hash("account-7") % 2);

    let (booked, bookings) = mpsc::channel();
    let _ledger = orders.subscribe("ledger", move |delivery| {
        let order = delivery.payload();
        Ok(booked.send((order.account, order.number))?)
    })?;

    thread::scope(|scope| {
        let publishers = [0, 1].map(|half| {
            let orders = &orders;
            scope.spawn(move || publish(orders, half))
        });
        for partitions in [4, 1, 8] {
            change(&orders, partitions)?;
        }
        for publisher in publishers {
            publisher.join().expect("it doesn't panic")?;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    println!("{}", broker.drain(10 * SECOND)?);

    let mut last = BTreeMap::new();
    for (account, number) in bookings.try_iter() {
        let before = last.insert(account, number);
        assert!(before < Some(number), "account {account} out of order");
    }
    assert_eq!(last.len(), ACCOUNTS as usize);
    println!("{ACCOUNTS} accounts, each in order, through 2, 4, 1 and 8 partitions");
    Ok(())
}

/// Publishes the orders of every other account, from one thread: a key has an order
/// only if somebody gives it one.
fn publish(orders: &Topic<Order>, half: u32) -> Result<(), String> {
    for number in 0..ORDERS {
        let account = number % (ACCOUNTS / 2) * 2 + half;
        let message = orders.message(Order { account, number });
        let published = message.key(format!("account-{account}")).publish();
        published.map_err(|refused| refused.to_string())?;
    }
    Ok(())
}

/// What came before a change is dispatched first. Until that is done, there is no next.
fn change(orders: &Topic<Order>, partitions: usize) -> Result<(), PartitionsError> {
    while let Err(refused) = orders.set_partitions(partitions) {
        if refused != PartitionsError::Underway {
            return Err(refused);
        }
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(1));
    Ok(())
}
