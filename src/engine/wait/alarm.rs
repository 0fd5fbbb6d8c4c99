//! Alarms of futures: the timer wakes a task at a deadline.
//!
//! The timer has the only reference to an alarm's [`Trigger`]. Whenever it lets go of the trigger,
//! the alarm goes off: because the deadline has come, or because the timer has stopped. So no task
//! waits for a timer that is gone.
//!
//! The feared interleaving: the alarm goes off between a task's look and the moment when its waker
//! is there. It can't happen, because both are under one lock. The waker is the user's. It is
//! cloned, called and dropped outside of the lock.

use std::task::{Context, Poll, Waker};

use crate::engine::base::contain::{contain, discard};
use crate::engine::wait::fire::{Fire, Tag};
use crate::sync::{Arc, Mutex};

/// The alarm of one future.
#[derive(Default)]
pub(crate) struct Alarm(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_over: bool,
    waker: Option<Waker>,
}

/// The timer's side of an alarm.
struct Trigger(Arc<Mutex<State>>);

impl Alarm {
    /// Returns the target of the alarm's deadline, for the timer alone.
    pub(crate) fn trigger(&self) -> Arc<dyn Fire> {
        Arc::new(Trigger(Arc::clone(&self.0)))
    }

    /// Returns whether the alarm has gone off, or has this task woken then.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut state = self.0.lock();
        if state.is_over {
            return Poll::Ready(());
        }
        let before = state.waker.replace(waker);
        drop(state);
        discard(before);
        Poll::Pending
    }

    /// Forgets the task that was to be woken.
    pub(crate) fn forget_waker(&self) {
        let waker = self.0.lock().waker.take();
        discard(waker);
    }
}

impl Fire for Trigger {
    /// The timer lets go of it.
    fn fire(self: Arc<Self>, _tag: Tag) {}
}

impl Drop for Trigger {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            // A waker is the user's, and may panic.
            let _ = contain(|| waker.wake());
        }
    }
}
