//! The errors that the API returns.
//!
//! An error that refuses a payload hands it back, and no error prints a payload.

pub(crate) mod recv;
#[cfg(feature = "log")]
pub(crate) mod store;

use std::fmt;
use std::io;
use std::time::Duration;

use crate::types::name::{NameError, PatternError};
use crate::types::report::DrainReport;

/// A setting that is out of range or could never take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}, but it {rule}")]
pub struct SettingError {
    setting: &'static str,
    value: String,
    rule: &'static str,
}

impl SettingError {
    /// Makes the error: `setting` was `value`, and that breaks `rule`.
    ///
    /// The three read as one sentence: "capacity is 0, but it must be at least 1".
    pub fn new(setting: &'static str, value: impl fmt::Display, rule: &'static str) -> Self {
        Self {
            setting,
            value: value.to_string(),
            rule,
        }
    }

    /// Returns the name of the setting, which is that of the method that sets it.
    ///
    /// The size of a [`Batched`](crate::Batched) is `batch_size`, and a topic's type is `payload`.
    pub fn setting(&self) -> &'static str {
        self.setting
    }

    /// Returns the value that was refused, as text.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the rule that the value breaks, as the end of a sentence: "must be at least 1".
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

/// The reason why a broker could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of range or clashes with another.
    #[error(transparent)]
    Invalid(#[from] SettingError),
    /// The operating system refused a thread. The threads that had started have been stopped again.
    #[error("a thread could not be started")]
    Spawn(#[source] io::Error),
}

/// The reason why a topic could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name breaks the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A setting is out of range or clashes with another.
    #[error(transparent)]
    Invalid(#[from] SettingError),
    /// The topic exists with another payload type.
    #[error("topic {topic} carries {existing}, not {requested}")]
    WrongType {
        /// The topic's name.
        topic: String,
        /// The payload type that the topic was opened with.
        existing: &'static str,
        /// The payload type that was asked for now.
        requested: &'static str,
    },
    /// The topic exists, and a setting asked for differs from the one that it was opened with.
    #[error("topic {topic} is open with another {setting}")]
    Clash {
        /// The topic's name.
        topic: String,
        /// The setting that differs, by the name of its method.
        setting: &'static str,
    },
    /// The store refuses the topic (feature `log`).
    #[cfg(feature = "log")]
    #[error("the topic can't be stored: {0}")]
    Store(#[from] store::StoreError),
    /// The broker is draining or has stopped.
    #[error("the broker is closed")]
    Closed,
}

/// The reason why the number of a topic's partitions was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionsError {
    /// The number is out of range, or the topic was opened without partitions.
    #[error(transparent)]
    Invalid(#[from] SettingError),
    /// Messages accepted before the last change are still to be dispatched. Try again later.
    #[error("the last change of the partitions is still under way")]
    Underway,
}

/// The reason why a topic could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// No topic has this name.
    #[error("there is no topic of this name")]
    Unknown,
    /// A handle is alive, so somebody may still publish or subscribe.
    #[error("the topic has {handles} open handles")]
    InUse {
        /// The number of handles that are alive.
        handles: u64,
    },
    /// The topic has subscriptions, messages or dead letters.
    #[error("the topic is not empty: it has {what}")]
    NotEmpty {
        /// The things that the topic still has, in words.
        what: &'static str,
    },
}

/// The reason why an observer could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The operating system refused the observers' thread.
    #[error("a thread could not be started")]
    Spawn(#[source] io::Error),
    /// The broker has stopped.
    #[error("the broker is closed")]
    Closed,
}

/// The reason why a message was not accepted. Every variant hands the payload back.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError<T> {
    /// The topic's queue is full, and its overflow policy refuses new messages then.
    ///
    /// A blocking policy also returns this inside a handler of the same broker, where no publish
    /// ever blocks.
    Full(T),
    /// The overflow policy blocks, and no room appeared before its timeout.
    TimedOut(T),
    /// The topic's [rate limit](crate::TopicBuilder::rate_limit) lets no message pass now.
    ///
    /// A publish that waits returns it, too, if its time is up before the next message may pass.
    RateLimited {
        /// The payload.
        payload: T,
        /// The time until the next message may pass, if no other publisher takes its place.
        retry_after: Duration,
    },
    /// The broker is draining or has stopped, or the topic was
    /// [drained](crate::Topic::drain) or removed.
    Closed(T),
    /// The topic has no subscription, and its policy refuses messages then.
    NoSubscribers(T),
    /// No topic of this name is open. Only a publish by name returns this.
    UnknownTopic(T),
    /// The topic carries another payload type. Only a publish by name returns this.
    WrongType {
        /// The payload.
        payload: T,
        /// The payload type that the topic carries.
        existing: &'static str,
    },
    /// The topic can't accept such a message at any time.
    ///
    /// A setting of the message is out of range. Or it has a dedup id, and its topic has no
    /// [dedup](crate::TopicBuilder::dedup). Or it is heavier than the topic's
    /// [weight limit](crate::TopicBuilder::weight_limit).
    ///
    /// The reason is boxed, because every publish reserves the room for its error.
    Invalid {
        /// The payload.
        payload: T,
        /// The setting, and the rule that it breaks.
        invalid: Box<SettingError>,
    },
    /// The store did not take the message, or can't say that it did (feature `log`).
    ///
    /// After a failed write or sync the message may be found when the store is opened again. It was
    /// delivered to nobody.
    #[cfg(feature = "log")]
    NotStored {
        /// The payload.
        payload: T,
        /// The reason.
        error: Box<store::StoreError>,
    },
}

