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
pub(crate) enum Bell {
    Thread(Arc<Condvar>),
    #[cfg(feature = "async")]
    Future(Waker),
}

impl Bell {
    /// `false`: it panicked, which the panic hook has reported, and called nobody.
    pub(crate) fn ring(self) -> bool {
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
    seats: BTreeMap<u64, Bell>,
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

    /// Takes a seat at the end, or again the one it had. Returns the bell before.
    pub(crate) fn sit_down(&mut self, seat: &mut Seat, bell: Bell) -> Option<Bell> {
        let is_new = seat.0.is_none();
        let number = *seat.0.get_or_insert(self.next);
        self.next = self.next.max(number + 1);
        let before = self.seats.insert(number, bell);
        if !is_new && before.is_none() {
            self.called -= 1;
        }
        before
    }

    /// Leaves. Returns the bell, or that it was called.
    pub(crate) fn get_up(&mut self, seat: &mut Seat) -> Option<Result<Bell, Called>> {
        let number = seat.0.take()?;
        let bell = self.seats.remove(&number);
        if bell.is_none() {
            self.called -= 1;
        }
        Some(bell.ok_or(Called))
    }

    /// Calls the first of those who wait: as many as are `wanted` with those who were called
    /// before and are on their way; at least one, for one of those may never look.
    pub(crate) fn call(&mut self, wanted: usize) -> Vec<Bell> {
        let count = wanted.saturating_sub(self.called).max(1);
        let mut bells = Vec::new();
        while bells.len() < count
            && let Some((_, bell)) = self.seats.pop_first()
        {
            bells.push(bell);
        }
        self.called += bells.len();
        bells
    }
}

/// Who leaves was called.
pub(crate) struct Called;
