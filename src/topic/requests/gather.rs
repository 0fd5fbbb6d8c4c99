//! Requests to many, and their replies.

use std::time::Duration;

use crate::engine::track::ends::Outcome;
use crate::types::error::SettingError;

/// The terms on which [`Topic::request_many`](crate::Topic::request_many) collects replies.
///
/// ```
/// use millstream::request::Gather;
/// use std::time::Duration;
///
/// let second = Duration::from_secs(1);
/// let soon = Gather::within(second).max(3).stall(second / 20);
/// # let _ = soon;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    pub(super) timeout: Duration,
    pub(super) max: usize,
    pub(super) stall: Option<Duration>,
}

impl Gather {
    /// Collects replies for at most so long, counted from the call.
    pub fn within(timeout: Duration) -> Self {
        Self {
            timeout,
            max: 1_024,
            stall: None,
        }
    }

    /// Sets the most replies, after which the call returns. It is at least 1, and 1,024 by default.
    ///
    /// Replies wait in memory until the call returns, so this is what bounds them. One handler may
    /// reply several times.
    #[must_use]
    pub fn max(self, replies: usize) -> Self {
        Self {
            max: replies,
            ..self
        }
    }

    /// Returns once no reply has followed the last one for so long. By default no such pause ends
    /// the call.
    ///
    /// The wait for the first reply ends by the timeout alone.
    #[must_use]
    pub fn stall(self, stall: Duration) -> Self {
        Self {
            stall: Some(stall),
            ..self
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingError> {
        match self.max {
            0 => Err(SettingError::new("max", 0, "must be at least 1")),
            _ => Ok(()),
        }
    }
}

/// The replies to one request, in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replies<R> {
    /// The replies. There may be none.
    pub replies: Vec<R>,
    /// The reason why the call waited no longer.
    pub end: RepliesEnd,
}

impl<R> IntoIterator for Replies<R> {
    type Item = R;
    type IntoIter = std::vec::IntoIter<R>;

    fn into_iter(self) -> Self::IntoIter {
        self.replies.into_iter()
    }
}

/// The reason why a [`Topic::request_many`](crate::Topic::request_many) waited no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepliesEnd {
    /// As many replies came as were asked for.
    Complete,
    /// All deliveries have ended, as the outcome says, so no more replies could come.
    Ended(Outcome),
    /// No reply followed the last one for as long as [`Gather::stall`] says.
    Stalled,
    /// The time was up.
    TimedOut,
    /// A reply was of another type.
    WrongType {
        /// The type that was asked for.
        expected: &'static str,
        /// The type of the reply.
        found: &'static str,
    },
}
