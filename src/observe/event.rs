//! The events that observers are told.

mod about;

use std::fmt;
use std::time::Duration;

use crate::message::MessageId;
pub use crate::observe::cause::{DropCause, Hook, SkipCause};
pub(crate) use crate::observe::event::about::About;
use crate::pure::decide::lifecycle::Status;
use crate::pure::policy::retry::FailureKind;
use crate::pure::policy::strategy::FlushCause;
use crate::pure::protect::breaker::state::{BreakerStatus, OpenCause};
use crate::pure::protect::gate::WaitingFor;
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::reason::{DeadReason, LetterAction};

/// One event, with the topic, subscription, message and attempt that it belongs to.
///
/// Events of one delivery arrive in the order in which they happened. Across deliveries only
/// [`sequence`](Self::sequence) orders them. Events pass through a bounded buffer to the observers'
/// own thread. When an observer can't keep up, events are missed, never deliveries. The sequence
/// then has gaps, and the metrics say how many.
///
/// An event lives as long as the call of the observer. [`into_owned`](Self::into_owned) makes one
/// to keep:
///
/// ```
/// use millstream::Broker;
/// use std::sync::mpsc;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let (tell, told) = mpsc::channel();
/// broker
///     .observe(move |event| drop(tell.send(event.into_owned())))?
///     .detach();
/// let _orders = broker.topic::<u64>("orders").open()?;
/// assert_eq!(told.recv()?.to_string(), "topic_opened orders");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    pub(crate) sequence: u64,
    pub(crate) at_ns: u64,
    /// Empty for events of the broker itself.
    pub(crate) topic: &'a Arc<str>,
    pub(crate) subscription: Option<&'a Arc<str>>,
    pub(crate) id: Option<MessageId>,
    /// Zero for events of no attempt.
    pub(crate) attempt: u32,
    pub(crate) status: Option<Status>,
    pub(crate) kind: &'a EventKind,
}

/// Events on their way to the observers, which happened at once.
///
/// They are about one message, about several neighbors, or about none.
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) at_ns: u64,
    pub(crate) topic: Arc<str>,
    pub(crate) subscription: Option<Arc<str>>,
    pub(crate) about: About,
    pub(crate) attempt: u32,
    pub(crate) status: Option<Status>,
    pub(crate) kind: EventKind,
}

/// The subscription and the message that an event is about, as far as it is about one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    subscription: Option<&'a Arc<str>>,
    message: Option<MessageId>,
    attempt: u32,
    status: Option<Status>,
}

impl<'a> Subject<'a> {
    pub(crate) fn of(subscription: &'a Arc<str>) -> Self {
        Self {
            subscription: Some(subscription),
            ..Self::default()
        }
    }

    pub(crate) fn message(mut self, id: MessageId) -> Self {
        self.message = Some(id);
        self
    }

    pub(crate) fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The status that the message, or its delivery, has got.
    pub(crate) fn status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }
}

impl Record {
    /// Makes a record of an event of a topic, which the bus will number.
    pub(crate) fn new(topic: Arc<str>, at_ns: u64, kind: EventKind) -> Self {
        Self {
            sequence: 0,
            at_ns,
            topic,
            subscription: None,
            about: About::None,
            attempt: 0,
            status: None,
            kind,
        }
    }

    /// The same, about this.
    pub(crate) fn about(
        subject: Subject<'_>,
        topic: Arc<str>,
        at_ns: u64,
        kind: EventKind,
    ) -> Self {
        Self {
            subscription: subject.subscription.map(Arc::clone),
            about: subject.message.map_or(About::None, About::One),
            attempt: subject.attempt,
            status: subject.status,
            ..Self::new(topic, at_ns, kind)
        }
    }

    /// Returns the number of events that the record stands for.
    pub(crate) fn len(&self) -> u64 {
        self.about.len()
    }

