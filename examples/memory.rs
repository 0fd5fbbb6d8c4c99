//! Counts what things cost in memory, and holds it against the limits that the crate promises.
//!
//! ```text
//! cargo run --release --example memory --features log
//! ```
//!
//! The program counts the bytes that it has asked the allocator for and not given back. Every
//! figure is the growth of that count, divided by the number of things that grew it.
//!
//! Handles that the program holds are in it, and the stacks of threads are not. The system's
//! allocator adds some 8 bytes and rounding to each block. They are not in it either, so
//! blocks are counted, too. Exits with 1 if a limit is missed.

use std::alloc::System;
use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use millstream::{Backoff, Broker, ManualClock, Nack, Overflow, Subscription, Topic};
use parking_lot::Mutex;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Payload = [u8; 64];
type Outcome<V = ()> = Result<V, Box<dyn Error>>;

const PAYLOAD: Payload = [7; 64];
const TOPICS: usize = 100_000;
const MESSAGES: usize = 1_000_000;
const QUEUED: usize = 100_000;
const LETTERS: usize = 100_000;
/// Messages in one of the engine's batches: a retry keeps so many alive.
const BATCH: usize = 64;
const HOUR: Duration = Duration::from_secs(3_600);

fn main() -> Outcome<ExitCode> {
    // The first use of a library leaves things behind for the whole process:
    // thread-locals, tables of parked threads. They are nobody's leak.
    warm_up()?;
    let mut table = Table::new();
    let start = Live::now();
    idle_topics(&mut table)?;
    idle_subscriptions(&mut table)?;
    active_subscriptions(&mut table)?;
    queued_singly(&mut table)?;
    queued_in_chunks(&mut table)?;
    queued_in_lanes(&mut table)?;
    pending_retries(&mut table)?;
    pending_retries_of_mixed_batches(&mut table)?;
    dead_letters(&mut table)?;
    idle_broker(&mut table)?;
    #[cfg(feature = "log")]
    index_of_a_log(&mut table)?;
    table.row(
        "left of all that when it is dropped",
        Some(0),
        start.grown(),
        1,
    );
    Ok(table.verdict())
}

/// Uses everything once, by as many threads at once as there will be and more: arc-swap keeps a
/// list entry for each thread that reads, until the process ends, and gives it to a later one.
fn warm_up() -> Outcome {
    const WORKERS: usize = 4;
    const READERS: usize = 16;
    let broker = Broker::builder().workers(WORKERS).build()?;
    let all_busy = Arc::new(Barrier::new(WORKERS));
    let mut subscriptions = Vec::new();
    for number in 0..WORKERS {
        let topic = broker.topic(&format!("warm-up-{number}")).open()?;
        let all_busy = Arc::clone(&all_busy);
        subscriptions.push(topic.subscribe("warm-up", move |_| {
            all_busy.wait();
            Ok(())
        })?);
        topic.publish(PAYLOAD)?;
    }
    let all_read = Barrier::new(READERS);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                drop(broker.metrics());
                all_read.wait();
            });
        }
    });
    broker.drain(HOUR)?;
    drop(subscriptions);
    Ok(())
}

fn idle_topics(table: &mut Table) -> Outcome {
    let (broker, _clock) = manual()?;
    let before = Live::now();
    let topics = open_topics(&broker)?;
    let grown = before.grown();
    table.row("an idle topic", Some(1_280), grown, topics.len());
    Ok(())
}

fn idle_subscriptions(table: &mut Table) -> Outcome {
    let (broker, _clock) = manual()?;
    let before = Live::now();
    let topics = open_topics(&broker)?;
    let handled = Arc::new(AtomicU64::new(0));
    let mut subscriptions = Vec::with_capacity(topics.len());
    for topic in &topics {
        subscriptions.push(counting(topic, "idle", &handled)?);
    }
    let grown = before.grown();
    let what = "an idle topic with one idle subscription";
    table.row(what, Some(2_304), grown, topics.len());
    Ok(())
}

