//! Buffers that wait for room in their topic, in the order in which they came.
//!
//! Each buffer is called once there may be room, and publishes on a worker's thread. They are
//! called one at a time. A buffer that has been served, or no longer wants anything, calls the next
//! if there is room left. A buffer that is refused again keeps its place.
//!
//! The steps are those of publishers that wait on their threads (see
//! [`waiters`](crate::engine::wait::waiters)). A buffer takes a place and is counted, fences, and
//! looks once more. A thread that makes room releases, fences, and looks at the count.

use std::collections::BTreeMap;

use crate::engine::wait::fire::{Fire, Tag};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, fence};

/// A buffer's place in the line; kept until it is served.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

impl Place {
    /// Returns whether the buffer waits, or has been called.
    pub(crate) fn is_taken(&self) -> bool {
        self.0.is_some()
    }
}

/// The line of one topic. It is bounded by the topic's buffers: each has one place.
pub(crate) struct Standby {
    /// How many buffers stand in the line.
    waiting: AtomicUsize,
    /// Made when it is first needed: few topics have buffers that wait.
    state: OnceLock<Box<Mutex<State>>>,
}

struct State {
    next: u64,
    line: BTreeMap<u64, Arc<dyn Fire>>,
}

impl Standby {
    pub(crate) fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            state: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let new = || State {
            next: 0,
            line: BTreeMap::new(),
        };
        // Not just a look: who has read the count may not see yet that the state was made before.
        let state = self.state.get_or_init(|| Box::new(Mutex::new(new())));
        state.lock()
    }

    /// Returns whether any buffer stands in the line. The caller has fenced before.
    pub(crate) fn is_taken(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes a place in the line, or the same place again. The caller must look once more whether
    /// there is room.
    pub(crate) fn stand(&self, place: &mut Place, target: Arc<dyn Fire>) {
        let mut state = self.state();
        let number = *place.0.get_or_insert(state.next);
        state.next = state.next.max(number + 1);
        if state.line.insert(number, target).is_none() {
            // ORDERING: as in `Waiters::sit_down`.
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        // ORDERING: pairs with the fence in `Waiters::wake`.
        fence(Ordering::SeqCst);
    }

    /// Leaves the line.
    pub(crate) fn leave(&self, place: &mut Place) {
        let Some(number) = place.0.take() else { return };
        let gone = self.state().line.remove(&number);
        if gone.is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Calls the first in the line. The buffer keeps its place if it is refused again.
    pub(crate) fn call_next(&self) {
        let first = self.state().line.pop_first();
        if let Some((_, target)) = first {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            target.fire(Tag::Look);
        }
    }
}
