//! The breaker of one subscription: who may pass, and what the endings say.
//!
//! Steps. A delivery that may pass takes a *permit*, and its ending gives that back, whichever
//! ending it is. A permit carries the *epoch* in which it was taken. Each change of the phase begins
//! a new epoch, and an ending from an earlier one changes nothing. So a call that began before the
//! breaker opened can neither close nor open it later.
//!
//! The feared interleaving: all probes are out, and one of them never ends, so the breaker is
//! half-open forever. It can't happen. A round of probes has a deadline from its first probe on, and
//! the first question after it opens the breaker again. The next round has permits of its own, and
//! those of the old one are void.
//!
//! The feared leak: an ending that counts neither way keeps its probe's permit. It can't happen,
//! because [`BreakerState::end`] puts the permit back before it looks at the outcome. A permit can't
//! be copied, so it comes back once at most.

use crate::pure::decide::key_hash::mix;
use crate::pure::protect::NEVER;
use crate::pure::protect::breaker::{Breaker, CallEnd, EndKind, Outcome};
use crate::pure::protect::window::Window;
use crate::types::duration::nanos;
use crate::types::labels;
use std::time::Duration;

const SUCCESS: usize = 0;
const FAILURE: usize = 1;

/// The phase of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerStatus {
    /// Every delivery passes.
    Closed,
    /// No delivery passes until a time.
    Open,
    /// Probes pass.
    HalfOpen,
    /// No delivery passes until the breaker is reset by hand.
    Isolated,
}

labels!(BreakerStatus {
    Self::Closed => "closed",
    Self::Open => "open",
    Self::HalfOpen => "half_open",
    Self::Isolated => "isolated",
});

/// The reason why a circuit breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenCause {
    /// Too large a part of the endings within the window were failures.
    Percentage,
    /// Too many failures came in a row.
    Consecutive,
    /// Too many probes of a round failed.
    Probes,
    /// A round of probes took too long.
    Overdue,
}

labels!(OpenCause {
    Self::Percentage => "percentage",
    Self::Consecutive => "consecutive",
    Self::Probes => "probes",
    Self::Overdue => "overdue",
});

/// The right to hand over one delivery. It comes back by [`BreakerState::end`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that does not come back holds up the probes of its round"]
pub(crate) struct Permit {
    epoch: u64,
}

/// The answer to a delivery that wants to pass.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pass {
    /// It may.
    Yes(Permit),
    /// It may, as a probe.
    Probe(Permit),
    /// It may not. Ask again at this time, or when [`Ended::ask_again`] says so.
    Until(u64),
}

/// A change of the phase, for those who watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened { cause: OpenCause, until_ns: u64 },
    HalfOpened,
    Closed,
    Isolated,
}

/// The consequences of an ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Ended {
    pub(crate) change: Option<Change>,
    /// A delivery that was held may pass now.
    pub(crate) ask_again: bool,
}

impl Change {
    /// Returns the phase after it.
    pub(crate) fn status(self) -> BreakerStatus {
        match self {
            Self::Opened { .. } => BreakerStatus::Open,
            Self::HalfOpened => BreakerStatus::HalfOpen,
            Self::Closed => BreakerStatus::Closed,
            Self::Isolated => BreakerStatus::Isolated,
        }
    }

    /// Returns the cause of an opening.
    pub(crate) fn cause(self) -> Option<OpenCause> {
        match self {
            Self::Opened { cause, .. } => Some(cause),
            Self::HalfOpened | Self::Closed | Self::Isolated => None,
        }
    }
}

impl Ended {
    pub(crate) const NOTHING: Self = Self {
        change: None,
        ask_again: false,
    };
}

/// The phase, and what is known in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until_ns: u64 },
    HalfOpen(Round),
    Isolated,
}

/// A round of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Round {
    /// How many endings it needs.
    size: u32,
    /// Probes that have not ended.
    out: u32,
    passed: u32,
    failed: u32,
    /// The time by which it has failed, while probes are out.
    overdue_ns: u64,
}

impl Round {
    fn of(size: u32) -> Self {
        Self {
            size,
            out: 0,
            passed: 0,
            failed: 0,
            overdue_ns: NEVER,
        }
    }

    fn has_room(self) -> bool {
        self.out + self.passed + self.failed < self.size
    }
}

/// The state of one breaker.
#[derive(Debug)]
pub(crate) struct BreakerState {
    breaker: Breaker,
    /// The number from which each opening draws its jitter.
    salt: u64,
    phase: Phase,
    epoch: u64,
    /// When the epoch began: no call that was let go in it began before.
    since_ns: u64,
    /// The endings of this epoch, while the breaker is closed.
    window: Window,
    /// Failures since the last success, while the breaker is closed.
    streak: u32,
    /// Openings since the breaker was closed.
    openings: u32,
}

