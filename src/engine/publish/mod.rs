//! From a publish to the topic's queue: admission, batches, buffers, delays.

pub(crate) mod admit;
#[cfg(feature = "async")]
pub(crate) mod admit_async;
pub(crate) mod ask;
pub(crate) mod buffer;
pub(crate) mod chunks;
pub(crate) mod delayed;
pub(crate) mod messages;
pub(crate) mod terms;
