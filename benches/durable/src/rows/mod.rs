//! What is measured.

pub mod recovery;
pub mod synced;
pub mod written;
