//! The decisions that users may replace or choose: what follows a failure, and when messages are
//! dispatched. Which messages have been published before, and which are kept for late subscriptions.

pub(crate) mod chosen;
pub(crate) mod dedup;
pub(crate) mod retained;
pub(crate) mod retry;
pub(crate) mod strategy;
pub(crate) mod verdict;
