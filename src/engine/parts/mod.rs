//! Data of a lane that knows neither the lane nor its topic.

pub(crate) mod delayed;
pub(crate) mod dispatcher;
pub(crate) mod handler;
pub(crate) mod leases;
pub(crate) mod outstanding;
#[cfg(feature = "parallel")]
pub(crate) mod parallel;
pub(crate) mod parked_arrivals;
pub(crate) mod pending;
