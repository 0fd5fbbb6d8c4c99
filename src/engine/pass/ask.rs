//! Asking a lane's gate, in the one order in which its reasons are asked.
//!
//! Whoever takes deliveries out of a lane asks first. The grant says how many may go. What is left
//! of it is given back, and so is each permit when its delivery leaves flight.
//!
//! The feared interleaving: a consumer finds the gate closed, the gate opens and calls the
//! consumers, and only then does this one come to rest. It can't: whoever opens a gate schedules the
//! lane, whose turn calls the consumers that are at rest. A slot marks itself at rest under the lock
//! of the lane, and asks once more.

use crate::engine::gates::protection::Protection;
use crate::engine::state::lane::Lane;
use crate::observe::event::{EventKind, Subject};
use crate::sync::Arc;
use crate::types::waiting::{Waiting, WaitingFor};
use std::time::Duration;

/// How many deliveries may go.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Grant {
    pub(crate) most: usize,
    /// Whether the lane's protection has counted them.
    is_counted: bool,
}

impl Grant {
    /// No gate holds anything back.
    const FREE: Self = Self {
        most: usize::MAX,
        is_counted: false,
    };
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Returns how many deliveries may go, at most `most`, or `None` if all have to wait.
    #[inline(always)]
    pub(crate) fn may_go(self: &Arc<Self>, most: usize, now_ns: u64) -> Option<Grant> {
        if self.gate.holds.is_clear() {
            return Some(Grant::FREE);
        }
        self.ask(most, now_ns)
    }

    /// Returns whether any delivery might go now.
    #[inline(always)]
    pub(crate) fn would_go(&self, _now_ns: u64) -> bool {
        !self.gate.holds.is_paused()
    }

    /// Takes back what is left of the grant of a step in which the lane's own runner has made
    /// attempts, all of which have ended.
    #[inline(always)]
    pub(crate) fn end_turn_step(self: &Arc<Self>, grant: Grant) {
        let _ = grant.is_counted;
    }

    /// Takes back what is left of a grant, of which so many deliveries have been taken.
    #[inline(always)]
    pub(crate) fn end_take(self: &Arc<Self>, grant: Grant, taken: usize) {
        let _ = (grant.is_counted, taken);
    }

    #[cold]
    fn ask(self: &Arc<Self>, most: usize, now_ns: u64) -> Option<Grant> {
        if self.gate.holds.is_paused() {
            return None;
        }
        let _ = (most, now_ns);
        Some(Grant::FREE)
    }

    /// Notes why the lane waits, and tells observers if that is news.
    pub(crate) fn note_waiting(&self, reason: Option<WaitingFor>) {
        let now_ns = self.engine().clock.now_ns();
        let mut protection = self.gate.protection();
        self.note_in(&mut protection, reason, now_ns);
    }

    /// Returns why its deliveries wait, and for how long.
    pub(crate) fn read_waiting(&self) -> Option<Waiting> {
        let (reason, since_ns) = self.gate.known()?.waiting?;
        let now_ns = self.engine().clock.now_ns();
        let since = Duration::from_nanos(now_ns.saturating_sub(since_ns));
        Some(Waiting { since, reason })
    }

    /// Notes it in the protection that the caller has locked.
    fn note_in(&self, protection: &mut Protection, reason: Option<WaitingFor>, now_ns: u64) {
        if protection.note(reason, now_ns) {
            let kind = EventKind::Waiting { reason };
            self.topic.tell_of(Subject::of(&self.name), kind);
        }
    }
}
