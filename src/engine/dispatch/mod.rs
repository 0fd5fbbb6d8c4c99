//! From the topic's queue to its lanes.

pub(crate) mod conflate;
pub(crate) mod ends;
pub(crate) mod expiry;
pub(crate) mod fan_out;
pub(crate) mod filter;
pub(crate) mod lag;
pub(crate) mod room;
pub(crate) mod turn;
