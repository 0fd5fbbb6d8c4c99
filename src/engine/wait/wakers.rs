//! The queue of waiters, in the order in which they came: threads, and futures by their wakers.
//!
//! A waker is the user's. It is cloned, called and dropped outside of the lock, and a panic of it
//! is contained. The queue is bounded by its waiters: each has one place.

use std::collections::BTreeMap;
#[cfg(feature = "async")]
use std::task::Waker;

#[cfg(feature = "async")]
use crate::engine::base::contain::contain;
use crate::sync::{Arc, Condvar};

/// The id of a waiter. It is kept until the wait is over, and with it the place in the order.
#[derive(Debug, Default)]
pub(crate) struct WaiterId(Option<u64>);

impl WaiterId {
    /// Returns whether no waiter has this id.
    pub(crate) fn is_free(&self) -> bool {
        self.0.is_none()
    }
}

/// The means to call a waiter.
pub(crate) enum WakeUp {
    Thread(Arc<Condvar>),
    #[cfg(feature = "async")]
    Future(Waker),
}

impl WakeUp {
    /// Calls the waiter. Returns `false` if the waker panicked, which the panic hook has reported,
    /// and called nobody.
    pub(crate) fn wake(self) -> bool {
        match self {
            Self::Thread(thread) => {
                thread.notify_one();
                true
            }
            #[cfg(feature = "async")]
            Self::Future(waker) => contain(|| waker.wake()).is_ok(),
        }
    }
}

/// The waiters, by the order in which they came.
pub(crate) struct Queue {
    next: u64,
    waiters: BTreeMap<u64, WakeUp>,
    /// How many were called, and have neither sat down again nor left.
    called: usize,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self {
        next: 0,
        waiters: BTreeMap::new(),
        called: 0,
    };

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns whether the waiter with this id still waits to be called.
    pub(crate) fn waits(&self, id: &WaiterId) -> bool {
        id.0.is_some_and(|number| self.waiters.contains_key(&number))
    }

    /// Takes a place at the end, or again the one it had. Returns the wake-up before.
    pub(crate) fn enqueue(&mut self, id: &mut WaiterId, wake_up: WakeUp) -> Option<WakeUp> {
        let is_new = id.0.is_none();
        let number = *id.0.get_or_insert(self.next);
        self.next = self.next.max(number + 1);
        let before = self.waiters.insert(number, wake_up);
        if !is_new && before.is_none() {
            self.called -= 1;
        }
        before
    }

    /// Leaves the queue. Returns the wake-up, or that it was called.
    pub(crate) fn dequeue(&mut self, id: &mut WaiterId) -> Option<Result<WakeUp, Called>> {
        let number = id.0.take()?;
        let wake_up = self.waiters.remove(&number);
        if wake_up.is_none() {
            self.called -= 1;
        }
        Some(wake_up.ok_or(Called))
    }

    /// Calls the first waiters. Together with the waiters that were called before and are on their
    /// way they are `wanted` many. It calls at least one, for one of those on their way may never
    /// look.
    pub(crate) fn call(&mut self, wanted: usize) -> Vec<WakeUp> {
        let count = wanted.saturating_sub(self.called).max(1);
        let mut wake_ups = Vec::new();
        while wake_ups.len() < count
            && let Some((_, wake_up)) = self.waiters.pop_first()
        {
            wake_ups.push(wake_up);
        }
        self.called += wake_ups.len();
        wake_ups
    }
}

/// A waiter that leaves had been called.
pub(crate) struct Called;
