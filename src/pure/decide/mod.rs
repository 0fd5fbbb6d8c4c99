//! Decisions: what a delivery may become, when a batch is due, whether a retry follows.

pub(crate) mod expiry;
pub(crate) mod key_hash;
pub(crate) mod lifecycle;
pub(crate) mod retry;
pub(crate) mod rules;
pub(crate) mod strategy;
pub(crate) mod stride;
pub(crate) mod verdict;
