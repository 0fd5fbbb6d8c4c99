//! Deliveries on lease: taking them, and settling them.

pub(crate) mod receive;
pub(crate) mod settle;
pub(crate) mod sources;
