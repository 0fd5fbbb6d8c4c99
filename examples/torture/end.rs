//! How a broker's life ends, and what must be true then.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::error::DrainError;
use millstream::metrics::{DrainReport, TopicMetrics};
use millstream::{Broker, Immediate, Metrics, PublishError};

use crate::asker;
use crate::faults::{Fault, Faults};
use crate::hooks::Ears;
use crate::life::Life;
use crate::partitions;
use crate::shot::Shot;
use crate::verdict::{check, fail, same};
use crate::watch::{self, Books};
use crate::witness::Counted;

/// What a busy machine may add to a deadline, or to an end that has begun: it is run
/// beside the suite under a sanitizer.
pub const SLACK: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);

/// How it ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The publishers stop, all comes to rest, then it is drained.
    Rest,
    /// A drain while publishers publish, handlers among them.
    Drain { deadline: Duration, by_stages: bool },
    /// A handler begins the drain.
    DrainInside,
    /// It is dropped while publishers publish.
    Drop,
}

impl End {
    pub fn any(random: &mut Rng, faults: Faults) -> Self {
        let mut ends = vec![Self::Rest];
        if faults.has(Fault::Drain) {
            let deadline = Duration::from_millis([0, 1, 50, 500][random.usize(..4)]);
            let by_stages = random.bool();
            ends.push(Self::Drain {
                deadline,
                by_stages,
            });
        }
        if faults.has(Fault::Meddling) {
            ends.push(Self::DrainInside);
        }
        if faults.has(Fault::Drop) {
            ends.push(Self::Drop);
        }
        ends[random.usize(..ends.len())]
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest => f.write_str("ends at rest"),
            Self::Drain {
                deadline,
                by_stages,
            } => {
                let how = if *by_stages { "by stages " } else { "" };
                write!(f, "ends by a drain {how}of {deadline:?} under load")
            }
            Self::DrainInside => f.write_str("ends by a drain that a handler begins"),
            Self::Drop => f.write_str("ends by a drop under load"),
        }
    }
}

/// Ends the life as it is meant to; answers what it came to.
pub fn end(life: &Life, actors: Vec<JoinHandle<()>>, ears: Option<Arc<Ears>>) -> Books {
    let Some(broker) = life.slot.broker() else {
        unreachable!("only this takes it away");
    };
    let report = match life.end {
        End::Rest => {
            leave(life, actors);
            let retained = rest(life, &broker);
            let report = drain(&broker, LONG, false, "a drain at rest");
            same("drain", "cut off at rest", report.cut_off, retained);
            report
        }
        End::Drain {
            deadline,
            by_stages,
        } => {
            let report = drain(&broker, deadline, by_stages, "a drain under load");
            leave(life, actors);
            report
        }
        End::DrainInside => {
            sleep(Duration::from_millis(100));
            let deadline = Duration::from_secs(1);
            let report = drain(&broker, deadline, false, "a drain that a handler began");
            leave(life, actors);
            report
        }
        End::Drop => {
            watch::step("dropping the broker", SLACK + LONG);
            drop((broker, life.slot.take()));
            leave(life, actors);
            return dropped(life);
        }
    };
    let complete = report.cut_off == 0 || matches!(life.end, End::Rest);
    let books = settled(life, &broker, complete);
    if let Some(ears) = ears {
        watch::step("observers", LONG);
        // Nobody hears of handlers that return after the end.
        ears.compare(&broker, report.remaining == 0);
    }
    books
}

/// Has everybody outside stop, and lets handlers return that don't by themselves.
fn leave(life: &Life, actors: Vec<JoinHandle<()>>) {
    watch::step("threads that make trouble", LONG);
    life.over.store(true, Relaxed);
    for actor in actors {
        check(actor.join().is_ok(), "panics", "a thread of ours died");
    }
    life.latch.open();
}

/// Waits until all is at rest and checks the books; answers how many messages are
/// retained.
fn rest(life: &Life, broker: &Broker) -> u64 {
    watch::step("coming to rest", LONG + SLACK);
    // For topics that came and have not gone, too.
    let swapped = broker.set_strategy(Immediate);
    check(swapped.is_ok(), "swaps", "a strategy was refused");
    for ledger in &life.ledgers {
        ledger.topic().flush();
    }
    check(
        comes_to_rest(life, broker),
        "progress",
        format_args!("it does not come to rest:\n{}", broker.metrics()),
    );
    let metrics = broker.metrics();
    compare(life, &metrics, false);
    life.ledgers
        .iter()
        .for_each(|ledger| partitions::compare(ledger));
    metrics.topics.iter().map(|topic| topic.queued).sum()
}

