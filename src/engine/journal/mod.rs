//! What a durable topic and its subscriptions know of the log.

pub(crate) mod encoded;
pub(crate) mod lane_log;
pub(crate) mod topic_log;
