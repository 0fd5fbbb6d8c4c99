//! Retries a handler that fails, until it succeeds: demo 2 of 5.
//!
//! The payment gateway is down for the first two calls about order 1. Its delivery goes
//! DELIVERING, FAILED, RETRY_SCHEDULED and round again, and the attempt grows each time.
//! Order 2 is not held up by it.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::{Backoff, Broker, Nack};

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let _observation = broker.observe(|event| println!("  {event}"))?;

    let payments = broker
        .topic::<u32>("payments")
        // 10 ms, then 20 ms: on the timer wheel, so no worker sleeps meanwhile.
        .retry(Backoff::exponential(Duration::from_millis(10)).max_attempts(4))
        .open()?;
    let (called, calls) = mpsc::channel();
    let _gateway = payments.subscribe("gateway", move |delivery| {
        let (order, attempt) = (*delivery.payload(), delivery.attempt());
        called.send((order, attempt))?;
        if order == 1 && attempt <= 2 {
            return Err(Nack::retry("the gateway is down"));
        }
        Ok(())
    })?;

    payments.publish_batch([1, 2])?;
    assert!(broker.wait_until_idle(Duration::from_secs(10)));

    let calls: Vec<_> = calls.try_iter().collect();
    let attempts_at = |order| {
        let calls = calls.iter().filter(move |call| call.0 == order);
        calls.map(|call| call.1).collect::<Vec<_>>()
    };
    assert_eq!(
        attempts_at(1),
        [1, 2, 3],
        "redelivery increments the attempt"
    );
    assert_eq!(attempts_at(2), [1], "what succeeded is not delivered again");

    let counts = payments.metrics().deliveries();
    assert_eq!((counts.failed, counts.retried), (2, 2));
    assert_eq!((counts.delivered, counts.dead_lettered), (2, 0));
    broker.drain(Duration::from_secs(10))?;
    println!("order 1 was paid on the third attempt, order 2 on the first");
    Ok(())
}
