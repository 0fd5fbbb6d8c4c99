//! Decisions that are the engine's own. They are about lifecycles, the rules of keyed lanes and the
//! hash of keys. Others are about requests and the replies to them, the time to look for expired
//! messages, and the weight of a topic.

pub(crate) mod asking;
pub(crate) mod expiry;
pub(crate) mod key_hash;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod stride;
