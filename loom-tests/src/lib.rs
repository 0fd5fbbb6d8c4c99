//! What the models share. Run them with `cargo loom` in the root of the project.
#![cfg(millstream_loom)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loom::thread;
use millstream::error::DrainError;
use millstream::internals::{read_modify_writes_only, restart_time};
use millstream::metrics::DrainReport;
use millstream::{Broker, BrokerBuilder, Histograms, ManualClock, Nack, Topic, TopicBuilder};

/// How many preemptions each pass explores; `None` is all of them.
#[derive(Clone, Copy)]
pub struct Preemptions {
    pub plain: Option<usize>,
    pub rmw: Option<usize>,
}

impl Preemptions {
    /// Every interleaving there is.
    pub const ALL: Self = Self {
        plain: None,
        rmw: None,
    };

    /// As many in both passes.
    pub const fn up_to(most: usize) -> Self {
        Self {
            plain: Some(most),
            rmw: Some(most),
        }
    }
}

/// Explores the interleavings of `run` twice: as it is, and with atomic loads and
/// stores turned into read-modify-writes. Prints how many there were. No limit on
/// time or on permutations is set, so there is no silent pass; one that has too
/// many branches fails.
pub fn model(name: &str, most: Preemptions, run: impl Fn() + Sync + Send + 'static) {
    let run = Arc::new(run);
    let began = Instant::now();
    let [plain, rmw] = [(false, most.plain), (true, most.rmw)].map(|(rmw, preemptions)| {
        read_modify_writes_only(rmw);
        explore(preemptions, Arc::clone(&run))
    });
    let took = began.elapsed();
    println!("| {name} | {plain} | {rmw} | {took:.1?} |");
}

fn explore(preemptions: Option<usize>, run: Arc<impl Fn() + Sync + Send + 'static>) -> usize {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 50_000;
    builder.max_duration = None;
    builder.max_permutations = None;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        restart_time();
        run();
    });
    executions.load(Ordering::Relaxed)
}

/// A broker whose workers are the threads of the model that call
/// [`Broker::run_until_idle`], and its clock.
pub fn manual() -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    let builder = builder().workers(0).manual_clock(&clock);
    (builder.build().expect("it starts no thread"), clock)
}

/// A [`manual`] broker with one topic, opened as `set` says, and one subscription
/// that writes what it gets.
pub fn logged(
    set: impl for<'b> FnOnce(TopicBuilder<'b, u32>) -> TopicBuilder<'b, u32>,
) -> (Broker, ManualClock, Topic<u32>, Log) {
    let (broker, clock) = manual();
    let topic = set(broker.topic("t")).open().unwrap();
    let log = Log::new();
    topic.subscribe("s", log.handler()).unwrap().detach();
    (broker, clock, topic, log)
}

/// A thread that runs a manual broker until it finds nothing to do.
pub fn worker(broker: &Broker) -> thread::JoinHandle<()> {
    let broker = broker.clone();
    thread::spawn(move || {
        broker.run_until_idle();
    })
}

/// A broker with one worker and a timer of its own.
pub fn threaded() -> Broker {
    let builder = builder().workers(1);
    builder.build().expect("a model starts any thread")
}

/// Histograms are kept under a lock that would only order more.
fn builder() -> BrokerBuilder {
    Broker::builder()
        .histograms(Histograms::Off)
        .event_buffer(8)
}

/// What handlers were called with. Not loom's, so it orders nothing.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u32>>>);

impl Log {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&self, value: u32) {
        self.0
            .lock()
            .expect("no panic while it is held")
            .push(value);
    }

    pub fn read(&self) -> Vec<u32> {
        self.0.lock().expect("no panic while it is held").clone()
    }

    /// A handler that writes what it gets.
    pub fn handler(
        &self,
    ) -> impl FnMut(&millstream::Delivery<'_, u32>) -> Result<(), Nack> + Send + 'static {
        let log = self.clone();
        move |delivery| {
            log.add(*delivery.payload());
            Ok(())
        }
    }
}

/// Drains, and answers the report: whatever was cut off, nothing remains.
pub fn drain(broker: &Broker) -> DrainReport {
    let report = match broker.drain(Duration::MAX) {
        Ok(report) | Err(DrainError::Incomplete(report)) => report,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(report.remaining, 0);
    report
}

/// At rest everything is accounted for, and nothing is left.
pub fn assert_settled(broker: &Broker) {
    let metrics = broker.metrics();
    assert_eq!(metrics.balance(), Ok(()));
    assert_eq!(metrics.deliveries().open(), 0, "a delivery is stranded");
    for topic in &metrics.topics {
        assert_eq!(topic.queued, 0, "a message is stranded");
    }
}
