//! Topics by name, subscriptions to patterns, and the end of a broker.

pub(crate) mod drain;
pub(crate) mod drain_topic;
pub(crate) mod live;
pub(crate) mod metrics;
pub(crate) mod patterns;
pub(crate) mod topics;
