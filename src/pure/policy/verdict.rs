//! From a failure to its consequence. The handler's wish comes first, then the decision of the
//! policy, which knows that wish, then the message's time to live.

use std::time::Duration;

use crate::pure::policy::retry::Decision;
use crate::types::duration::nanos;
use crate::types::reason::DeadReason;

/// The action that a failing handler asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NackAction {
    /// Nothing in particular: the policy decides.
    Policy,
    /// The same, because a dependency has too much to do.
    Overloaded,
    /// Another attempt after this time, if the policy grants it.
    After(Duration),
    /// The dead letters, now.
    DeadLetter,
    /// A drop.
    Discard,
    /// A new place at the end of the line. That is no failure, so it is not judged.
    Requeue,
    /// Another look after this time. That is no failure, either.
    Snooze(Duration),
}

impl NackAction {
    /// Returns whether the handler has decided the delivery's fate. If it has not, the end of the
    /// broker may have caused the failure.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::DeadLetter | Self::Discard)
    }
}

/// The fate of a delivery that has failed or is put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another attempt at this time.
    Retry { due_ns: u64 },
    /// The dead-letter store.
    DeadLetter(DeadReason),
    /// A drop.
    Discard,
    /// An expiry: its time to live ends before the retry would be due.
    Expire,
}

/// Judges one failure. `decide` is the policy, given the delay that the handler asked for; it
/// returns `None` if it panicked. `expires_ns` is when the message's time to live ends.
pub(crate) fn judge(
    action: NackAction,
    decide: impl FnOnce(Option<Duration>) -> Option<Decision>,
    now_ns: u64,
    expires_ns: Option<u64>,
) -> Verdict {
    let requested = match action {
        NackAction::DeadLetter => return Verdict::DeadLetter(DeadReason::Rejected),
        NackAction::Discard => return Verdict::Discard,
        NackAction::Policy
        | NackAction::Overloaded
        | NackAction::Requeue
        | NackAction::Snooze(_) => None,
        NackAction::After(delay) => Some(delay),
    };
    let delay = match decide(requested) {
        Some(Decision::RetryAfter(delay)) => delay,
        Some(Decision::Exhausted) => return Verdict::DeadLetter(DeadReason::Exhausted),
        Some(Decision::DeadLetter) => return Verdict::DeadLetter(DeadReason::Rejected),
        Some(Decision::Discard) => return Verdict::Discard,
        None => return Verdict::DeadLetter(DeadReason::PolicyPanicked),
    };
    put_off(delay, now_ns, expires_ns)
}

/// Judges a delivery that is to come again after `delay`.
pub(crate) fn put_off(delay: Duration, now_ns: u64, expires_ns: Option<u64>) -> Verdict {
    let due_ns = now_ns.saturating_add(nanos(delay));
    match expires_ns {
        Some(expires_ns) if due_ns >= expires_ns => Verdict::Expire,
        _ => Verdict::Retry { due_ns },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_nanos(50);
    const RETRY: Option<Decision> = Some(Decision::RetryAfter(DELAY));

    #[test]
    fn the_policy_decides_unless_the_handler_knows_better() {
        let judged = |action, decision| judge(action, |_| decision, 100, None);
        let dead = |reason| Verdict::DeadLetter(reason);
        let later = NackAction::After(Duration::from_nanos(7));
        assert_eq!(
            judged(NackAction::Policy, RETRY),
            Verdict::Retry { due_ns: 150 }
        );
        // The policy knows of the action: its decision is the delay.
        assert_eq!(judged(later, RETRY), Verdict::Retry { due_ns: 150 });
        let granted = |requested: Option<Duration>| requested.map(Decision::RetryAfter);
        let verdict = judge(later, granted, 100, None);
        assert_eq!(verdict, Verdict::Retry { due_ns: 107 });
        assert_eq!(
            judged(later, Some(Decision::Exhausted)),
            dead(DeadReason::Exhausted)
        );
        assert_eq!(
            judged(NackAction::Policy, Some(Decision::DeadLetter)),
            dead(DeadReason::Rejected)
        );
        assert_eq!(
            judged(NackAction::Policy, Some(Decision::Discard)),
            Verdict::Discard
        );
        assert_eq!(
            judged(NackAction::DeadLetter, RETRY),
            dead(DeadReason::Rejected)
        );
        assert_eq!(judged(NackAction::Discard, RETRY), Verdict::Discard);
    }

    #[test]
    fn only_the_dead_letters_and_a_discard_are_the_last_word() {
        let later = NackAction::After(DELAY);
        let wishes = [
            NackAction::Policy,
            later,
            NackAction::DeadLetter,
            NackAction::Discard,
        ];
        let last_word = wishes.map(NackAction::is_final);
        assert_eq!(last_word, [false, false, true, true]);
    }

    #[test]
    fn a_policy_that_panics_loses_nothing() {
        assert_eq!(
            judge(NackAction::Policy, |_| None, 0, None),
            Verdict::DeadLetter(DeadReason::PolicyPanicked)
        );
    }

    #[test]
    fn a_retry_that_would_come_too_late_expires_at_once() {
        let judged = |expires_ns| judge(NackAction::Policy, |_| RETRY, 100, Some(expires_ns));
        assert_eq!(judged(150), Verdict::Expire);
        assert_eq!(judged(151), Verdict::Retry { due_ns: 150 });
    }

    #[test]
    fn an_endless_delay_does_not_overflow() {
        let endless = |_| Some(Decision::RetryAfter(Duration::MAX));
        let verdict = judge(NackAction::Policy, endless, u64::MAX - 1, None);
        assert_eq!(verdict, Verdict::Retry { due_ns: u64::MAX });
    }
}
