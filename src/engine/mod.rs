//! The route of a message on threads.
//!
//! The folders are listed in reading order: first those that all others use, then the route itself.
//! Each folder uses only folders listed before it.

pub(crate) mod base;

pub(crate) mod track;

pub(crate) mod wait;

pub(crate) mod runtime;

pub(crate) mod parts;

pub(crate) mod terms;

pub(crate) mod state;

pub(crate) mod publish;

pub(crate) mod dispatch;

pub(crate) mod deliver;

pub(crate) mod keyed;

pub(crate) mod slots;

pub(crate) mod pull;

pub(crate) mod registry;

pub(crate) mod patterns;
