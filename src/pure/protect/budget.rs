//! A budget of retries, so that they don't multiply the load on a dependency that fails.
//!
//! First attempts earn retries, and a few are free. A retry that the budget doesn't cover is made
//! later. The counts are those of a sliding [`Window`], so that neither is remembered for long.

use std::time::Duration;

use crate::pure::protect::window::Window;
use crate::types::duration::nanos;
use crate::types::error::SettingError;

const FIRST: usize = 0;
const RETRY: usize = 1;

/// The settings of a retry budget: how many retries a subscription may make beside its first
/// attempts.
///
/// In each window it may retry a [percentage](Self::percent) of its first attempts, and
/// [some more](Self::min_per_sec). So a dependency that fails gets a fifth more calls than one that
/// doesn't, and not many times more. Over the budget a retry comes later: it keeps its place, counts
/// no attempt, and is never dead-lettered for it.
///
/// ```
/// use millstream::protect::RetryBudget;
///
/// let budget = RetryBudget::new().percent(10).min_per_sec(5);
/// # let _ = budget;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a subscription has it"]
pub struct RetryBudget {
    percent: u32,
    min_per_sec: u32,
    window: Duration,
}

impl RetryBudget {
    /// Returns the default budget, which each method names.
    pub fn new() -> Self {
        Self {
            percent: 20,
            min_per_sec: 10,
            window: Duration::from_secs(10),
        }
    }

    /// Sets how many retries a hundred first attempts allow. The default is 20, and the range is 0
    /// to 1,000.
    pub fn percent(self, percent: u32) -> Self {
        Self { percent, ..self }
    }

    /// Sets how many retries per second are free. The default is 10, and the least is 1.
    ///
    /// They serve a subscription that has few first attempts, or none any more. All those of a
    /// window may be made at once.
    pub fn min_per_sec(self, retries: u32) -> Self {
        Self {
            min_per_sec: retries,
            ..self
        }
    }

    /// Sets the time over which attempts are counted. The default is 10 seconds.
    ///
    /// Attempts leave the window by tenths of it. A window has one free retry at least.
    pub fn window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// Refuses settings that are out of range.
    pub(crate) fn check(self) -> Result<(), SettingError> {
        if self.percent > 1_000 {
            let rule = "must be at most 1000: more attempts than that no policy makes";
            return Err(SettingError::new("percent", self.percent, rule));
        }
        if self.min_per_sec == 0 {
            let rule = "must be at least 1, or the last retries would wait forever";
            return Err(SettingError::new("min_per_sec", 0, rule));
        }
        if self.window.is_zero() {
            let rule = "must be longer, or it would hold no attempt";
            return Err(SettingError::new("window", "zero", rule));
        }
        Ok(())
    }

    /// Returns the free retries of a window.
    fn free(self) -> u64 {
        let free = u128::from(self.min_per_sec) * self.window.as_nanos() / 1_000_000_000;
        u64::try_from(free).unwrap_or(u64::MAX).max(1)
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

/// The answer to a retry that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Withdrawal {
    Granted,
    /// The budget is used up. Ask again at this time.
    Later(u64),
}

/// The state of one budget.
#[derive(Debug)]
pub(crate) struct BudgetState {
    budget: RetryBudget,
    attempts: Window,
}

impl BudgetState {
    /// Nothing is spent. The settings have been checked.
    pub(crate) fn new(budget: RetryBudget) -> Self {
        Self {
            budget,
            attempts: Window::new(nanos(budget.window)),
        }
    }

    /// Replaces the settings. A window of another length begins empty.
    pub(crate) fn set(&mut self, budget: RetryBudget) {
        if budget.window != self.budget.window {
            self.attempts = Window::new(nanos(budget.window));
        }
        self.budget = budget;
    }

    /// Counts first attempts.
    pub(crate) fn deposit(&mut self, count: u32, now_ns: u64) {
        self.attempts.add(FIRST, count, now_ns);
    }

