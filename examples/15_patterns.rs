//! Subscribes one handler to a pattern of topics that come and go.
//!
//! Each topic keeps its own order, retries and dead letters. The example moves the clock
//! itself, so that waiting takes no time.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::{Backoff, Broker, ManualClock, Nack, Unsubscribe};

fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    let _observation = broker.observe(|event| println!("  {event}"))?;
    let second = Duration::from_secs(1);

    println!("a topic that is there, two patterns, and a topic that comes later");
    let eu = broker.topic::<u64>("orders.eu").open()?;
    let (noted, ledger) = mpsc::channel();
    let audit = broker
        .subscription::<u64>("audit")
        .matching("orders.>")
        .matching("*.us") // matches orders.us, too: that makes one delivery
        .retry(Backoff::fixed(second).max_attempts(2))
        .subscribe(
            move |delivery| match (delivery.topic(), delivery.attempt()) {
                ("orders.us", 1) => Err(Nack::retry("the line to the US is down")),
                (topic, _) => Ok(noted.send((topic.to_owned(), *delivery.payload()))?),
            },
        )?;
    let us = broker.topic::<u64>("orders.us").open()?;
    us.publish(1)?;
    eu.publish(2)?;
    broker.run_until_idle();

    println!("a topic that fails delays no other");
    let next = || ledger.try_recv().ok();
    assert_eq!(next(), Some(("orders.eu".to_owned(), 2)));
    assert_eq!(next(), None);
    clock.advance(second);
    broker.run_until_idle();
    assert_eq!(next(), Some(("orders.us".to_owned(), 1)));

    println!("a session comes, is heard, and goes: what has nothing to do keeps no topic");
    audit.add("sessions.*")?;
    broker.topic::<u64>("sessions.42").open()?.publish(3)?;
    broker.run_until_idle();
    assert_eq!(next(), Some(("sessions.42".to_owned(), 3)));
    broker.remove_topic("sessions.42")?;

    println!("without a pattern that matches, the subscription to a topic ends");
    audit.remove("orders.>", Unsubscribe::Cancel)?;
    let topics: Vec<_> = audit.topics();
    assert_eq!(topics, ["orders.us".into()], "*.us still matches");
    eu.publish(4)?;
    broker.run_until_idle();
    assert_eq!(next(), None);

    let metrics = broker.metrics();
    metrics.balance()?;
    println!("{metrics}");
    let counts = audit.metrics().counts;
    assert_eq!((counts.made, counts.delivered, counts.failed), (3, 3, 1));
    broker.drain(second)?;
    assert!(audit.has_ended());
    println!("three topics, three deliveries, none of them twice");
    Ok(())
}
