//! The format of the log, and what its records add up to: functions of bytes.

pub(crate) mod feed;
pub(crate) mod format;
pub(crate) mod message;
pub(crate) mod ranges;
pub(crate) mod record;
pub(crate) mod retention;
pub(crate) mod state;
