//! Tasks that wait for a group.

use std::task::{Context, Poll, Waker};

use crate::log::waiters::{Ticket, Waiters, Written};
use crate::sync::{Arc, Mutex, catch_panic};

/// The place where a task finds the result of its group.
pub(crate) struct Slot(Mutex<Known>);

enum Known {
    /// The waker, unless the future is gone.
    Nothing(Option<Waker>),
    Finished(Written),
}

impl Slot {
    /// Wakes the task, if its future is still there.
    pub(super) fn finish(&self, result: &Written) {
        let finished = Known::Finished(result.clone());
        let known = std::mem::replace(&mut *self.0.lock(), finished);
        if let Known::Nothing(Some(waker)) = known {
            // The panic hook has reported it.
            let _ = catch_panic(|| waker.wake());
        }
    }

    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Written> {
        let mut known = self.0.lock();
        match &mut *known {
            Known::Finished(result) => Poll::Ready(result.clone()),
            Known::Nothing(waker) => {
                let old = match waker {
                    Some(same) if same.will_wake(context.waker()) => None,
                    waker => waker.replace(context.waker().clone()),
                };
                // A waker is the user's, and so is what it does when it is dropped.
                drop(known);
                drop(old);
                Poll::Pending
            }
        }
    }
}

impl Waiters {
    /// Adds a task, whose future keeps the slot.
    pub(crate) fn add_task(&mut self, waker: Waker) -> Arc<Slot> {
        let slot = Arc::new(Slot(Mutex::new(Known::Nothing(Some(waker)))));
        self.tasks.push(Arc::clone(&slot));
        slot
    }
}

/// A future's wait for a group. It has one waker with the log, and none when it is dropped.
pub(crate) struct Watch {
    pub(crate) ticket: Ticket,
    /// It is there once the log knows of the task.
    pub(crate) slot: Option<Arc<Slot>>,
}

impl Watch {
    pub(crate) fn new(ticket: Ticket) -> Self {
        Self { ticket, slot: None }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            let gone = match &mut *slot.0.lock() {
                Known::Nothing(waker) => waker.take(),
                Known::Finished(_) => None,
            };
            drop(gone);
        }
    }
}
