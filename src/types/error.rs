//! One error type for each kind of operation. Those that refuse a payload hand it back;
//! none of them prints one.

use std::fmt;
use std::io;

use crate::types::name::{InvalidName, InvalidPattern};
use crate::types::report::DrainReport;

/// A setting that is out of range or could never take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}, but it {rule}")]
pub struct InvalidSetting {
    setting: &'static str,
    value: String,
    rule: &'static str,
}

impl InvalidSetting {
    /// A refusal of `setting`, which was `value`, because it breaks `rule`. The
    /// three read as one sentence: "capacity is 0, but it must be at least 1".
    pub fn new(setting: &'static str, value: impl fmt::Display, rule: &'static str) -> Self {
        Self {
            setting,
            value: value.to_string(),
            rule,
        }
    }

    /// The name of the setting.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

/// Why a broker could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of range or clashes with another.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// The operating system refused a thread. The threads that had started have
    /// been stopped again.
    #[error("a thread could not be started")]
    Spawn(#[source] io::Error),
}

/// Why a topic could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name breaks the grammar.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A setting is out of range or clashes with another.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// The topic exists with another payload type.
    #[error("topic {topic} carries {existing}, not {requested}")]
    WrongType {
        /// The topic's name.
        topic: String,
        /// The type it was opened with.
        existing: &'static str,
        /// The type asked for now.
        requested: &'static str,
    },
    /// The topic exists, and what was asked for differs from how it was opened.
    #[error("topic {topic} is open with another {setting}")]
    Clash {
        /// The topic's name.
        topic: String,
        /// The setting that differs.
        setting: &'static str,
    },
    /// The broker is draining or has stopped.
    #[error("the broker is closed")]
    Closed,
}

/// Why the number of a topic's partitions was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionsError {
    /// The number is out of range, or the topic was opened without partitions.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// Messages accepted before the last change have yet to be dispatched: try
    /// again later.
    #[error("the last change of the partitions is still under way")]
    Underway,
}

/// Why a topic could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// No topic has this name.
    #[error("there is no topic of this name")]
    Unknown,
    /// A handle is alive, so somebody may still publish or subscribe.
    #[error("the topic has {handles} open handles")]
    InUse {
        /// How many.
        handles: u64,
    },
    /// It has subscriptions, messages or dead letters.
    #[error("the topic is not empty: it has {what}")]
    NotEmpty {
        /// What there is.
        what: &'static str,
    },
}

/// Why an observer could not be added.
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

/// Why a message was not accepted. Every variant hands the payload back.
#[non_exhaustive]
pub enum PublishError<T> {
    /// The topic's queue is full, and its overflow policy is to say so; or it is
    /// to block, and the caller is inside a handler of the same broker, where nothing ever
    /// blocks.
    Full(T),
    /// The overflow policy is to block, and no room appeared in time.
    TimedOut(T),
    /// The broker is draining or has stopped, or the topic was removed.
    Closed(T),
    /// The topic has no subscription, and its policy is to refuse then.
    NoSubscribers(T),
    /// By name only: no topic of this name is open.
    UnknownTopic(T),
    /// By name only: the topic carries another type.
    WrongType {
        /// The payload.
        payload: T,
        /// The type the topic carries.
        existing: &'static str,
    },
    /// By [`MessageBuilder`](crate::MessageBuilder) only: a setting of the message is out
    /// of range. Boxed, because every publish carries the room for its error.
    Invalid {
        /// The payload.
        payload: T,
        /// The setting, and the rule it breaks.
        invalid: Box<InvalidSetting>,
    },
}

impl<T> PublishError<T> {
    /// The payload that was not accepted.
    pub fn into_payload(self) -> T {
        match self {
            Self::Full(payload)
            | Self::TimedOut(payload)
            | Self::Closed(payload)
            | Self::NoSubscribers(payload)
            | Self::UnknownTopic(payload)
            | Self::WrongType { payload, .. }
            | Self::Invalid { payload, .. } => payload,
        }
    }
}

impl<T> fmt::Debug for PublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            Self::Full(_) => "Full",
            Self::TimedOut(_) => "TimedOut",
            Self::Closed(_) => "Closed",
            Self::NoSubscribers(_) => "NoSubscribers",
            Self::UnknownTopic(_) => "UnknownTopic",
            Self::WrongType { .. } => "WrongType",
            Self::Invalid { .. } => "Invalid",
        };
        write!(f, "{variant}(..)")
    }
}

