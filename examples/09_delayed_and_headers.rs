//! Publishes messages with more than a payload: a key, headers, a delay, a time to live.
//!
//! The example moves the clock itself, so that waiting takes no time.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::{Broker, ManualClock};

fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    let _observation = broker.observe(|event| println!("  {event}"))?;
    let second = Duration::from_secs(1);

    let reminders = broker.topic::<&'static str>("reminders").open()?;
    let (shown, screen) = mpsc::channel();
    let display = reminders.subscribe("display", {
        let clock = clock.clone();
        move |delivery| {
            let who = delivery.key().unwrap_or("everybody").to_owned();
            let urgency = delivery.header("urgency").unwrap_or("none").to_owned();
            shown.send((clock.elapsed(), who, urgency, *delivery.payload()))?;
            Ok(())
        }
    })?;

    broker.run_until_idle(); // calls the observers, too
    println!("accepted now, so it has its id and its place; handled in a minute");
    reminders.publish_after(60 * second, "take the cake out")?;
    let metrics = reminders.metrics();
    assert_eq!((metrics.queued, metrics.delayed), (1, 1));
    broker.run_until_idle();

    println!("key and headers travel along; messages without them pay nothing");
    reminders
        .message("water the plants")
        .key("ann")
        .header("urgency", "low")
        .header("sent-by", "the plants")
        .publish()?;
    broker.run_until_idle();

    println!("a message that nobody gets to within its time to live expires");
    reminders
        .message("the bus leaves in 5 s")
        .ttl(5 * second)
        .publish()?;
    // All that happened in these six seconds: this thread was busy elsewhere.
    clock.advance(6 * second);
    broker.run_until_idle();
    assert_eq!(display.metrics().counts.expired, 1);

    clock.advance(54 * second);
    broker.run_until_idle();
    let screen: Vec<_> = screen.try_iter().collect();
    let shown: Vec<_> = screen
        .iter()
        .map(|(at, who, urgency, text)| (at.as_secs(), &who[..], &urgency[..], *text))
        .collect();
    assert_eq!(
        shown,
        [
            (0, "ann", "low", "water the plants"),
            (60, "everybody", "none", "take the cake out"),
        ]
    );
    broker.metrics().balance()?;
    broker.drain(second)?;
    println!("one shown at once, one after a minute, one expired: none is unaccounted for");
    Ok(())
}