    /// Tells the record's events, in order.
    pub(crate) fn tell(&self, mut tell: impl FnMut(&Event<'_>)) {
        let mut event = Event {
            sequence: self.sequence,
            at_ns: self.at_ns,
            topic: &self.topic,
            subscription: self.subscription.as_ref(),
            id: None,
            attempt: self.attempt,
            status: self.status,
            kind: &self.kind,
        };
        for at in 0..self.len() {
            event.id = self.about.id(at);
            tell(&event);
            event.sequence += 1;
        }
    }
}

impl<'a> Event<'a> {
    /// Returns the number of the event, which is 1 for the first since the broker was built.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the time of the event, counted from when the broker was built.
    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.at_ns)
    }

    /// Returns the kind of the event.
    pub fn kind(&self) -> &'a EventKind {
        self.kind
    }

    /// Returns the label of the kind, as in `message_enqueued`.
    pub fn name(&self) -> &'static str {
        self.kind.as_str()
    }

    /// Returns the name of the topic, or `None` for events of the broker itself.
    pub fn topic(&self) -> Option<&'a str> {
        (!self.topic.is_empty()).then_some(self.topic)
    }

    /// Returns the name of the subscription, for events of a subscription.
    pub fn subscription(&self) -> Option<&'a str> {
        self.subscription.map(|name| &**name)
    }

    /// Returns the id of the message, for events of a message.
    pub fn id(&self) -> Option<MessageId> {
        self.id
    }

    /// Returns the number of the attempt, for events of an attempt.
    pub fn attempt(&self) -> Option<u32> {
        (self.attempt > 0).then_some(self.attempt)
    }

    /// Returns the status of the message or delivery after the event.
    pub fn status(&self) -> Option<Status> {
        self.status
    }
}

