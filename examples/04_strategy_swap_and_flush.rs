//! Swaps to batches, flushes waiting messages, and swaps back: demo 4 of 5.
//!
//! A strategy decides *when* waiting messages are handed on. It holds none of them, so a swap
//! can't strand any. The new strategy judges the messages that waited under the old one.

use std::error::Error;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use millstream::{Batched, Broker, Immediate};

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

    let readings = broker.topic::<u32>("readings").open()?;
    let (stored, store) = mpsc::channel();
    let _storage = readings.subscribe("storage", move |delivery| {
        stored.send(*delivery.payload())?;
        Ok(())
    })?;

    tell(
        &broker,
        "batches of two, however long that takes: one waits",
    );
    readings.set_strategy(Batched::of(2).until_full())?;
    readings.publish(1)?;
    tell(
        &broker,
        "two more: one completes the batch, the other waits",
    );
    assert!(store.try_recv().is_err(), "half a batch isn't handed on");
    readings.publish(2)?;
    readings.publish(3)?;
    assert_eq!(store.recv_timeout(SOON)?, 1);
    assert_eq!(store.recv_timeout(SOON)?, 2);
    wait_until(|| readings.metrics().queued == 1);

    tell(&broker, "flush: the rest goes now");
    readings.flush();
    assert_eq!(store.recv_timeout(SOON)?, 3);

    tell(&broker, "a fourth waits; immediate delivery takes it along");
    readings.publish(4)?;
    wait_until(|| readings.metrics().queued == 1);
    readings.set_strategy(Immediate)?;
    assert_eq!(store.recv_timeout(SOON)?, 4);

    assert!(broker.wait_until_idle(SOON));
    let metrics = readings.metrics();
    assert_eq!(
        (metrics.published, metrics.dispatched, metrics.queued),
        (4, 4, 0)
    );
    assert_eq!(metrics.strategy, "immediate");
    broker.drain(SOON)?;
    println!("two swaps and a flush: four readings in, four out, in order");
    Ok(())
}
