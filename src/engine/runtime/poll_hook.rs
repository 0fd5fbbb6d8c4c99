//! The user's function around the calls, polls and drops of async handlers.
//!
//! A future may need a runtime to be entered on the thread that polls it. The hook does that, so
//! that the engine knows no runtime. It is user code like the handler itself: it runs within the
//! same wall against panics, and its panic is a panic of the call.

use std::fmt;

use crate::engine::base::contain::Contained;
use crate::sync::Arc;

/// A way to call the code of an async handler. Each has code of its own, so that a broker without
/// a hook doesn't even ask whether it has one.
pub(crate) trait Within: Clone + Send + Sync + 'static {
    /// Whether [`call`](Self::call) may panic before it has called the code.
    const MAY_REFUSE: bool;

    fn call<R>(&self, code: impl FnOnce() -> R) -> R;
}

/// No hook.
#[derive(Clone)]
pub(crate) struct Nothing;

impl Within for Nothing {
    const MAY_REFUSE: bool = false;

    fn call<R>(&self, code: impl FnOnce() -> R) -> R {
        code()
    }
}

type Around = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// A hook, shared by a builder and the brokers that it has built.
#[derive(Clone)]
pub(crate) struct PollHook(Arc<Contained<Box<Around>>>);

impl PollHook {
    pub(crate) fn new(around: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Contained::new(Box::new(around))))
    }
}

impl Within for PollHook {
    const MAY_REFUSE: bool = true;

    /// Calls the code once, however often the hook says so.
    fn call<R>(&self, code: impl FnOnce() -> R) -> R {
        let mut code = Some(code);
        let mut result = None;
        let mut once = || {
            if let Some(code) = code.take() {
                result = Some(code());
            }
        };
        (self.0)(&mut once);
        result.expect("around_polls did not call its argument")
    }
}

impl fmt::Debug for PollHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollHook").finish_non_exhaustive()
    }
}
