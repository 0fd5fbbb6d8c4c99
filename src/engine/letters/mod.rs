//! The subscribers to the dead letters of a topic, as their store knows them.

pub(crate) mod subscribers;
