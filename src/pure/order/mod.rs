//! The order of deliveries that wait for their keys, which consumer a key belongs to, and which
//! dead letter comes next.

pub(crate) mod levels;
pub(crate) mod line;
mod next;
pub(crate) mod owners;
pub(crate) mod reading;
pub(crate) mod rules;
pub(crate) mod sequencer;
