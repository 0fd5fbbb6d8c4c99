//! What a thread knows about itself: whether the engine runs on it.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "loom's twin of the macro has no such form"
)]

use std::cell::Cell;

use crate::sync::thread_local;

thread_local! {
    static DEPTH: Cell<u32> = Cell::new(0);
    static REFUSED: Cell<bool> = Cell::new(false);
}

/// While it lives, this thread runs the engine, and nothing on it may wait for
/// the engine.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter() -> Self {
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Self(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// Whether the engine runs on this thread: a handler, a strategy, a policy or an
/// observer is being called.
pub(crate) fn is_inside() -> bool {
    DEPTH.with(|depth| depth.get() > 0)
}

/// A publish on this thread was refused because the broker is ending.
pub(crate) fn note_refusal() {
    REFUSED.with(|refused| refused.set(true));
}

/// Whether that happened since the last call.
pub(crate) fn take_refusal() -> bool {
    REFUSED.with(|refused| refused.replace(false))
}
