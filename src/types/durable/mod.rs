//! The settings of a durable topic and its subscriptions: a codec, a level of durability, a start.

pub(crate) mod codec;
pub(crate) mod durability;
pub(crate) mod earlier;
pub(crate) mod start;
