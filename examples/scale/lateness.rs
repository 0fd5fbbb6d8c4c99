//! How late timers come.

use std::iter;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use millstream::Broker;

use crate::random::Random;
use crate::table::Table;
use crate::{HANG, Outcome, TICK, same};

/// Timers in a round.
const TIMERS: usize = 1_000;
/// Set at a time, for the next 1 to 50 ms: one every millisecond or so, and each
/// finds all threads asleep.
const PENDING: usize = 40;
const LIMIT: Duration = TICK.saturating_mul(2);

pub fn lateness(table: &mut Table) -> Outcome {
    table.percentiles(
        "lateness of this machine: a thread that sleeps",
        None,
        machine,
    )?;
    let what = "lateness of the wheel, asked without a pause";
    table.percentiles(what, Some(LIMIT), polled)?;
    let what = "lateness of a handler, on a worker that slept";
    table.percentiles(what, Some(LIMIT), on_threads)
}

/// What every timer on this machine has to live with.
fn machine() -> Outcome<Vec<Duration>> {
    let sleeps = delays().take(TIMERS).map(|delay| {
        let asked = delay / PENDING as u32;
        let until = Instant::now() + asked;
        thread::sleep(asked);
        until.elapsed()
    });
    Ok(sleeps.collect())
}

/// What the wheel itself adds, which is up to a tick: nobody has to wake.
fn polled() -> Outcome<Vec<Duration>> {
    let broker = Broker::builder().workers(0).build()?;
    delayed(&broker, || {
        while broker.next_deadline().is_some() {
            broker.run_until_idle();
        }
    })
}

/// The timer thread wakes, and then a worker.
fn on_threads() -> Outcome<Vec<Duration>> {
    let broker = Broker::new()?;
    delayed(&broker, || {
        assert!(broker.wait_until_idle(HANG));
    })
}

/// How late delayed messages came, by the clock of their handler.
fn delayed(broker: &Broker, wait: impl Fn()) -> Outcome<Vec<Duration>> {
    let topic = broker.topic::<Instant>("late").open()?;
    let (tell, lates) = mpsc::channel();
    let _subscription = topic.subscribe("clock", move |delivery| {
        tell.send(delivery.payload().elapsed())?;
        Ok(())
    })?;
    let mut delays = delays();
    for _ in 0..TIMERS / PENDING {
        for delay in delays.by_ref().take(PENDING) {
            topic.publish_after(delay, Instant::now() + delay)?;
        }
        wait();
    }
    let lates: Vec<_> = lates.try_iter().collect();
    same(lates.len() as u64, TIMERS as u64, "messages")?;
    Ok(lates)
}

fn delays() -> impl Iterator<Item = Duration> {
    let mut random = Random::new();
    iter::repeat_with(move || Duration::from_micros(1_000 + random.below(49_000)))
}
