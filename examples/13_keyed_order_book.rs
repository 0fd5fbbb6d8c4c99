//! Keeps the order of each key through failures: an order book with many symbols.
//!
//! Each symbol's changes are applied one after the other, whatever fails, while other symbols
//! go on. The price feed is down for a while, so changes to ACME fail and are retried; the
//! changes behind them wait.
//!
//! No retry can help a change to an unknown symbol. It goes to the dead letters, and its
//! followers go there behind it. Then somebody lists the symbol and redrives them, in order.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::{Backoff, Broker, Nack, OnExhausted, OnFailure};

const SOON: Duration = Duration::from_secs(10);

/// By how much the position in a symbol changes, and what it must be before.
struct Change {
    symbol: &'static str,
    before: i64,
    by: i64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let changes = broker
        .topic::<Change>("changes")
        .retry(Backoff::fixed(Duration::from_millis(2)).max_attempts(10))
        .open()?;

    let positions = BTreeMap::from([("ACME", 0), ("INIT", 0)]);
    let positions = Arc::new(Mutex::new(positions));
    let outage = Arc::new(AtomicU32::new(3));
    let applied = {
        let (positions, outage) = (Arc::clone(&positions), Arc::clone(&outage));
        move |delivery: &millstream::Delivery<'_, Change>| {
            let change = delivery.payload();
            let one_less = |left: u32| left.checked_sub(1);
            let is_down = || outage.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            if change.symbol == "ACME" && is_down().is_ok() {
                return Err(Nack::retry("the price feed is down"));
            }
            let mut positions = positions.lock().map_err(|_| Nack::retry("poisoned"))?;
            let Some(position) = positions.get_mut(change.symbol) else {
                return Err(Nack::dead_letter("not listed"));
            };
            // Out of order, this would show.
            assert_eq!(*position, change.before, "{}", change.symbol);
            *position += change.by;
            Ok(())
        }
    };
    let book = changes
        .subscription("book")
        .on_failure(OnFailure::BlockKey)
        .on_exhausted(OnExhausted::ParkKey)
        .subscribe(applied)?;

    let publish = |symbol, before, by| {
        let message = changes.message(Change { symbol, before, by });
        message.key(symbol).publish()
    };
    for round in 0..20 {
        publish("ACME", round * 5, 5)?;
        publish("INIT", round, 1)?;
        publish("NEWCO", round * 7, 7)?;
    }
    assert!(broker.wait_until_idle(SOON));

    let metrics = book.metrics();
    println!(
        "{} changes applied in order through {} failures; {} symbol parked, with {} letters",
        metrics.counts.delivered,
        metrics.counts.failed,
        metrics.parked_keys,
        changes.dead_letters().len(),
    );
    assert_eq!((metrics.counts.delivered, metrics.parked_keys), (40, 1));
    assert_eq!(
        metrics.counts.failed, 4,
        "three for the outage, one for NEWCO"
    );
    assert_eq!(changes.dead_letters().len(), 20);

    // NEWCO is listed; what was published meanwhile stays behind what is redriven.
    positions
        .lock()
        .expect("no handler panicked")
        .insert("NEWCO", 0);
    publish("NEWCO", 140, 7)?;
    assert!(broker.wait_until_idle(SOON));
    let redrive = changes
        .dead_letters()
        .redrive(|letter| letter.key() == Some("NEWCO"));
    assert_eq!(redrive.redriven, 21);
    publish("NEWCO", 147, 7)?;

    let report = broker.drain(SOON)?;
    println!("{report}");
    let positions = positions.lock().expect("no handler panicked");
    println!("{positions:?}");
    assert_eq!(
        *positions,
        BTreeMap::from([("ACME", 100), ("INIT", 20), ("NEWCO", 154)])
    );
    Ok(())
}
