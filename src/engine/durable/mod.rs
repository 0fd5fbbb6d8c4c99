//! Durable topics: publishing through the log, and catching up from it.

pub(crate) mod dedup;
pub(crate) mod delayed;
pub(crate) mod feed;
pub(crate) mod letters;
pub(crate) mod publish;
#[cfg(feature = "async")]
pub(crate) mod publish_async;
#[cfg(test)]
mod tests;