impl<T> PublishError<T> {
    /// Returns the payload that was not accepted.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(payload)
            | Self::TimedOut(payload)
            | Self::Closed(payload)
            | Self::NoSubscribers(payload)
            | Self::UnknownTopic(payload)
            | Self::RateLimited { payload, .. }
            | Self::WrongType { payload, .. }
            | Self::Invalid { payload, .. } => payload,
            #[cfg(feature = "log")]
            Self::NotStored { payload, .. } => payload,
        }
    }

    /// Returns whether the topic had no room, at once or within the time that the caller waited. A
    /// later try may succeed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_) | Self::TimedOut(_))
    }

    /// Returns the time after which a later try may succeed, if the topic's rate limit refused the
    /// message.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Returns whether the topic accepts nothing any more. No later try will succeed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl<T> fmt::Debug for PublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            Self::Full(_) => "Full",
            Self::TimedOut(_) => "TimedOut",
            Self::RateLimited { .. } => "RateLimited",
            Self::Closed(_) => "Closed",
            Self::NoSubscribers(_) => "NoSubscribers",
            Self::UnknownTopic(_) => "UnknownTopic",
            Self::WrongType { .. } => "WrongType",
            Self::Invalid { .. } => "Invalid",
            #[cfg(feature = "log")]
            Self::NotStored { .. } => "NotStored",
        };
        write!(f, "{variant}(..)")
    }
}

impl<T> fmt::Display for PublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the topic is full"),
            Self::TimedOut(_) => f.write_str("the topic stayed full for the whole timeout"),
            Self::RateLimited { retry_after, .. } => {
                write!(f, "the topic's rate limit is used up for {retry_after:?}")
            }
            Self::Closed(_) => f.write_str("the topic is closed"),
            Self::NoSubscribers(_) => f.write_str("the topic has no subscribers"),
            Self::UnknownTopic(_) => f.write_str("no topic of this name is open"),
            Self::WrongType { existing, .. } => {
                write!(f, "the topic carries {existing}, another type")
            }
            Self::Invalid { invalid, .. } => invalid.fmt(f),
            #[cfg(feature = "log")]
            Self::NotStored { error, .. } => write!(f, "the message is not stored: {error}"),
        }
    }
}

impl<T> std::error::Error for PublishError<T> {}

/// The error of a wait for the end of messages whose deliveries have not all ended.
///
/// The time was up, or the call may not wait where it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not all deliveries of the tracked messages have ended")]
pub struct UnsettledError;

/// The error of cancelling a message that is not delayed, or no longer.
///
/// It is due already, was cancelled before, or never had a delay. The call has changed nothing. Or
/// the topic is durable, and its store has failed: the message may come when that is open again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not delayed: it is due, was cancelled, or never had a delay")]
pub struct NotDelayedError;

