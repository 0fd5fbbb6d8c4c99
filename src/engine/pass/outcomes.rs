//! The endings of attempts, as the machines of a lane's protection see them.

use std::iter;
use std::time::Duration;

use crate::engine::base::contain::contain;
use crate::engine::gates::protection::Protection;
use crate::engine::parts::handler::{FailedCall, FailureCause};
use crate::engine::parts::pending::{Attempts, Past, Took};
use crate::engine::state::lane::Lane;
use crate::engine::wait::fire::Tag;
use crate::pure::policy::verdict::NackAction;
use crate::pure::protect::breaker::state::{BreakerState, Change, Ended};
use crate::pure::protect::breaker::{Breaker, CallEnd, EndKind, Outcome};
use crate::pure::protect::limit::adaptive::Load;
use crate::sync::Arc;

impl FailureCause {
    /// Returns the ending, as a breaker sees it.
    fn end(&self) -> CallEnd<'_> {
        let kind = match self {
            Self::Panic(_) => EndKind::Panicked,
            Self::Abandoned => EndKind::Abandoned,
            Self::Overdue | Self::TimedOut => EndKind::TimedOut,
            Self::Nack(_) => match self.action() {
                NackAction::Policy | NackAction::Overloaded | NackAction::After(_) => {
                    EndKind::Nacked
                }
                NackAction::DeadLetter => EndKind::DeadLettered,
                NackAction::Discard => EndKind::Discarded,
                NackAction::Requeue | NackAction::Snooze(_) => EndKind::PutOff,
            },
        };
        let mut end = CallEnd::new(kind);
        if let NackAction::After(delay) = self.action() {
            end = end.with_retry_after(delay);
        }
        match self.error() {
            Some(error) => end.with_error(error),
            None => end,
        }
    }

    fn load(&self) -> Load {
        match self {
            Self::Overdue | Self::TimedOut => Load::Overload,
            Self::Nack(nack) if nack.action() == NackAction::Overloaded => Load::Overload,
            _ => Load::Normal,
        }
    }
}

/// Sorts an ending by the user's rules, which may panic.
fn outcome_of(breaker: &Breaker, end: &CallEnd<'_>, took: Duration) -> Outcome {
    contain(|| breaker.outcome(end, took)).unwrap_or(match end.kind().counts_by_default() {
        true => Outcome::Failure {
            retry_after_ns: None,
        },
        false => Outcome::Ignored,
    })
}

/// The consequences of several endings.
#[derive(Default)]
struct Ends {
    changes: Vec<Change>,
    ask_again: bool,
}

impl Ends {
    fn add(&mut self, ended: Ended) {
        self.changes.extend(ended.change);
        self.ask_again |= ended.ask_again;
    }

    /// Ends calls that the breaker has let go at this time.
    fn add_each(
        &mut self,
        state: &mut BreakerState,
        outcomes: impl IntoIterator<Item = Outcome>,
        began_ns: u64,
        now_ns: u64,
    ) {
        for outcome in outcomes {
            let permit = state.permit_of(began_ns);
            self.add(state.end(permit, outcome, now_ns));
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Tells the lane's protection how attempts have ended, of which `acked` have succeeded.
    #[cold]
    pub(crate) fn note_outcomes(
        self: &Arc<Self>,
        acked: usize,
        failed_calls: &[FailedCall],
        attempts: Attempts,
        took: Took,
    ) {
        let Some(mut protection) = self.gate.known() else {
            return;
        };
        let (began_ns, now_ns) = (attempts.began_ns, took.ended_ns);
        let took = Duration::from_nanos(took.each_ns);
        if attempts.is_first
            && let Some(budget) = &mut protection.budget
        {
            budget.deposit((acked + failed_calls.len()) as u32, now_ns);
        }
        let mut ends = Ends::default();
        if let Some(state) = &mut protection.breaker {
            match state.outcome_of_ack(took) {
                Outcome::Success => ends.add(state.end_successes(began_ns, acked as u32, now_ns)),
                slow => ends.add_each(state, iter::repeat_n(slow, acked), began_ns, now_ns),
            }
        }
        let breaker = match failed_calls {
            [] => None,
            _ => protection.settings.breaker.clone(),
        };
        let limiter = protection.place.as_ref().map(|place| place.limiter.clone());
        drop(protection);
        if let Some(limiter) = limiter {
            let failed = failed_calls.iter();
            let failed = failed.map(|failed_call| failed_call.cause.load());
            let loads = iter::repeat_n(Load::Normal, acked).chain(failed);
            limiter.note_ends(began_ns, loads, now_ns);
        }
        if let Some(breaker) = breaker {
            // No lock is held: the rules are the user's.
            let failed = failed_calls.iter();
            let outcomes: Vec<_> = failed
                .map(|failed_call| outcome_of(&breaker, &failed_call.cause.end(), took))
                .collect();
            if let Some(state) = &mut self.gate.protection().breaker {
                ends.add_each(state, outcomes, began_ns, now_ns);
            }
        }
        if ends.ask_again {
            // Others than the caller may wait for it.
            self.schedule();
        }
        for change in ends.changes {
            self.tell_change(change);
        }
    }

    /// Puts a retry off that is due, if the retry budget is used up. It keeps its tag, and comes
    /// back when the budget may have room.
    #[inline(always)]
    pub(crate) fn is_put_off(self: &Arc<Self>, tag: u32) -> bool {
        !self.gate.holds.is_clear() && self.put_off(tag)
    }

    #[cold]
    fn put_off(self: &Arc<Self>, tag: u32) -> bool {
        let mut waiting = self.waiting.lock();
        let Some(item) = waiting.get_mut(tag) else {
            return false;
        };
        let now_ns = self.engine().clock.now_ns();
        if !matches!(item.past, Past::Failed(_)) || self.is_past(item, now_ns) {
            return false;
        }
        let mut known = self.gate.known();
        let until_ns = known
            .as_deref_mut()
            .and_then(|protection: &mut Protection| protection.put_off_until(now_ns));
        let Some(until_ns) = until_ns else {
            return false;
        };
        let until_ns = item
            .expires_ns()
            .map_or(until_ns, |at_ns| until_ns.min(at_ns));
        let delay_ns = until_ns.saturating_sub(now_ns);
        let lane = Arc::clone(self) as _;
        item.timer = self.engine().set_timer(delay_ns, Tag::Parked(tag), lane);
        true
    }
}
