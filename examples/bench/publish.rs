//! One publisher's thread.

use std::hint;
use std::thread;
use std::time::Duration;

use crate::check::Clock;
use crate::load::{Load, Publishing};
use crate::payload::{Head, Payload};
use crate::systems::{Answer, Publisher};

/// What one publisher has to send.
pub struct Route {
    number: usize,
    topics: usize,
    /// Where its round of the topics begins, so that publishers don't march in step.
    first_topic: usize,
    /// Messages for each topic.
    each: u64,
    publishing: Publishing,
    interval_ns: Option<f64>,
    /// Whether it has a core to itself and may spin between messages.
    alone: bool,
}

/// Flat out, reading the clock for every message would be what is measured.
const STAMP_EVERY: u64 = 256;
/// Sleeping is late by about the kernel's timer slack (50 µs) plus a wake-up, so
/// the end of a long wait is spent awake.
const AWAKE_NS: u64 = 500_000;

impl Route {
    pub fn new(load: &Load, number: usize) -> Self {
        Self {
            number,
            topics: load.topics,
            first_topic: number * load.topics / load.publishers,
            each: load.each(),
            publishing: load.publishing,
            interval_ns: load.interval_ns(),
            alone: load.publishers == 1,
        }
    }

    /// Sends all of it.
    pub fn publish<const WORDS: usize>(
        &self,
        publisher: &mut impl Publisher<WORDS>,
        clock: Clock,
    ) -> Answer {
        let batch = self.publishing.batch() as u64;
        let start_ns = clock.now_ns();
        let mut sent = 0;
        for first in (0..self.each).step_by(batch as usize) {
            for step in 0..self.topics {
                let topic = (self.first_topic + step) % self.topics;
                let make = |index: u64| {
                    let head = Head {
                        publisher: self.number,
                        topic,
                        sequence: first + index,
                    };
                    let stamp = match self.interval_ns {
                        Some(interval_ns) => due_ns(start_ns, interval_ns, sent + index),
                        None if head.sequence.is_multiple_of(STAMP_EVERY) => clock.now_ns(),
                        None => 0,
                    };
                    Payload::new(head, stamp)
                };
                if let Some(interval_ns) = self.interval_ns {
                    // A batch leaves when its last message is due.
                    self.wait_until(due_ns(start_ns, interval_ns, sent + batch - 1), clock);
                }
                match self.publishing {
                    Publishing::Single | Publishing::Buffered(_) => {
                        publisher.send(topic, make(0))?;
                    }
                    Publishing::Batch(_) => publisher
                        .send_batch(topic, (0..batch as usize).map(|index| make(index as u64)))?,
                }
                sent += batch;
            }
        }
        publisher.flush()
    }

    fn wait_until(&self, due_ns: u64, clock: Clock) {
        loop {
            let now_ns = clock.now_ns();
            if now_ns >= due_ns {
                return;
            }
            match pause(due_ns - now_ns, self.alone) {
                Pause::Sleep(time) => thread::sleep(time),
                Pause::Spin => hint::spin_loop(),
                Pause::Yield => thread::yield_now(),
            }
        }
    }
}

/// When a message is meant to be sent, however late the generator is.
fn due_ns(start_ns: u64, interval_ns: f64, number: u64) -> u64 {
    start_ns + (number as f64 * interval_ns) as u64
}

#[derive(Debug, PartialEq)]
enum Pause {
    Sleep(Duration),
    Spin,
    Yield,
}

fn pause(left_ns: u64, alone: bool) -> Pause {
    match left_ns.checked_sub(AWAKE_NS) {
        Some(asleep_ns) if asleep_ns > 0 => Pause::Sleep(Duration::from_nanos(asleep_ns)),
        _ if alone => Pause::Spin,
        _ => Pause::Yield,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intended_times_do_not_drift() {
        let third = 1e9 / 3.0;
        assert_eq!(due_ns(5, third, 3_000_000), 5 + 1_000_000_000_000_000);
    }

    #[test]
    fn a_long_wait_sleeps_and_wakes_in_time() {
        let long = pause(2_000_000, true);
        assert_eq!(long, Pause::Sleep(Duration::from_nanos(1_500_000)));
        assert_eq!(pause(50_000, true), Pause::Spin);
        assert_eq!(pause(50_000, false), Pause::Yield);
    }
}
