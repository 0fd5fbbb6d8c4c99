//! The dead letters of a topic, as users see and redrive them.

pub(crate) mod dead_letters;
#[cfg(feature = "async")]
pub(crate) mod futures;
pub(crate) mod redrive;
pub(crate) mod redriver;
pub(crate) mod subscription;
