//! The dead letters of a topic, as users see and redrive them.

pub(crate) mod dead_letters;
pub(crate) mod redrive;
pub(crate) mod subscription;
