//! What a delivery costs on one thread, by how many there are of what may grow.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream::{Broker, Subscription, Topic};

use crate::table::Table;
use crate::{Outcome, PAYLOAD, Payload, ROUNDS, same};

/// How much dearer a delivery may become.
const LIMIT: f64 = 2.0;
/// Messages in one batch.
const BATCH: usize = 64;
/// Messages in flight at a time, at most.
const MESSAGES: usize = 1_024;
const TOPICS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const SUBSCRIPTIONS: [usize; 4] = [1, 10, 100, 1_000];

pub fn growth(table: &mut Table) -> Outcome {
    let what = "a delivery, 64 to each topic in turn, topics";
    table.growth(what, Some(LIMIT), &TOPICS, |topics| {
        many_topics(topics, BATCH, MESSAGES / BATCH)
    })?;
    let what = "a delivery, one message at a time, topics";
    table.growth(what, Some(LIMIT), &TOPICS, |topics| {
        many_topics(topics, 1, 1)
    })?;
    // The more topics share them, the fewer batches form: not a matter of growth.
    let what = "a delivery, 1,024 messages shared out, topics";
    table.growth(what, None, &TOPICS, |topics| {
        many_topics(topics, 1, MESSAGES)
    })?;
    let what = "a delivery, 64 messages, subscriptions";
    table.growth(what, Some(LIMIT), &SUBSCRIPTIONS, many_subscriptions)
}

/// Nanoseconds per delivery if each topic in turn gets `burst` messages, and the
/// engine is run after every `visits` topics.
fn many_topics(count: usize, burst: usize, visits: usize) -> Outcome<f64> {
    const DELIVERIES: usize = 100_000;
    let broker = Broker::builder().workers(0).build()?;
    let many = Many::open(&broker, count)?;
    let mut topics = many.topics.iter().cycle();
    // Enough for a turn of each topic.
    let runs = (count * burst).max(DELIVERIES).div_ceil(burst * visits);
    let mut best = Duration::MAX;
    for _ in 0..=ROUNDS {
        let began = Instant::now();
        for _ in 0..runs {
            for topic in topics.by_ref().take(visits) {
                for _ in 0..burst {
                    topic.publish(black_box(PAYLOAD))?;
                }
            }
            broker.run_until_idle();
        }
        best = best.min(began.elapsed());
    }
    let deliveries = runs * burst * visits;
    same(
        many.handled(),
        ((ROUNDS + 1) * deliveries) as u64,
        "deliveries",
    )?;
    Ok(best.as_nanos() as f64 / deliveries as f64)
}

/// Nanoseconds per delivery if a batch goes to many subscriptions of one topic.
fn many_subscriptions(count: usize) -> Outcome<f64> {
    const DELIVERIES: usize = 400_000;
    let broker = Broker::builder().workers(0).build()?;
    let topic = broker.topic("one").open()?;
    let handled = Arc::new(AtomicU64::new(0));
    let mut subscriptions = Vec::with_capacity(count);
    for number in 0..count {
        subscriptions.push(counting(&topic, &number.to_string(), &handled)?);
    }
    let runs = DELIVERIES.div_ceil(BATCH * count);
    let mut best = Duration::MAX;
    for _ in 0..=ROUNDS {
        let began = Instant::now();
        for _ in 0..runs {
            for _ in 0..BATCH {
                topic.publish(black_box(PAYLOAD))?;
            }
            broker.run_until_idle();
        }
        best = best.min(began.elapsed());
    }
    let deliveries = runs * BATCH * count;
    let handled = handled.load(Ordering::Relaxed);
    same(handled, ((ROUNDS + 1) * deliveries) as u64, "deliveries")?;
    Ok(best.as_nanos() as f64 / deliveries as f64)
}

/// Topics with a subscription each.
pub struct Many {
    pub topics: Vec<Topic<Payload>>,
    _subscriptions: Vec<Subscription>,
    handled: Arc<AtomicU64>,
}

impl Many {
    pub fn open(broker: &Broker, count: usize) -> Outcome<Self> {
        let mut many = Self {
            topics: Vec::with_capacity(count),
            _subscriptions: Vec::with_capacity(count),
            handled: Arc::new(AtomicU64::new(0)),
        };
        for number in 0..count {
            let topic = broker.topic(&format!("sensor-{number}")).open()?;
            let subscription = counting(&topic, "sink", &many.handled)?;
            many._subscriptions.push(subscription);
            many.topics.push(topic);
        }
        Ok(many)
    }

    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }
}

fn counting(topic: &Topic<Payload>, name: &str, handled: &Arc<AtomicU64>) -> Outcome<Subscription> {
    let handled = Arc::clone(handled);
    Ok(topic.subscribe(name, move |_| {
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?)
}