/// Waits for rest, and makes room for the followers of dead letters: while the store is
/// full, they wait in their lanes.
fn comes_to_rest(life: &Life, broker: &Broker) -> bool {
    let began = Instant::now();
    loop {
        if broker.wait_until_idle(Duration::from_secs(1)) {
            return true;
        }
        if began.elapsed() >= LONG {
            return false;
        }
        if let Some(ledger) = life.keyed() {
            let purged = ledger.topic().dead_letters().purge(|_| true);
            ledger.purged.fetch_add(purged as u64, Relaxed);
        }
    }
}

fn drain(broker: &Broker, deadline: Duration, by_stages: bool, what: &'static str) -> DrainReport {
    watch::step(what, deadline + SLACK + LONG);
    let stuck = watch::STUCK.load(Relaxed);
    let began = Instant::now();
    let drained = match by_stages {
        true => broker.drain_pipeline(deadline),
        false => broker.drain(deadline),
    };
    let took = began.elapsed();
    check(
        took <= deadline + SLACK,
        "drain",
        format_args!("{what} of {deadline:?} took {took:?}"),
    );
    let late_us = took.saturating_sub(deadline).as_micros() as u64;
    watch::LATEST_US.fetch_max(late_us, Relaxed);
    check(
        stuck == 0 || took >= deadline,
        "drain",
        format_args!("{what} of {deadline:?} gave up after {took:?}"),
    );
    let report = match &drained {
        Ok(report) => *report,
        Err(error @ DrainError::Incomplete(_)) => *error.report(),
        Err(error) => return fail_drain(error),
    };
    same(
        "drain",
        "whether it is complete",
        report.is_complete(),
        drained.is_ok(),
    );
    let remains = report.remaining >= stuck as u64;
    check(
        remains,
        "drain",
        format_args!("{stuck} handlers are stuck, but {report}"),
    );
    let of = report;
    let ended = of.delivered + of.dead_lettered + of.dropped + of.expired + of.cancelled;
    check(
        ended <= of.made,
        "drain",
        format_args!("more ends than beginnings: {report}"),
    );
    check(
        broker.drain(LONG) == drained,
        "drain",
        "asked again it answers something else",
    );
    report
}

fn fail_drain(error: &DrainError) -> DrainReport {
    fail("drain", error);
    *error.report()
}

/// After a drain: nothing is left, and everything is accounted for.
fn settled(life: &Life, broker: &Broker, complete: bool) -> Books {
    watch::step("handlers that have been let go", LONG);
    wait_for(|| broker.metrics().topics.iter().all(is_settled));
    let metrics = broker.metrics();
    compare(life, &metrics, true);
    for ledger in &life.ledgers {
        let refused = ledger.topic().publish(Shot::new(0, 0, 0));
        check(
            matches!(refused, Err(PublishError::Closed(_))),
            "drain",
            "a publish after it was accepted",
        );
        if complete {
            ledger.compare_streams();
        }
    }
    Books::of(&metrics)
}

/// The books of the broker as a whole, and of each topic.
fn compare(life: &Life, metrics: &Metrics, ended: bool) {
    let balanced = metrics.balance();
    check(
        balanced.is_ok(),
        "conservation",
        format_args!("{balanced:?}\n{metrics}"),
    );
    for ledger in &life.ledgers {
        ledger.compare(&ledger.topic().metrics(), ended);
    }
    let short = life.short.lock().expect("nothing panics in here");
    let all = || life.ledgers.iter().chain(short.iter());
    let accepted: u64 = all().map(|ledger| ledger.accepted.load(Relaxed)).sum();
    let mut counted = Counted::default();
    all().for_each(|ledger| counted.add_all(&ledger.counted()));
    // The asker looks to its own topic.
    let mut published_here = metrics.clone();
    published_here
        .topics
        .retain(|topic| topic.name != asker::TOPIC);
    let books = Books::of(&published_here);
    same(
        "accounts",
        "messages of the broker",
        books.accepted,
        accepted,
    );
    counted.compare("the broker", &books.deliveries);
}

/// After a drop: the topics that are still held are all there is to ask.
fn dropped(life: &Life) -> Books {
    watch::step("what a dropped broker leaves", LONG);
    let topics = || life.ledgers.iter().map(|ledger| ledger.topic().metrics());
    wait_for(|| topics().all(|topic| is_settled(&topic)));
    let mut books = Books::default();
    for ledger in &life.ledgers {
        let metrics = ledger.topic().metrics();
        ledger.compare(&metrics, true);
        books.add_topic(&metrics);
    }
    books
}

/// Waits a little; what has not come to pass then is seen in the books.
fn wait_for(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && began.elapsed() < SLACK {
        sleep(Duration::from_millis(1));
    }
}

/// Whether nothing is left, and no worker is between two counters.
fn is_settled(topic: &TopicMetrics) -> bool {
    let moving = |lane: &millstream::metrics::SubscriptionMetrics| lane.moving > 0;
    let is_still = topic.moving == 0 && !topic.subscriptions.iter().any(moving);
    is_still && topic.deliveries().open() == 0 && topic.queued == 0 && topic.balance().is_ok()
}
