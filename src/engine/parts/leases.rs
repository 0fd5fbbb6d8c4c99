//! The leases of a lane: the deliveries that are out, the alarm for the first deadline, and counts.

use crate::engine::parts::outstanding::Outstanding;
use crate::engine::runtime::Engine;
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::decide::expiry::NEVER;
use crate::pure::wheel::TimerKey;

/// A thread that takes this many leases while no other does has the pull to itself.
const ALONE_AFTER: u64 = 4_096;

/// The settings of the leases of a lane, checked.
#[derive(Clone, Copy)]
pub(crate) struct Leasing {
    /// The number that was asked for, if any.
    pub(crate) credits: Option<u32>,
    pub(crate) deadline_ns: u64,
}

/// The leases of a keyed lane. At most `credits` are out, unless there were more before.
pub(crate) struct Leases<T> {
    pub(crate) out: Outstanding<T>,
    /// The timer that looks for overdue leases. With many leases out, it may come later than the
    /// first deadline.
    pub(crate) alarm: Alarm,
    /// The alarm has notified, for the lane's runner to judge.
    pub(crate) is_overdue: bool,
    /// The thread that has taken the latest leases, and the lease since which it does.
    taker: usize,
    taker_since: u64,
    pub(crate) credits: u32,
    /// The same number, if it was asked for and isn't the default.
    pub(crate) asked: Option<u32>,
    pub(crate) deadline_ns: u64,
    pub(crate) stale: u64,
    pub(crate) timed_out: u64,
    pub(crate) abandoned: u64,
}

/// A timer for the first of several deadlines.
pub(crate) struct Alarm {
    pub(crate) due_ns: u64,
    pub(crate) key: TimerKey,
}

impl Alarm {
    const UNSET: Self = Self {
        due_ns: NEVER,
        key: TimerKey::NONE,
    };
}

impl<T> Leases<T> {
    /// Makes the leases of a lane from which nobody pulls.
    pub(crate) const fn none() -> Self {
        Self {
            out: Outstanding::NONE,
            alarm: Alarm::UNSET,
            is_overdue: false,
            taker: 0,
            taker_since: 0,
            credits: 0,
            asked: None,
            deadline_ns: 0,
            stale: 0,
            timed_out: 0,
            abandoned: 0,
        }
    }

    /// Returns how many more may be out.
    pub(crate) fn free(&self) -> usize {
        (self.credits as usize).saturating_sub(self.out.len())
    }

    /// Notes that this thread takes some. Returns whether others seem to take some, too.
    pub(crate) fn note_taker(&mut self, thread: usize) -> bool {
        if self.taker != thread {
            self.taker = thread;
            self.taker_since = self.out.granted();
        }
        self.taker_since > 0 && self.out.granted() - self.taker_since < ALONE_AFTER
    }

    /// Takes the alarm back, because no lease is out that it would have to end.
    pub(crate) fn silence_alarm(&mut self, engine: &Engine) {
        let alarm = std::mem::replace(&mut self.alarm, Alarm::UNSET);
        engine.timer.cancel(alarm.key);
    }

    pub(crate) fn note_overdue(&mut self) {
        self.is_overdue = true;
    }

    pub(crate) fn read_metrics(&self, into: &mut SubscriptionMetrics) {
        // Those of a handler are its calls.
        into.leased = match self.credits {
            0 => 0,
            _ => self.out.len() as u64,
        };
        into.stale = self.stale;
        into.timed_out = self.timed_out;
        into.abandoned = self.abandoned;
    }
}
