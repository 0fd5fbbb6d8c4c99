//! The wakers of futures that wait for room, or for something to lease.
//!
//! A waker is the user's: it is cloned, called and dropped outside of the lock, and a
//! panic of it is contained. Bounded by the futures that wait: each has one seat.

use std::collections::BTreeMap;
use std::task::Waker;

use super::contain::{contain, discard};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Where one future leaves its waker.
#[derive(Debug, Default)]
pub(crate) struct Seat(Option<u64>);

/// The wakers that are there, by seat.
pub(super) struct Wakers(Mutex<State>);

struct State {
    next: u64,
    seats: BTreeMap<u64, Waker>,
}

impl Wakers {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            next: 0,
            seats: BTreeMap::new(),
        }))
    }

    /// Leaves a waker in place of the one before, and counts the future among those
    /// who wait.
    pub(super) fn sit_down(&self, seat: &mut Seat, waker: &Waker, waiting: &AtomicUsize) {
        let waker = waker.clone();
        let mut state = self.0.lock();
        let number = *seat.0.get_or_insert(state.next);
        state.next = state.next.max(number + 1);
        let before = state.seats.insert(number, waker);
        if before.is_none() {
            // ORDERING: as in `Waiters::wait_for`, whose fence follows.
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        discard(before);
    }

    pub(super) fn get_up(&self, seat: &mut Seat, waiting: &AtomicUsize) {
        let Some(number) = seat.0.take() else { return };
        let gone = self.0.lock().seats.remove(&number);
        if gone.is_some() {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
        discard(gone);
    }

    pub(super) fn wake_all(&self, waiting: &AtomicUsize) {
        let seats = std::mem::take(&mut self.0.lock().seats);
        waiting.fetch_sub(seats.len(), Ordering::Relaxed);
        for waker in seats.into_values() {
            // One that panics has been reported by the panic hook; the others count.
            let _ = contain(|| waker.wake());
        }
    }
}
