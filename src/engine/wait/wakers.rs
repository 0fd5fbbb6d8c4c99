//! Who waits in a waiting room, in the order in which they came: threads, and futures by their
//! wakers.
//!
//! A waker is the user's: it is cloned, called and dropped outside of the lock, and a
//! panic of it is contained. Bounded by those who wait: each has one seat.

use std::collections::BTreeMap;
#[cfg(feature = "async")]
use std::task::Waker;

#[cfg(feature = "async")]
use crate::engine::base::contain::contain;
use crate::sync::{Arc, Condvar};

/// Where somebody who waits is found. It is kept until the wait is over, and with it the place
/// in the order.
#[derive(Debug, Default)]
pub(crate) struct Seat(Option<u64>);

impl Seat {
    /// Whether nobody waits from it.
    pub(crate) fn is_free(&self) -> bool {
        self.0.is_none()
    }
}

/// What calls somebody who waits.
pub(crate) enum WakeUp {
    Thread(Arc<Condvar>),
    #[cfg(feature = "async")]
    Future(Waker),
}

impl WakeUp {
    /// `false`: it panicked, which the panic hook has reported, and called nobody.
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

/// Those who wait.
pub(crate) struct Queue {
    next: u64,
    seats: BTreeMap<u64, WakeUp>,
    /// How many were called, and have neither sat down again nor left.
    called: usize,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self {
        next: 0,
        seats: BTreeMap::new(),
        called: 0,
    };

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether whoever has this seat waits to be called.
    pub(crate) fn waits(&self, seat: &Seat) -> bool {
        seat.0
            .is_some_and(|number| self.seats.contains_key(&number))
    }

    /// Takes a seat at the end, or again the one it had. Returns the wake_up before.
    pub(crate) fn sit_down(&mut self, seat: &mut Seat, wake_up: WakeUp) -> Option<WakeUp> {
        let is_new = seat.0.is_none();
        let number = *seat.0.get_or_insert(self.next);
        self.next = self.next.max(number + 1);
        let before = self.seats.insert(number, wake_up);
        if !is_new && before.is_none() {
            self.called -= 1;
        }
        before
    }

    /// Leaves. Returns the wake_up, or that it was called.
    pub(crate) fn get_up(&mut self, seat: &mut Seat) -> Option<Result<WakeUp, Called>> {
        let number = seat.0.take()?;
        let wake_up = self.seats.remove(&number);
        if wake_up.is_none() {
            self.called -= 1;
        }
        Some(wake_up.ok_or(Called))
    }

    /// Calls the first of those who wait: as many as are `wanted` with those who were called
    /// before and are on their way; at least one, for one of those may never look.
    pub(crate) fn call(&mut self, wanted: usize) -> Vec<WakeUp> {
        let count = wanted.saturating_sub(self.called).max(1);
        let mut wake_ups = Vec::new();
        while wake_ups.len() < count
            && let Some((_, wake_up)) = self.seats.pop_first()
        {
            wake_ups.push(wake_up);
        }
        self.called += wake_ups.len();
        wake_ups
    }
}

/// Who leaves was called.
pub(crate) struct Called;
