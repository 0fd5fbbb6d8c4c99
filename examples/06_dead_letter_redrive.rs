//! Lists dead letters and their reasons, redrives some, and purges the rest.
//!
//! Two subscriptions hear of each invoice. The mailer fails; the ledger doesn't.
//! A redrive therefore goes to the mailer alone: the ledger must not book twice.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::dead_letters::DeadReason;
use millstream::{Backoff, Broker, Nack};

const SOON: Duration = Duration::from_secs(10);

struct Invoice {
    number: u32,
    address: &'static str,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let invoices = broker
        .topic::<Invoice>("invoices")
        .retry(Backoff::fixed(Duration::from_millis(2)).max_attempts(3))
        .open()?;

    let is_up = Arc::new(AtomicBool::new(false));
    let ledger = invoices.subscribe("ledger", |_| Ok(()))?;
    let mailer = invoices.subscribe("mailer", {
        let is_up = Arc::clone(&is_up);
        move |delivery| {
            if !delivery.payload().address.contains('@') {
                // No number of attempts makes this an address.
                return Err(Nack::dead_letter("not an address"));
            }
            if !is_up.load(Ordering::SeqCst) {
                return Err(Nack::retry("the mail server is down"));
            }
            Ok(())
        }
    })?;

    for (number, address) in [
        (1, "ann@example.org"),
        (2, "nowhere"),
        (3, "bob@example.org"),
    ] {
        invoices.publish(Invoice { number, address })?;
    }
    assert!(broker.wait_until_idle(SOON));

    let letters = invoices.dead_letters();
    for letter in letters.list() {
        println!(
            "invoice {} for {}: {}, {:?}, after {} attempt(s)",
            letter.payload().number,
            letter.subscription(),
            letter.reason(),
            letter.error().unwrap_or_default(),
            letter.attempts(),
        );
        assert_eq!(letter.failures().count(), letter.attempts() as usize);
    }
    assert_eq!(letters.len(), 3);

    // Redrive what can succeed now, and forget what never will.
    is_up.store(true, Ordering::SeqCst);
    let redrive = letters.redrive(|letter| letter.reason() == DeadReason::Exhausted);
    assert_eq!((redrive.redriven, redrive.no_room), (2, 0));
    assert_eq!(letters.purge(|letter| letter.payload().number == 2), 1);
    assert!(broker.wait_until_idle(SOON));

    assert!(letters.is_empty());
    assert_eq!(mailer.metrics().counts.delivered, 2);
    assert_eq!(mailer.metrics().counts.redriven, 2);
    assert_eq!(
        ledger.metrics().counts.made,
        3,
        "the ledger heard of each once"
    );
    broker.metrics().balance()?;
    broker.drain(SOON)?;
    println!("two letters redriven and mailed, one purged; the ledger noticed nothing");
    Ok(())
}
