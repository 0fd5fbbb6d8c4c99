//! Broadcasts every message to every subscription: demo 3 of 5.
//!
//! One of three subscriptions fails at first. Only that one is called again: a retry belongs
//! to a delivery, and each subscription has its own.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::{Backoff, Broker, Nack};

/// Not `Clone`, and it needn't be: the subscriptions share each payload.
struct Goal {
    minute: u8,
    scorer: &'static str,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let _observation = broker.observe(|event| println!("  {event}"))?;

    let goals = broker
        .topic::<Goal>("goals")
        .retry(Backoff::fixed(Duration::from_millis(5)))
        .open()?;
    let (seen, sightings) = mpsc::channel();
    let mut subscriptions = Vec::new();
    for name in ["scoreboard", "radio", "archive"] {
        let seen = seen.clone();
        subscriptions.push(goals.subscribe(name, move |delivery| {
            if name == "radio" && delivery.attempt() == 1 {
                return Err(Nack::retry("the line is noisy"));
            }
            let Goal { minute, scorer } = delivery.payload();
            seen.send((name, format!("{minute}' {scorer}")))?;
            Ok(())
        })?);
    }

    for (minute, scorer) in [(12, "Kerr"), (88, "Marta")] {
        goals.publish(Goal { minute, scorer })?;
    }
    assert!(broker.wait_until_idle(Duration::from_secs(10)));

    let sightings: Vec<_> = sightings.try_iter().collect();
    for subscription in &subscriptions {
        let own = sightings
            .iter()
            .filter(|(name, _)| *name == subscription.name());
        let mut goals: Vec<_> = own.map(|(_, goal)| goal.as_str()).collect();
        // A retry may come after its successors, so the radio's order may differ.
        goals.sort_unstable();
        assert_eq!(goals, ["12' Kerr", "88' Marta"]);

        let counts = subscription.metrics().counts;
        let failures = if subscription.name() == "radio" { 2 } else { 0 };
        assert_eq!((counts.delivered, counts.failed), (2, failures));
    }
    broker.drain(Duration::from_secs(10))?;
    println!("2 goals, 3 subscriptions, 6 deliveries; only the radio had to ask twice");
    Ok(())
}
