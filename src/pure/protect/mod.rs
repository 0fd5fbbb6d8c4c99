//! Protection: whether a delivery may be handed over now, and what stands in its way if not.
//!
//! A dependency of a handler may be down, slow or limited. Then a lane holds its deliveries: no
//! attempt is made, and no worker is occupied. Each machine here guards one gate on the way to a
//! handler, and [`gate`] has their order. A machine that holds a delivery says when to ask
//! again, or [`NEVER`] if an event will tell.
//!
//! All times are nanoseconds of the engine's clock. They may come from several threads, so a time
//! may be a little before an earlier one. No machine takes harm from that.

/// The time that is never reached: nothing but an event ends the wait.
pub(crate) const NEVER: u64 = u64::MAX;

pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod gate;
pub(crate) mod limit;
pub(crate) mod priority;
pub(crate) mod rate;
pub(crate) mod window;
