//! The decisions that users may replace or choose: what follows a failure, when messages are
//! dispatched, which have been published before, and which are kept for those that come late.

pub(crate) mod chosen;
pub(crate) mod dedup;
pub(crate) mod retained;
pub(crate) mod retry;
pub(crate) mod strategy;
pub(crate) mod verdict;
