//! Waiting for the engine to come to rest: a drain, an unsubscribe, a test.
//!
//! Whoever may have done the last piece of work (a worker that finds no more,
//! a lane that ends) calls [`Quiescence::notify`]. A waiter counts itself in before
//! it looks for itself, so one of the two sees the other; the fences are those of
//! [`Waiters`](crate::engine::wait::waiters::Waiters), which this is.

use crate::engine::wait::waiters::Waiters;
use crate::sync::Instant;

/// Those who wait for rest.
pub struct Quiescence(Waiters);

impl Quiescence {
    pub(crate) fn new() -> Self {
        Self(Waiters::new())
    }

    /// Waits until `still` says so. `false`: the time was up first.
    pub(crate) fn wait(&self, until: Option<Instant>, mut still: impl FnMut() -> bool) -> bool {
        let still = || still().then_some(());
        self.0.wait_for(until, still, || 0).is_some()
    }

    /// Something ended: let everybody who waits look.
    pub(crate) fn notify(&self) {
        self.0.wake_all();
    }

    /// The same for who has woken others since, and ended nothing: the fence of that serves
    /// here, too.
    pub(crate) fn notify_fenced(&self) {
        self.0.wake_fenced(|| usize::MAX);
    }
}
