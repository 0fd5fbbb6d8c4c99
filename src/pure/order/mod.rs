//! The order of deliveries that wait for their keys, which consumer a key belongs to, and which dead
//! letter comes next. Also, the newest delivery of each key, and the gaps that an observer has.

pub(crate) mod conflation;
pub(crate) mod gaps;
pub(crate) mod levels;
pub(crate) mod line;
pub(crate) mod owners;
pub(crate) mod reading;
pub(crate) mod rules;
pub(crate) mod sequencer;
