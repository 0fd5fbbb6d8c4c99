//! Plain types that the whole API names: settings, names and patterns, errors, reasons, reports.

pub(crate) mod config;
pub(crate) mod duration;
pub(crate) mod error;
pub(crate) mod name;
pub(crate) mod pattern;
pub(crate) mod range;
pub(crate) mod reason;
pub(crate) mod recv_error;
pub(crate) mod report;
