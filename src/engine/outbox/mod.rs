//! Messages that deliveries publish, which go to the log together with the ack.

pub(crate) mod lane_outbox;
pub(crate) mod staged;