/// Prints one line: `delivered orders/billing #7 attempt 2 DELIVERED`.
impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Some(topic) = self.topic() {
            write!(f, " {topic}")?;
        }
        if let Some(subscription) = self.subscription() {
            write!(f, "/{subscription}")?;
        }
        if let Some(id) = self.id() {
            write!(f, " #{id}")?;
        }
        if let Some(attempt) = self.attempt() {
            write!(f, " attempt {attempt}")?;
        }
        if let Some(status) = self.status() {
            write!(f, " {status}")?;
        }
        match self.kind() {
            EventKind::MessageEnqueued { depth } => write!(f, " depth {depth}"),
            EventKind::Failed { error, .. } => write!(f, ": {error}"),
            EventKind::Requeued { reason } => write!(f, ": {reason}"),
            EventKind::Snoozed { delay, reason } => write!(f, " for {delay:?}: {reason}"),
            EventKind::RetryScheduled { delay } => write!(f, " in {delay:?}"),
            EventKind::LetterMoved { to } => write!(f, " to {to}"),
            EventKind::LetterHandled { by, action } => write!(f, " by {by} ({action})"),
            EventKind::LetterFailed { by, error } => write!(f, " by {by}: {error}"),
            EventKind::DeadLetter { reason } => write!(f, ": {reason}"),
            EventKind::StrategySwapped { from, to } => write!(f, " {from} -> {to}"),
            EventKind::PartitionsChanged { from, to } => write!(f, " {from} -> {to}"),
            EventKind::Backpressure { depth, .. } => write!(f, " depth {depth}"),
            EventKind::RateLimited { retry_after } => write!(f, " for {retry_after:?}"),
            EventKind::BatchFlush { size, cause } => write!(f, " of {size} ({cause})"),
            EventKind::Dropped { cause } => write!(f, " ({cause})"),
            EventKind::Waiting {
                reason: Some(reason),
            } => write!(f, " for {reason}"),
            EventKind::Breaker { status, cause } => {
                write!(f, " {status}")?;
                cause.map_or(Ok(()), |cause| write!(f, " ({cause})"))
            }
            EventKind::Waiting { reason: None } => f.write_str(" no more"),
            EventKind::TicksSkipped { count, cause } => write!(f, " {count} ({cause})"),
            EventKind::HookPanicked { hook } => write!(f, " ({hook})"),
            EventKind::MemberJoined { member } | EventKind::MemberLeft { member } => {
                write!(f, " {member}")
            }
            EventKind::KeyParked { key } | EventKind::KeyFreed { key } => write!(f, " {key:?}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event(#{} {self})", self.sequence())
    }
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A topic was opened for the first time.
    TopicOpened,
    /// A topic was removed.
    TopicRemoved,
    /// A subscription was added.
    SubscriptionAdded,
    /// A subscription has ended: no call of its handler runs or will start.
    SubscriptionRemoved,
    /// A member joined a consumer group.
    MemberJoined {
        /// The member's name.
        member: Arc<str>,
    },
    /// A member left its consumer group, and is handed no more deliveries.
    MemberLeft {
        /// The member's name.
        member: Arc<str>,
    },
    /// A message was accepted.
    MessageEnqueued {
        /// The number of messages in the topic's queue, this one included.
        depth: u64,
    },
    /// A publish repeated the [dedup id](crate::Message::dedup_id) of this message, which was
    /// accepted before. The payload of the repetition was dropped.
    Duplicate,
    /// A reply to this message came after its [request](crate::Topic::request) was over, and was
    /// dropped.
    LateReply,
    /// No message was published for some ticks of a [schedule](crate::Topic::every).
    TicksSkipped {
        /// The number of ticks.
        count: u64,
        /// The cause.
        cause: SkipCause,
    },
    /// A handler is about to be called, or a lease is taken.
    ///
    /// If the subscription is cancelled at this very moment, the handler isn't called, and
    /// `Cancelled` follows.
    Delivering,
    /// A handler returned `Ok`, or a lease was acked.
    Delivered,
    /// An attempt failed: its handler returned an error or panicked, or its lease was nacked,
    /// dropped, or outlived its deadline.
    Failed {
        /// The kind of failure.
        kind: FailureKind,
        /// The text of the error, as in [`FailedAttempt::text`](crate::retry::FailedAttempt::text).
        error: Arc<str>,
    },
    /// A handler requeued its delivery, or a lease was nacked to be requeued.
    Requeued {
        /// The text of the nack.
        reason: Arc<str>,
    },
    /// A handler put its delivery off, or a lease was nacked to be put off.
    Snoozed {
        /// The time for which it was put off.
        delay: Duration,
        /// The text of the nack.
        reason: Arc<str>,
    },
    /// Another attempt was granted.
    RetryScheduled {
        /// The time from now until the attempt.
        delay: Duration,
    },
    /// A delivery that waited for its retry or the end of its snooze was called back early, by
    /// [`Subscription::retry_now`](crate::Subscription::retry_now) or one like it.
    RetriedNow,
    /// The deliveries of a subscription wait from now on, or for another reason than before. Without a
    /// reason they go on.
    Waiting {
        /// The reason.
        reason: Option<WaitingFor>,
    },
    /// The circuit breaker of a subscription has changed.
    Breaker {
        /// The status now.
        status: BreakerStatus,
        /// The reason why it opened, if it did.
        cause: Option<OpenCause>,
    },
    /// A delivery went to the dead letters.
    DeadLetter {
        /// The reason.
        reason: DeadReason,
    },
    /// A topic got another strategy.
    StrategySwapped {
        /// The name of the old strategy.
        from: Arc<str>,
        /// The name of the new strategy.
        to: Arc<str>,
    },
    /// A topic was split into another number of partitions.
    PartitionsChanged {
        /// The number of partitions before.
        from: usize,
        /// The number of partitions now.
        to: usize,
    },
    /// A publish met a full topic.
    Backpressure {
        /// The number of messages in the topic's queue.
        depth: u64,
        /// The policy that decides what follows.
        overflow: Overflow,
    },
    /// A publish met the [rate limit](crate::TopicBuilder::rate_limit) of its topic. It is refused, or
    /// waits.
    RateLimited {
        /// The time until the next message may pass.
        retry_after: Duration,
    },
    /// A strategy releases a batch that it has waited for.
    BatchFlush {
        /// The number of messages in the batch.
        size: usize,
        /// The cause of the release.
        cause: FlushCause,
    },
    /// A subscription's filter refused a message.
    Filtered,
    /// A message or a delivery was dropped.
    Dropped {
        /// The cause.
        cause: DropCause,
    },
    /// A delivery outlived its time to live. Under
    /// [`OnExpired::DeadLetter`](crate::OnExpired::DeadLetter) it is a
    /// [`DeadLetter`](Self::DeadLetter) instead.
    Expired,
    /// A delivery was cancelled, because its subscription or the broker ended first.
    Cancelled,
    /// A message had no subscription to go to.
    Unrouted,
    /// A letter was redriven: it has left the dead letters, and is on its way to its subscription.
    Redriven,
    /// A letter was published to another topic, and has left the dead letters.
    LetterMoved {
        /// The topic that has it as a new message.
        to: Arc<str>,
    },
    /// A subscriber to dead letters was handed a letter, and decided about it. A redrive or a purge
    /// follows.
    LetterHandled {
        /// The subscriber's name.
        by: Arc<str>,
        /// The decision.
        action: LetterAction,
    },
    /// A subscriber to dead letters failed at a letter, or the letter could not go where it was to
    /// go. The letter stays, and is handed out again later.
    LetterFailed {
        /// The subscriber's name.
        by: Arc<str>,
        /// The text of the error, as in [`FailedAttempt::text`](crate::retry::FailedAttempt::text).
        error: Arc<str>,
    },
    /// A full dead-letter store evicted a letter, or did not keep a new one.
    LetterEvicted,
    /// A subscription is fed from the log, because its lane had no room (feature `log`).
    #[cfg(feature = "log")]
    FellBehind,
    /// A subscription that was fed from the log gets messages from the topic again.
    #[cfg(feature = "log")]
    CaughtUp,
    /// A subscription can't be fed, because the log can't be read.
    #[cfg(feature = "log")]
    ReadFailed {
        /// The reason.
        error: Arc<str>,
    },
    /// A stored message can't be decoded, and was passed over.
    #[cfg(feature = "log")]
    Undecodable {
        /// The codec's error.
        error: Arc<str>,
    },
    /// A delivery went to the dead letters, and later deliveries of its key follow it there from
    /// now on.
    KeyParked {
        /// The key.
        key: Arc<str>,
    },
    /// The dead letters have no letter of the key any more, so its deliveries are handled again.
    KeyFreed {
        /// The key.
        key: Arc<str>,
    },
    /// A lease was acked, nacked or extended after its deadline, or after the end of its
    /// subscription. Or a handler's call returned at its timeout or later. It has changed nothing.
    StaleSettlement,
    /// User code other than a handler panicked.
    HookPanicked {
        /// The kind of user code.
        hook: Hook,
    },
    /// The broker accepts no messages any more, or only those that its own handlers publish.
    ///
    /// [`Broker::drain_pipeline`](crate::Broker::drain_pipeline) accepts the latter.
    DrainStarted,
    /// The broker begins no more calls. Calls that have not returned may still run.
    Drained,
}

