//! The kinds of user code besides handlers.

use crate::types::labels;

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