/// What the first deliveries add: histograms, and the topic's queue.
fn active_subscriptions(table: &mut Table) -> Outcome {
    const SUBSCRIPTIONS: usize = 1_000;
    const DELIVERIES: usize = 1_000;
    let broker = Broker::builder().workers(0).build()?;
    let topic = broker.topic("active").open()?;
    let handled = Arc::new(AtomicU64::new(0));

    let before = Live::now();
    topic.publish(PAYLOAD)?;
    broker.run_until_idle();
    table.row(
        "a queue of 1,024 places, once used",
        None,
        before.grown(),
        1,
    );

    let before = Live::now();
    let mut subscriptions = Vec::with_capacity(SUBSCRIPTIONS);
    for number in 0..SUBSCRIPTIONS {
        subscriptions.push(counting(&topic, &format!("active-{number}"), &handled)?);
    }
    for _ in 0..DELIVERIES {
        topic.publish(PAYLOAD)?;
        broker.run_until_idle();
    }
    let grown = before.grown();
    let deliveries = (SUBSCRIPTIONS * DELIVERIES) as u64;
    same(handled.load(Ordering::Relaxed), deliveries, "deliveries")?;
    let what = "a subscription after 1,000 deliveries";
    table.row(what, None, grown, SUBSCRIPTIONS);
    Ok(())
}

fn queued_singly(table: &mut Table) -> Outcome {
    let (broker, _clock) = manual()?;
    let topic = broker.topic("queued").capacity(MESSAGES).open()?;
    let subscription = topic.subscribe("later", |_| Ok(()))?;
    let before = Live::now();
    for _ in 0..MESSAGES {
        topic.publish(PAYLOAD)?;
    }
    let grown = before.grown();
    same(topic.metrics().queued, MESSAGES as u64, "messages queued")?;
    table.row(
        "a queued message, published singly",
        Some(96),
        grown,
        MESSAGES,
    );
    // Handles that outlive their broker must not keep it: `main` looks for that.
    drop(broker);
    drop((topic, subscription));
    Ok(())
}

fn queued_in_chunks(table: &mut Table) -> Outcome {
    let (broker, _clock) = manual()?;
    let topic = broker.topic("queued").capacity(MESSAGES).open()?;
    let subscription = topic.subscribe("later", |_| Ok(()))?;
    let before = Live::now();
    for _ in 0..MESSAGES / BATCH {
        topic.publish_batch([PAYLOAD; BATCH])?;
    }
    let grown = before.grown();
    same(topic.metrics().queued, MESSAGES as u64, "messages queued")?;
    table.row(
        "a queued message, published in a batch",
        Some(96),
        grown,
        MESSAGES,
    );
    drop(subscription);
    Ok(())
}

/// The worst case of a lane: its handler is stuck, and the publisher is so slow that each
/// message finds a worker with nothing else to do.
fn queued_in_lanes(table: &mut Table) -> Outcome {
    let broker = Broker::builder().workers(2).build()?;
    let topic = broker.topic("stuck").lane_capacity(QUEUED);
    let topic = topic.overflow(Overflow::Block { timeout: HOUR }).open()?;
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock();
    let waits = Arc::clone(&gate);
    let subscription = topic.subscribe("stuck", move |_| {
        drop(waits.lock());
        Ok(())
    })?;
    let before = Live::now();
    for _ in 0..QUEUED {
        topic.publish(PAYLOAD)?;
        thread::yield_now();
    }
    let grown = before.grown();
    let metrics = topic.metrics();
    let wait = metrics.queued + metrics.subscriptions[0].queued;
    // One of them is in the hand of the handler.
    same(wait, QUEUED as u64 - 1, "messages waiting")?;
    let what = "a message in a lane, published singly";
    table.row(what, Some(96), grown, QUEUED);
    drop(shut);
    broker.drain(HOUR)?;
    drop(subscription);
    Ok(())
}

/// Every message fails with the same text. Beside the payload, the figure holds
/// the entry on the timer wheel, the entry in the lane, the recorded failure, the
/// message's id and time, and its share of the batch, of the topic's queue and of
/// the pages all these lie in.
fn pending_retries(table: &mut Table) -> Outcome {
    let storm = Storm::raise(MESSAGES, |_| true)?;
    let grown = storm.grown.minus(MESSAGES * size_of::<Payload>());
    let what = "a pending retry, beside its payload";
    table.row(what, Some(128), grown, MESSAGES);
    let left = storm.calm()?;
    table.row(
        "left of these retries when they have succeeded",
        None,
        left,
        1,
    );
    Ok(())
}

