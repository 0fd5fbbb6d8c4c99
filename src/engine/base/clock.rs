//! Time, as the engine sees it: nanoseconds since the broker was built, read from two clocks or
//! moved by hand.
//!
//! Ages and latencies come from the processor's counter (through quanta). It is read once per
//! publish and costs a third of the system's clock. It is calibrated once and may drift from the
//! system's clock by some millionths.
//!
//! So deadlines are kept by the system's monotonic clock, by which threads sleep, too. No timer
//! fires early because two clocks disagree. Where the processor has no steady counter, quanta reads
//! the system's clock.

use std::time::{Duration, SystemTime};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Counter, Instant, time_of_day};
use crate::types::duration::nanos;

/// A clock that stands still until it is advanced.
///
/// Given to a broker with `workers(0)`, it makes every retry, linger and time to live
/// deterministic. Advance the clock, then call
/// [`Broker::run_until_idle`](crate::Broker::run_until_idle). Its time of day, for
/// [`Topic::publish_at`](crate::Topic::publish_at), is counted from
/// [`UNIX_EPOCH`](std::time::SystemTime::UNIX_EPOCH).
///
/// ```
/// use millstream::{Broker, ManualClock};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::new();
/// let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
/// clock.advance(Duration::from_secs(3_600)); // an hour, in no time
/// broker.run_until_idle();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now_ns: Arc<AtomicU64>,
}

/// The farthest that a manual clock goes: half of the number's range. So every deadline lies ahead
/// of the clock, and a wait can't end at once and begin anew forever. A deadline that means
/// "never" is not reached.
const FARTHEST_NS: u64 = u64::MAX / 2;

impl ManualClock {
    /// Returns a clock that shows zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock forward. Nothing runs yet: the engine looks at the clock in the next
    /// `run_until_idle`. The clock goes as far as 292 years, and stands still there.
    pub fn advance(&self, by: Duration) {
        let by_ns = nanos(by);
        let further = |now_ns: u64| Some(now_ns.saturating_add(by_ns).min(FARTHEST_NS));
        // ORDERING: the clock publishes nothing but itself. The update never fails.
        let _ = self
            .now_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, further);
    }

    /// Returns the time that the clock shows, counted from zero when it was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::Relaxed))
    }
}

/// The engine's clock.
pub(crate) enum Clock {
    Monotonic {
        origin: Instant,
        counter: Counter,
        /// The counter's reading at `origin`, in its own unit.
        counter_origin: u64,
    },
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn monotonic() -> Self {
        let counter = Counter::new();
        Self::Monotonic {
            origin: Instant::now(),
            counter_origin: counter.raw(),
            counter,
        }
    }

    /// Returns the time by which ages and latencies are measured.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        match self {
            Self::Monotonic {
                counter,
                counter_origin,
                ..
            } => counter.delta_as_nanos(*counter_origin, counter.raw()),
            Self::Manual(clock) => nanos(clock.elapsed()),
        }
    }

    /// Returns the time by which deadlines are kept.
    pub(crate) fn timer_ns(&self) -> u64 {
        match self {
            Self::Monotonic { origin, .. } => nanos(origin.elapsed()),
            Self::Manual(clock) => nanos(clock.elapsed()),
        }
    }

    /// Returns the instant at which [`timer_ns`](Self::timer_ns) will be `at_ns`, for a thread to
    /// sleep until. `None` means that the platform can't express it, or that only a manual clock
    /// gets there.
    pub(crate) fn instant(&self, at_ns: u64) -> Option<Instant> {
        match self {
            Self::Monotonic { origin, .. } => origin.checked_add(Duration::from_nanos(at_ns)),
            Self::Manual(_) => None,
        }
    }

    /// Returns the time of day. A manual clock began in 1970.
    pub(crate) fn time_of_day(&self) -> SystemTime {
        match self {
            Self::Monotonic { .. } => time_of_day(),
            Self::Manual(clock) => SystemTime::UNIX_EPOCH + clock.elapsed(),
        }
    }

    pub(crate) fn is_manual(&self) -> bool {
        matches!(self, Self::Manual(_))
    }
}
