//! The gates of lanes: what holds their deliveries back, and what they are asked before one is
//! handed over.

pub(crate) mod asking;
pub(crate) mod lane_gate;
pub(crate) mod limiter;
pub(crate) mod protection;
