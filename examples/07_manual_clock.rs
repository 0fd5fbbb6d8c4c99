//! Tests handlers without threads, by a clock that you move yourself.
//!
//! With `workers(0)` everything runs inside `run_until_idle`, on this thread. With a manual
//! clock an hour passes when you say so. The program tests a retry schedule that takes an
//! hour in well under a second, and always the same way.

use std::error::Error;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use millstream::{Backoff, Batched, Broker, ManualClock, Nack};

fn main() -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let clock = ManualClock::new();
    let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    let minute = Duration::from_secs(60);

    println!("a call that fails twice is made again after 15 and after 30 minutes");
    let calls = broker
        .topic::<&'static str>("calls")
        .retry(Backoff::exponential(15 * minute).max_attempts(3))
        .open()?;
    let (rung, rings) = mpsc::channel();
    let _phone = calls.subscribe("phone", {
        let clock = clock.clone();
        move |delivery| {
            rung.send(clock.elapsed())?;
            match delivery.attempt() {
                3 => Ok(()),
                _ => Err(Nack::retry("engaged")),
            }
        }
    })?;
    calls.publish("mother")?;
    assert_eq!(rings.try_iter().count(), 0, "nothing runs behind our back");

    // The loop of every such test: run what is due, then jump to what is next.
    broker.run_until_idle();
    let mut jumps = 0;
    while let Some(next) = broker.next_deadline() {
        clock.advance(next);
        broker.run_until_idle();
        jumps += 1;
    }
    let rings: Vec<_> = rings.try_iter().collect();
    assert_eq!(rings, [Duration::ZERO, 15 * minute, 45 * minute]);
    assert_eq!(jumps, 2);

    println!("a partial batch goes exactly when its oldest message has lingered");
    let letters = broker
        .topic::<&'static str>("letters")
        .strategy(Batched::of(100).linger(10 * minute))
        .open()?;
    let postbox = letters.subscribe("postbox", |_| Ok(()))?;
    letters.publish("to the tax office")?;
    broker.run_until_idle();
    clock.advance(10 * minute - Duration::from_micros(100));
    broker.run_until_idle();
    assert_eq!(
        postbox.metrics().counts.delivered,
        0,
        "not a tick too early"
    );
    clock.advance(Duration::from_micros(100));
    broker.run_until_idle();
    assert_eq!(postbox.metrics().counts.delivered, 1);

    broker.metrics().balance()?;
    broker.drain(Duration::from_secs(1))?;
    println!("{:?} passed, in {:?}", clock.elapsed(), began.elapsed());
    Ok(())
}
