//! The smallest parts that threads share: one atomic word each, counters, and the wall around user
//! code.

pub(crate) mod cell;
pub(crate) mod clock;
pub(crate) mod contain;
pub(crate) mod counters;
pub(crate) mod gate;
pub(crate) mod loans;
pub(crate) mod sleep;
pub(crate) mod task_state;