impl<T> fmt::Display for PublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the topic is full"),
            Self::TimedOut(_) => f.write_str("the topic stayed full for the whole timeout"),
            Self::Closed(_) => f.write_str("the topic is closed"),
            Self::NoSubscribers(_) => f.write_str("the topic has no subscribers"),
            Self::UnknownTopic(_) => f.write_str("no topic of this name is open"),
            Self::WrongType { existing, .. } => {
                write!(f, "the topic carries {existing}, another type")
            }
            Self::Invalid { invalid, .. } => invalid.fmt(f),
        }
    }
}

impl<T> std::error::Error for PublishError<T> {}

/// Why a batch was not accepted as a whole: the messages before the first one
/// refused *are* accepted, and the rest is handed back in order.
pub struct PartialBatch<T> {
    /// How many messages, from the front, were accepted.
    pub accepted: usize,
    /// Why the others were not; the payload is the rest, in order.
    pub error: PublishError<Vec<T>>,
}

impl<T> PartialBatch<T> {
    /// The messages that were not accepted, in their order.
    pub fn into_rest(self) -> Vec<T> {
        self.error.into_payload()
    }
}

impl<T> fmt::Debug for PartialBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartialBatch")
            .field("accepted", &self.accepted)
            .field("error", &self.error)
            .finish()
    }
}

impl<T> fmt::Display for PartialBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, error } = self;
        write!(
            f,
            "{accepted} messages of the batch were accepted, then {error}"
        )
    }
}

impl<T: 'static> std::error::Error for PartialBatch<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why a subscription could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name breaks the grammar.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A setting is out of range or clashes with another.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// The topic has a subscription of this name.
    #[error("the topic has a subscription named {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The consumer group has a member of this name.
    #[error("the group has a member named {name}")]
    MemberTaken {
        /// The name.
        name: String,
    },
    /// A pattern breaks the grammar.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// A pattern matches a topic that has a subscription of this name. None of the
    /// topics has been subscribed to.
    #[error("topic {topic} has a subscription named {name}")]
    NameTakenOn {
        /// The name.
        name: String,
        /// The topic's name.
        topic: String,
    },
    /// The broker has a subscription to patterns of this name, whatever it matches.
    #[error("the broker has a subscription to patterns named {name}")]
    PatternNameTaken {
        /// The name.
        name: String,
    },
    /// The operating system refused a thread of a parallel handler; why, in its
    /// words.
    #[error("a thread could not be started: {0}")]
    Spawn(String),
    /// The broker is draining or has stopped.
    #[error("the broker is closed")]
    Closed,
}

/// A pattern that can't be removed because the subscription doesn't have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription has no pattern {pattern:?}")]
pub struct UnknownPattern {
    pub(crate) pattern: String,
}

/// Why a receive returned no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// There is nothing that may be leased now, and the call doesn't wait: it is a
    /// `try_recv`, or inside a handler of the broker, or on a broker without worker threads.
    #[error("there is nothing to lease now")]
    Empty,
    /// There was nothing to lease for the whole time.
    #[error("there was nothing to lease in time")]
    TimedOut,
    /// The subscription has ended: nothing will come any more.
    #[error("the subscription has ended")]
    Ended,
}

/// The lease is no longer the caller's: its deadline has passed, or its subscription
/// has ended. What was to be done has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is stale: its deadline has passed, or its subscription has ended")]
pub struct Stale;

/// What a drain could not finish. Each variant carries the report all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The end cut something off: what was left when the time was up, or deliveries
    /// cancelled because a publish of their handler was refused. Or handlers have not
    /// returned.
    #[error("the drain is incomplete: {0}")]
    Incomplete(DrainReport),
    /// Called from inside a handler of the broker, which the drain would have to wait for. New
    /// publishes are refused from now on; a drain from outside, or dropping the
    /// broker, finishes the job.
    #[error("a drain inside a handler can only begin: {0}")]
    InsideHandler(DrainReport),
}

impl DrainError {
    /// The state of the books when the drain gave up.
    pub fn report(&self) -> &DrainReport {
        match self {
            Self::Incomplete(report) | Self::InsideHandler(report) => report,
        }
    }
}
