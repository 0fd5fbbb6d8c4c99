//! The order of deliveries that wait for their keys, or for a newer one of theirs, which consumer a
//! key belongs to, and which dead letter comes next.

pub(crate) mod conflation;
pub(crate) mod gaps;
pub(crate) mod line;
pub(crate) mod owners;
pub(crate) mod reading;
pub(crate) mod sequencer;
