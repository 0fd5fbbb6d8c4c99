//! From a lane to its handler, and the settling of deliveries.

pub(crate) mod attempts;
pub(crate) mod batch;
pub(crate) mod dead_letter;
pub(crate) mod expiry;
pub(crate) mod latencies;
pub(crate) mod retry;
pub(crate) mod settle;
pub(crate) mod turn;