impl EventKind {
    /// Returns a label in snake case, for metrics and logs. It doesn't change between versions.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TopicOpened => "topic_opened",
            Self::TopicRemoved => "topic_removed",
            Self::SubscriptionAdded => "subscription_added",
            Self::SubscriptionRemoved => "subscription_removed",
            Self::MemberJoined { .. } => "member_joined",
            Self::MemberLeft { .. } => "member_left",
            Self::MessageEnqueued { .. } => "message_enqueued",
            Self::Duplicate => "duplicate",
            Self::LateReply => "late_reply",
            Self::TicksSkipped { .. } => "ticks_skipped",
            Self::Delivering => "delivering",
            Self::Delivered => "delivered",
            Self::Failed { .. } => "failed",
            Self::Requeued { .. } => "requeued",
            Self::Snoozed { .. } => "snoozed",
            Self::RetryScheduled { .. } => "retry_scheduled",
            Self::RetriedNow => "retried_now",
            Self::Waiting { .. } => "waiting",
            Self::Breaker { .. } => "breaker",
            Self::DeadLetter { .. } => "dead_letter",
            Self::StrategySwapped { .. } => "strategy_swapped",
            Self::PartitionsChanged { .. } => "partitions_changed",
            Self::Backpressure { .. } => "backpressure",
            Self::RateLimited { .. } => "rate_limited",
            Self::BatchFlush { .. } => "batch_flush",
            Self::Filtered => "filtered",
            Self::Dropped { .. } => "dropped",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Unrouted => "unrouted",
            Self::Redriven => "redriven",
            Self::LetterMoved { .. } => "letter_moved",
            Self::LetterHandled { .. } => "letter_handled",
            Self::LetterFailed { .. } => "letter_failed",
            Self::LetterEvicted => "letter_evicted",
            #[cfg(feature = "log")]
            Self::FellBehind => "fell_behind",
            #[cfg(feature = "log")]
            Self::CaughtUp => "caught_up",
            #[cfg(feature = "log")]
            Self::ReadFailed { .. } => "read_failed",
            #[cfg(feature = "log")]
            Self::Undecodable { .. } => "undecodable",
            Self::KeyParked { .. } => "key_parked",
            Self::KeyFreed { .. } => "key_freed",
            Self::StaleSettlement => "stale_settlement",
            Self::HookPanicked { .. } => "hook_panicked",
            Self::DrainStarted => "drain_started",
            Self::Drained => "drained",
        }
    }
}

/// Prints the label alone; an [`Event`] prints the rest.
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_of_each_of_its_messages_whether_or_not_they_follow_each_other() {
        for ids in [&[7][..], &[7, 8, 9], &[7, 8, 10, 11], &[7, 6]] {
            let record = Record {
                sequence: 3,
                about: About::these(ids.iter().map(|id| MessageId::new(*id))),
                ..Record::new(Arc::from("t"), 0, EventKind::Delivered)
            };
            let mut told = Vec::new();
            record.tell(|event| told.extend(event.id().map(|id| (event.sequence(), id.get()))));
            let numbered: Vec<_> = (3..).zip(ids.iter().copied()).collect();
            assert_eq!(told, numbered);
            assert_eq!(record.len(), told.len() as u64);
        }
    }
}
