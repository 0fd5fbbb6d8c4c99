//! Passing a lane's gate: what is asked before deliveries are handed over, and what follows when
//! they have ended.

pub(crate) mod ask;
pub(crate) mod live;
pub(crate) mod outcomes;
pub(crate) mod pause;
