//! Time as part of the schedule. It stands still while threads run, however long they take. It
//! passes when the scheduler picks the *keeper*. Then it jumps to the next time for which any
//! thread waits, and wakes that thread.
//!
//! So a wait with an end may end at any step, in the order of the ends. A wait without one that
//! nobody ends is a deadlock, which shuttle reports.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::super::Arc;
use super::{Indivisible, WakeUp};

::shuttle::lazy_static! {
    /// The time of one schedule: shuttle makes a new one for each.
    static ref TIME: Time = Time::begin();
}

struct Time {
    now_ns: AtomicU64,
    alarms: Indivisible<Alarms>,
}

struct Alarms {
    set: Vec<(Instant, Arc<WakeUp>)>,
    /// The waker of the keeper, while no alarm is set.
    keeper: Option<Waker>,
}

impl Time {
    fn begin() -> Self {
        // Detached: the keeper holds up nobody's end, and no deadlock.
        drop(::shuttle::future::spawn(async {
            loop {
                poll_fn(|context| TIME.is_awaited(context.waker())).await;
                ::shuttle::future::yield_now().await;
                TIME.pass();
            }
        }));
        Self {
            now_ns: AtomicU64::new(0),
            alarms: Indivisible::new(Alarms {
                set: Vec::new(),
                keeper: None,
            }),
        }
    }

    fn is_awaited(&self, waker: &Waker) -> Poll<()> {
        self.alarms.change(|alarms| {
            if !alarms.set.is_empty() {
                return Poll::Ready(());
            }
            alarms.keeper = Some(waker.clone());
            Poll::Pending
        })
    }

    /// Jumps to the next alarm, unless it has been taken back.
    fn pass(&self) {
        let next = self.alarms.change(|alarms| {
            let first = (0..alarms.set.len()).min_by_key(|at| alarms.set[*at].0)?;
            Some(alarms.set.swap_remove(first))
        });
        if let Some((at, wake_up)) = next {
            self.now_ns.fetch_max(at.0, Ordering::Relaxed);
            wake_up.wake();
        }
    }
}

/// Nanoseconds since the schedule began, under the name and with the methods of the real thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(TIME.now_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn checked_add(self, duration: Duration) -> Option<Self> {
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        self.0.checked_add(nanos).map(Self)
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A stand-in for the processor's counter: the same time, in nanoseconds.
pub(crate) struct Counter;

impl Counter {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn raw(&self) -> u64 {
        Instant::now().0
    }

    pub(crate) fn delta_as_nanos(&self, from: u64, to: u64) -> u64 {
        to.saturating_sub(from)
    }
}

/// An alarm; dropping it takes it back.
pub(super) struct Alarm(Arc<WakeUp>);

pub(super) fn set_alarm(at: Instant, wake_up: Arc<WakeUp>) -> Alarm {
    let keeper = TIME.alarms.change(|alarms| {
        alarms.set.push((at, Arc::clone(&wake_up)));
        alarms.keeper.take()
    });
    keeper.into_iter().for_each(Waker::wake);
    Alarm(wake_up)
}

impl Drop for Alarm {
    fn drop(&mut self) {
        TIME.alarms.change(|alarms| {
            alarms
                .set
                .retain(|(_, wake_up)| !Arc::ptr_eq(wake_up, &self.0))
        });
    }
}
