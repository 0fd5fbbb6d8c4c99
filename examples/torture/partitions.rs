//! Topics that are split, and into how many.

use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use millstream::Unkeyed;
use millstream::error::PartitionsError;

use crate::ledger::Ledger;
use crate::life::{Actor, Life};
use crate::verdict::{check, fail, same};

/// More than there are workers, by far.
const MOST: usize = 32;
/// Bytes that as many queues take at the most beside their messages, twice over: those
/// of a table and of the one before it.
pub const BOUND: usize = 2 * MOST * (8 << 10);

/// How a topic is split when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    pub count: usize,
    pub unkeyed: Unkeyed,
}

impl Split {
    pub fn any(capacity: usize, random: &mut Rng) -> Self {
        let unkeyed = [Unkeyed::RoundRobin, Unkeyed::Sticky];
        Self {
            count: random.usize(1..=capacity.min(MOST)),
            unkeyed: unkeyed[random.usize(..2)],
        }
    }
}

/// Changes the number of partitions, again and again. Whether streams keep their order
/// is seen by the witnesses.
pub fn splitter(life: &Life, actor: &Actor, mut random: Rng) {
    while actor.goes_on(life) {
        let ledger = &life.ledgers[random.usize(..life.ledgers.len())];
        let (topic, count) = (ledger.topic(), random.usize(..=MOST));
        let most = ledger.terms.split.map(|_| ledger.terms.capacity);
        let is_possible = most.is_some_and(|most| (1..=most).contains(&count));
        match topic.set_partitions(count) {
            Ok(()) | Err(PartitionsError::Underway) => check(
                is_possible,
                "partitions",
                format_args!("{} was split into {count}", topic.name()),
            ),
            Err(error) if is_possible => fail("partitions", error),
            Err(_) => {}
        }
        sleep(Duration::from_micros(random.u64(..1_000)));
    }
}

/// At rest no change is underway, unless messages wait for a subscription.
pub fn compare(ledger: &Ledger) {
    let topic = ledger.topic();
    let metrics = topic.metrics();
    if ledger.terms.split.is_none() || metrics.queued > 0 {
        return;
    }
    let name = topic.name();
    let changed = topic.set_partitions(topic.partitions() % ledger.terms.capacity + 1);
    check(
        changed.is_ok(),
        "partitions",
        format_args!("a change in {name}, at rest: {changed:?}"),
    );
    let waiting: u64 = topic.metrics().partitions.iter().sum();
    let what = format_args!("messages in the partitions of {name}");
    same("partitions", what, waiting, 0);
}
