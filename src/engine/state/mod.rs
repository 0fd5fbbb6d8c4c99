//! A topic, its queues, its lanes, and what the consumers of a lane share: types that hold each
//! other.
//!
//! The folders that follow work with them.

pub(crate) mod dead_letter_store;
pub(crate) mod keyed;
pub(crate) mod lane;
pub(crate) mod partition_queue;
pub(crate) mod partition_set;
pub(crate) mod roll;
pub(crate) mod slots;
pub(crate) mod topic;
