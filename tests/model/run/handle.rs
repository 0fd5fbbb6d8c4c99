//! A handle to any kind of subscription.

use std::time::Duration;

use millstream::error::SettingError;
use millstream::protect::RateLimit;
use millstream::retry::RetryPolicy;
use millstream::{ConsumerGroup, PullSubscription, Subscription, Unsubscribe, Unsubscribed};

use crate::program::{Breaking, breaker_after};

pub enum Handle {
    Handler(Subscription),
    Group(ConsumerGroup<u64>),
    Pull(PullSubscription<u64>),
}

/// Does what handles of all kinds can.
macro_rules! of_any {
    ($handle:expr, $any:ident => $what:expr) => {
        match $handle {
            Handle::Handler($any) => $what,
            Handle::Group($any) => $what,
            Handle::Pull($any) => $what,
        }
    };
}

impl Handle {
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), SettingError> {
        of_any!(self, any => any.set_retry(policy))
    }

    pub fn set_capacity(&self, deliveries: usize) -> Result<(), SettingError> {
        of_any!(self, any => any.set_capacity(deliveries))
    }

    pub fn retry_all_now(&self) -> usize {
        of_any!(self, any => any.retry_all_now())
    }

    pub fn set_paused(&self, is_paused: bool) {
        match is_paused {
            true => of_any!(self, any => any.pause()),
            false => of_any!(self, any => any.resume()),
        }
    }

    pub fn set_rate(&self, limit: Option<RateLimit>) -> Result<(), SettingError> {
        of_any!(self, any => any.set_rate_limit(limit))
    }

    /// Whether there was a breaker to change.
    pub fn change_breaker(&self, how: Breaking) -> bool {
        let set = |breaker| of_any!(self, any => any.set_breaker(breaker)).is_ok();
        match how {
            Breaking::Set(failures) => set(Some(breaker_after(failures))),
            Breaking::Remove => set(None),
            Breaking::Isolate => of_any!(self, any => any.isolate_breaker()),
            Breaking::Reset => of_any!(self, any => any.reset_breaker()),
        }
    }

    pub fn hold_off(&self, time: Duration) {
        of_any!(self, any => any.hold_off(time));
    }

    pub fn unsubscribe(self, mode: Unsubscribe) -> Unsubscribed {
        of_any!(self, any => any.unsubscribe(mode))
    }
}
