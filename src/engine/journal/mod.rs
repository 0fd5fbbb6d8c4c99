//! The log, as far as a durable topic and its subscriptions know it.

pub(crate) mod encoded;
pub(crate) mod lane_log;
pub(crate) mod submitted;
pub(crate) mod topic_log;
