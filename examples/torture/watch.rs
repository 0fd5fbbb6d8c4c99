//! Looks at everything from outside: prints the books every second, holds each
//! snapshot to the law, and names what is stuck.

use std::fmt;
use std::process::exit;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use millstream::Metrics;
use millstream::metrics::{DeliveryCounts, TopicMetrics};

use crate::life::Life;
use crate::process;
use crate::verdict::{check, fail, same};

/// Handlers that are being called.
pub static RUNNING: AtomicI64 = AtomicI64::new(0);
/// Of those, the ones that are not meant to return.
pub static STUCK: AtomicI64 = AtomicI64::new(0);
/// Panics that were meant.
pub static PANICS: AtomicU64 = AtomicU64::new(0);
/// How long after its deadline a drain has returned at the most.
pub static LATEST_US: AtomicU64 = AtomicU64::new(0);

/// How long nothing may happen while there is something to do.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(1);
/// What fragmentation and the stacks of threads may add to the heap's bound.
const RESIDENT_SLACK: i64 = 64 << 20;

/// What goes on.
#[derive(Default)]
struct Now {
    life: Option<Arc<Life>>,
    step: Option<Step>,
    /// Of the lives before this one.
    past: Books,
}

/// Something that must come to an end.
struct Step {
    what: &'static str,
    began: Instant,
    limit: Duration,
}

static NOW: LazyLock<Mutex<Now>> = LazyLock::new(Mutex::default);

fn now() -> MutexGuard<'static, Now> {
    NOW.lock().expect("the watch doesn't panic")
}

/// Begins something that must be over within `limit`.
pub fn step(what: &'static str, limit: Duration) {
    let began = Instant::now();
    now().step = Some(Step { what, began, limit });
}

pub fn begin_life(life: &Arc<Life>) {
    now().life = Some(Arc::clone(life));
}

/// The life is over, and came to this.
pub fn end_life(books: &Books) {
    let mut now = now();
    now.life = None;
    now.step = None;
    now.past.add(books);
}

/// Measures something while the watch has nothing in its hands.
pub fn undisturbed<V>(measure: impl FnOnce() -> V) -> V {
    let _now = now();
    measure()
}

/// What all lives came to.
pub fn past() -> Books {
    now().past
}

/// What is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Books {
    pub accepted: u64,
    pub dropped: u64,
    pub queued: u64,
    pub deliveries: DeliveryCounts,
}

impl Books {
    pub fn of(metrics: &Metrics) -> Self {
        let mut books = Self::default();
        for topic in metrics.topics.iter().chain(&metrics.removed) {
            books.add_topic(topic);
        }
        books
    }

    pub fn add_topic(&mut self, topic: &TopicMetrics) {
        self.accepted += topic.published;
        self.dropped += topic.dropped;
        self.queued += topic.queued;
        self.deliveries += topic.deliveries();
    }

    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.dropped += other.dropped;
        self.queued += other.queued;
        self.deliveries += other.deliveries;
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = &self.deliveries;
        write!(
            f,
            "accepted {} delivered {} retried {} dead {} dropped {}+{} expired {} cancelled {} | queued {} waiting {} in flight {}",
            self.accepted,
            of.delivered,
            of.retried,
            of.dead_lettered,
            self.dropped,
            of.dropped,
            of.expired,
            of.cancelled,
            self.queued,
            of.awaiting_retry,
            of.in_flight,
        )
    }
}

/// Starts looking, until the process ends.
pub fn start() {
    let watch = thread::Builder::new().name("watch".to_owned());
    watch.spawn(run).expect("the system has a thread to spare");
}

