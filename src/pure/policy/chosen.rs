//! Policies and strategies that are chosen at run time: from closures, boxed, and shared.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::pure::policy::retry::{Decision, FailedAttempt, RetryPolicy};
use crate::pure::policy::strategy::{Backlog, Plan, Strategy};
use crate::types::error::SettingError;

/// Makes a [`RetryPolicy`] of a closure.
///
/// ```
/// use millstream::Broker;
/// use millstream::retry::{Decision, retry_fn};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let patient = retry_fn(|failed| match failed.attempt() {
///     1..10 => Decision::RetryAfter(Duration::from_secs(1)),
///     _ => Decision::Exhausted,
/// });
/// let _orders = broker.topic::<u64>("orders").retry(patient).open()?;
/// # Ok(())
/// # }
/// ```
pub fn retry_fn<F>(decide: F) -> RetryFn<F>
where
    F: Fn(&FailedAttempt<'_>) -> Decision + Send + Sync + 'static,
{
    RetryFn(decide)
}

/// A [`RetryPolicy`] made by [`retry_fn`].
#[derive(Clone, Copy)]
pub struct RetryFn<F>(F);

impl<F> RetryPolicy for RetryFn<F>
where
    F: Fn(&FailedAttempt<'_>) -> Decision + Send + Sync + 'static,
{
    fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
        (self.0)(failed)
    }
}

impl<F> fmt::Debug for RetryFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryFn")
    }
}

/// Makes a [`Strategy`] of a closure. Events and metrics show it by `name`.
///
/// ```
/// use millstream::Broker;
/// use millstream::strategy::{Plan, strategy_fn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let in_tens = strategy_fn("in tens", |backlog| match backlog.waiting() {
///     waiting @ 10.. => Plan::Deliver { at_most: waiting },
///     _ => Plan::Wait { until_waiting: 10, at_most: None },
/// });
/// let _orders = broker.topic::<u64>("orders").strategy(in_tens).open()?;
/// # Ok(())
/// # }
/// ```
pub fn strategy_fn<F>(name: impl Into<Cow<'static, str>>, plan: F) -> StrategyFn<F>
where
    F: Fn(&Backlog) -> Plan + Send + Sync + 'static,
{
    StrategyFn {
        name: name.into(),
        plan,
    }
}

/// A [`Strategy`] made by [`strategy_fn`].
#[derive(Clone)]
pub struct StrategyFn<F> {
    name: Cow<'static, str>,
    plan: F,
}

impl<F> Strategy for StrategyFn<F>
where
    F: Fn(&Backlog) -> Plan + Send + Sync + 'static,
{
    fn plan(&self, backlog: &Backlog) -> Plan {
        (self.plan)(backlog)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl<F> fmt::Debug for StrategyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StrategyFn").field(&self.name).finish()
    }
}

/// A pointer to a policy or a strategy is one itself.
macro_rules! forward {
    ($pointer:ident $(, $same_as:item)?) => {
        impl<P: RetryPolicy + ?Sized> RetryPolicy for $pointer<P> {
            fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
                (**self).decide(failed)
            }

            fn decide_requested(
                &self,
                failed: &FailedAttempt<'_>,
                requested: Duration,
            ) -> Decision {
                (**self).decide_requested(failed, requested)
            }

            fn check(&self) -> Result<(), SettingError> {
                (**self).check()
            }

            $($same_as)?
        }

        impl<S: Strategy + ?Sized> Strategy for $pointer<S> {
            fn plan(&self, backlog: &Backlog) -> Plan {
                (**self).plan(backlog)
            }

            fn name(&self) -> &str {
                (**self).name()
            }

            fn check(&self) -> Result<(), SettingError> {
                (**self).check()
            }

            $($same_as)?
        }
    };
}

forward!(
    Arc,
    fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
);
forward!(Box);