/// The worst case: a batch lives as long as one of its messages does, so a
/// single failure in a batch of 64 keeps 63 delivered neighbors in memory.
fn pending_retries_of_mixed_batches(table: &mut Table) -> Outcome {
    let storm = Storm::raise(MESSAGES, |id| id % BATCH as u64 == 0)?;
    let failed = MESSAGES / BATCH;
    let grown = storm.grown.minus(failed * size_of::<Payload>());
    let what = "the same where one message in 64 fails";
    table.row(what, None, grown, failed);
    storm.calm()?;
    Ok(())
}

/// Failed deliveries, all awaiting their retry.
struct Storm {
    broker: Broker,
    clock: ManualClock,
    topic: Topic<Payload>,
    broken: Arc<AtomicBool>,
    _subscription: Subscription,
    before: Live,
    grown: Growth,
}

impl Storm {
    fn raise(messages: usize, fails: impl Fn(u64) -> bool + Send + 'static) -> Outcome<Self> {
        let (broker, clock) = manual()?;
        let topic = broker.topic("storm").lane_capacity(messages).open()?;
        let broken = Arc::new(AtomicBool::new(true));
        let retry = Backoff::fixed(HOUR).max_attempts(2);
        let asks = Arc::clone(&broken);
        let pending = (1..=messages as u64).filter(|id| fails(*id)).count() as u64;
        let subscription =
            topic
                .subscription("fragile")
                .retry(retry)
                .subscribe(move |delivery| {
                    if asks.load(Ordering::Relaxed) && fails(delivery.id().get()) {
                        return Err(Nack::retry("the other side does not answer"));
                    }
                    Ok(())
                })?;
        let before = Live::now();
        for number in 1..=messages {
            topic.publish(PAYLOAD)?;
            if number % BATCH == 0 {
                broker.run_until_idle();
            }
        }
        broker.run_until_idle();
        let grown = before.grown();
        let counts = topic.metrics().subscriptions[0].counts;
        same(counts.awaiting_retry, pending, "retries pending")?;
        Ok(Self {
            broker,
            clock,
            topic,
            broken,
            _subscription: subscription,
            before,
            grown,
        })
    }

    /// Lets every retry succeed; answers what the storm has left behind.
    fn calm(self) -> Outcome<Growth> {
        self.broken.store(false, Ordering::Relaxed);
        self.clock.advance(HOUR);
        self.broker.run_until_idle();
        let left = self.before.grown();
        let metrics = self.topic.metrics();
        let delivered = metrics.subscriptions[0].counts.delivered;
        same(delivered, metrics.published, "messages delivered")?;
        Ok(left)
    }
}

fn dead_letters(table: &mut Table) -> Outcome {
    let (broker, _clock) = manual()?;
    let topic = broker
        .topic("letters")
        .dead_letter_capacity(LETTERS)
        .retry(Backoff::none())
        .open()?;
    let subscription = topic.subscribe("hopeless", |_| {
        Err(Nack::retry("the other side does not answer"))
    })?;
    let before = Live::now();
    for number in 1..=LETTERS {
        topic.publish(PAYLOAD)?;
        if number % BATCH == 0 {
            broker.run_until_idle();
        }
    }
    broker.run_until_idle();
    let grown = before.grown();
    same(topic.dead_letters().len() as u64, LETTERS as u64, "letters")?;
    table.row("a dead letter, with its payload", None, grown, LETTERS);
    drop(subscription);
    Ok(())
}

fn idle_broker(table: &mut Table) -> Outcome {
    let before = Live::now();
    let broker = Broker::builder().workers(2).build()?;
    assert!(broker.wait_until_idle(HOUR));
    let grown = before.grown();
    table.row("an idle broker with 2 workers", None, grown, 1);
    broker.drain(HOUR)?;
    Ok(())
}

