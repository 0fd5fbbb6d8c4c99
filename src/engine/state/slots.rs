//! The consumers of a lane besides its own runner.

use crate::engine::base::counters::Counter;
use crate::engine::base::task_state::TaskState;
use crate::engine::runtime::pool::Home;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Arc, Mutex, Weak};

/// The work that a slot does in its turn.
pub(crate) trait Work<T>: Send {
    /// Takes and tries deliveries until there is nothing to do now. Returns `true` if its share is
    /// used up.
    fn work(&mut self, slot: &Arc<ConsumerSlot<T>>, keyed: KeyedLane<'_, T>) -> bool;

    /// Returns whether it is in the middle of a call, so that it can't leave.
    fn is_busy(&self) -> bool;
}

/// Makes the work of another slot, as long as there is a slot that has a handler. It keeps no
/// handler itself, so with the last slot the handler is gone.
pub(crate) type Make<T> = Box<dyn Fn() -> Option<Box<dyn Work<T>>> + Send + Sync>;

/// The work of some slots that share a handler, and the means to make more of it.
pub(crate) type Shared<T> = (Vec<Box<dyn Work<T>>>, Make<T>);

/// The work of a member's slots.
pub(crate) struct Slots<T> {
    pub(crate) works: Vec<Box<dyn Work<T>>>,
    /// The means to make more of it, or `None` if the handler is for one call at a time.
    pub(crate) more: Option<Make<T>>,
    /// The handler takes batches, whose calls can't have a timeout.
    pub(crate) takes_batches: bool,
}

impl<T> Slots<T> {
    /// Returns the one slot of a handler for one call at a time.
    pub(crate) fn one(work: Box<dyn Work<T>>) -> Self {
        Self {
            works: vec![work],
            more: None,
            takes_batches: false,
        }
    }

    /// Returns the one slot of a handler for batches.
    pub(crate) fn batches(work: Box<dyn Work<T>>) -> Self {
        Self {
            takes_batches: true,
            ..Self::one(work)
        }
    }
}

impl<T> From<Shared<T>> for Slots<T> {
    fn from((works, make): Shared<T>) -> Self {
        Self {
            works,
            more: Some(make),
            takes_batches: false,
        }
    }
}

/// Makes the slots of a member in one lane, which has so many at once.
pub(crate) type MakeSlots<T> = Box<dyn Fn(usize) -> Slots<T> + Send + Sync>;

/// A consumer of a lane, with one slot or several.
pub(crate) struct Member<T> {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) make: Mutex<Option<Make<T>>>,
    pub(crate) slots: Mutex<Vec<Arc<ConsumerSlot<T>>>>,
    pub(crate) taken: Counter,
    pub(crate) takes_batches: bool,
}

/// One consumer of a member.
pub(crate) struct ConsumerSlot<T> {
    pub(crate) lane: Weak<Lane<T>>,
    pub(crate) member: Weak<Member<T>>,
    pub(crate) task: TaskState,
    /// The pool on whose workers it runs.
    pub(crate) home: Home,
    pub(crate) work: Mutex<Option<Box<dyn Work<T>>>>,
    pub(crate) leaving: AtomicBool,
    /// The slot's handler has been dropped.
    pub(crate) gone: AtomicBool,
    /// When the slot's present run began; zero between runs.
    pub(crate) busy_since_ns: AtomicU64,
}
