//! The log on the disk: one for each store, shared by all durable topics.
//!
//! Reading order: [`fs`] is the file system, and [`recover`] opens what a process left behind.
//! [`writer`] appends frames and makes segments. [`commit`] collects what many threads have to
//! write, [`waiters`] are those threads, and [`cursor`] the ends of deliveries. [`reader`] reads messages back, and [`store`] is
//! the user's handle. [`inspect`] looks into a store that nobody has open, and [`salvage`] opens what
//! is left of a damaged one.

pub(crate) mod commit;
pub(crate) mod cursor;
pub(crate) mod fs;
pub(crate) mod inspect;
pub(crate) mod reader;
pub(crate) mod recover;
pub(crate) mod salvage;
pub(crate) mod segments;
pub(crate) mod store;
pub(crate) mod waiters;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
