//! Labels in events: the cause of a drop or of a skipped tick, and the user's code that panicked.

use crate::types::labels;

/// The reason why a message or a delivery was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropCause {
    /// The topic was full.
    Overflow,
    /// The subscription's lane was full.
    LaneFull,
    /// A newer message with the same key took its place.
    ///
    /// [`SubscriptionBuilder::conflate`](crate::SubscriptionBuilder::conflate) asks for that in a lane,
    /// and [`Overflow::Conflate`](crate::Overflow::Conflate) in the queue of a topic.
    Conflated,
    /// A handler or a retry policy discarded the delivery.
    Discarded,
    /// The broker stopped before the message was dispatched.
    Shutdown,
    /// The message's time to live ran out while it was retained for a first subscription.
    Expired,
    /// The message was delayed, and taken back before it was due.
    ///
    /// [`Topic::cancel_delayed`](crate::Topic::cancel_delayed) does that.
    Cancelled,
    /// The store did not take the message. Its publisher has the payload back, unless that was a
    /// delivery, which comes again.
    ///
    /// The event has no [`id`](crate::event::Event::id): the message never got its number in the log.
    ///
    /// Or it did not take that a delayed message is due or cancelled. That stays in the log, and is
    /// published when the store is open again.
    NotStored,
    /// The broker stopped before the delayed message of a durable topic was due.
    ///
    /// It stays in the log. It is published when its topic is open again and it is due.
    Kept,
    /// The message was published [by a delivery](crate::Delivery::publish) whose attempt has failed.
    RolledBack,
    /// The message was published [by a delivery](crate::Delivery::publish), and another one with its
    /// dedup id was accepted before the ack.
    Duplicate,
}

labels!(DropCause {
    Self::Overflow => "overflow",
    Self::LaneFull => "lane_full",
    Self::Conflated => "conflated",
    Self::Discarded => "discarded",
    Self::Shutdown => "shutdown",
    Self::Expired => "expired",
    Self::Cancelled => "cancelled",
    Self::NotStored => "not_stored",
    Self::Kept => "kept",
    Self::RolledBack => "rolled_back",
    Self::Duplicate => "duplicate",
});

/// The reason why no message was published for a tick of a [schedule](crate::Topic::every).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipCause {
    /// The next tick was due first, and [`MissedTicks`](crate::schedule::MissedTicks) says so.
    Missed,
    /// The topic refused the message: it was full, or had no subscription.
    Refused,
    /// The closure that makes the message panicked.
    Panicked,
}

labels!(SkipCause {
    Self::Missed => "missed",
    Self::Refused => "refused",
    Self::Panicked => "panicked",
});

/// The kinds of user code that the engine calls besides handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// A [`Strategy`](crate::strategy::Strategy).
    Strategy,
    /// A [`RetryPolicy`](crate::retry::RetryPolicy) or its classifier.
    RetryPolicy,
    /// A [filter](crate::SubscriptionBuilder::filter) of a subscription.
    Filter,
    /// The closure that says what a payload [weighs](crate::TopicBuilder::weight_limit).
    Weigh,
    /// The closure that makes the messages of a [schedule](crate::Topic::every).
    Schedule,
    /// An observer.
    Observer,
}

labels!(Hook {
    Self::Strategy => "strategy",
    Self::RetryPolicy => "retry_policy",
    Self::Filter => "filter",
    Self::Weigh => "weigh",
    Self::Schedule => "schedule",
    Self::Observer => "observer",
});
