//! What holds for the repository itself, beside what its code does: what its API is, who may
//! know whom, how its pages are written, and what it stands on.

mod api;
mod layering;
mod prose;
mod supply_chain;
