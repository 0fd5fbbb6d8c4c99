//! How a handler refuses a delivery.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::pure::decide::verdict::NackAction;

/// A handler's refusal of a delivery.
///
/// A type that implements [`Error`] turns into one with `?`, and then the subscription's
/// retry policy decides. `Box<dyn Error + Send + Sync>` and `anyhow::Error` don't implement it:
/// [`from_error`](Self::from_error) takes them. The other constructors say more: try again
/// after a delay, put it back, dead-letter at once, or discard.
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

    /// Try again as the retry policy says.
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Policy, reason)
    }

    /// Try again after `delay` instead of the retry policy's own, if the policy grants
    /// that: it is asked, by [`decide_requested`](crate::RetryPolicy::decide_requested),
    /// and has the last word. A [`Backoff`](crate::Backoff) takes `delay` as it is, without
    /// jitter, but for its [`cap`](crate::Backoff::cap), and judges by that whether the
    /// retry comes within [`max_elapsed`](crate::Backoff::max_elapsed); a policy of your
    /// own that says nothing else takes it if it grants a retry at all.
    pub fn retry_after(delay: Duration, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::After(delay), reason)
    }

    /// Not now: back to the end of the line, at once, behind everything that the topic
    /// has accepted so far; under [`OnFailure::BlockKey`] and
    /// [`OnFailure::BlockSubscription`] it stays the first of its key, so that order
    /// holds. That is no failed attempt: the retry policy isn't asked, and the next
    /// attempt has the same number. It is counted as an entry into the handler and as
    /// [requeued](crate::DeliveryCounts::requeued).
    ///
    /// A handler that requeues while nothing else is there to do is called again at
    /// once, and keeps a worker busy: to wait, say [`retry_after`](Self::retry_after).
    /// Nothing limits how often, but a time to live or the end of its subscription or
    /// broker. On a broker without workers, a requeued delivery is handed out by the next
    /// [`run_until_idle`](crate::Broker::run_until_idle), so that this one returns.
    ///
    /// [`OnFailure::BlockKey`]: crate::OnFailure::BlockKey
    /// [`OnFailure::BlockSubscription`]: crate::OnFailure::BlockSubscription
    pub fn requeue(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Requeue, reason)
    }

    /// Trying again can't help: dead-letter it now.
    pub fn dead_letter(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::DeadLetter, reason)
    }

    /// It doesn't matter: drop it. Counted as dropped.
    pub fn discard(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(NackAction::Discard, reason)
    }

    /// Try again as the retry policy says, because of an error of any type: for
    /// `.map_err(Nack::from_error)?` where a plain `?` doesn't take it.
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
        Self(Box::new(Refusal {
            action: NackAction::Policy,
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
