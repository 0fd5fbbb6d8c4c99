//! A handler that takes its time holds up nobody but its own subscription.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::harness::{HANG, Log, assert_rests_balanced, read, threaded};
use millstream::{Batched, Immediate, Subscription, Topic, Unsubscribe};
use parking_lot::{Condvar, Mutex};

/// Whether a worker keeps the topic while it waits at a gate is up to the machine: here are
/// chances enough.
const ROUNDS: u64 = 50;
/// Payloads that find a gate shut; those below go by.
const FIRST_WAITS: u64 = 1_000;
const SECOND_WAITS: u64 = 1_001;

/// Where a handler waits.
#[derive(Default)]
struct Gate {
    /// A call waits there.
    is_met: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn meet(&self) {
        let mut is_met = self.is_met.lock();
        *is_met = true;
        self.changed.notify_all();
        while *is_met {
            self.changed.wait(&mut is_met);
        }
    }

    fn wait_until_met(&self) {
        let mut is_met = self.is_met.lock();
        while !*is_met {
            let timed_out = self.changed.wait_for(&mut is_met, HANG).timed_out();
            assert!(!timed_out, "nobody came to the gate");
        }
    }

    fn open(&self) {
        *self.is_met.lock() = false;
        self.changed.notify_all();
    }
}

/// A subscription whose handler waits at a gate when it gets `payload`.
fn waits_at(
    gate: &Arc<Gate>,
    payload: u64,
    topic: &Topic<u64>,
    name: &str,
) -> (Log<u64>, Subscription) {
    let (log, gate) = (Log::new(), Arc::clone(gate));
    let handled = log.clone();
    let subscription = topic.subscribe(name, move |delivery| {
        if *delivery.payload() == payload {
            gate.meet();
        }
        handled.push(*delivery.payload());
        Ok(())
    });
    (log, subscription.expect("subscribes"))
}

/// Waits without sleeping, so that what follows finds the workers awake.
fn spin_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_done() {
        assert!(began.elapsed() < HANG, "{what}");
        thread::yield_now();
    }
}

/// Publishes one after the other what comes through to `log`, so that workers find it worth
/// while to stay with the topic.
fn keep_busy(topic: &Topic<u64>, log: &Log<u64>) {
    for number in 0..8 {
        let before = log.len();
        topic.publish(number).unwrap();
        spin_until("no message", || log.len() > before);
    }
}

#[test]
fn a_handler_that_waits_delays_no_other_subscription() {
    let broker = threaded(2);
    let topic = broker.topic("t").open().unwrap();
    let gates = [Arc::default(), Arc::default()];
    let (first, _first) = waits_at(&gates[0], FIRST_WAITS, &topic, "first");
    let (second, _second) = waits_at(&gates[1], SECOND_WAITS, &topic, "second");
    for round in 0..ROUNDS {
        topic.publish(SECOND_WAITS).unwrap();
        gates[1].wait_until_met();
        // The other worker has the topic to itself, and the first subscription, until it
        // has to wait, too.
        keep_busy(&topic, &first);
        topic.publish(FIRST_WAITS).unwrap();
        gates[0].wait_until_met();
        topic.publish(round).unwrap();
        let before = first.len();
        gates[1].open();
        spin_until("the second waits for the first", || {
            second.len() > before + 1
        });
        assert_eq!(first.len(), before, "its gate was shut");
        gates[0].open();
        spin_until("nothing after the gate", || first.len() == second.len());
    }
    assert_rests_balanced(&broker);
    assert_eq!(first.take(), second.take());
}

#[test]
fn a_handler_that_waits_delays_no_subscribe_flush_or_swap() {
    let broker = threaded(2);
    let topic = broker.topic("t").open().unwrap();
    let gate = Arc::default();
    let (first, _first) = waits_at(&gate, FIRST_WAITS, &topic, "first");
    for round in 0..ROUNDS {
        keep_busy(&topic, &first);
        topic.publish(FIRST_WAITS).unwrap();
        gate.wait_until_met();
        let before = first.len();
        let (late, late_subscription) = read(&topic, "late");
        topic.publish(round).unwrap();
        spin_until("nothing for who joins", || late.len() == 1);
        topic.set_strategy(Batched::of(100).until_full()).unwrap();
        topic.publish(round).unwrap();
        topic.flush();
        spin_until("nothing after a flush", || late.len() == 2);
        topic.publish(round).unwrap();
        topic.set_strategy(Immediate).unwrap();
        spin_until("nothing after a swap", || late.len() == 3);
        assert_eq!(first.len(), before, "the gate was shut");
        gate.open();
        spin_until("nothing after the gate", || first.len() == before + 4);
        late_subscription.unsubscribe(Unsubscribe::Cancel);
    }
    assert_rests_balanced(&broker);
}
