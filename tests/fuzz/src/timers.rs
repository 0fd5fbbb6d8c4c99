//! Any delays and any jumps of the clock: nothing fires early, everything fires at
//! the first look after its tick, and in the order of ticks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use super::shapes::Time;
use super::{check_books, manual};

#[derive(Debug, Arbitrary)]
enum Step {
    After(Time),
    Jump(Time),
    /// To the next deadline, and not a nanosecond further.
    Next,
    /// To just before it.
    Almost,
}

/// A tick of the wheel.
const TICK_NS: u64 = 100_000;
/// What a topic holds.
const CAPACITY: usize = 256;

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The end of the tick in which a deadline lies.
fn tick_end(ns: u64) -> u64 {
    ns.div_ceil(TICK_NS).saturating_mul(TICK_NS)
}

pub fn fuzz(bytes: &[u8]) {
    let Ok(steps) = Vec::<Step>::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("timers").capacity(CAPACITY);
    let topic = topic.open().expect("fine settings");
    let fired = Arc::new(Mutex::new(Vec::new()));
    let now_ns = Arc::new(AtomicU64::new(0));
    let (log, now) = (Arc::clone(&fired), Arc::clone(&now_ns));
    let sub = topic.subscribe("lane", move |delivery| {
        let (due, now) = (*delivery.payload(), now.load(Ordering::Relaxed));
        assert!(due <= now, "due at {due}, fired at {now}");
        log.lock().expect("nothing panics with it").push(due);
        Ok(())
    });
    let _sub = sub.expect("a fine name");

    let mut pending: Vec<u64> = Vec::new();
    // Those without a delay, which are in the queue and not on the wheel.
    let mut queued = 0;
    for step in &steps {
        let jump = match step {
            Step::After(Time(delay)) => {
                if pending.len() < CAPACITY {
                    let due = nanos(clock.elapsed()).saturating_add(nanos(*delay));
                    topic.publish_after(*delay, due).expect("there is room");
                    pending.push(due);
                    queued += u64::from(delay.is_zero());
                }
                continue;
            }
            Step::Jump(Time(by)) => *by,
            Step::Next => broker.next_deadline().unwrap_or_default(),
            Step::Almost => {
                let next = broker.next_deadline().unwrap_or_default();
                next.saturating_sub(Duration::from_nanos(1))
            }
        };
        clock.advance(jump);
        let now = nanos(clock.elapsed());
        now_ns.store(now, Ordering::Relaxed);
        broker.run_until_idle();
        queued = 0;
        let came = std::mem::take(&mut *fired.lock().expect("nothing panics with it"));
        let ticks: Vec<_> = came.iter().map(|due| tick_end(*due)).collect();
        assert!(ticks.is_sorted(), "{ticks:?}");
        for due in &came {
            let at = pending.iter().position(|pending| pending == due);
            pending.swap_remove(at.expect("it fires once"));
        }
        check_pending(&pending, now, broker.next_deadline());
    }
    let delayed = pending.len() as u64 - queued;
    assert_eq!(check_books(&broker).topics[0].delayed, delayed);
}

/// What has not fired has no right to yet, and the next deadline is its.
fn check_pending(pending: &[u64], now: u64, next: Option<Duration>) {
    let Some(first) = pending.iter().min() else {
        return assert_eq!(next, None);
    };
    assert!(tick_end(*first) > now, "{first} is late at {now}");
    let next = now.saturating_add(nanos(next.expect("something is pending")));
    assert!(next > now, "a deadline in the past");
    assert!(next <= tick_end(*first), "{first} would be late at {next}");
}