impl BreakerState {
    /// Closed, with these settings, which have been checked.
    pub(crate) fn new(breaker: Breaker, salt: u64) -> Self {
        Self {
            window: Window::new(nanos(breaker.window)),
            breaker,
            salt,
            phase: Phase::Closed,
            epoch: 0,
            since_ns: 0,
            streak: 0,
            openings: 0,
        }
    }

    /// Replaces the settings.
    ///
    /// The phase stays, and an open time that has begun stays as long as it is. A window of another
    /// length begins empty.
    pub(crate) fn set(&mut self, breaker: Breaker) {
        if breaker.window != self.breaker.window {
            self.window = Window::new(nanos(breaker.window));
        }
        self.breaker = breaker;
    }

    pub(crate) fn status(&self) -> BreakerStatus {
        match self.phase {
            Phase::Closed => BreakerStatus::Closed,
            Phase::Open { .. } => BreakerStatus::Open,
            Phase::HalfOpen(_) => BreakerStatus::HalfOpen,
            Phase::Isolated => BreakerStatus::Isolated,
        }
    }

    /// Returns until when it lets nothing pass, without asking for a permit.
    pub(crate) fn held_until(&self, now_ns: u64) -> Option<u64> {
        let (is_held, until_ns) = match self.phase {
            Phase::Closed => (false, NEVER),
            Phase::Open { until_ns } => (now_ns < until_ns, until_ns),
            Phase::HalfOpen(round) => {
                let is_over = round.out > 0 && now_ns >= round.overdue_ns;
                (!round.has_room() && !is_over, round.overdue_ns)
            }
            Phase::Isolated => (true, NEVER),
        };
        is_held.then_some(until_ns)
    }

    /// Asks for a permit. The question itself may find that an open time or a round is over.
    pub(crate) fn may_pass(&mut self, now_ns: u64) -> (Pass, Option<Change>) {
        let change = match self.phase {
            Phase::Open { until_ns } if now_ns >= until_ns => {
                let round = Phase::HalfOpen(Round::of(1));
                Some(self.enter(round, Change::HalfOpened, until_ns))
            }
            Phase::HalfOpen(round) if round.out > 0 && now_ns >= round.overdue_ns => {
                Some(self.open(OpenCause::Overdue, None, now_ns))
            }
            _ => None,
        };
        let epoch = self.epoch;
        let pass = match &mut self.phase {
            Phase::Closed => Pass::Yes(Permit { epoch }),
            Phase::Open { until_ns } => Pass::Until(*until_ns),
            // The clock was read before the open time was over.
            Phase::HalfOpen(_) if now_ns < self.since_ns => Pass::Until(self.since_ns),
            Phase::HalfOpen(round) if round.has_room() => {
                if round.overdue_ns == NEVER {
                    round.overdue_ns = now_ns.saturating_add(nanos(self.breaker.half_open_for));
                }
                round.out += 1;
                Pass::Probe(Permit { epoch })
            }
            Phase::HalfOpen(round) => Pass::Until(round.overdue_ns),
            Phase::Isolated => Pass::Until(NEVER),
        };
        (pass, change)
    }

    /// Returns the permit of a call that began at this time.
    ///
    /// A caller need not keep it, because no time belongs to two epochs in which permits count: an
    /// open time lies between them. At the moment at which the breaker closes, the last probes have
    /// the permits of the epoch that begins. There they count as calls.
    pub(crate) fn permit_of(&self, began_ns: u64) -> Permit {
        let is_current = began_ns >= self.since_ns;
        let epoch = if is_current {
            self.epoch
        } else {
            self.epoch.wrapping_sub(1)
        };
        Permit { epoch }
    }

    /// Returns what the ack of a call that took so long counts as. No rule of the user's is asked.
    pub(crate) fn outcome_of_ack(&self, took: Duration) -> Outcome {
        self.breaker.outcome(&CallEnd::new(EndKind::Acked), took)
    }

    /// Ends calls that have succeeded, all of which began at this time.
    pub(crate) fn end_successes(&mut self, began_ns: u64, count: u32, now_ns: u64) -> Ended {
        let permit = self.permit_of(began_ns);
        if permit.epoch == self.epoch && self.phase == Phase::Closed && count > 0 {
            self.streak = 0;
            self.window.add(SUCCESS, count, now_ns);
            return Ended::NOTHING;
        }
        let mut all = Ended::NOTHING;
        for _ in 0..count {
            let ended = self.end(self.permit_of(began_ns), Outcome::Success, now_ns);
            all.change = all.change.or(ended.change);
            all.ask_again |= ended.ask_again;
        }
        all
    }

