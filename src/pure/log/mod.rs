//! The format of the log, and what its records add up to: functions of bytes.

pub(crate) mod bytes;
pub(crate) mod feed;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod message;
pub(crate) mod ranges;
pub(crate) mod record;
pub(crate) mod retention;
pub(crate) mod state;
pub(crate) mod walk;
