//! Waiters for room, or for something to take: publishers under `Overflow::Block`, and receivers of
//! a pull subscription. They are threads and futures alike.
//!
//! Steps. A *waiter* takes a place in the line under the lock, which counts it in. It fences,
//! tries, and if it gets nothing sleeps until it is called. Then it tries again, and if it gets
//! nothing, goes on from its old place. A *waker* makes room, fences, reads the count, and calls as
//! many waiters as there is room for, in the order in which they came. A close calls everybody.
//!
//! The feared interleaving: a waiter sleeps while the room it waits for has just been made. Each of
//! the two would have to miss the other's write, which the fences exclude.
//!
//! As not all are called, another interleaving is feared: there is room, a waiter was called for
//! it, and never takes it, while others sleep. A waiter that was called leaves when it has taken
//! something, its time is up, or its future is dropped. After it has been counted out, it looks
//! whether there is still something, and calls the next. This look sees all room that was made
//! before the count changed. A waker that makes room later finds one fewer on the way. A future
//! that is called and neither polled nor dropped keeps only its own call: the next room calls
//! another waiter.
//!
//! A buffer that waits for room stands in a line of its own
//! ([`standby`](crate::engine::wait::standby)), whose first is called besides.
//!
//! Wake-ups are made outside of the lock. Model: `loom-tests/tests/models/waiters.rs`.

use std::time::Duration;

use crate::engine::base::contain::discard;
use crate::engine::wait::fire::Fire;
use crate::engine::wait::standby::{Place, Standby};
use crate::engine::wait::wakers::{Queue, WaiterId, WakeUp};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Instant, Mutex, fence, mutant};

/// How long a thread lets others go first: longer than one takes to wake up.
const PATIENCE: Duration = Duration::from_millis(1);

/// A thread that waits.
struct Waiting {
    id: WaiterId,
    wake_up: Arc<Condvar>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            id: WaiterId::default(),
            wake_up: Arc::new(Condvar::new()),
        }
    }
}

