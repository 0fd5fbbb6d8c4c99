//! The decisions that users may replace or choose: what follows a failure, and when messages are
//! dispatched.

pub(crate) mod chosen;
pub(crate) mod retry;
pub(crate) mod strategy;
pub(crate) mod verdict;
