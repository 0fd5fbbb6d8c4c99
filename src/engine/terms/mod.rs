//! Terms on which a topic accepts messages, besides room: their weight, and their rate.

pub(crate) mod rate;
pub(crate) mod weights;
