//! Strategies, policies and observers: ordinary ones, and others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::error::SettingError;
use millstream::event::{Event, Observation};
use millstream::retry::{Decision, FailedAttempt, RetryPolicy};
use millstream::strategy::{Backlog, Plan, Strategy};
use millstream::{Backoff, Batched, Broker, Immediate, Metrics};

use crate::ledger::Ledger;
use crate::verdict::{check, fail};

/// How long after the end observers may still be hearing of it.
const LATE: Duration = Duration::from_secs(20);

/// Hands nothing on unless it is made to.
struct Never;

impl Strategy for Never {
    fn plan(&self, _: &Backlog) -> Plan {
        Plan::Wait {
            until_waiting: usize::MAX,
            at_most: None,
        }
    }
    fn name(&self) -> &str {
        "never"
    }
}

/// Answers nonsense, or panics.
struct Mad(AtomicU64);

impl Strategy for Mad {
    fn plan(&self, backlog: &Backlog) -> Plan {
        match self.0.fetch_add(1, Relaxed) % 5 {
            0 => panic!("torture: a strategy"),
            1 => Plan::Deliver { at_most: 0 },
            2 => Plan::Deliver {
                at_most: usize::MAX,
            },
            3 => Plan::Wait {
                until_waiting: 0,
                at_most: Some(Duration::ZERO),
            },
            _ => Plan::Wait {
                until_waiting: backlog.waiting(),
                at_most: Some(Duration::from_micros(50)),
            },
        }
    }
    fn name(&self) -> &str {
        "mad"
    }
}

/// Panics now and then; otherwise as the other one says.
struct Frail(Backoff, AtomicU64);

impl RetryPolicy for Frail {
    fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
        if self.1.fetch_add(1, Relaxed).is_multiple_of(20) {
            panic!("torture: a policy");
        }
        self.0.decide(failed)
    }
}

fn random_strategy(random: &mut Rng, hostile: bool) -> Box<dyn Strategy> {
    let few = random.usize(1..300);
    match random.u32(..if hostile { 7 } else { 4 }) {
        0 | 1 => Box::new(Immediate),
        2 => Box::new(Batched::of(few).linger(Duration::from_micros(random.u64(1..2_000)))),
        3 => Box::new(Batched::of(few)),
        4 => Box::new(Batched::of(few).until_full()),
        5 => Box::new(Never),
        _ => Box::new(Mad(AtomicU64::new(random.u64(..5)))),
    }
}

/// A strategy of any type.
struct Any(Box<dyn Strategy>);

impl Strategy for Any {
    fn plan(&self, backlog: &Backlog) -> Plan {
        self.0.plan(backlog)
    }
    fn name(&self) -> &str {
        self.0.name()
    }
    fn check(&self) -> Result<(), SettingError> {
        self.0.check()
    }
}

pub fn swap_strategy(ledger: &Ledger, random: &mut Rng, hostile: bool) {
    let swapped = ledger
        .topic()
        .set_strategy(Any(random_strategy(random, hostile)));
    check(swapped.is_ok(), "swaps", "a strategy was refused");
}

pub fn swap_all(broker: &Broker, random: &mut Rng, hostile: bool) {
    let swapped = broker.set_strategy(Any(random_strategy(random, hostile)));
    check(swapped.is_ok(), "swaps", "a strategy was refused");
}

/// Another capacity, of no more than is accounted for. One that is split has another thread that
/// counts on its capacity.
pub fn swap_capacity(ledger: &Ledger, random: &mut Rng) {
    if ledger.terms.split.is_none() {
        let capacity = random.usize(1..=ledger.terms.capacity);
        let changed = ledger.topic().set_capacity(capacity);
        check(changed.is_ok(), "swaps", "a capacity was refused");
    }
}

/// Another policy with the same promises.
pub fn swap_retry(ledger: &Ledger, random: &mut Rng) {
    let terms = &ledger.terms;
    let shaped = match random.u32(..3) {
        0 => Backoff::fixed(terms.delay),
        1 => Backoff::linear(terms.delay),
        _ => Backoff::exponential(terms.delay).cap(terms.delay.max(Duration::from_millis(20))),
    };
    let policy = shaped.max_attempts(terms.max_attempts);
    let swapped = match terms.hostile && random.bool() {
        true => ledger.topic().set_retry(Frail(policy, AtomicU64::new(0))),
        false => ledger.topic().set_retry(policy),
    };
    check(swapped.is_ok(), "swaps", "a policy was refused");
}

/// What observers have heard.
#[derive(Default)]
pub struct Ears {
    heard: AtomicU64,
    last: AtomicU64,
    by_name: Mutex<BTreeMap<&'static str, u64>>,
    panics: AtomicU64,
}

impl Ears {
    /// One observer that counts, one that panics, one that dawdles.
    pub fn open(broker: &Broker) -> (Arc<Self>, Vec<Observation>) {
        let ears = Arc::new(Self::default());
        let (counting, panicking) = (Arc::clone(&ears), Arc::clone(&ears));
        let observations = [
            broker.observe(move |event| counting.hear(event)),
            broker.observe(move |event| {
                if event.sequence().is_multiple_of(100) {
                    panicking.panics.fetch_add(1, Relaxed);
                    panic!("torture: an observer");
                }
            }),
            broker.observe(|event| {
                if event.sequence().is_multiple_of(10_000) {
                    sleep(Duration::from_millis(1));
                }
            }),
        ];
        let observations = observations.into_iter().filter_map(Result::ok).collect();
        (ears, observations)
    }

    fn hear(&self, event: &Event<'_>) {
        self.last.fetch_max(event.sequence(), Relaxed);
        self.heard.fetch_add(1, Relaxed);
        *self
            .by_name
            .lock()
            .expect("nothing panics in here")
            .entry(event.name())
            .or_default() += 1;
    }

    /// After the end: what was heard against what was counted. A drain doesn't wait
    /// for observers that dawdle, so the last of it may be heard a little later.
    pub fn compare(&self, broker: &Broker, all: bool) {
        let began = Instant::now();
        while let Some(difference) = self.difference(&broker.metrics(), all) {
            if began.elapsed() > LATE {
                return fail("events", difference);
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn difference(&self, metrics: &Metrics, all: bool) -> Option<String> {
        let (heard, last) = (self.heard.load(Relaxed), self.last.load(Relaxed));
        let missed = metrics.events_missed;
        if !(heard..=heard + missed).contains(&last) {
            return Some(format!(
                "{heard} heard, {missed} missed, the last is #{last}"
            ));
        }
        let (counted, ours) = (metrics.observer_panics, self.panics.load(Relaxed));
        if counted != ours {
            return Some(format!("{counted} panics counted of {ours}"));
        }
        let counts = metrics.deliveries();
        let by_name = self.by_name.lock().expect("nothing panics in here");
        let pairs = [
            ("delivered", counts.delivered),
            ("failed", counts.failed),
            ("requeued", counts.requeued),
            ("snoozed", counts.snoozed),
            ("retry_scheduled", counts.retried),
            ("dead_letter", counts.dead_lettered),
            ("filtered", counts.filtered),
            ("expired", counts.expired),
            ("cancelled", counts.cancelled),
            ("redriven", counts.redriven),
        ];
        pairs.into_iter().find_map(|(name, counted)| {
            let told = by_name.get(name).copied().unwrap_or(0);
            let differs = told > counted || all && missed == 0 && told < counted;
            differs.then(|| format!("{counted} {name}, {told} told, {missed} missed"))
        })
    }
}
