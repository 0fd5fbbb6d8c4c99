//! The route of a message on threads.
//!
//! The folders are listed in reading order: first those that all others use, then the route itself.
//! Each folder uses only folders listed before it.

pub(crate) mod base;

pub(crate) mod track;

#[cfg(feature = "log")]
pub(crate) mod outbox;

#[cfg(feature = "log")]
pub(crate) mod journal;

pub(crate) mod wait;

pub(crate) mod runtime;

pub(crate) mod letters;

pub(crate) mod parts;

pub(crate) mod terms;

pub(crate) mod gates;

pub(crate) mod late;

pub(crate) mod state;

pub(crate) mod pass;

pub(crate) mod publish;

pub(crate) mod dispatch;

pub(crate) mod deliver;

#[cfg(feature = "log")]
pub(crate) mod durable;

pub(crate) mod keyed;

pub(crate) mod slots;

pub(crate) mod pull;

pub(crate) mod reading;

pub(crate) mod registry;

pub(crate) mod patterns;
