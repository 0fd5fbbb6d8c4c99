//! The decisions that users may replace or choose: what follows a failure, when messages are
//! dispatched, which have been published before, and what follows when a schedule has missed a tick.

pub(crate) mod chosen;
pub(crate) mod dedup;
pub(crate) mod retry;
pub(crate) mod strategy;
pub(crate) mod ticks;
pub(crate) mod verdict;
