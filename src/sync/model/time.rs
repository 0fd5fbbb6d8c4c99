//! Time passes only for threads that wait for it, and then at once.

use std::cell::Cell;
use std::time::Duration;

std::thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Lets time begin anew: an execution must not depend on earlier ones.
pub fn restart_time() {
    NOW.set(Duration::ZERO);
}

/// The time since the execution began, under the name and with the methods of the real thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn checked_add(self, duration: Duration) -> Option<Self> {
        // The real one reaches further than any deadline, but not forever.
        let at = self.0.checked_add(duration);
        at.filter(|at| *at < Duration::MAX / 2).map(Self)
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Lets other threads have their turn, after which it is that late.
pub(super) fn wait_until(until: Instant) {
    NOW.set(NOW.get().max(until.0));
    loom::thread::yield_now();
}

pub(crate) fn sleep(duration: Duration) {
    let until = Instant::now().checked_add(duration);
    wait_until(until.expect("a time within reach"));
}

/// A stand-in for the processor's counter, which stands still.
pub(crate) struct Counter;

impl Counter {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn raw(&self) -> u64 {
        0
    }

    pub(crate) fn delta_as_nanos(&self, _from: u64, _to: u64) -> u64 {
        0
    }
}