    /// Asks for one retry.
    pub(crate) fn withdraw(&mut self, now_ns: u64) -> Withdrawal {
        let [firsts, retries] = self.attempts.sums(now_ns);
        let earned = firsts * u64::from(self.budget.percent) / 100;
        if retries < earned.saturating_add(self.budget.free()) {
            self.attempts.add(RETRY, 1, now_ns);
            return Withdrawal::Granted;
        }
        // A window has a free retry, so that only retries can have used the budget up.
        let until_ns = self.attempts.leave_ns(RETRY);
        debug_assert!(until_ns.is_some(), "no retry is in {self:?}");
        Withdrawal::Later(until_ns.unwrap_or(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    /// Withdraws until the budget is used up.
    fn granted(state: &mut BudgetState, now: u64) -> (u32, u64) {
        for count in 0..10_000 {
            if let Withdrawal::Later(until) = state.withdraw(now) {
                return (count, until);
            }
        }
        panic!("{state:?} has no end");
    }

    #[test]
    fn it_grants_the_free_retries_and_a_part_of_the_first_attempts() {
        let budget = RetryBudget::new;
        let short = Duration::from_millis(1);
        let table = [
            (budget(), 0, 100),
            (budget(), 1_000, 300),
            (budget(), 4, 100),
            (budget(), 5, 101),
            (budget().percent(0), 1_000, 100),
            (budget().percent(150), 100, 250),
            (budget().min_per_sec(1), 0, 10),
            (budget().window(short), 0, 1),
            (budget().window(short).percent(100), 7, 8),
        ];
        for (budget, firsts, expected) in table {
            let mut state = BudgetState::new(budget);
            state.deposit(firsts, 0);
            assert_eq!(granted(&mut state, 0).0, expected, "{budget:?}");
        }
    }

    #[test]
    fn what_is_spent_comes_back_when_it_leaves_the_window() {
        let mut state = BudgetState::new(RetryBudget::new());
        state.deposit(500, 0);
        let spent = granted(&mut state, 2 * SECOND);
        assert_eq!(spent, (200, 12 * SECOND));
        // The first attempts have left, too.
        assert_eq!(granted(&mut state, 12 * SECOND - 1), (0, 12 * SECOND));
        assert_eq!(granted(&mut state, 12 * SECOND).0, 100);
    }

    #[test]
    fn new_settings_keep_what_is_spent_unless_the_window_is_another() {
        for (window, expected) in [(10, 100), (5, 100)] {
            let mut state = BudgetState::new(RetryBudget::new());
            let _ = granted(&mut state, 0);
            let window = Duration::from_secs(window);
            state.set(RetryBudget::new().min_per_sec(20).window(window));
            assert_eq!(granted(&mut state, 0).0, expected, "{window:?}");
        }
    }

    #[test]
    fn nothing_overflows() {
        let largest = RetryBudget::new()
            .percent(1_000)
            .min_per_sec(u32::MAX)
            .window(Duration::MAX);
        let mut state = BudgetState::new(largest);
        for _ in 0..3 {
            state.deposit(u32::MAX, u64::MAX);
            assert_eq!(state.withdraw(u64::MAX), Withdrawal::Granted);
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_their_name() {
        let budget = RetryBudget::new;
        let table = [
            ("", budget()),
            ("", budget().percent(0)),
            ("percent", budget().percent(1_001)),
            ("min_per_sec", budget().min_per_sec(0)),
            ("window", budget().window(Duration::ZERO)),
        ];
        for (setting, budget) in table {
            let refused = budget.check().err();
            let refused = refused.as_ref().map_or("", SettingError::setting);
            assert_eq!(refused, setting, "{budget:?}");
        }
    }

    proptest! {
        /// The model keeps all attempts.
        #[test]
        fn retries_never_exceed_the_budget_and_never_wait_for_nothing(
            percent in 0_u32..200,
            per_sec in 1_u32..4,
            steps in prop::collection::vec((0_u64..SECOND, 0_u32..30), 0..120),
        ) {
            let window = Duration::from_secs(3);
            let budget = RetryBudget::new().percent(percent).min_per_sec(per_sec).window(window);
            let mut state = BudgetState::new(budget);
            let bucket = 3 * SECOND / 10;
            let (mut firsts, mut retries) = (Vec::new(), Vec::new());
            let mut now = 0;
            for (passed, count) in steps {
                now += passed;
                state.deposit(count, now);
                firsts.extend((0..count).map(|_| now));
                let number = now / bucket;
                let within = |list: &[u64]| {
                    list.iter().filter(|at| **at / bucket + 10 > number).count() as u64
                };
                let most = within(&firsts) * u64::from(percent) / 100 + u64::from(per_sec) * 3;
                match state.withdraw(now) {
                    Withdrawal::Granted => {
                        prop_assert!(within(&retries) < most);
                        retries.push(now);
                    }
                    Withdrawal::Later(until) => {
                        prop_assert!(within(&retries) >= most);
                        prop_assert!(until > now && until <= now + 3 * SECOND);
                    }
                }
            }
            // A window later all of them have left.
            prop_assert_eq!(state.withdraw(now + 3 * SECOND), Withdrawal::Granted);
        }
    }
}
