//! What every subscriber does with what it gets: order, checksum and count. The
//! same code for all systems, so that it costs all of them the same.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;

use crate::load::Load;
use crate::payload::{Head, Payload};

/// Nanoseconds since a run began.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    #[inline]
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What a run waits for.
pub enum Signal {
    /// A subscriber has all it was to get.
    Finished,
    /// A publisher can't go on.
    Failed(String),
}

/// One subscriber's conscience, moved into whatever calls it.
pub struct Checker<const WORDS: usize> {
    topic: usize,
    /// For each publisher, the sequence that must come next.
    next: Vec<u64>,
    expected: u64,
    handled: u64,
    /// What fails at its first attempt: a threshold for mixed heads.
    failing_below: u64,
    /// Heads that failed and haven't come back.
    failed: HashSet<u64>,
    latency: Histogram<u64>,
    faults: u64,
    first_fault: Option<String>,
    clock: Clock,
    signal: Sender<Signal>,
    probe: Arc<CachePadded<Probe>>,
}

/// What the outside can see of a checker.
pub struct Probe {
    pub name: String,
    pub expected: u64,
    handled: AtomicU64,
    finished_ns: AtomicU64,
    report: Mutex<Option<CheckReport>>,
}

/// What a checker leaves behind when it is dropped.
pub struct CheckReport {
    pub handled: u64,
    pub faults: u64,
    pub first_fault: Option<String>,
    pub latency: Histogram<u64>,
}

impl Probe {
    /// How many deliveries were handled, up to 63 of the latest left out.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    pub fn finished_ns(&self) -> u64 {
        self.finished_ns.load(Ordering::Relaxed)
    }

    /// `None` as long as the checker lives.
    pub fn take_report(&self) -> Option<CheckReport> {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.take()
    }
}

/// Probes are read now and then; counting for them must not cost anything.
const TELL_EVERY: u64 = 64;
/// Microsecond latencies to a tenth of a percent.
const DIGITS: u8 = 3;

pub fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("three digits are among those offered")
}

impl<const WORDS: usize> Checker<WORDS> {
    pub fn new(
        load: &Load,
        topic: usize,
        number: usize,
        clock: Clock,
        signal: Sender<Signal>,
    ) -> Self {
        let expected = load.each() * load.publishers as u64;
        let probe = Probe {
            name: format!("subscriber {number} of topic {topic}"),
            expected,
            handled: AtomicU64::new(0),
            finished_ns: AtomicU64::new(0),
            report: Mutex::new(None),
        };
        Self {
            topic,
            next: vec![0; load.publishers],
            expected,
            handled: 0,
            failing_below: (load.failing * u64::MAX as f64) as u64,
            failed: HashSet::new(),
            latency: histogram(),
            faults: 0,
            first_fault: None,
            clock,
            signal,
            probe: Arc::new(CachePadded::new(probe)),
        }
    }

    pub fn probe(&self) -> Arc<CachePadded<Probe>> {
        Arc::clone(&self.probe)
    }

    /// A delivery that is handled.
    #[inline]
    pub fn take(&mut self, message: &Payload<WORDS>) {
        self.expect_next(message);
        self.count(message);
    }

    /// A delivery that is handled (`true`), or fails because it was chosen to and
    /// this is its first attempt.
    pub fn take_or_fail(&mut self, message: &Payload<WORDS>, attempt: u32) -> bool {
        let word = message.head().word();
        if attempt == 1 {
            self.expect_next(message);
            if mixed(word) < self.failing_below {
                self.failed.insert(word);
                return false;
            }
        } else if attempt > 2 || !self.failed.remove(&word) || !message.is_sound() {
            self.fault(message);
        }
        self.count(message);
        true
    }

    #[inline]
    fn expect_next(&mut self, message: &Payload<WORDS>) {
        let head = message.head();
        match self.next.get_mut(head.publisher) {
            Some(next)
                if *next == head.sequence && head.topic == self.topic && message.is_sound() =>
            {
                *next += 1;
            }
            _ => self.fault(message),
        }
    }

