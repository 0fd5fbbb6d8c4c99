//! Computes on every core, by a handler whose calls run side by side.
//!
//! The same work is done twice: first on the worker that delivers it, then on threads of the
//! handler's own.
//!
//! `cargo run --release --features parallel --example 12_parallel_handlers`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use millstream::error::SubscribeError;
use millstream::{Batched, Broker, Delivery, Nack, Subscription, Topic};

const NUMBERS: u64 = 4_000;

/// Numbers to look at, and how many primes there were.
struct Search {
    topic: Topic<u64>,
    primes: Arc<AtomicU64>,
}

impl Search {
    fn new(broker: &Broker, name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self {
            topic: broker.topic(name).capacity(NUMBERS as usize).open()?,
            primes: Arc::default(),
        })
    }

    fn handler(&self) -> impl Fn(&Delivery<'_, u64>) -> Result<(), Nack> + Send + Sync + use<> {
        let primes = Arc::clone(&self.primes);
        move |delivery| {
            if is_prime(*delivery.payload()) {
                primes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    }

    fn run(
        &self,
        broker: &Broker,
        subscribe: impl FnOnce(&Self) -> Result<Subscription, SubscribeError>,
    ) -> Result<(u64, Duration), Box<dyn std::error::Error>> {
        let _subscription = subscribe(self)?;
        let began = Instant::now();
        let from = 10_000_000_000;
        self.topic.publish_batch(from..from + NUMBERS)?;
        assert!(broker.wait_until_idle(Duration::from_secs(60)));
        Ok((self.primes.load(Ordering::Relaxed), began.elapsed()))
    }
}

/// By trial division: slow on purpose.
fn is_prime(number: u64) -> bool {
    let divides = |divisor: &u64| number.is_multiple_of(*divisor);
    let mut candidates = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && !candidates.any(|divisor| divides(&divisor))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().workers(1).build()?;
    let threads = thread::available_parallelism()?.get();

    let alone = Search::new(&broker, "alone")?;
    let (found, took) = alone.run(&broker, |search| {
        search.topic.subscribe("worker", search.handler())
    })?;
    println!("one worker:           {found} primes in {took:.1?}");

    let together = Search::new(&broker, "together")?;
    let (again, took) = together.run(&broker, |search| {
        let subscription = search.topic.subscription("pool");
        subscription
            .concurrency(threads)
            .subscribe_parallel(Batched::of(256), search.handler())
    })?;
    println!("{threads} threads of its own: {again} primes in {took:.1?}");
    assert_eq!(found, again, "the same numbers have the same primes");

    println!("{}", broker.drain(Duration::from_secs(5))?);
    Ok(())
}
