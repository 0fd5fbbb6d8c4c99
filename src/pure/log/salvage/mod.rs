//! Telling what is left of a damaged log, and what is lost.

pub(crate) mod mend;
pub(crate) mod plan;
pub(crate) mod scan;
