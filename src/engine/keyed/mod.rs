//! Lanes whose deliveries wait for their keys, or that several consumers share.

pub(crate) mod batch;
pub(crate) mod parking;
pub(crate) mod returns;
pub(crate) mod straight;
pub(crate) mod take;
pub(crate) mod turn;
