//! The ends of one message's deliveries, for the publisher that asked.

pub(crate) mod ends;
