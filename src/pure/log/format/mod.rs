//! A segment as it lies in its file: a header, frames behind it, and numbers in their bytes.

pub(crate) mod bytes;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod walk;
