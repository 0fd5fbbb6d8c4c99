//! Labels in events: the cause of a drop, and the user's code that panicked.

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
    /// [`SubscriptionBuilder::conflate`](crate::SubscriptionBuilder::conflate) asks for that.
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
    /// The store did not take the message. Its publisher has the payload back.
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
    /// An observer.
    Observer,
}

labels!(Hook {
    Self::Strategy => "strategy",
    Self::RetryPolicy => "retry_policy",
    Self::Filter => "filter",
    Self::Weigh => "weigh",
    Self::Observer => "observer",
});