fn is_late(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

/// The waiters of one place, and the buffers that stand by.
pub struct Waiters {
    /// How many waiters are in the queue.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    standby: Standby,
}

impl Default for Waiters {
    fn default() -> Self {
        Self::new()
    }
}

impl Waiters {
    /// Makes it with nobody in the queue.
    pub fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue::EMPTY),
            standby: Standby::new(),
        }
    }

    /// Repeats `attempt` until it returns something or `until` has passed. Afterwards `room` says
    /// how many waiters would find something.
    pub fn wait_for<R>(
        &self,
        until: Option<Instant>,
        attempt: impl FnMut() -> Option<R>,
        room: impl Fn() -> usize,
    ) -> Option<R> {
        self.wait_from(Waiting::new(), until, attempt, room)
    }

    /// Waits as [`wait_for`](Self::wait_for) does, but lets earlier waiters go first. It is for a
    /// caller that has had its turn. It lets them go first for a limited time, because one of them
    /// may be a future that nobody polls.
    pub fn wait_behind<R>(
        &self,
        until: Option<Instant>,
        attempt: impl FnMut() -> Option<R>,
        room: impl Fn() -> usize,
    ) -> Option<R> {
        let mut waiting = Waiting::new();
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.enqueue(
                &mut waiting.id,
                WakeUp::Thread(Arc::clone(&waiting.wake_up)),
            );
            // This wake-up stands in place of a look.
            self.wake(&room);
            let patience = Instant::now().checked_add(PATIENCE);
            let until = [until, patience].into_iter().flatten().min();
            self.sleep(&waiting, until);
        }
        self.wait_from(waiting, until, attempt, room)
    }

    fn wait_from<R>(
        &self,
        mut waiting: Waiting,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> Option<R>,
        room: impl Fn() -> usize,
    ) -> Option<R> {
        let answer = loop {
            self.enqueue(
                &mut waiting.id,
                WakeUp::Thread(Arc::clone(&waiting.wake_up)),
            );
            if let Some(answer) = attempt() {
                break Some(answer);
            }
            if is_late(until) {
                break None;
            }
            self.sleep(&waiting, until);
            // Not from its old place, so that the call is passed on if the waiter leaves now.
            if let Some(answer) = attempt() {
                break Some(answer);
            }
        };
        self.leave(&mut waiting.id, room);
        answer
    }

    /// Sleeps until the waiter is called, or until then.
    fn sleep(&self, waiting: &Waiting, until: Option<Instant>) {
        let mut queue = self.queue.lock();
        while queue.waits(&waiting.id) && !is_late(until) {
            waiting.wake_up.wait(&mut queue, until);
        }
    }

    /// Lets as many waiters look as there is `room` for.
    pub fn wake(&self, room: impl Fn() -> usize) {
        // ORDERING: pairs with the fence in `enqueue`.
        mutant!(fence(Ordering::SeqCst), "waiters.wake-fence");
        self.wake_fenced(room);
    }

    /// Lets waiters look, for a caller that has fenced since it made room.
    pub(crate) fn wake_fenced(&self, room: impl Fn() -> usize) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.call(room());
        }
        if self.standby.is_taken() {
            self.standby.call_next();
        }
    }

    /// Returns whether anybody waits to be called.
    pub(crate) fn are_taken(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 || self.standby.is_taken()
    }

    /// Puts the buffer of this place into the line. The caller must look once more whether there is
    /// room.
    pub(crate) fn stand(&self, place: &mut Place, target: Arc<dyn Fire>) {
        self.standby.stand(place, target);
    }

    /// Takes the buffer of this place out of the line.
    pub(crate) fn step_out(&self, place: &mut Place) {
        self.standby.leave(place);
    }

    /// Calls the next buffer, because there is room left.
    pub(crate) fn call_next(&self) {
        self.standby.call_next();
    }

    /// Lets all waiters look: there never will be room, or each must look for itself.
    pub fn wake_all(&self) {
        mutant!(
            self.wake(|| usize::MAX),
            "waiters.wake-all",
            self.wake(|| 1)
        );
    }

    fn call(&self, room: usize) {
        let mut wanted = room;
        while wanted > 0 {
            let mut queue = self.queue.lock();
            let wake_ups = queue.call(wanted);
            self.waiting.store(queue.len(), Ordering::Relaxed);
            drop(queue);
            let broken = wake_ups
                .into_iter()
                .filter_map(|wake_up| (!wake_up.wake()).then_some(()));
            wanted = broken.count();
        }
    }

    fn enqueue(&self, id: &mut WaiterId, wake_up: WakeUp) {
        let mut queue = self.queue.lock();
        let before = queue.enqueue(id, wake_up);
        self.waiting.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        discard(before);
        // ORDERING: pairs with the fence in `wake`; see the module's text.
        mutant!(fence(Ordering::SeqCst), "waiters.wait-fence");
    }

    /// Registers this future to be called when there is room, unless `attempt` returns now.
    #[cfg(feature = "async")]
    pub(crate) fn poll_for<R>(
        &self,
        id: &mut WaiterId,
        context: &std::task::Context<'_>,
        attempt: impl FnOnce() -> Option<R>,
        room: impl Fn() -> usize,
    ) -> std::task::Poll<R> {
        self.enqueue(id, WakeUp::Future(context.waker().clone()));
        match attempt() {
            Some(answer) => {
                self.leave(id, room);
                std::task::Poll::Ready(answer)
            }
            None => std::task::Poll::Pending,
        }
    }

    /// Ends the wait of this id. Passes a call on if there is `room` for another waiter.
    #[inline]
    pub(crate) fn leave(&self, id: &mut WaiterId, room: impl Fn() -> usize) {
        if !id.is_free() {
            self.dequeue(id, room);
        }
    }

    fn dequeue(&self, id: &mut WaiterId, room: impl Fn() -> usize) {
        let mut queue = self.queue.lock();
        let left = queue.dequeue(id);
        self.waiting.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        match left {
            Some(Err(_)) => mutant!(self.wake(room), "waiters.pass-on"),
            Some(Ok(wake_up)) => discard(wake_up),
            None => {}
        }
    }
}
