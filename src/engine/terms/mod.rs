//! Terms on which a topic accepts messages, besides room: their weight.

pub(crate) mod weights;
