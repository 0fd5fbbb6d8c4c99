//! Subscribers to dead letters at work: in one topic, and in all that a pattern matches.

pub(crate) mod pattern;
pub(crate) mod reader;
pub(crate) mod redrive;
