//! The error of a request.

use std::any::type_name;
use std::fmt;

use crate::engine::track::ends::Outcome;
use crate::types::error::PublishError;

/// The reason why a request has no reply.
///
/// A request that was not accepted hands its payload back.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError<T> {
    /// Nobody subscribes to the topic, so nobody would reply. The message was not accepted.
    NoResponder(T),
    /// A call that blocks its thread doesn't wait here, inside a handler of the broker. The message
    /// was not accepted.
    WouldBlock(T),
    /// The topic did not accept the message.
    ///
    /// A durable topic refuses each request as
    /// `PublishError::NotStored`, because a request that was
    /// stored would be handled again after a crash, with nobody waiting.
    Refused(PublishError<T>),
    /// All deliveries have ended, and none of them brought a reply.
    ///
    /// The outcome says how they have ended: by a dead letter, a drop, an expiry, or a handler that
    /// returned without a reply.
    Unanswered(Outcome),
    /// No reply came before the timeout. A later one is dropped and counted.
    TimedOut,
    /// The reply was of another type.
    WrongType {
        /// The type that was asked for.
        expected: &'static str,
        /// The type of the reply.
        found: &'static str,
    },
}

impl<T> RequestError<T> {
    /// Returns the payload, if the message was not accepted.
    pub fn into_inner(self) -> Option<T> {
        match self {
            Self::NoResponder(payload) | Self::WouldBlock(payload) => Some(payload),
            Self::Refused(error) => Some(error.into_inner()),
            Self::Unanswered(_) | Self::TimedOut | Self::WrongType { .. } => None,
        }
    }

    /// Returns whether the time was up, before or after the message was accepted.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::TimedOut | Self::Refused(PublishError::TimedOut(_))
        )
    }

    /// Makes the error of a reply of another type than `R`.
    pub(super) fn wrong_type<R>(found: Option<&'static str>) -> Self {
        Self::WrongType {
            expected: type_name::<R>(),
            found: found.unwrap_or("another type"),
        }
    }
}

impl<T> From<PublishError<T>> for RequestError<T> {
    fn from(error: PublishError<T>) -> Self {
        match error {
            PublishError::NoSubscribers(payload) => Self::NoResponder(payload),
            error => Self::Refused(error),
        }
    }
}

/// The payload is not printed.
impl<T> fmt::Debug for RequestError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponder(_) => f.write_str("NoResponder(..)"),
            Self::WouldBlock(_) => f.write_str("WouldBlock(..)"),
            Self::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
            Self::Unanswered(outcome) => f.debug_tuple("Unanswered").field(outcome).finish(),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::WrongType { expected, found } => f
                .debug_struct("WrongType")
                .field("expected", expected)
                .field("found", found)
                .finish(),
        }
    }
}

impl<T> fmt::Display for RequestError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponder(_) => f.write_str("nobody subscribes to the topic"),
            Self::WouldBlock(_) => f.write_str("no call waits inside a handler"),
            Self::Refused(error) => error.fmt(f),
            Self::Unanswered(outcome) => write!(f, "there was no reply: {outcome}"),
            Self::TimedOut => f.write_str("no reply came in time"),
            Self::WrongType { expected, found } => {
                write!(f, "the reply is {found}, not {expected}")
            }
        }
    }
}

impl<T> std::error::Error for RequestError<T> {}
