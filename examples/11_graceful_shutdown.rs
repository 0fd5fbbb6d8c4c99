//! Drains a broker, and accounts for every message.
//!
//! A drain refuses new work, finishes accepted work, and reports. If the deadline comes first,
//! the rest is cancelled, and the report says how much that was. An end may be incomplete, but
//! never silent.

use std::error::Error;
use std::time::Duration;

use millstream::error::DrainError;
use millstream::{Backoff, Batched, Broker, Nack, PublishError};

const SOON: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    println!("a drain in good order:");
    let broker = Broker::builder().workers(2).build()?;
    let jobs = broker
        .topic::<u32>("jobs")
        // Half a batch would wait for ever; a drain flushes it.
        .strategy(Batched::of(1_000).until_full())
        .open()?;
    let _worker = jobs.subscribe("worker", |delivery| match delivery.payload() {
        0 => Err(Nack::dead_letter("nothing to do")),
        _ => Ok(()),
    })?;
    jobs.publish_batch(0..100)?;
    // Due before the deadline, so the drain waits for it.
    jobs.publish_after(Duration::from_millis(20), 100)?;

    let report = broker.drain(SOON)?;
    println!("  {report}");
    assert_eq!((report.published, report.made), (101, 101));
    assert_eq!((report.delivered, report.dead_lettered), (100, 1));
    assert!(report.is_complete());

    // From then on publishers get their payload back.
    let Err(PublishError::Closed(job)) = jobs.publish(7) else {
        return Err("a drained broker accepted a message".into());
    };
    assert_eq!(job, 7);
    assert!(broker.is_closed());
    // Draining twice is no mistake: the second call gets the same report.
    assert_eq!(broker.drain(SOON)?, report);

    println!("a drain that can't finish:");
    let broker = Broker::builder().workers(2).build()?;
    let jobs = broker
        .topic::<u32>("jobs")
        .retry(Backoff::fixed(Duration::from_secs(3_600)))
        .open()?;
    let _worker = jobs.subscribe("worker", |delivery| match delivery.payload() {
        3 => Err(Nack::retry("come back in an hour")),
        _ => Ok(()),
    })?;
    jobs.publish_batch([1, 2, 3])?;
    // The retry is due long after the deadline, so nobody waits for it.
    let Err(DrainError::Incomplete(report)) = broker.drain(SOON) else {
        return Err("a retry in an hour was neither cut off nor reported".into());
    };
    println!("  {report}");
    assert_eq!(
        (report.delivered, report.cancelled, report.cut_off),
        (2, 1, 1)
    );
    assert_eq!(report.remaining, 0);
    assert!(report.took < SOON);
    Ok(())
}