/// What a store keeps in memory to find messages again, by the gigabyte of small messages.
#[cfg(feature = "log")]
fn index_of_a_log(table: &mut Table) -> Outcome {
    use millstream::store::{Durability, Raw, Store};

    const COMMITS: usize = 32_768;
    let directory = std::env::temp_dir().join(format!("millstream-memory-{}", std::process::id()));
    {
        let broker = Broker::builder().store(Store::open(&directory)?).build()?;
        let topic = broker.topic("log").durable(Raw);
        let topic = topic.durability(Durability::Written);
        let topic = topic.overflow(Overflow::Block { timeout: HOUR }).open()?;
        for _ in 0..COMMITS {
            topic.publish_batch((0..64).map(|_| vec![7_u8; 100]))?;
        }
        broker.drain(HOUR)?;
    }
    let before = Live::now();
    let store = Store::open(&directory)?;
    let grown = before.grown();
    let gigabytes = store.opened().bytes as f64 / f64::from(1 << 30);
    let by_gigabyte = Growth {
        bytes: (grown.bytes as f64 / gigabytes) as i64,
        blocks: (grown.blocks as f64 / gigabytes) as i64,
    };
    table.row(
        "a store, by the gigabyte of its log",
        Some(256 << 10),
        by_gigabyte,
        1,
    );
    drop(store);
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn manual() -> Outcome<(Broker, ManualClock)> {
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    Ok((broker, clock))
}

fn open_topics(broker: &Broker) -> Outcome<Vec<Topic<Payload>>> {
    let mut topics = Vec::with_capacity(TOPICS);
    for number in 0..TOPICS {
        topics.push(broker.topic(&format!("sensor-{number}")).open()?);
    }
    Ok(topics)
}

fn counting(topic: &Topic<Payload>, name: &str, handled: &Arc<AtomicU64>) -> Outcome<Subscription> {
    let handled = Arc::clone(handled);
    Ok(topic.subscribe(name, move |_| {
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?)
}

/// A figure counts only if what it was divided by is really there.
fn same(found: u64, wanted: u64, what: impl Display) -> Outcome {
    if found == wanted {
        return Ok(());
    }
    Err(format!("expected {wanted} {what}, found {found}").into())
}

/// What the program had from the allocator at one moment.
struct Live {
    bytes: i64,
    blocks: i64,
}

/// How much more that was later.
struct Growth {
    bytes: i64,
    blocks: i64,
}

impl Live {
    fn now() -> Self {
        let stats = ALLOCATOR.stats();
        Self {
            bytes: stats.bytes_allocated as i64 - stats.bytes_deallocated as i64,
            blocks: stats.allocations as i64 - stats.deallocations as i64,
        }
    }

    fn grown(&self) -> Growth {
        let now = Self::now();
        Growth {
            bytes: now.bytes - self.bytes,
            blocks: now.blocks - self.blocks,
        }
    }
}

impl Growth {
    fn minus(&self, bytes: usize) -> Self {
        Self {
            bytes: self.bytes - bytes as i64,
            blocks: self.blocks,
        }
    }
}

/// The table, printed as it is measured.
struct Table {
    missed: u32,
}

impl Table {
    fn new() -> Self {
        println!(
            "{:<48} {:>8} {:>12} {:>9}  verdict",
            "bytes of", "limit", "measured", "blocks"
        );
        Self { missed: 0 }
    }

    /// One figure: `growth` shared by `things`.
    fn row(&mut self, what: &str, limit: Option<u32>, growth: Growth, things: usize) {
        let measured = growth.bytes as f64 / things as f64;
        let blocks = growth.blocks as f64 / things as f64;
        let verdict = match limit {
            None => "",
            Some(limit) if measured <= f64::from(limit) => "kept",
            Some(_) => {
                self.missed += 1;
                "MISSED"
            }
        };
        let limit = limit.map_or_else(String::new, |limit| limit.to_string());
        println!("{what:<48} {limit:>8} {measured:>12.1} {blocks:>9.2}  {verdict}");
    }

    fn verdict(self) -> ExitCode {
        if self.missed == 0 {
            return ExitCode::SUCCESS;
        }
        println!("{} missed", self.missed);
        ExitCode::FAILURE
    }
}