    /// Ends a call that had this permit.
    ///
    /// A permit that was not used comes back with [`Outcome::Ignored`], and so it does from a call
    /// that was cut off.
    pub(crate) fn end(&mut self, permit: Permit, outcome: Outcome, now_ns: u64) -> Ended {
        if permit.epoch != self.epoch {
            return Ended::NOTHING;
        }
        let change = match self.phase {
            Phase::Closed => self.end_call(outcome, now_ns),
            Phase::HalfOpen(round) => self.end_probe(round, outcome, now_ns),
            // These give no permits out.
            Phase::Open { .. } | Phase::Isolated => None,
        };
        let has_room = matches!(self.phase, Phase::HalfOpen(round) if round.has_room());
        Ended {
            change,
            ask_again: has_room || change == Some(Change::Closed),
        }
    }

    /// Lets nothing pass until [`reset`](Self::reset).
    pub(crate) fn isolate(&mut self, now_ns: u64) -> Option<Change> {
        match self.phase {
            Phase::Isolated => None,
            _ => Some(self.enter(Phase::Isolated, Change::Isolated, now_ns)),
        }
    }

    /// Closes the breaker and forgets all endings. Calls that are under way count for nothing.
    pub(crate) fn reset(&mut self, now_ns: u64) -> Option<Change> {
        let is_change = self.phase != Phase::Closed;
        let change = self.close(now_ns);
        is_change.then_some(change)
    }

    fn end_call(&mut self, outcome: Outcome, now_ns: u64) -> Option<Change> {
        let retry_after_ns = match outcome {
            Outcome::Ignored => return None,
            Outcome::Success => {
                self.streak = 0;
                self.window.add(SUCCESS, 1, now_ns);
                return None;
            }
            Outcome::Failure { retry_after_ns } => retry_after_ns,
        };
        self.streak = self.streak.saturating_add(1);
        self.window.add(FAILURE, 1, now_ns);
        let limit = self.breaker.consecutive_failures;
        if self.streak >= limit && limit < u32::MAX {
            return Some(self.open(OpenCause::Consecutive, retry_after_ns, now_ns));
        }
        let [successes, failures] = self.window.sums(now_ns);
        let all = successes + failures;
        let is_enough = all >= u64::from(self.breaker.min_endings);
        (is_enough && self.is_too_many(failures, all))
            .then(|| self.open(OpenCause::Percentage, retry_after_ns, now_ns))
    }

    fn end_probe(&mut self, mut round: Round, outcome: Outcome, now_ns: u64) -> Option<Change> {
        debug_assert!(round.out > 0, "no probe of {round:?} is out");
        round.out = round.out.saturating_sub(1);
        if round.out == 0 {
            round.overdue_ns = NEVER;
        }
        self.phase = Phase::HalfOpen(round);
        match outcome {
            Outcome::Ignored => return None,
            Outcome::Success => round.passed += 1,
            Outcome::Failure { retry_after_ns } => {
                round.failed += 1;
                if self.is_too_many(u64::from(round.failed), u64::from(round.size)) {
                    return Some(self.open(OpenCause::Probes, retry_after_ns, now_ns));
                }
            }
        }
        if round.passed + round.failed == round.size {
            if round.size >= self.breaker.probes {
                return Some(self.close(now_ns));
            }
            let next = round.size.saturating_mul(2).min(self.breaker.probes);
            round = Round::of(next);
        }
        self.phase = Phase::HalfOpen(round);
        None
    }

    fn is_too_many(&self, failures: u64, all: u64) -> bool {
        failures * 100 >= u64::from(self.breaker.failure_percent) * all
    }

    fn open(&mut self, cause: OpenCause, told_ns: Option<u64>, now_ns: u64) -> Change {
        let most_ns = nanos(self.breaker.max_open);
        let told_ns = told_ns.filter(|told_ns| *told_ns > 0);
        let time_ns = match told_ns {
            Some(told_ns) => told_ns.min(most_ns),
            None => {
                let times = 1_u64.checked_shl(self.openings).unwrap_or(u64::MAX);
                let full_ns = nanos(self.breaker.open_for).saturating_mul(times);
                spread(full_ns.min(most_ns), mix(self.salt ^ self.epoch))
            }
        };
        self.openings = self.openings.saturating_add(1);
        let until_ns = now_ns.saturating_add(time_ns);
        let change = Change::Opened { cause, until_ns };
        self.enter(Phase::Open { until_ns }, change, now_ns)
    }

    fn close(&mut self, now_ns: u64) -> Change {
        self.window.clear();
        self.streak = 0;
        self.openings = 0;
        self.enter(Phase::Closed, Change::Closed, now_ns)
    }

    /// Begins an epoch: the permits of the one before are void.
    fn enter(&mut self, phase: Phase, change: Change, since_ns: u64) -> Change {
        self.epoch += 1;
        self.since_ns = since_ns;
        self.phase = phase;
        change
    }
}

/// Returns a time between the half of `full_ns` and its full length.
fn spread(full_ns: u64, random: u64) -> u64 {
    let half_ns = full_ns / 2;
    let part_ns = (u128::from(half_ns) * u128::from(random)) >> 64;
    full_ns - half_ns + part_ns as u64
}

#[cfg(test)]
mod tests;
