//! What a thread knows about itself: which engines run on it, and what the handler
//! call it is in has met.
//!
//! A handler of one broker may run another that nobody else runs, so a thread has a
//! stack of engines. What a thread may not do (wait for the engine that it is part
//! of) is asked engine by engine.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "loom's twin of the macro has no such form"
)]

use std::cell::{Cell, RefCell};

use crate::engine::runtime::Engine;
use crate::sync::thread_local;

/// Tells engines apart, for as long as they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EngineId(usize);

impl Engine {
    pub(crate) fn id(&self) -> EngineId {
        EngineId(std::ptr::from_ref(self).addr())
    }
}

/// An engine that runs on this thread.
struct Frame {
    engine: EngineId,
    /// It has refused a publish while the engine above it on the stack ran.
    refused: bool,
}

/// The handler call that a thread is in.
struct Call {
    /// Whose handler it is; `None` between calls.
    of: Cell<Option<EngineId>>,
    /// A publish of it was refused because that engine is ending.
    refused: Cell<bool>,
}

thread_local! {
    static ENGINES: RefCell<Vec<Frame>> = RefCell::new(Vec::new());
    static CALL: Call = Call {
        of: Cell::new(None),
        refused: Cell::new(false),
    };
    /// Who has refused a publish of this thread, outside of its own handlers, since the
    /// thread last received or settled a lease of that engine.
    static REFUSED_BY: Cell<Option<EngineId>> = Cell::new(None);
    static TURN: Cell<u32> = Cell::new(0);
}

/// Leases that a thread takes before it lets others go first that share the pull. A few,
/// so that they get about as many; more than a few, for each time costs a system call.
const TURN_LEASES: u32 = 32;

/// Looks at the engines of this thread. There are none any more while the thread is
/// taken down, when destructors of the user's own thread-locals may still call us.
fn engines<R>(look: impl FnOnce(&mut Vec<Frame>) -> R) -> Option<R> {
    ENGINES
        .try_with(|engines| look(&mut engines.borrow_mut()))
        .ok()
}

/// While it lives, this thread runs the engine, and nothing on it may wait for that
/// engine.
pub(crate) struct Inside {
    /// The call that goes on when this has ended.
    of: Option<EngineId>,
    refused: bool,
}

impl Inside {
    pub(crate) fn enter(engine: &Engine) -> Self {
        Self::enter_by_id(engine.id())
    }

    fn enter_by_id(engine: EngineId) -> Self {
        engines(|engines| {
            if let Some(below) = engines.last_mut() {
                below.refused = false;
            }
            let refused = false;
            engines.push(Frame { engine, refused });
        });
        CALL.with(|call| Self {
            of: call.of.take(),
            refused: call.refused.take(),
        })
    }

    /// For a thread that does nothing but what a handler of the engine spreads over it.
    #[cfg(feature = "parallel")]
    pub(crate) fn enter_for_life(engine: EngineId) {
        std::mem::forget(Self::enter_by_id(engine));
        CALL.with(|call| call.of.set(Some(engine)));
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let refused_meanwhile = engines(|engines| {
            engines.pop();
            engines.last().is_some_and(|below| below.refused)
        });
        CALL.with(|call| {
            call.of.set(self.of);
            let refused = self.refused || refused_meanwhile == Some(true);
            call.refused.set(refused);
        });
    }
}

/// Whether this engine runs on this thread: a handler, a strategy, a policy or an
/// observer of it is being called.
pub(crate) fn is_inside(engine: &Engine) -> bool {
    let id = engine.id();
    engines(|engines| engines.iter().any(|frame| frame.engine == id)) == Some(true)
}

/// Whether this engine runs on this thread, and that in a call of a handler.
pub(crate) fn is_handling(engine: &Engine) -> bool {
    CALL.with(|call| call.of.get().is_some()) && is_inside(engine)
}

/// What tells this thread from others that are alive.
pub(crate) fn mark() -> usize {
    TURN.with(|turn| std::ptr::from_ref(turn).addr())
}

/// This thread has taken so many leases of a pull that other threads share, or don't.
pub(crate) fn note_taken(leases: u32, is_shared: bool) {
    TURN.with(|turn| {
        let taken = turn.get().saturating_add(leases);
        turn.set(if is_shared { taken } else { 0 });
    });
}

/// Whether it is time to let others go first. Begins the next turn.
pub(crate) fn is_turn_over() -> bool {
    TURN.with(|turn| {
        let is_over = turn.get() >= TURN_LEASES;
        if is_over {
            turn.set(0);
        }
        is_over
    })
}

/// Calls a handler of this engine. Before each call, if there are several, the flag
/// is to be cleared; after it, it says whether the engine has refused a publish of
/// that call because it is ending.
pub(crate) fn calling<R>(engine: EngineId, calls: impl FnOnce(&Cell<bool>) -> R) -> R {
    CALL.with(|call| {
        // A call may be in another one: an async call is polled by who ends its slot.
        let of = call.of.replace(Some(engine));
        let refused = call.refused.replace(false);
        let result = calls(&call.refused);
        call.of.set(of);
        call.refused.set(refused);
        result
    })
}

/// A publish on this thread was refused because the engine is ending.
pub(crate) fn note_refusal(engine: &Engine) {
    let id = engine.id();
    engines(|engines| {
        let refused = engines.iter_mut().filter(|frame| frame.engine == id);
        refused.for_each(|frame| frame.refused = true);
    });
    CALL.with(|call| match call.of.get() {
        Some(of) if of == id => call.refused.set(true),
        _ => REFUSED_BY.with(|refused_by| refused_by.set(Some(id))),
    });
}

/// Whether that has happened outside of a handler since this was last asked, which is
/// when the thread receives or settles a lease of the engine: of those that it holds,
/// the refusal concerns the one that it settles next.
pub(crate) fn take_refusal(engine: &Engine) -> bool {
    REFUSED_BY.with(|refused_by| {
        let is_ours = refused_by.get() == Some(engine.id());
        if is_ours {
            refused_by.set(None);
        }
        is_ours
    })
}
