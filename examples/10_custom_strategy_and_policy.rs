//! Implements a strategy and a retry policy.
//!
//! Both are functions of their arguments, without state, clock or thread. So they are tested
//! like any function, and the engine can swap them at any time.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::error::SettingError;
use millstream::retry::{Decision, FailedAttempt, RetryPolicy};
use millstream::strategy::{Backlog, FlushCause, Plan, Strategy};
use millstream::{Broker, ManualClock, Nack};

const MS: Duration = Duration::from_millis(1);

/// Like a lift: leaves with a full cabin, or a while after the first one got in.
struct Lift {
    slots: usize,
    patience: Duration,
}

impl Strategy for Lift {
    fn plan(&self, backlog: &Backlog) -> Plan {
        let (at_most, cause) = if backlog.waiting() >= self.slots {
            (self.slots, FlushCause::Size)
        } else if backlog.oldest_age() >= self.patience {
            (backlog.waiting(), FlushCause::Linger)
        } else {
            return Plan::Wait {
                until_waiting: self.slots,
                at_most: Some(self.patience - backlog.oldest_age()),
            };
        };
        Plan::Flush { at_most, cause }
    }

    fn name(&self) -> &str {
        "lift"
    }

    // Asked once, when it is installed: a mistake is an error there and then.
    fn check(&self) -> Result<(), SettingError> {
        match self.slots {
            0 => Err(SettingError::new("slots", 0, "must be at least 1")),
            _ => Ok(()),
        }
    }
}

/// Fibonacci delays in milliseconds, and none of it for what can't be cured.
struct Fibonacci {
    max_attempts: u32,
}

impl RetryPolicy for Fibonacci {
    fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
        if failed.text().contains("no such floor") {
            return Decision::DeadLetter;
        }
        if failed.attempt() >= self.max_attempts {
            return Decision::Exhausted;
        }
        let (ms, _) = (0..failed.attempt()).fold((0, 1), |(a, b), _| (b, a + b));
        Decision::RetryAfter(ms * MS)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // As plain functions …
    let lift = Lift {
        slots: 3,
        patience: 20 * MS,
    };
    let full = Plan::Flush {
        at_most: 3,
        cause: FlushCause::Size,
    };
    assert_eq!(lift.plan(&Backlog::new(5, MS, 64)), full);
    let policy = Fibonacci { max_attempts: 6 };
    let delays = (1..=6).map(|n| policy.decide(&FailedAttempt::new(n, MS, "stuck")));
    let expected = [1, 1, 2, 3, 5].map(|ms| Decision::RetryAfter(ms * MS));
    assert_eq!(
        delays.collect::<Vec<_>>(),
        [&expected[..], &[Decision::Exhausted]].concat()
    );

    // … and at work, on a clock moved by hand.
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    let _observation = broker.observe(|event| println!("{:>5?} {event}", event.at()))?;
    let floors = broker
        .topic::<u32>("floors")
        .strategy(lift)
        .retry(policy)
        .open()?;
    let cargo_lift = Lift {
        slots: 0,
        patience: MS,
    };
    assert!(floors.set_strategy(cargo_lift).is_err());

    let (arrived, arrivals) = mpsc::channel();
    let _cabin = floors.subscribe("cabin", move |delivery| match *delivery.payload() {
        13 => Err(Nack::retry("no such floor")),
        4 if delivery.attempt() < 4 => Err(Nack::retry("stuck")),
        floor => Ok(arrived.send(floor)?),
    })?;
    for floor in [2, 4, 13, 7] {
        floors.publish(floor)?;
    }
    broker.run_until_idle();
    assert_eq!(floors.metrics().queued, 1, "floor 7 waits for company");
    while let Some(next) = broker.next_deadline() {
        clock.advance(next);
        broker.run_until_idle();
    }
    // 4 was stuck for 1 + 1 + 2 ms; 7 waited out the patience of 20 ms.
    assert_eq!(arrivals.try_iter().collect::<Vec<_>>(), [2, 4, 7]);
    assert_eq!(clock.elapsed(), 20 * MS);
    assert_eq!(floors.dead_letters().len(), 1);
    broker.drain(MS)?;
    Ok(())
}
