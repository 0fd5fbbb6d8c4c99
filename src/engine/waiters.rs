//! Publishers that wait for room, under `Overflow::Block`.
//!
//! A publisher counts itself in under the lock, fences, tries once more and
//! waits. Whoever makes room first releases the tickets, then fences, then reads
//! the count. The feared interleaving, a publisher that waits while the room it
//! waits for has just been made, would need each of the two to miss the other's
//! write, which the fences exclude. A close wakes everybody.
//! A future does the same, but leaves its waker instead of its thread. All wakers are
//! called, outside of the lock, and none is kept: a future that was dropped, or that
//! looks elsewhere, takes nobody's wake-up along.
//! A buffer that waits for room stands in line ([`standby`](super::standby)).
//! Model: `loom-tests/tests/models/waiters.rs`.

use super::standby::{Place, Standby};
use super::timer::Fire;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Instant, Mutex, breakable, fence};

/// The waiting room of one topic.
pub struct Waiters {
    waiting: AtomicUsize,
    lock: Mutex<()>,
    room: Condvar,
    standby: Standby,
    #[cfg(feature = "async")]
    wakers: super::wakers::Wakers,
}

impl Waiters {
    /// Nobody waits.
    pub fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            room: Condvar::new(),
            standby: Standby::new(),
            #[cfg(feature = "async")]
            wakers: super::wakers::Wakers::new(),
        }
    }

    /// Repeats `attempt` until it answers something or `until` has passed; it is
    /// called with the lock held and must be short.
    pub fn wait_for<R>(
        &self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let mut guard = self.lock.lock();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // ORDERING: pairs with the fence in `wake`; see the module's text.
        breakable!("waiters: wait without a fence", fence(Ordering::SeqCst));
        let answer = loop {
            if let Some(answer) = attempt() {
                break Some(answer);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break None;
            }
            self.room.wait(&mut guard, until);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// There is room, or there never will be: let everybody who waits look.
    pub fn wake(&self) {
        // ORDERING: pairs with the fence in `wait_for`.
        breakable!("waiters: wake without a fence", fence(Ordering::SeqCst));
        if self.waiting.load(Ordering::Relaxed) > 0 {
            breakable!("waiters: wake past the lock", drop(self.lock.lock()));
            breakable!(
                "waiters: wake one of many",
                self.room.notify_all(),
                self.room.notify_one()
            );
            #[cfg(feature = "async")]
            self.wakers.wake_all(&self.waiting);
            self.standby.call_next(&self.waiting);
        }
    }

    /// Has the buffer of this place called when there is room. Who called this must look
    /// once more whether there is.
    pub(super) fn stand(&self, place: &mut Place, target: Arc<dyn Fire>) {
        self.standby.stand(place, target, &self.waiting);
    }

    /// The buffer of this place waits no more.
    pub(super) fn step_out(&self, place: &mut Place) {
        self.standby.leave(place, &self.waiting);
    }

    /// There is room left: has the next buffer called.
    pub(super) fn call_next(&self) {
        self.standby.call_next(&self.waiting);
    }

    /// Has the future of this seat be woken by the next [`wake`](Self::wake), unless
    /// `attempt` answers now.
    #[cfg(feature = "async")]
    pub(crate) fn poll_for<R>(
        &self,
        seat: &mut super::wakers::Seat,
        context: &std::task::Context<'_>,
        attempt: impl FnOnce() -> Option<R>,
    ) -> std::task::Poll<R> {
        self.wakers.sit_down(seat, context.waker(), &self.waiting);
        // ORDERING: pairs with the fence in `wake`, as in `wait_for`.
        fence(Ordering::SeqCst);
        match attempt() {
            Some(answer) => {
                self.leave(seat);
                std::task::Poll::Ready(answer)
            }
            None => std::task::Poll::Pending,
        }
    }

    /// The future of this seat waits no more.
    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, seat: &mut super::wakers::Seat) {
        self.wakers.get_up(seat, &self.waiting);
    }
}
