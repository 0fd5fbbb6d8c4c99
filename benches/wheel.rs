//! Timers per second, set and fired, on one thread with a million pending: the
//! wheel alone, from the file that ships.

// What the wheel lives on knows nothing of the rest of the crate.
#[allow(dead_code, unused_imports, reason = "the engine uses the rest")]
#[path = "../src/pure"]
mod pure {
    pub mod wheel;
}
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pure::wheel::{Due, Wheel};
use support::group;

const PENDING: u64 = 1_000_000;
/// Timers are set for any time within this from now.
const REACH_NS: u64 = 10_000_000_000;
/// How often time is moved on: a tick.
const TICK_NS: u64 = 100_000;

/// What the engine's timers carry is a reference too.
type Target = Arc<dyn Send + Sync>;

/// As many are set as come due, all the time.
fn steady(c: &mut Criterion) {
    let mut bench = Bench::new();
    for _ in 0..PENDING {
        // What is left to those pending in the long run: less than when they were set.
        let left_ns = bench.any_time().min(bench.any_time());
        bench.insert(left_ns);
    }
    // A timer waits for half of the reach on average.
    let per_tick = PENDING * 2 * TICK_NS / REACH_NS;
    let mut group = group(c, "wheel, a million pending", per_tick * TICKS);
    group.bench_function("insert and fire, steadily", |b| {
        b.iter(|| {
            for _ in 0..TICKS {
                for _ in 0..per_tick {
                    let delay_ns = bench.any_time();
                    bench.insert(delay_ns);
                }
                bench.advance(TICK_NS);
            }
        });
    });
    group.finish();
    let pending = bench.inserted - bench.fired;
    assert!(
        pending.abs_diff(PENDING) < PENDING / 50,
        "{pending} pending"
    );
    bench.advance(2 * REACH_NS);
    assert_eq!(bench.fired, bench.inserted);
}

/// A storm: a million are set, then all come due, a tick at a time.
fn storm(c: &mut Criterion) {
    let mut group = group(c, "wheel, a million pending", PENDING);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(4));
    group.bench_function("insert all, fire all", |b| {
        b.iter_batched(
            Bench::new,
            |mut bench| {
                for _ in 0..PENDING {
                    let delay_ns = bench.any_time();
                    bench.insert(delay_ns);
                }
                while bench.fired < PENDING {
                    bench.advance(TICK_NS);
                }
                bench
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Ticks in an iteration of `steady`.
const TICKS: u64 = 50;

struct Bench {
    wheel: Wheel<Target>,
    target: Target,
    due: Vec<Due<Target>>,
    now_ns: u64,
    random: u64,
    inserted: u64,
    fired: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            wheel: Wheel::new(0),
            target: Arc::new(()),
            due: Vec::new(),
            now_ns: 0,
            random: 0x9E37_79B9_7F4A_7C15,
            inserted: 0,
            fired: 0,
        }
    }

    /// Some time within reach, by Marsaglia's xorshift: the same in every run.
    fn any_time(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % REACH_NS
    }

    fn insert(&mut self, delay_ns: u64) {
        let target = Arc::clone(&self.target);
        let deadline_ns = self.now_ns + delay_ns;
        black_box(self.wheel.insert(deadline_ns, 0, target));
        self.inserted += 1;
    }

    fn advance(&mut self, by_ns: u64) {
        self.now_ns += by_ns;
        self.wheel.advance(self.now_ns, &mut self.due);
        self.fired += self.due.len() as u64;
        self.due.drain(..).for_each(|due| drop(black_box(due)));
    }
}

criterion_group!(benches, steady, storm);
criterion_main!(benches);
