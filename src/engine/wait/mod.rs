//! Threads, futures and buffers that wait for something, and how they are woken.

#[cfg(feature = "async")]
pub(crate) mod alarm;
pub(crate) mod fire;
pub(crate) mod holds;
pub(crate) mod quiescence;
pub(crate) mod standby;
pub(crate) mod waiters;
pub(crate) mod wakers;
