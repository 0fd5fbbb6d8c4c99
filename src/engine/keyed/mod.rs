//! Lanes whose deliveries wait for their keys, or that several consumers share.

#[cfg(feature = "async")]
pub(crate) mod async_calls;
pub(crate) mod batch;
pub(crate) mod parking;
pub(crate) mod returns;
pub(crate) mod slots;
pub(crate) mod straight;
pub(crate) mod take;
pub(crate) mod turn;
