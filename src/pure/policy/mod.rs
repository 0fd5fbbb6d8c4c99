//! The decisions that users may replace or choose: what follows a failure, when messages are
//! dispatched, and which have been published before.

pub(crate) mod chosen;
pub(crate) mod dedup;
pub(crate) mod retry;
pub(crate) mod strategy;
pub(crate) mod verdict;
