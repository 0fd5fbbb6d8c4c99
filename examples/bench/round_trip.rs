//! How long a cache line takes from one core to another and back, which is what
//! every exchange between threads is made of. On a virtual machine it changes by
//! the minute, so a figure is worth little without it.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

const TAKE: Duration = Duration::from_millis(20);
/// Round trips between two looks at the clock.
const TRIPS: u64 = 128;

/// In nanoseconds: the fastest quarter of short slices ends here. Slices in which a
/// thread had lost its core to another process say nothing about the machine.
pub fn measure_ns() -> f64 {
    let ball = Arc::new(CachePadded::new(AtomicU64::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let other = {
        let (ball, over) = (Arc::clone(&ball), Arc::clone(&over));
        // Odd: the ball is in the other's half.
        move || {
            while !over.load(Ordering::Relaxed) {
                let at = ball.load(Ordering::Acquire);
                if at % 2 == 1 {
                    ball.store(at + 1, Ordering::Release);
                }
                hint::spin_loop();
            }
        }
    };
    let other = thread::spawn(other);
    let mut slices = Vec::new();
    let began = Instant::now();
    while began.elapsed() < TAKE {
        let slice = Instant::now();
        for _ in 0..TRIPS {
            let at = ball.load(Ordering::Acquire) + 1;
            ball.store(at, Ordering::Release);
            while ball.load(Ordering::Acquire) == at {
                hint::spin_loop();
            }
        }
        slices.push(slice.elapsed().as_nanos() as f64 / TRIPS as f64);
    }
    over.store(true, Ordering::Relaxed);
    other.join().expect("it does nothing that could panic");
    slices.sort_by(f64::total_cmp);
    slices[slices.len() / 4]
}
