//! The consumers of a lane besides its own runner.

use crate::engine::base::counters::Counter;
use crate::engine::base::task_state::TaskState;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Arc, Mutex, Weak};

/// What a slot does with its turn.
pub(crate) trait Work<T>: Send {
    /// Takes and tries until there is nothing to do now or its share is used up
    /// (`true`).
    fn work(&mut self, slot: &Arc<ConsumerSlot<T>>, keyed: KeyedLane<'_, T>) -> bool;

    /// Whether it is in the middle of a call, so that it can't leave.
    fn is_busy(&self) -> bool;
}

/// Makes what another slot does, as long as there is a slot that has a handler: it
/// keeps none itself, so with the last slot the handler is gone.
pub(crate) type Make<T> = Box<dyn Fn() -> Option<Box<dyn Work<T>>> + Send + Sync>;

/// What some slots do, and what makes more of them.
pub(crate) type Shared<T> = (Vec<Box<dyn Work<T>>>, Make<T>);

/// Somebody who takes deliveries of a lane, with one slot or several.
pub(crate) struct Member<T> {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) make: Mutex<Option<Make<T>>>,
    pub(crate) slots: Mutex<Vec<Arc<ConsumerSlot<T>>>>,
    pub(crate) taken: Counter,
}

/// One consumer of a member.
pub(crate) struct ConsumerSlot<T> {
    pub(crate) lane: Weak<Lane<T>>,
    pub(crate) member: Weak<Member<T>>,
    pub(crate) task: TaskState,
    pub(crate) work: Mutex<Option<Box<dyn Work<T>>>>,
    pub(crate) leaving: AtomicBool,
    /// Its handler has been dropped.
    pub(crate) gone: AtomicBool,
    /// When its present run began; zero between runs.
    pub(crate) busy_since_ns: AtomicU64,
}
