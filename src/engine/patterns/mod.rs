//! Subscriptions to patterns, which have a lane in each topic that matches.

pub(crate) mod changes;
pub(crate) mod members;
pub(crate) mod plan;
pub(crate) mod subscription;
