//! Asking a lane's gate before deliveries are handed over.
//!
//! Whoever takes deliveries out of a lane asks first. The grant says how many may go. The rest of it
//! is given back, and so is each permit when its delivery leaves flight.
//!
//! The feared interleaving: a consumer finds the gate closed, the gate opens and calls the
//! consumers, and only then does this one come to rest. It can't: whoever opens a gate schedules the
//! lane, whose turn calls the consumers that are at rest. A slot marks itself at rest under the lock
//! of the lane, and asks once more. A receiver looks again after it has got in line.

use std::time::Duration;

use crate::engine::gates::asking::{Calls, Verdict, wait_ns};
use crate::engine::gates::limiter::Woken;
use crate::engine::gates::protection::Protection;
use crate::engine::state::lane::Lane;
use crate::engine::wait::fire::Fire;
use crate::engine::wait::holds::Hold;
use crate::observe::event::{EventKind, Subject};
use crate::observe::metrics::Waiting;
use crate::pure::protect::breaker::state::Change;
use crate::pure::protect::gate::WaitingFor;
use crate::sync::Arc;

/// The right to hand over deliveries.
#[derive(Clone, Copy)]
#[must_use = "what is left of it has to be given back"]
pub(crate) enum Grant {
    /// No gate holds anything back.
    Free,
    Counted(Counted),
}

/// The deliveries that the lane's protection has let go.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    most: usize,
    /// Permits of the limiter.
    permits: u32,
    /// When it was asked for. A delivery that was let go in an earlier status of the breaker is no
    /// probe of the present one.
    asked_ns: u64,
    /// The attempts of the lane before, for its own runner.
    attempts: u64,
}

impl Grant {
    /// Returns how many deliveries may go.
    #[inline(always)]
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Free => usize::MAX,
            Self::Counted(counted) => counted.most,
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Returns how many deliveries may go, at most `most`, or `None` if all have to wait.
    #[inline(always)]
    pub(crate) fn may_go(
        self: &Arc<Self>,
        most: usize,
        calls: Calls,
        now_ns: u64,
    ) -> Option<Grant> {
        if self.gate.holds.is_clear() {
            return Some(Grant::Free);
        }
        self.ask(most, calls, now_ns)
    }

    #[cold]
    fn ask(self: &Arc<Self>, most: usize, calls: Calls, now_ns: u64) -> Option<Grant> {
        let is_paused = self.gate.holds.is_paused();
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let mut protection = self.gate.protection();
        let (verdict, mut effects) = protection.ask(is_paused, most, calls, now_ns);
        if let Some(change) = effects.change {
            self.tell_change(change);
        }
        let granted = match verdict {
            Verdict::Go(granted) => {
                self.note_in(&mut protection, None, now_ns);
                if !protection.is_any() {
                    self.gate.holds.set(Hold::Protection, false);
                }
                Some(granted)
            }
            Verdict::Wait { reason, until_ns } => {
                let woken = self.wait_in(&mut protection, reason, until_ns, now_ns);
                effects.woken.add(woken);
                None
            }
        };
        drop(protection);
        effects.woken.wake();
        granted.map(|granted| {
            Grant::Counted(Counted {
                most: granted.deliveries as usize,
                permits: granted.permits,
                asked_ns: now_ns,
                attempts: self.books.attempts(),
            })
        })
    }

    /// Waits for the gate, if there is anything to hand over. Returns the lanes to wake.
    fn wait_in(
        self: &Arc<Self>,
        protection: &mut Protection,
        reason: WaitingFor,
        until_ns: u64,
        now_ns: u64,
    ) -> Woken {
        if !self.has_deliveries() && reason != WaitingFor::Paused {
            // The next delivery that comes asks again, and other lanes don't wait for this one.
            self.note_in(protection, None, now_ns);
            return protection.leave_line();
        }
        self.note_in(protection, Some(reason), now_ns);
        let delay_ns = wait_ns(until_ns, now_ns);
        let lane = Arc::clone(self) as Arc<dyn Fire>;
        protection.wake.set(self.engine(), delay_ns, lane);
        Woken::default()
    }

    /// Returns whether deliveries wait for a consumer, new ones or ones that have come back.
    fn has_deliveries(&self) -> bool {
        let counts = self.books.read();
        let elsewhere = counts.in_flight + counts.awaiting_retry;
        u64::from(self.room.load().occupied) > elsewhere || self.has_returns()
    }

    /// Returns whether a delivery might go now.
    #[inline(always)]
    pub(crate) fn would_go(&self) -> bool {
        self.gate.holds.is_clear() || self.peek().is_none()
    }

