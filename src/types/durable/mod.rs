//! What a durable topic is asked for: a codec, a level of durability, a start.

pub(crate) mod codec;
pub(crate) mod durability;
pub(crate) mod start;
