//! Refuses publishes while a topic is full, and keeps what fails for good: demo 5 of 5.
//!
//! The warehouse is slow, so the topic fills and refuses an order. Then it turns
//! out that the warehouse can't ship anything: attempts run out, and the orders
//! become dead letters. The cause is fixed, they are redriven, and nothing is lost.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use millstream::dead_letters::DeadReason;
use millstream::{Backoff, Broker, Nack, Overflow, PublishError};

const SOON: Duration = Duration::from_secs(10);

/// Tells the story in order: first lets the observers say what has happened.
fn tell(broker: &Broker, text: &str) {
    let _ = broker.wait_until_idle(Duration::from_millis(20));
    println!("{text}");
}

/// Waits, within reason, for what the workers are about to do.
fn wait_until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::yield_now();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let _observation = broker.observe(|event| println!("  {event}"))?;

    let orders = broker
        .topic::<&'static str>("orders")
        .capacity(2)
        .overflow(Overflow::Reject)
        .retry(Backoff::fixed(Duration::from_millis(5)).max_attempts(3))
        .open()?;
    let is_locked = Arc::new(AtomicBool::new(true));
    let (entered, entries) = mpsc::channel();
    let (open, opened) = mpsc::channel::<()>();
    let warehouse = orders
        .subscription("warehouse")
        // One delivery at a time; while it is busy, the topic itself has to wait.
        .capacity(1)
        .subscribe({
            let is_locked = Arc::clone(&is_locked);
            move |delivery| {
                entered.send(delivery.id())?;
                // Nobody answers once the other end is dropped: then don't wait.
                let _ = opened.recv();
                if is_locked.load(Ordering::SeqCst) {
                    return Err(Nack::retry("the door is locked"));
                }
                Ok(())
            }
        })?;

    tell(&broker, "one order is in hand, two more fill the topic");
    orders.publish("lamp")?;
    entries.recv_timeout(SOON)?;
    wait_until(|| orders.metrics().queued == 0); // it has left the topic for good
    orders.publish("desk")?;
    orders.publish("chair")?;
    let sofa = match orders.publish("sofa") {
        Err(PublishError::Full(sofa)) => sofa, // handed back: ours to shed or to keep
        other => return Err(format!("expected a full topic, got {other:?}").into()),
    };

    tell(
        &broker,
        "the warehouse works on in vain: three attempts each",
    );
    drop(open);
    assert!(broker.wait_until_idle(SOON));
    let letters = orders.dead_letters().list();
    for letter in &letters {
        assert_eq!(letter.reason(), DeadReason::Exhausted);
        assert_eq!(
            (letter.attempts(), letter.error()),
            (3, Some("the door is locked"))
        );
    }
    let lost: Vec<_> = letters.iter().map(|letter| *letter.payload()).collect();
    assert_eq!(lost, ["lamp", "desk", "chair"]);

    tell(&broker, "the key is found: redrive, then publish the sofa");
    is_locked.store(false, Ordering::SeqCst);
    for _ in &letters {
        // The lane has room for one; letters that don't fit stay and go later.
        let redrive = orders.dead_letters().redrive(|_| true);
        println!("  {} went, {} stay", redrive.redriven, redrive.no_room);
        assert!(broker.wait_until_idle(SOON));
    }
    assert!(orders.dead_letters().is_empty());
    orders.publish(sofa)?;
    assert!(broker.wait_until_idle(SOON));

    let counts = warehouse.metrics().counts;
    assert_eq!(
        (counts.dead_lettered, counts.redriven, counts.delivered),
        (3, 3, 4)
    );
    assert_eq!((counts.attempts, counts.failed), (13, 9));
    let metrics = broker.metrics();
    assert_eq!(orders.metrics().rejected, 1);
    metrics.balance()?;
    println!("\n{metrics}");
    println!("{}", broker.drain(SOON)?);
    Ok(())
}
