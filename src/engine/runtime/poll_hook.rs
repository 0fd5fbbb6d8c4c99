//! The user's function around the calls, polls and drops of async handlers.
//!
//! A future may need a runtime to be entered on the thread that polls it. The hook does that, so
//! that the engine knows no runtime. It is user code like the handler itself: it runs within the
//! same wall against panics, and its panic is a panic of the call.

use std::fmt;

use crate::engine::base::contain::Contained;
use crate::sync::Arc;

type Around = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// A hook, shared by a builder and the brokers that it has built.
#[derive(Clone)]
pub(crate) struct PollHook(Arc<Contained<Box<Around>>>);

impl PollHook {
    pub(crate) fn new(around: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Contained::new(Box::new(around))))
    }

    /// Calls user code within the hook. It is called once, however often the hook says so.
    ///
    /// # Panics
    ///
    /// Panics with the hook or the code, or if the hook doesn't call its argument.
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

/// Calls user code, within the hook if there is one.
#[inline]
pub(crate) fn within<R>(hook: Option<&PollHook>, code: impl FnOnce() -> R) -> R {
    match hook {
        None => code(),
        Some(hook) => hook.call(code),
    }
}

impl fmt::Debug for PollHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollHook").finish_non_exhaustive()
    }
}