fn run() {
    let began = Instant::now();
    let mut printed = Instant::now();
    let mut moved = Instant::now();
    let mut last = (0, 0);
    loop {
        sleep(LOOK);
        let now = now();
        if let Some(step) = &now.step
            && step.began.elapsed() > step.limit
        {
            give_up(step.what, &now);
        }
        let Some(life) = &now.life else { continue };
        let metrics = life.slot.broker().map(|broker| broker.metrics());
        let mut books = now.past;
        if let Some(metrics) = &metrics {
            obeys_the_law(metrics);
            let here = Books::of(metrics);
            let of = &here.deliveries;
            let state = (here.accepted + of.attempts, of.ended());
            let stuck = STUCK.load(Relaxed);
            let busy = RUNNING.load(Relaxed) > stuck || stuck >= life.workers as i64;
            if state != last || busy || of.open() == 0 {
                moved = Instant::now();
            }
            last = state;
            books.add(&here);
        } else {
            moved = Instant::now();
        }
        if moved.elapsed() > PATIENCE {
            give_up("deliveries that nobody handles", &now);
        }
        let heap = process::heap_bytes();
        let resident = process::resident_bytes().unwrap_or(0) as i64;
        let bound = life.memory_bound();
        check(
            heap <= bound,
            "memory",
            format_args!("{heap} bytes on the heap, the bound is {bound}"),
        );
        let most = bound + RESIDENT_SLACK;
        check(
            resident <= most,
            "memory",
            format_args!("{resident} bytes resident, the bound is {most}"),
        );
        if printed.elapsed() >= LINE {
            printed = Instant::now();
            println!(
                "{:>5} s life {} {books} | heap {} KB rss {} KB threads {}",
                began.elapsed().as_secs(),
                life.number,
                heap / 1_024,
                resident / 1_024,
                process::threads().unwrap_or(0),
            );
        }
    }
}

/// A snapshot while traffic runs balances, but for what it says was moving, and never shows
/// more ends than beginnings.
fn obeys_the_law(metrics: &Metrics) {
    if let Err(imbalance) = metrics.balance() {
        fail("snapshots", imbalance);
    }
    for topic in metrics.topics.iter().chain(&metrics.removed) {
        let name = &topic.name;
        let left = topic.dropped + topic.unrouted + topic.dispatched;
        check(
            left <= topic.published,
            "snapshots",
            format_args!("{name}: {left} of {} messages have left", topic.published),
        );
        let lanes = topic
            .subscriptions
            .iter()
            .map(|lane| (&*lane.name, lane.counts));
        for (lane, of) in lanes.chain([("ended", topic.ended)]) {
            check(
                of.ended() <= of.made,
                "snapshots",
                format_args!("{name}/{lane}: {} of {} have ended", of.ended(), of.made),
            );
            let tried = of.delivered + of.failed;
            check(
                tried <= of.attempts,
                "snapshots",
                format_args!(
                    "{name}/{lane}: {tried} of {} attempts have ended",
                    of.attempts
                ),
            );
            same(
                "lifecycle",
                format_args!("illegal steps of {name}/{lane}"),
                of.illegal,
                0,
            );
        }
    }
}

/// Names what is stuck, and ends the process.
fn give_up(what: &str, now: &Now) -> ! {
    fail("progress", format_args!("stuck: {what}"));
    eprintln!(
        "{} handlers run, {} of them are not meant to return",
        RUNNING.load(Relaxed),
        STUCK.load(Relaxed)
    );
    if let Some(life) = &now.life {
        eprintln!("{life}");
        for line in life.silent() {
            eprintln!("  {line}");
        }
        if let Some(broker) = life.slot.broker() {
            let metrics = broker.metrics();
            eprintln!("{metrics}");
            for topic in &metrics.topics {
                for lane in &topic.subscriptions {
                    let of = &lane.counts;
                    let open = (lane.queued, of.in_flight, of.awaiting_retry);
                    if open != (0, 0, 0) {
                        eprintln!(
                            "  {}/{}: {open:?} queued, in flight, awaiting a retry",
                            topic.name, lane.name
                        );
                    }
                }
            }
        }
    }
    exit(1);
}