    #[inline]
    fn count(&mut self, message: &Payload<WORDS>) {
        if let Some(sent_ns) = message.sent_ns() {
            let taken = self.clock.now_ns().saturating_sub(sent_ns);
            self.latency += taken.max(1);
        }
        self.handled += 1;
        if self.handled.is_multiple_of(TELL_EVERY) || self.handled == self.expected {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.probe.handled.store(self.handled, Ordering::Relaxed);
        if self.handled == self.expected {
            let now_ns = self.clock.now_ns();
            self.probe.finished_ns.store(now_ns, Ordering::Relaxed);
            // Nobody listens any more once the run was given up.
            let _ = self.signal.send(Signal::Finished);
        }
    }

    #[cold]
    fn fault(&mut self, message: &Payload<WORDS>) {
        let Head {
            publisher,
            topic,
            sequence,
        } = message.head();
        let next = self.next.get(publisher).copied();
        if self.first_fault.is_none() {
            let found = format!("message {sequence} of publisher {publisher} on topic {topic}");
            let sound = if message.is_sound() {
                "sound"
            } else {
                "damaged"
            };
            let next = next.map_or("none at all".to_owned(), |next| format!("message {next}"));
            self.first_fault = Some(format!("got {found} ({sound}), where {next} was due"));
        }
        self.faults += 1;
        // Go on from here, or everything after a gap would be a fault too.
        if let Some(next) = self.next.get_mut(publisher) {
            *next = sequence.saturating_add(1).max(*next);
        }
    }
}

impl<const WORDS: usize> Drop for Checker<WORDS> {
    fn drop(&mut self) {
        let report = CheckReport {
            handled: self.handled,
            faults: self.faults,
            first_fault: self.first_fault.take(),
            latency: std::mem::replace(&mut self.latency, histogram()),
        };
        let mut place = self
            .probe
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(report);
    }
}

/// Neighbors must not fail together: a multiplication alone would be regular.
fn mixed(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn checker(load: &Load) -> (Checker<2>, Receiver<Signal>) {
        let (signal, signals) = channel();
        (Checker::new(load, 0, 0, Clock::start(), signal), signals)
    }

    fn load(messages: u64) -> Load {
        Load {
            publishers: 2,
            messages,
            ..Load::default()
        }
    }

    fn message(publisher: usize, sequence: u64) -> Payload<2> {
        let head = Head {
            publisher,
            topic: 0,
            sequence,
        };
        Payload::new(head, 0)
    }

    fn faults_of(taken: &[Payload<2>]) -> u64 {
        let (mut checker, _signals) = checker(&load(8));
        taken.iter().for_each(|message| checker.take(message));
        let probe = checker.probe();
        drop(checker);
        probe.take_report().expect("it was dropped").faults
    }

    #[test]
    fn publishers_may_interleave_but_each_keeps_its_order() {
        let orderly = [message(1, 0), message(0, 0), message(0, 1), message(1, 1)];
        assert_eq!(faults_of(&orderly), 0);
        assert_eq!(faults_of(&[message(0, 1), message(0, 0)]), 2);
        assert_eq!(faults_of(&[message(0, 0), message(0, 0)]), 1, "twice");
        assert_eq!(
            faults_of(&[message(2, 0)]),
            1,
            "a publisher that isn't there"
        );
    }

    #[test]
    fn a_gap_is_one_fault() {
        assert_eq!(faults_of(&[message(0, 0), message(0, 2), message(0, 3)]), 1);
    }

    #[test]
    fn the_last_delivery_is_signalled() {
        let (mut checker, signals) = checker(&load(4));
        for (publisher, sequence) in [(0, 0), (0, 1), (1, 0)] {
            checker.take(&message(publisher, sequence));
            assert!(signals.try_recv().is_err());
        }
        checker.take(&message(1, 1));
        assert!(matches!(signals.try_recv(), Ok(Signal::Finished)));
        assert_eq!(checker.probe().handled(), 4);
    }

    #[test]
    fn a_chosen_delivery_fails_once_and_is_then_handled() {
        let mut load = load(2);
        load.failing = 1.0;
        let (mut checker, _signals) = checker(&load);
        assert!(!checker.take_or_fail(&message(0, 0), 1));
        assert!(checker.take_or_fail(&message(0, 0), 2));
        assert_eq!(checker.faults, 0);
        assert!(checker.take_or_fail(&message(0, 0), 2));
        assert_eq!(checker.faults, 1, "a retry nobody asked for");
    }
}
