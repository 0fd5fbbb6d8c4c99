//! Topics by name, subscriptions to patterns, and the end of a broker.

pub(crate) mod drain;
pub(crate) mod equip;
pub(crate) mod metrics;
pub(crate) mod pattern_changes;
pub(crate) mod pattern_members;
pub(crate) mod pattern_plan;
pub(crate) mod patterns;
pub(crate) mod topics;
