//! One run of one load through one system.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;

use crate::check::{Checker, Clock, Probe, Signal, histogram};
use crate::load::Load;
use crate::process::{self, Usage, Used};
use crate::publish::Route;
use crate::systems::{Answer, System};

/// What came out of a run in which every check held.
pub struct Outcome {
    pub deliveries: u64,
    /// From the first publish to the end of the last handler call.
    pub elapsed: Duration,
    /// Processor time used meanwhile, as far as the platform tells.
    pub used: Used,
    /// The most memory the process had, if the platform tells.
    pub peak_bytes: Option<u64>,
    /// From the intended send time to the handler. Flat out it is a sample, and
    /// says how long messages queue under saturation.
    pub latency: Histogram<u64>,
}

impl Outcome {
    /// Deliveries a second.
    pub fn throughput(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64()
    }

    /// How many cores were busy on average.
    pub fn cores(&self) -> Option<f64> {
        Some(self.used.own?.as_secs_f64() / self.elapsed.as_secs_f64())
    }

    /// How many cores other processes kept busy.
    pub fn cores_of_others(&self) -> Option<f64> {
        Some(self.used.others?.as_secs_f64() / self.elapsed.as_secs_f64())
    }
}

/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(100);
/// What stopping may take after the last delivery.
const STOPPING: Duration = Duration::from_secs(15);

/// Runs it, or says what went wrong after at most `limit`, and then leaves
/// threads behind that the process had better not outlive for long.
pub fn run<const WORDS: usize, S: System<WORDS>>(
    load: &Load,
    limit: Duration,
    watch: &mut dyn FnMut(u64),
) -> Answer<Outcome> {
    let clock = Clock::start();
    let (signal, signals) = channel();
    let checkers: Vec<Vec<_>> = (0..load.topics)
        .map(|topic| {
            let subscribers = 0..load.subscribers;
            let checker =
                |number| Checker::<WORDS>::new(load, topic, number, clock, signal.clone());
            subscribers.map(checker).collect()
        })
        .collect();
    let probes: Vec<_> = checkers.iter().flatten().map(Checker::probe).collect();

    process::forget_peak();
    let (system, publishers) = S::start(load, checkers)?;
    let start = Arc::new(Barrier::new(publishers.len()));
    let before = Usage::now();
    let mut threads: Vec<JoinHandle<u64>> = Vec::new();
    for (number, mut publisher) in publishers.into_iter().enumerate() {
        let (route, start, signal) = (Route::new(load, number), Arc::clone(&start), signal.clone());
        let thread = thread::Builder::new().name("publisher".to_owned());
        threads.push(thread.spawn(move || {
            start.wait();
            let started_ns = clock.now_ns();
            if let Err(error) = route.publish(&mut publisher, clock) {
                let error = format!("publisher {number} failed: {error}");
                // Nobody listens any more once the run was given up.
                let _ = signal.send(Signal::Failed(error));
            }
            started_ns
        })?);
    }
    drop(signal);
    wait(&signals, &probes, limit, watch)?;
    let used = before.until_now();

    let stopping = Watchdog::set(STOPPING);
    let mut started_ns = u64::MAX;
    for thread in threads {
        let at = thread.join().map_err(|_| "a publisher panicked")?;
        started_ns = started_ns.min(at);
    }
    system.stop()?;
    stopping.call_off();

    let finished_ns = probes.iter().map(|probe| probe.finished_ns()).max();
    Ok(Outcome {
        deliveries: load.deliveries(),
        elapsed: Duration::from_nanos(finished_ns.unwrap_or(0).saturating_sub(started_ns).max(1)),
        used,
        peak_bytes: process::peak_bytes(),
        latency: verified(&probes)?,
    })
}

/// Until every subscriber has all it was to get.
fn wait(
    signals: &Receiver<Signal>,
    probes: &[Arc<CachePadded<Probe>>],
    limit: Duration,
    watch: &mut dyn FnMut(u64),
) -> Answer {
    let deadline = Instant::now() + limit;
    let mut unfinished = probes.len();
    while unfinished > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        match signals.recv_timeout(left.min(TICK)) {
            Ok(Signal::Finished) => unfinished -= 1,
            Ok(Signal::Failed(error)) => return Err(error.into()),
            Err(_) if left.is_zero() => return Err(missing(probes, limit).into()),
            Err(RecvTimeoutError::Timeout) => watch(probes.iter().map(|p| p.handled()).sum()),
            // Checkers that end early end their signals with them.
            Err(RecvTimeoutError::Disconnected) => return Err(missing(probes, limit).into()),
        }
    }
    Ok(())
}

fn missing(probes: &[Arc<CachePadded<Probe>>], limit: Duration) -> String {
    let unfinished = |probe: &&Arc<CachePadded<Probe>>| probe.handled() < probe.expected;
    let missing = probes.iter().filter(unfinished);
    let some: Vec<_> = missing
        .clone()
        .take(4)
        .map(|probe| {
            format!(
                "{} has about {} of {}",
                probe.name,
                probe.handled(),
                probe.expected
            )
        })
        .collect();
    let more = match missing.count().saturating_sub(some.len()) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("not done after {limit:?}: {}{more}", some.join("; "))
}

/// Count, order and checksums, of all subscribers; their latencies together.
fn verified(probes: &[Arc<CachePadded<Probe>>]) -> Answer<Histogram<u64>> {
    let mut latency = histogram();
    for probe in probes {
        let Some(report) = probe.take_report() else {
            return Err(format!("{} is still held by the system", probe.name).into());
        };
        if report.faults > 0 || report.handled != probe.expected {
            return Err(format!(
                "{}: {} handled, {} expected, {} faults; {}",
                probe.name,
                report.handled,
                probe.expected,
                report.faults,
                report.first_fault.unwrap_or_default(),
            )
            .into());
        }
        latency.add(report.latency)?;
    }
    Ok(latency)
}

/// Ends the process if it isn't called off in time: a system that can't stop must
/// not make the program wait for ever.
struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    fn set(patience: Duration) -> Self {
        let (call_off, called_off) = channel();
        thread::spawn(move || {
            if called_off.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                eprintln!(
                    "bench: everything was delivered, but stopping takes more than {patience:?}"
                );
                std::process::exit(1);
            }
        });
        Self(call_off)
    }

    fn call_off(self) {
        drop(self.0);
    }
}
