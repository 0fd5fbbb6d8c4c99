//! Pulls deliveries on lease, and settles each when its work is done.
//!
//! The example moves the clock itself. Run it with `cargo run --example 17_pull_worker`.

use std::error::Error;
use std::time::Duration;

use millstream::error::{StaleError, TryRecvError};
use millstream::{Backoff, Broker, ManualClock, Nack, Pull};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    let retry = Backoff::fixed(SECOND).max_attempts(2);
    let jobs = broker.topic::<&str>("jobs").retry(retry).open()?;
    let pull = Pull::default().credits(4).ack_deadline(10 * SECOND);
    let worker = jobs.subscription("worker").pull(pull)?;

    jobs.publish_batch(["quick", "broken", "slow", "forgotten", "stuck"])?;
    let mut batch = worker.recv_batch(9, Duration::ZERO)?;
    assert_eq!(batch.len(), 4, "as many as there are credits");
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));

    let mut others = batch.extract_if(|job| *job.payload() != "quick");
    batch.ack_all()?; // what is left of it, at once
    let forgotten = others.pop();
    let [broken, mut slow] = others.try_into().map_err(|_| "there are two more")?;
    broken.nack(Nack::dead_letter("it never works"))?;
    slow.extend(60 * SECOND)?; // longer than most take
    drop(forgotten); // a failed attempt: it comes back
    let stuck = worker.recv()?;
    println!("out: {} and {}", slow.payload(), stuck.payload());

    clock.advance(11 * SECOND); // past the deadline of what is stuck
    let again = worker.recv()?;
    assert_eq!((*again.payload(), again.attempt()), ("forgotten", 2));
    again.ack()?;
    assert_eq!(stuck.ack(), Err(StaleError), "too late: it is tried again");
    slow.ack()?;
    clock.advance(2 * SECOND);
    for lease in &worker {
        println!("{} again, attempt {}", lease.payload(), lease.attempt());
        lease.ack()?;
    }

    let metrics = worker.metrics();
    assert_eq!((metrics.abandoned, metrics.timed_out), (1, 1));
    assert_eq!((metrics.stale, metrics.counts.delivered), (1, 4));
    assert_eq!(jobs.dead_letters().len(), 1);
    println!("{}", broker.drain(SECOND)?);
    Ok(())
}
