//! The protection of one lane: the machines that its gate asks, and why it waits.

use crate::engine::gates::limiter::{LaneNumber, Limiter, Woken};
use crate::engine::runtime::linger::Linger;
use crate::engine::wait::fire::Fire;
use crate::pure::protect::NEVER;
use crate::pure::protect::breaker::Breaker;
use crate::pure::protect::breaker::state::{BreakerState, Change};
use crate::pure::protect::budget::{BudgetState, RetryBudget, Withdrawal};
use crate::pure::protect::gate::WaitingFor;
use crate::pure::protect::rate::{Gcra, RateLimit};
use crate::sync::Weak;
use crate::types::error::SettingError;

/// The settings of the protection of a subscription, which begins with none.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProtectionSettings {
    pub(crate) breaker: Option<Breaker>,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) rate: Option<RateLimit>,
    pub(crate) budget: Option<RetryBudget>,
}

impl ProtectionSettings {
    /// Refuses settings that are out of range, or make no sense for callers that pull.
    pub(crate) fn check(&self, is_pulled: bool) -> Result<(), SettingError> {
        if is_pulled && self.limiter.is_some() {
            let rule = "needs a handler; credits bound how much callers pull";
            return Err(SettingError::new("limiter", "set", rule));
        }
        self.breaker.as_ref().map_or(Ok(()), Breaker::check)?;
        self.rate.map_or(Ok(()), RateLimit::check)?;
        self.budget.map_or(Ok(()), RetryBudget::check)
    }

    pub(crate) fn is_none(&self) -> bool {
        self.breaker.is_none()
            && self.limiter.is_none()
            && self.rate.is_none()
            && self.budget.is_none()
    }
}

/// A change of a breaker by hand, at a time.
pub(crate) type ChangeBreaker = fn(&mut BreakerState, u64) -> Option<Change>;

/// A lane's place at a limiter.
pub(crate) struct Place {
    pub(crate) limiter: Limiter,
    pub(crate) number: LaneNumber,
    /// The permits that its calls have.
    pub(crate) taken: u32,
}

/// The protection of one lane.
pub(crate) struct Protection {
    pub(crate) settings: ProtectionSettings,
    /// The reason why the lane's deliveries wait, and since when.
    pub(crate) waiting: Option<(WaitingFor, u64)>,
    /// Has the lane look again when its gate may open.
    pub(crate) wake: Linger,
    pub(crate) breaker: Option<Box<BreakerState>>,
    pub(crate) place: Option<Place>,
    pub(crate) gcra: Gcra,
    /// The word of the rate limit and of what handlers have asked for.
    pub(crate) rate: u64,
    pub(crate) budget: Option<Box<BudgetState>>,
    /// Retries that the budget has put off.
    pub(crate) deferred: u64,
}

impl Protection {
    pub(crate) fn new() -> Self {
        Self {
            settings: ProtectionSettings::default(),
            waiting: None,
            wake: Linger::default(),
            breaker: None,
            place: None,
            gcra: Gcra::UNLIMITED,
            rate: 0,
            budget: None,
            deferred: 0,
        }
    }

    /// Notes why the lane waits, or that it doesn't. Returns whether that is news.
    pub(crate) fn note(&mut self, reason: Option<WaitingFor>, now_ns: u64) -> bool {
        if self.waiting.map(|(reason, _)| reason) == reason {
            return false;
        }
        self.waiting = reason.map(|reason| (reason, now_ns));
        true
    }

    /// Returns whether there is anything to ask, but for pauses.
    pub(crate) fn is_any(&self) -> bool {
        self.breaker.is_some()
            || self.place.is_some()
            || self.budget.is_some()
            || self.gcra != Gcra::UNLIMITED
            || self.rate != 0
    }

    /// Changes the settings. Counts and states of the machines stay, as far as they fit the new
    /// settings. Calls that run keep no permit of a limiter that is given up, which is returned to
    /// be parted from without the lock.
    #[must_use = "the permits have to come back"]
    pub(crate) fn set(
        &mut self,
        settings: &ProtectionSettings,
        salt: u64,
        lane: impl FnOnce() -> Weak<dyn Fire>,
        now_ns: u64,
    ) -> Option<Place> {
        match (&mut self.breaker, &settings.breaker) {
            (Some(state), Some(breaker)) => state.set(breaker.clone()),
            (state, breaker) => {
                let new = |breaker: &Breaker| BreakerState::new(breaker.clone(), salt);
                *state = breaker.as_ref().map(new).map(Box::new);
            }
        }
        match (&mut self.budget, settings.budget) {
            (Some(state), Some(budget)) => state.set(budget),
            (state, budget) => *state = budget.map(BudgetState::new).map(Box::new),
        }
        let gcra = settings.rate.map_or(Gcra::UNLIMITED, RateLimit::gcra);
        if gcra != self.gcra {
            self.rate = gcra.carry(self.gcra, self.rate, now_ns);
            self.gcra = gcra;
        }
        let is_same = match (&self.place, &settings.limiter) {
            (Some(place), Some(limiter)) => place.limiter.is(limiter),
            (place, limiter) => place.is_none() && limiter.is_none(),
        };
        if is_same {
            return None;
        }
        let place = settings.limiter.as_ref().map(|limiter| Place {
            limiter: limiter.clone(),
            number: limiter.join(lane()),
            taken: 0,
        });
        std::mem::replace(&mut self.place, place)
    }

    /// Gives permits of the limiter back, as far as the lane has some. Returns the lanes to wake.
    pub(crate) fn return_permits(&mut self, count: u32) -> Woken {
        let Some(place) = &mut self.place else {
            return Woken::default();
        };
        let count = count.min(place.taken);
        place.taken -= count;
        match count {
            0 => Woken::default(),
            count => place.limiter.give_back(count),
        }
    }

    /// Gives up its place in the line of the limiter. Returns the lanes to wake.
    pub(crate) fn leave_line(&self) -> Woken {
        let place = self.place.as_ref();
        let left = place.map(|place| place.limiter.leave_line(place.number));
        left.unwrap_or_default()
    }

    /// Returns why and until when deliveries have to wait, if they have to for another reason than
    /// the limiter. It takes nothing.
    pub(crate) fn peek(&self, is_paused: bool, now_ns: u64) -> Option<(WaitingFor, u64)> {
        if is_paused {
            return Some((WaitingFor::Paused, NEVER));
        }
        let breaker = self.breaker.as_ref();
        if let Some(until_ns) = breaker.and_then(|breaker| breaker.held_until(now_ns)) {
            return Some((WaitingFor::Breaker, until_ns));
        }
        let wait = self.gcra.take(self.rate, now_ns, 1).err()?;
        Some((wait.reason(), wait.until_ns))
    }

    /// Returns when a retry that is due may be made, if the budget puts it off.
    pub(crate) fn put_off_until(&mut self, now_ns: u64) -> Option<u64> {
        match self.budget.as_mut()?.withdraw(now_ns) {
            Withdrawal::Granted => None,
            Withdrawal::Later(until_ns) => {
                self.deferred += 1;
                Some(until_ns)
            }
        }
    }
}

impl Place {
    /// Gives all permits back, and forgets the lane. No lock may be held.
    pub(crate) fn part(self) {
        if self.taken > 0 {
            self.limiter.give_back(self.taken).wake();
        }
        self.limiter.part(self.number);
    }
}
