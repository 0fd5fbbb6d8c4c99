//! The ends of one message's deliveries, and the replies to it, for the publisher that asked.

pub(crate) mod ends;
pub(crate) mod replies;
