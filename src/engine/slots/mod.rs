//! Consumers that are tasks of their own: calls that run at once, async calls, and the members of a
//! group.

#[cfg(feature = "async")]
pub(crate) mod async_calls;
pub(crate) mod members;
pub(crate) mod slot;
pub(crate) mod timed_calls;
