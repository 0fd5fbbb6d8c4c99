//! Waiting for the engine to come to rest, as a drain, an unsubscribe or a test does.
//!
//! A thread that may have done the last piece of work calls [`Quiescence::notify`]: a worker that
//! finds no more, or a lane that ends. A waiter counts itself in before it looks, so one of the two
//! sees the other. The fences are those of [`Waiters`], which does the waiting.

use crate::engine::wait::waiters::Waiters;
use crate::sync::Instant;

/// The waiters for rest.
pub struct Quiescence(Waiters);

impl Quiescence {
    pub(crate) fn new() -> Self {
        Self(Waiters::new())
    }

    /// Waits until `still` returns `true`. Returns `false` if the time was up first.
    pub(crate) fn wait(&self, until: Option<Instant>, mut still: impl FnMut() -> bool) -> bool {
        let still = || still().then_some(());
        self.0.wait_for(until, still, || 0).is_some()
    }

    /// Registers this future to be woken when something ends, unless `still` returns `true` now.
    #[cfg(feature = "async")]
    pub(crate) fn poll(
        &self,
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
        still: impl FnOnce() -> bool,
    ) -> std::task::Poll<()> {
        self.0.poll_for(id, context, || still().then_some(()), || 0)
    }

    /// Ends the wait of this id.
    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, id: &mut crate::engine::wait::wakers::WaiterId) {
        self.0.leave(id, || 0);
    }

    /// Lets all waiters look, because something ended.
    pub(crate) fn notify(&self) {
        self.0.wake_all();
    }

    /// Lets all waiters look, for a caller that ended nothing, and has woken others since. The
    /// fence of that wake-up serves here, too.
    pub(crate) fn notify_fenced(&self) {
        self.0.wake_fenced(|| usize::MAX);
    }
}
