//! The changes of a subscription's protection that every kind of subscription takes.

/// Defines the methods for types that can lend their [`Control`](crate::subscription::control::Control).
macro_rules! protection_controls {
    () => {
        /// Sets the circuit breaker while traffic runs, or removes it.
        ///
        /// A breaker that is there keeps its status and its counts, as far as they fit. Deliveries
        /// that it holds go on at once if it is removed. A subscription to patterns gets a breaker
        /// in each topic, later ones included.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for settings that are out of range.
        pub fn set_breaker(
            &self,
            breaker: Option<crate::protect::Breaker>,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control()
                .set_protection(&move |settings| settings.breaker = breaker.clone())
        }

        /// Opens the circuit breaker by hand, until [`reset_breaker`](Self::reset_breaker).
        ///
        /// Calls that run go on, and their endings no longer count. Returns `false` if there is no
        /// breaker.
        pub fn isolate_breaker(&self) -> bool {
            self.control()
                .change_breaker(crate::pure::protect::breaker::state::BreakerState::isolate)
        }

        /// Closes the circuit breaker by hand, and forgets all endings.
        ///
        /// Returns `false` if there is no breaker.
        pub fn reset_breaker(&self) -> bool {
            self.control()
                .change_breaker(crate::pure::protect::breaker::state::BreakerState::reset)
        }

        /// Sets the rate limit while traffic runs, or removes it.
        ///
        /// Permits that are spent stay spent, as far as the new burst goes.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for settings that are out of range.
        pub fn set_rate_limit(
            &self,
            limit: Option<crate::protect::RateLimit>,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control()
                .set_protection(&move |settings| settings.rate = limit)
        }

        /// Sets the retry budget while traffic runs, or removes it.
        ///
        /// Retries that were put off already come at the time that they were told.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for settings that are out of range.
        pub fn set_retry_budget(
            &self,
            budget: Option<crate::protect::RetryBudget>,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control()
                .set_protection(&move |settings| settings.budget = budget)
        }

        /// Sets how the levels of priority share the handler while traffic runs, or has it take all
        /// deliveries alike.
        ///
        /// Waiting deliveries follow at once, within a turn of the handler. Deliveries that are in
        /// flight, and a few that a worker has taken at once, go on as they were taken. The shares
        /// begin anew.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) as
        /// [`SubscriptionOptions::priorities`](crate::SubscriptionOptions::priorities) says.
        pub fn set_priorities(
            &self,
            priorities: Option<crate::protect::Priorities>,
        ) -> Result<(), crate::types::error::SettingError> {
            self.control().set_rules(&move |rules, fit| {
                crate::pure::order::rules::Rules {
                    priorities,
                    ..rules
                }
                .checked(fit)
            })
        }

        /// Sets the limit that is shared with others while traffic runs, or gives it up.
        ///
        /// Calls that run don't count against the new limit, and no longer against the old one.
        ///
        /// # Errors
        ///
        /// Returns [`SettingError`](crate::error::SettingError) for a subscription without a handler.
        pub fn set_limiter(
            &self,
            limiter: Option<&crate::protect::Limiter>,
        ) -> Result<(), crate::types::error::SettingError> {
            let limiter = limiter.cloned();
            self.control()
                .set_protection(&move |settings| settings.limiter = limiter.clone())
        }
    };
}

pub(crate) use protection_controls;
