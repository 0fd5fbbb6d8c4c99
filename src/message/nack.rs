//! The nack, by which a handler refuses a delivery.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::pure::policy::verdict::NackAction;

/// A handler's refusal of a delivery.
///
/// With `?`, any type that implements [`Error`] turns into a nack, and the subscription's retry
/// policy decides. `Box<dyn Error + Send + Sync>` and `anyhow::Error` don't implement it:
/// [`from_error`](Self::from_error) takes them. The other constructors say more: try again after a
/// delay, put the delivery back, dead-letter it at once, or discard it.
///
/// ```
/// use millstream::{Delivery, Nack};
///
/// fn handle(delivery: &Delivery<'_, String>) -> Result<(), Nack> {
///     let number: u64 = delivery.payload().trim().parse()?; // retried
///     if number == 0 {
///         return Err(Nack::dead_letter("zero never works"));
///     }
///     Ok(())
/// }
/// ```
#[must_use = "a nack does nothing until the handler returns it"]
pub struct Nack(Box<Refusal>);

struct Refusal {
    action: NackAction,
    cause: Cause,
}

enum Cause {
    Text(Cow<'static, str>),
    Error(Box<dyn Error + Send + Sync>),
}

impl Nack {
    fn new(action: NackAction, text: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Refusal {
            action,
            cause: Cause::Text(text.into()),
        }))
    }

    /// Asks for another attempt, as the retry policy decides.
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Policy, reason)
    }

    /// Asks for another attempt after `delay`, instead of the retry policy's own delay.
    ///
    /// The policy's [`decide_requested`](crate::retry::RetryPolicy::decide_requested) has the last word. A
    /// [`Backoff`](crate::Backoff) that grants a retry takes `delay` without jitter, up to its
    /// [`cap`](crate::Backoff::cap). By this delay it judges whether the retry comes within
    /// [`max_elapsed`](crate::Backoff::max_elapsed). A policy of your own takes `delay` for every
    /// retry that it grants, unless it implements that method.
    pub fn retry_after(delay: Duration, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::After(delay), reason)
    }

    /// Puts the delivery back to the end of the line, at once.
    ///
    /// The delivery goes behind everything that the topic has accepted so far. Under
    /// [`OnFailure::BlockKey`] and [`OnFailure::BlockSubscription`] it stays the first of its key,
    /// so that order holds.
    ///
    /// A requeue is no failed attempt: the retry policy isn't asked, and the next attempt has the
    /// same number. It is counted as an entry into the handler and as
    /// [requeued](crate::metrics::DeliveryCounts::requeued).
    ///
    /// A handler that requeues while there is no other work is called again at once, and keeps a
    /// worker busy. To wait, use [`snooze`](Self::snooze). Only a time to live, or the end of the
    /// subscription or the broker, limits the number of requeues. On a broker without workers, the
    /// next [`run_until_idle`](crate::Broker::run_until_idle) hands out a requeued delivery, so
    /// that this one returns.
    ///
    /// [`OnFailure::BlockKey`]: crate::OnFailure::BlockKey
    /// [`OnFailure::BlockSubscription`]: crate::OnFailure::BlockSubscription
    pub fn requeue(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Requeue, reason)
    }

    /// Puts the delivery off for at least `delay`, without counting an attempt.
    ///
    /// It is for a handler that can't do it yet, and has not failed: it is rate-limited, or what it
    /// needs is still to come. The retry policy isn't asked, and the next attempt has the same
    /// number. It is counted as an entry into the handler and as
    /// [snoozed](crate::metrics::DeliveryCounts::snoozed).
    ///
    /// Meanwhile the delivery occupies no worker. It waits on the timer wheel and keeps its place in
    /// the lane, as a retry does. [`Subscription::retry_now`](crate::Subscription::retry_now) calls
    /// it back early. Under [`OnFailure::BlockKey`] and [`OnFailure::BlockSubscription`] the
    /// deliveries behind it wait, so that order holds. Otherwise they pass it.
    ///
    /// Nothing but a time to live, or the end of the subscription or the broker, limits the number
    /// of snoozes. A snooze that would outlast the time to live ends the delivery at once, as
    /// expired. [`Backoff::max_elapsed`](crate::Backoff::max_elapsed) is judged when an attempt
    /// fails. It counts from the first attempt that was not put off, and snoozes after that count.
    ///
    /// A `delay` of zero is a [`requeue`](Self::requeue).
    ///
    /// ```
    /// use millstream::{Broker, ManualClock, Nack};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = ManualClock::new();
    /// let broker = Broker::builder().workers(0).manual_clock(&clock).build()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let mut budget = 1; // calls to the bank, in this second
    /// let billing = orders.subscribe("billing", move |_| match budget {
    ///     0 => {
    ///         budget = 1;
    ///         Err(Nack::snooze(Duration::from_secs(1), "the bank's limit is used up"))
    ///     }
    ///     _ => {
    ///         budget -= 1;
    ///         Ok(())
    ///     }
    /// })?;
    /// orders.publish_batch([7, 8])?;
    /// broker.run_until_idle();
    /// assert_eq!(billing.metrics().counts.awaiting_retry, 1);
    /// clock.advance(Duration::from_secs(1));
    /// broker.run_until_idle();
    /// let counts = billing.metrics().counts;
    /// assert_eq!((counts.delivered, counts.snoozed, counts.failed), (2, 1, 0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`OnFailure::BlockKey`]: crate::OnFailure::BlockKey
    /// [`OnFailure::BlockSubscription`]: crate::OnFailure::BlockSubscription
    pub fn snooze(delay: Duration, reason: impl Into<Cow<'static, str>>) -> Self {
        let action = match delay {
            Duration::ZERO => NackAction::Requeue,
            delay => NackAction::Snooze(delay),
        };
        Self::new(action, reason)
    }

    /// Asks for another attempt, as the retry policy decides, because a dependency has too much to
    /// do.
    ///
    /// A [limiter](crate::protect::Limiter) that adapts lets fewer calls run after it.
    pub fn overloaded(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Overloaded, reason)
    }

    /// Sends the delivery to the dead letters now, because trying again can't help.
    pub fn dead_letter(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::DeadLetter, reason)
    }

    /// Drops the delivery. It is counted as dropped.
    pub fn discard(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Discard, reason)
    }

    /// Asks for another attempt, as the retry policy decides, because of an error of any type.
    ///
    /// It serves as `.map_err(Nack::from_error)?` where a plain `?` doesn't take the error.
    ///
    /// ```
    /// # use millstream::{Delivery, Nack};
    /// # type Anyhow = Box<dyn std::error::Error + Send + Sync>;
    /// # fn store(_: &str) -> Result<(), Anyhow> { Ok(()) }
    /// fn handle(delivery: &Delivery<'_, String>) -> Result<(), Nack> {
    ///     store(delivery.payload()).map_err(Nack::from_error)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn from_error(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(NackAction::Policy, error)
    }

    /// Asks for another attempt after `delay`, as [`retry_after`](Self::retry_after) does, because
    /// of an error. The letter that may follow keeps the error and its sources.
    pub fn retry_after_with(
        delay: Duration,
        error: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::with(NackAction::After(delay), error)
    }

    /// Sends the delivery to the dead letters now, as [`dead_letter`](Self::dead_letter) does,
    /// because of an error. The letter keeps the error and its sources.
    ///
    /// ```
    /// # use millstream::{Delivery, Nack};
    /// fn handle(delivery: &Delivery<'_, String>) -> Result<(), Nack> {
    ///     let order = delivery.payload().parse::<u64>();
    ///     let _order = order.map_err(Nack::dead_letter_with)?; // it won't be a number next time
    ///     Ok(())
    /// }
    /// ```
    pub fn dead_letter_with(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(NackAction::DeadLetter, error)
    }

    /// Drops the delivery, as [`discard`](Self::discard) does, because of an error.
    pub fn discard_with(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(NackAction::Discard, error)
    }

    fn with(action: NackAction, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Box::new(Refusal {
            action,
            cause: Cause::Error(error.into()),
        }))
    }

    pub(crate) fn action(&self) -> NackAction {
        self.0.action
    }

    pub(crate) fn error(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        match &self.0.cause {
            Cause::Text(_) => None,
            Cause::Error(error) => Some(&**error),
        }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Nack {
    fn from(error: E) -> Self {
        Self::from_error(error)
    }
}

impl fmt::Display for Nack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.cause {
            Cause::Text(text) => f.write_str(text),
            Cause::Error(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Nack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nack")
            .field("action", &self.0.action)
            .field("reason", &format_args!("{self}"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_fits_a_register() {
        assert_eq!(size_of::<Result<(), Nack>>(), size_of::<usize>());
    }

    #[test]
    fn an_error_in_a_box_becomes_a_nack_that_keeps_it() {
        let boxed: Box<dyn Error + Send + Sync> = Box::new(fmt::Error);
        let nack = Nack::from_error(boxed);
        assert_eq!(nack.action(), NackAction::Policy);
        assert!(nack.error().is_some_and(|error| error.is::<fmt::Error>()));
        assert_eq!(Nack::from_error("a text").to_string(), "a text");
    }

    #[test]
    fn a_nack_with_an_error_says_what_is_to_follow_and_keeps_it() {
        let delay = Duration::from_secs(3);
        let nacks = [
            (
                Nack::retry_after_with(delay, fmt::Error),
                NackAction::After(delay),
            ),
            (Nack::dead_letter_with(fmt::Error), NackAction::DeadLetter),
            (Nack::discard_with(fmt::Error), NackAction::Discard),
        ];
        for (nack, action) in nacks {
            assert_eq!(nack.action(), action);
            assert!(nack.error().is_some_and(|error| error.is::<fmt::Error>()));
        }
    }

    #[test]
    fn any_error_becomes_a_nack_that_keeps_it() {
        fn fails() -> Result<(), Nack> {
            "x".parse::<u8>()?;
            Ok(())
        }
        let nack = fails().expect_err("x is no number");
        assert_eq!(nack.action(), NackAction::Policy);
        assert!(
            nack.error()
                .is_some_and(|error| error.is::<std::num::ParseIntError>())
        );
        assert_eq!(nack.to_string(), "invalid digit found in string");
    }
}
