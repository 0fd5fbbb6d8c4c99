//! Messages that a topic keeps for subscriptions that come late.

pub(crate) mod retained;