/// The reason why a batch was not accepted as a whole.
///
/// The messages before the first refused one *are* accepted. The error hands the rest back, in
/// order.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishBatchError<T> {
    /// The number of messages, from the front, that were accepted or were
    /// [duplicates](crate::BatchReceipt::duplicates).
    pub accepted: usize,
    /// The reason why the others were not; its payload is the rest of the batch, in order.
    pub error: PublishError<Vec<T>>,
}

impl<T> PublishBatchError<T> {
    /// Returns the messages that were not accepted, in their order.
    pub fn into_inner(self) -> Vec<T> {
        self.error.into_inner()
    }
}

impl<T> fmt::Debug for PublishBatchError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishBatchError")
            .field("accepted", &self.accepted)
            .field("error", &self.error)
            .finish()
    }
}

impl<T> fmt::Display for PublishBatchError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, error } = self;
        write!(
            f,
            "{accepted} messages of the batch were accepted, then {error}"
        )
    }
}

impl<T: 'static> std::error::Error for PublishBatchError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The reason why a subscription could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name breaks the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A setting is out of range or clashes with another.
    #[error(transparent)]
    Invalid(#[from] SettingError),
    /// The topic has a subscription with this name.
    #[error("the topic has a subscription named {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The consumer group has a member with this name.
    #[error("the group has a member named {name}")]
    MemberTaken {
        /// The name.
        name: String,
    },
    /// The store refuses the subscription, or has no messages where it is to start (feature `log`).
    #[cfg(feature = "log")]
    #[error("the subscription can't be stored, or not from there: {0}")]
    Store(#[from] store::StoreError),
    /// A pattern breaks the grammar.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern matches a topic that has a subscription with this name. No topic has been
    /// subscribed to.
    #[error("topic {topic} has a subscription named {name}")]
    NameTakenOn {
        /// The name.
        name: String,
        /// The topic's name.
        topic: String,
    },
    /// The broker has a pattern subscription with this name, whatever its patterns match.
    #[error("the broker has a subscription to patterns named {name}")]
    PatternNameTaken {
        /// The name.
        name: String,
    },
    /// The operating system refused a thread of a parallel handler. The text is its reason.
    #[error("a thread could not be started: {0}")]
    Spawn(String),
    /// The broker is draining or has stopped, or the topic was [drained](crate::Topic::drain).
    #[error("the broker or the topic is closed")]
    Closed,
}

/// The reason why a subscription could not be taken up again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The topic has no open subscription of its own of this name.
    #[error("the topic has no open subscription named {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The subscription of this name is of another kind.
    #[error("the subscription {name} is {existing}")]
    WrongKind {
        /// The name.
        name: String,
        /// The kind of subscription that it is, in words.
        existing: &'static str,
    },
}

/// The error of removing a pattern that the subscription doesn't have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription has no pattern {pattern:?}")]
pub struct UnknownPatternError {
    pub(crate) pattern: String,
}

/// The error of settling or extending a lease that the caller has lost.
///
/// The lease's deadline has passed, or its subscription has ended. The call has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is stale: its deadline has passed, or its subscription has ended")]
pub struct StaleError;

/// The reason why a drain is incomplete. Each variant carries the report all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The end of the broker cut something off, or handlers have not returned.
    ///
    /// The end cuts off messages and deliveries that are left when the time is up. It also cuts off
    /// deliveries that it cancels because a publish of their handler was refused.
    #[error("the drain is incomplete: {0}")]
    Incomplete(DrainReport),
    /// The drain was called inside a handler of the broker, and would have to wait for that
    /// handler.
    ///
    /// New publishes are refused from now on. A drain from outside finishes the job, and so does
    /// dropping the broker. A topic that is not drained from outside goes on with what it has.
    #[error("a drain inside a handler can only begin: {0}")]
    InsideHandler(DrainReport),
}

impl DrainError {
    /// Returns the counts of the broker, or of the topic, when the drain gave up.
    pub fn report(&self) -> &DrainReport {
        match self {
            Self::Incomplete(report) | Self::InsideHandler(report) => report,
        }
    }
}
