//! Events and metrics, as the user reads them.

pub(crate) mod cause;
pub(crate) mod event;
pub(crate) mod latency;
pub(crate) mod letters;
pub(crate) mod metrics;
pub(crate) mod note;
pub(crate) mod owned;
