//! Tortures the engine with everything that it must withstand, and checks every delivery.
//!
//! ```text
//! cargo run --release --example torture                          # a minute, another seed each time
//! cargo run --release --example torture -- --seed 7 --seconds 600
//! cargo run --release --example torture -- --faults panics,stuck,drain
//! cargo run --release --example torture -- --list                # what the faults are
//! cargo run --release --example torture --features async,log     # with async handlers, and a store
//! ```
//!
//! Broker after broker lives for a few seconds, with other faults each time. The
//! program keeps its own books in its publishers and handlers. It holds them
//! against the engine's whenever a broker has come to rest or to its end. Every call
//! checks what can be seen at once: order, attempts, timers, payloads, calls after an
//! unsubscribe. The seed decides what is tried; the machine, how the threads meet.
//! Exits with 1 if anything is wrong.
//!
//! Started by a shell itself, and not by cargo or a script, the fault `stop` looks to
//! that shell like a Ctrl-Z.

mod actors;
mod args;
mod asker;
#[cfg(feature = "async")]
mod awaiter;
mod crowd;
mod end;
mod faults;
mod gates;
mod hands;
mod hooks;
#[cfg(feature = "log")]
mod keeper;
mod ledger;
mod life;
mod meddler;
mod partitions;
mod patterns;
mod process;
mod puller;
mod shot;
mod source;
mod temper;
mod verdict;
mod watch;
mod witness;

use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use args::Args;
use clap::Parser;
use fastrand::Rng;
use faults::{Fault, Faults};
use hooks::Ears;
use life::Life;
use millstream::Broker;
use parking_lot::{Condvar, Mutex};
use shot::Shot;
use verdict::{check, same};

/// How long threads may take to be gone, after their broker.
const PARTING: Duration = Duration::from_secs(10);
/// Bytes that may be left after a life: less than a subscription takes.
const SPARE: i64 = 1_024;
/// More threads than any life has.
const MANY: usize = 64;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        args::list();
        return ExitCode::SUCCESS;
    }
    let seed = args.seed();
    println!("seed {seed}, faults: {}", args.faults);
    temper::quiet_panics();
    let mut before = Remains::now();
    warm_up();
    before.await_threads();
    watch::start();
    before = Remains::now();
    let began = Instant::now();
    let mut lives = 0;
    while lives < args.lives && verdict::failures() == 0 {
        let number = args.from + lives;
        live(number, seed, args.faults);
        before.compare();
        lives += 1;
        if began.elapsed() >= args.duration() {
            break;
        }
    }
    summary(seed, lives, began.elapsed())
}

/// The first use of a library leaves things behind for the whole process, and
/// more of them for more threads. They are nobody's leak.
fn warm_up() {
    let broker = Broker::builder()
        .workers(8)
        .build()
        .expect("the system has threads to spare");
    let topic = broker.topic::<u8>("warm-up").open().expect("it opens");
    let subscription = topic
        .subscribe("warm-up", |_| Ok(()))
        .expect("it subscribes");
    let barrier = Barrier::new(MANY);
    // Who has slept once is in the table of parked threads, which grows and never shrinks.
    let (lock, bell) = (Mutex::new(()), Condvar::new());
    thread::scope(|scope| {
        for _ in 0..MANY {
            scope.spawn(|| {
                barrier.wait();
                let _ = topic.publish(0);
                drop(broker.metrics());
                let _ = broker.wait_until_idle(Duration::from_secs(1));
                bell.wait_for(&mut lock.lock(), Duration::from_millis(1));
                barrier.wait();
            });
        }
    });
    drop((subscription, broker.drain(PARTING)));
}

/// One broker's life.
fn live(number: u64, seed: u64, faults: Faults) {
    let mut random = Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let faults = faults.some(&mut random);
    let life = Life::begin(number, &mut random, faults);
    println!("{life}");
    watch::begin_life(&life);
    let broker = life.slot.broker();
    let observes = faults.has(Fault::Observers);
    let heard = broker
        .filter(|_| observes)
        .map(|broker| Ears::open(&broker));
    let (ears, observations) = heard.unzip();
    let subscriptions = life.subscribe(&mut random);
    let actors = life.start(&mut random);
    life::last(&life, &mut random);
    let books = end::end(&life, actors, ears);
    watch::end_life(&books);
    drop((observations, subscriptions));
}

/// What is left when all is dropped.
struct Remains {
    heap: i64,
    threads: Option<usize>,
}

impl Remains {
    fn now() -> Self {
        watch::undisturbed(|| {
            // Whoever is gone by now has left nothing in memory.
            let threads = process::threads();
            let heap = process::heap_bytes();
            Self { heap, threads }
        })
    }

    /// Waits until there are no more threads than then; answers what there is now.
    fn await_threads(&self) -> Self {
        let began = Instant::now();
        loop {
            let now = Self::now();
            if now.threads <= self.threads || began.elapsed() >= PARTING {
                return now;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn compare(&self) {
        let now = self.await_threads();
        same("leaks", "threads", now.threads, self.threads);
        same("leaks", "payloads alive", Shot::alive(), 0);
        let left = now.heap - self.heap;
        check(
            left <= SPARE,
            "leaks",
            format_args!("{left} bytes are left"),
        );
    }
}

fn summary(seed: u64, lives: u64, took: Duration) -> ExitCode {
    let books = watch::past();
    let of = books.deliveries;
    println!(
        "{lives} lives in {:.0} s: {} messages, {} deliveries made, {} attempts, {} retried",
        took.as_secs_f64(),
        books.accepted,
        of.made,
        of.attempts,
        of.retried,
    );
    println!(
        "{} panics contained; drains returned at most {} ms after their deadline",
        watch::PANICS.load(Relaxed),
        watch::LATEST_US.load(Relaxed) / 1_000,
    );
    let unaccounted = of.open() + verdict::count("accounts") + verdict::count("conservation");
    println!(
        "{unaccounted} unaccounted for, {} order inversions",
        verdict::count("order") + verdict::count("gaps"),
    );
    if verdict::failures() == 0 {
        println!("all is well; --seed {seed} tries the same again");
        return ExitCode::SUCCESS;
    }
    for (check, count) in verdict::list() {
        println!("FAILED {count} times: {check}");
    }
    println!("--seed {seed} tries the same again");
    ExitCode::FAILURE
}
