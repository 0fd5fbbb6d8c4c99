//! Publishes messages and handles them: demo 1 of 5.
//!
//! One topic, one subscription, three messages. Watch each message's way: `message_enqueued`
//! QUEUED, `delivering` DELIVERING, `delivered` DELIVERED.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::Broker;

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    // Observers run on a thread of their own: a slow one delays nobody.
    let _observation = broker.observe(|event| println!("  {event}"))?;

    let orders = broker.topic::<String>("orders").open()?;
    let (billed, bills) = mpsc::channel();
    let _billing = orders.subscribe("billing", move |delivery| {
        // Any error is a nack, so `?` just works in a handler.
        billed.send((delivery.id(), delivery.payload().clone()))?;
        Ok(())
    })?;

    // Idle means that the observers have been told, too: for a tidy screen.
    assert!(broker.wait_until_idle(Duration::from_secs(10)));
    println!("three orders come in");
    let mut receipts = Vec::new();
    for order in ["tea", "scones", "jam"] {
        // Accepted, not handled: a publish never waits for a subscriber.
        receipts.push(orders.publish(order.to_owned())?.id());
    }
    assert!(broker.wait_until_idle(Duration::from_secs(10)));

    // One subscription gets its messages one at a time, in accept order.
    let (ids, handled): (Vec<_>, Vec<_>) = bills.try_iter().unzip();
    assert_eq!(handled, ["tea", "scones", "jam"]);
    assert_eq!(ids, receipts);

    let report = broker.drain(Duration::from_secs(10))?;
    assert_eq!((report.published, report.delivered), (3, 3));
    println!("all three were billed, in the order in which they were accepted");
    Ok(())
}
