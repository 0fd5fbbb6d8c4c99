//! The decisions that users may replace or choose. They say what follows a failure, when messages are
//! dispatched, which have been published before, and which are kept for late subscriptions. Others say
//! what follows when a schedule has missed a tick.

pub(crate) mod chosen;
pub(crate) mod dedup;
pub(crate) mod retained;
pub(crate) mod retry;
pub(crate) mod strategy;
pub(crate) mod ticks;
pub(crate) mod verdict;
