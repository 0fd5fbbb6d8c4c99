//! The order of deliveries that wait for their keys, and which consumer a key belongs to.

pub(crate) mod line;
pub(crate) mod owners;
pub(crate) mod sequencer;