    /// Returns why and until when deliveries have to wait, if they have to.
    #[cold]
    fn peek(&self) -> Option<(WaitingFor, u64)> {
        let is_paused = self.gate.holds.is_paused();
        let now_ns = self.engine().clock.now_ns();
        self.gate.known()?.peek(is_paused, now_ns)
    }

    /// Returns whether consumers are to be called. If not, the lane looks again when the gate may
    /// open.
    #[inline(always)]
    pub(crate) fn may_call(self: &Arc<Self>, now_ns: u64) -> bool {
        self.gate.holds.is_clear() || self.peek_or_wait(now_ns)
    }

    #[cold]
    fn peek_or_wait(self: &Arc<Self>, now_ns: u64) -> bool {
        let is_paused = self.gate.holds.is_paused();
        let mut protection = self.gate.protection();
        let Some((reason, until_ns)) = protection.peek(is_paused, now_ns) else {
            // Perhaps no consumer comes to find the gate open. The limiter was not asked.
            let noted = protection.waiting.map(|(reason, _)| reason);
            if noted != Some(WaitingFor::Limit) {
                self.note_in(&mut protection, None, now_ns);
            }
            return true;
        };
        let woken = self.wait_in(&mut protection, reason, until_ns, now_ns);
        drop(protection);
        woken.wake();
        false
    }

    /// Takes back what is left of the grant of a step in which the lane's own runner has made
    /// attempts, all of which have ended.
    #[inline(always)]
    pub(crate) fn end_turn_step(&self, grant: Grant) {
        if let Grant::Counted(counted) = grant {
            let attempts = self.books.attempts() - counted.attempts;
            self.end_grant(counted, attempts, counted.permits);
        }
    }

    /// Takes back what is left of a grant, of which so many deliveries have been taken.
    #[inline(always)]
    pub(crate) fn end_take(&self, grant: Grant, taken: usize) {
        if let Grant::Counted(counted) = grant {
            let permits = counted.permits.saturating_sub(taken as u32);
            self.end_grant(counted, taken as u64, permits);
        }
    }

    #[cold]
    fn end_grant(&self, grant: Counted, used: u64, permits: u32) {
        let unused = (grant.most as u64).saturating_sub(used);
        if unused == 0 && permits == 0 {
            return;
        }
        let unused = u32::try_from(unused).unwrap_or(u32::MAX);
        let mut protection = self.gate.protection();
        protection.take_back(unused, grant.asked_ns);
        let woken = protection.return_permits(permits);
        drop(protection);
        woken.wake();
    }

    /// Takes the permits of a limiter back from deliveries that leave flight.
    #[inline(always)]
    pub(crate) fn end_permits(&self, count: u64) {
        if self.gate.holds.has(Hold::Limit) {
            self.return_permits(count);
        }
    }

    #[cold]
    fn return_permits(&self, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let known = self.gate.known();
        let woken = known.map(|mut protection| protection.return_permits(count));
        woken.unwrap_or_default().wake();
    }

    /// Gives up its place in the line of a limiter, because no consumer comes for a permit.
    pub(crate) fn leave_line(&self) {
        let Some(protection) = self.gate.known() else {
            return;
        };
        let woken = protection.leave_line();
        drop(protection);
        woken.wake();
    }

    pub(crate) fn tell_change(&self, change: Change) {
        let kind = EventKind::Breaker {
            status: change.status(),
            cause: change.cause(),
        };
        self.topic.tell_of(Subject::of(&self.name), kind);
    }

    /// Notes why the lane waits, and tells observers if that is news.
    pub(crate) fn note_waiting(&self, reason: Option<WaitingFor>) {
        let now_ns = self.engine().clock.now_ns();
        let mut protection = self.gate.protection();
        self.note_in(&mut protection, reason, now_ns);
    }

    /// Notes it in the protection that the caller has locked.
    fn note_in(&self, protection: &mut Protection, reason: Option<WaitingFor>, now_ns: u64) {
        if protection.note(reason, now_ns) {
            let kind = EventKind::Waiting { reason };
            self.topic.tell_of(Subject::of(&self.name), kind);
        }
    }

    /// Returns why its deliveries wait, and since when if a gate holds them.
    pub(crate) fn read_waiting(&self) -> Option<Waiting> {
        let (reason, since_ns) = self.gate.known()?.waiting?;
        let now_ns = self.engine().clock.now_ns();
        let since = Duration::from_nanos(now_ns.saturating_sub(since_ns));
        let since = Some(since);
        Some(Waiting { reason, since })
    }
}
