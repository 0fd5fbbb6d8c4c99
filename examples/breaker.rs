//! A recorded incident: a bank fails for 30 seconds, under 10,000 payments a second.
//!
//! Without a circuit breaker, each account's next payment is tried again and again. With one, a few
//! attempts show that the bank is down. Then the payments wait in their lane, and one probe now and
//! then finds out when it is back. No payment is lost, and the order of each account is kept.
//!
//! Time is simulated, so the minute takes a moment.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::metrics::WaitingFor;
use millstream::protect::Breaker;
use millstream::{Backoff, Broker, ManualClock, Nack, OnFailure};

const STEP: Duration = Duration::from_millis(10);
/// The accounts, and the payments of one step: 10,000 a second.
const ACCOUNTS: usize = 100;
/// The steps before the outage, in it, and after it.
const STEPS: [u32; 3] = [500, 3_000, 1_500];
/// The longest time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// What an incident has cost.
pub struct Cost {
    /// Attempts that failed.
    pub burnt: u64,
    /// Payments that were made.
    pub made: u64,
    /// Payments that were not.
    pub lost: u64,
    /// The time from the end of the outage until the first payment.
    pub recovery: Duration,
    /// Whether each account got its payments in order.
    pub in_order: bool,
    /// The reason why payments waited in the middle of the outage.
    pub waited_for: Option<WaitingFor>,
}

/// Lives through the incident.
pub fn live_through(breaker: Option<Breaker>) -> Result<Cost, Box<dyn Error>> {
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    let payments = broker
        .topic::<u32>("payments")
        .retry(Backoff::fixed(Duration::from_millis(100)).max_attempts(1_000_000))
        .lane_capacity(1_000_000)
        .open()?;

    let is_down = Arc::new(AtomicBool::new(false));
    let made = Arc::new(Mutex::new(Vec::new()));
    let (bank_is_down, book) = (Arc::clone(&is_down), Arc::clone(&made));
    let paying = payments
        .subscription("paying")
        .on_failure(OnFailure::BlockKey)
        .subscribe(move |payment| {
            if bank_is_down.load(Ordering::Relaxed) {
                return Err(Nack::retry("the bank is down"));
            }
            let mut book = book.lock().map_err(|_| Nack::retry("poisoned"))?;
            book.push(*payment.payload());
            Ok(())
        })?;
    paying.set_breaker(breaker)?;

    let mut number = 0;
    let mut back_up = Duration::ZERO;
    let mut first = None;
    let mut waited_for = None;
    for (phase, steps) in STEPS.into_iter().enumerate() {
        is_down.store(phase == 1, Ordering::Relaxed);
        let before = made.lock().map_err(|_| "poisoned")?.len();
        for step in 0..steps {
            for _ in 0..ACCOUNTS {
                let account = number as usize % ACCOUNTS;
                payments
                    .message(number)
                    .key(account.to_string())
                    .publish()?;
                number += 1;
            }
            clock.advance(STEP);
            broker.run_until_idle();
            if phase == 1 && step == steps / 2 {
                waited_for = paying.metrics().waiting_for.map(|waiting| waiting.reason);
            }
            if phase == 2 && first.is_none() {
                back_up += STEP;
                let is_back = made.lock().map_err(|_| "poisoned")?.len() > before;
                first = is_back.then_some(back_up);
            }
        }
    }

    broker.metrics().balance()?;
    let made = made.lock().map_err(|_| "poisoned")?;
    let mut last = [None; ACCOUNTS];
    let in_order = made.iter().all(|payment| {
        let before = last[*payment as usize % ACCOUNTS].replace(*payment);
        before < Some(*payment)
    });
    let counts = paying.metrics().counts;
    Ok(Cost {
        burnt: counts.failed,
        made: counts.delivered,
        lost: u64::from(number) - counts.delivered,
        recovery: first.ok_or("no payment was made after the outage")?,
        in_order,
        waited_for,
    })
}

/// The breaker of the example: it asks the bank every five seconds at the latest.
pub fn breaker() -> Breaker {
    Breaker::new().max_open(PROBE_INTERVAL)
}

fn main() -> Result<(), Box<dyn Error>> {
    let without = live_through(None)?;
    let with = live_through(Some(breaker()))?;
    println!("                     without a breaker   with one");
    println!("attempts burnt    {:>20} {:>10}", without.burnt, with.burnt);
    println!("payments made     {:>20} {:>10}", without.made, with.made);
    println!("payments lost     {:>20} {:>10}", without.lost, with.lost);
    println!(
        "recovered after   {:>20?} {:>10?}",
        without.recovery, with.recovery
    );
    assert!(
        with.burnt * 100 <= without.burnt,
        "one in a hundred at most"
    );
    assert!(
        without.in_order && with.in_order,
        "the order of each account"
    );
    assert!(
        with.recovery <= PROBE_INTERVAL,
        "within one interval of probes"
    );
    assert_eq!((without.lost, with.lost), (0, 0));
    Ok(())
}
