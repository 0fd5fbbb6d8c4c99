//! Topics by name, how lanes are made, and the end of a broker.

pub(crate) mod drain;
pub(crate) mod drain_topic;
pub(crate) mod equip;
pub(crate) mod live;
pub(crate) mod metrics;
pub(crate) mod topics;
