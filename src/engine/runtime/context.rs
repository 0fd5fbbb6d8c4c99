//! Each thread's knowledge of itself: the engines that run on it, and the handler call it is in.
//!
//! A handler of one broker may run another broker that has no workers. So a thread has a stack of
//! engines. A thread must not wait for an engine that it is part of, which is asked engine by
//! engine.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "loom's twin of the macro has no such form"
)]

use std::cell::{Cell, RefCell};

use crate::engine::runtime::Engine;
use crate::sync::thread_local;

/// The identity of an engine, for as long as it lives.
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
    /// The engine has refused a publish while the engine above it on the stack ran.
    refused: bool,
}

/// The handler call that a thread is in.
struct Call {
    /// The engine whose handler it is; `None` between calls.
    of: Cell<Option<EngineId>>,
    /// A publish of the call was refused because that engine is ending.
    refused: Cell<bool>,
}

thread_local! {
    static ENGINES: RefCell<Vec<Frame>> = RefCell::new(Vec::new());
    static CALL: Call = Call {
        of: Cell::new(None),
        refused: Cell::new(false),
    };
    /// The engine that has refused a publish of this thread outside of its own handlers. It is
    /// forgotten when the thread receives or settles a lease of that engine.
    static REFUSED_BY: Cell<Option<EngineId>> = Cell::new(None);
    static TURN: Cell<u32> = Cell::new(0);
}

/// Leases that a thread takes before it lets other threads of the same pull go first. They are a
/// few, so that all threads get about as many. They are more than a few, because each time costs a
/// system call.
const TURN_LEASES: u32 = 32;

/// Looks at the engines of this thread. `None` means that the thread is being taken down, when
/// destructors of the user's own thread-locals may still call us.
fn engines<R>(look: impl FnOnce(&mut Vec<Frame>) -> R) -> Option<R> {
    ENGINES
        .try_with(|engines| look(&mut engines.borrow_mut()))
        .ok()
}

/// The time in which this thread runs the engine. Nothing on the thread may wait for that engine
/// while this value lives.
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

    /// Enters for a thread that only ever runs work of one of the engine's handlers.
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

/// Returns whether this engine runs on this thread: one of its handlers, strategies, policies or
/// observers is being called.
pub(crate) fn is_inside(engine: &Engine) -> bool {
    let id = engine.id();
    engines(|engines| engines.iter().any(|frame| frame.engine == id)) == Some(true)
}

/// Returns whether this engine runs on this thread, in a call of a handler.
pub(crate) fn is_handling(engine: &Engine) -> bool {
    CALL.with(|call| call.of.get().is_some()) && is_inside(engine)
}

/// Returns a mark that no other living thread has.
pub(crate) fn mark() -> usize {
    TURN.with(|turn| std::ptr::from_ref(turn).addr())
}

/// Notes that this thread has taken `leases` of a pull, and whether other threads take from it.
pub(crate) fn note_taken(leases: u32, is_shared: bool) {
    TURN.with(|turn| {
        let taken = turn.get().saturating_add(leases);
        turn.set(if is_shared { taken } else { 0 });
    });
}

/// Returns whether it is time to let other threads go first. If so, the next turn begins.
pub(crate) fn is_turn_over() -> bool {
    TURN.with(|turn| {
        let is_over = turn.get() >= TURN_LEASES;
        if is_over {
            turn.set(0);
        }
        is_over
    })
}

/// Makes calls of a handler of this engine. The closure clears the flag before each of several
/// calls. After a call the flag says whether the ending engine has refused a publish of it.
pub(crate) fn calling<R>(engine: EngineId, calls: impl FnOnce(&Cell<bool>) -> R) -> R {
    CALL.with(|call| {
        // A call may be in another one: the thread that ends a slot polls its async call.
        let of = call.of.replace(Some(engine));
        let refused = call.refused.replace(false);
        let result = calls(&call.refused);
        call.of.set(of);
        call.refused.set(refused);
        result
    })
}

/// Notes that a publish on this thread was refused because the engine is ending.
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

/// Returns whether that has happened outside of a handler since the last time of asking. The thread
/// asks when it receives or settles a lease of the engine. The refusal concerns the lease that it
/// settles next.
pub(crate) fn take_refusal(engine: &Engine) -> bool {
    REFUSED_BY.with(|refused_by| {
        let is_ours = refused_by.get() == Some(engine.id());
        if is_ours {
            refused_by.set(None);
        }
        is_ours
    })
}
