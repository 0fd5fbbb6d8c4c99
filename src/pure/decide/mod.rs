//! Decisions that are the engine's own. They are about lifecycles, the rules of keyed lanes, the hash
//! of keys, and the time to look for expired messages.

pub(crate) mod expiry;
pub(crate) mod key_hash;
pub(crate) mod lifecycle;
pub(crate) mod rules;
pub(crate) mod stride;
