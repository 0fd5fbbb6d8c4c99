//! Queues with the orderings of crossbeam's.

use super::{NO_PANIC, atomic, fence, yield_now};

/// A bounded queue after Dmitry Vyukov's, as crossbeam's array queue is, with crossbeam's
/// orderings. A mutex would order more than the real queue does and hide missing fences.
pub struct Queue<T> {
    head: atomic::AtomicUsize,
    tail: atomic::AtomicUsize,
    slots: Vec<QueueSlot<T>>,
}

struct QueueSlot<T> {
    /// `position` when free for the push at that position, `position + 1` when filled by it.
    stamp: atomic::AtomicUsize,
    /// This mutex is not loom's, because it must not order anything. Loom runs one thread at a
    /// time, and the stamps keep two from meeting here.
    value: std::sync::Mutex<Option<T>>,
}

impl<T> Queue<T> {
    /// Makes a queue of `capacity` slots.
    pub fn new(capacity: usize) -> Self {
        let slot = |position| QueueSlot {
            stamp: atomic::AtomicUsize::new(position),
            value: std::sync::Mutex::new(None),
        };
        Self {
            head: atomic::AtomicUsize::new(0),
            tail: atomic::AtomicUsize::new(0),
            slots: (0..capacity).map(slot).collect(),
        }
    }

    /// Adds a value, or returns it as the error if the queue is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        use atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
        loop {
            let tail = self.tail.load(Relaxed);
            let slot = &self.slots[tail % self.slots.len()];
            let stamp = slot.stamp.load(Acquire);
            if stamp == tail {
                let moved = self
                    .tail
                    .compare_exchange_weak(tail, tail + 1, SeqCst, Relaxed);
                if moved.is_ok() {
                    *slot.value.lock().expect(NO_PANIC) = Some(value);
                    slot.stamp.store(tail + 1, Release);
                    return Ok(());
                }
            } else if stamp + self.slots.len() == tail + 1 {
                fence(SeqCst);
                if self.head.load(Relaxed) + self.slots.len() == tail {
                    return Err(value);
                }
                yield_now();
            } else {
                yield_now();
            }
        }
    }

    /// Takes the oldest value, if there is any.
    pub fn pop(&self) -> Option<T> {
        use atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
        loop {
            let head = self.head.load(Relaxed);
            let slot = &self.slots[head % self.slots.len()];
            let stamp = slot.stamp.load(Acquire);
            if stamp == head + 1 {
                let moved = self
                    .head
                    .compare_exchange_weak(head, head + 1, SeqCst, Relaxed);
                if moved.is_ok() {
                    let value = slot.value.lock().expect(NO_PANIC).take();
                    slot.stamp.store(head + self.slots.len(), Release);
                    return value;
                }
            } else if stamp == head {
                fence(SeqCst);
                if self.tail.load(Relaxed) == head {
                    return None;
                }
                yield_now();
            } else {
                yield_now();
            }
        }
    }

    /// Returns the number of values in the queue.
    pub fn len(&self) -> usize {
        use atomic::Ordering::SeqCst;
        let head = self.head.load(SeqCst);
        self.tail.load(SeqCst).saturating_sub(head)
    }

    /// Returns whether the queue has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// More values than any model puts into an unbounded queue.
const UNBOUNDED: usize = 8;

/// An unbounded queue that models don't fill.
pub struct Unbounded<T>(Queue<T>);

impl<T> Unbounded<T> {
    /// Makes an empty queue.
    pub fn new() -> Self {
        Self(Queue::new(UNBOUNDED))
    }

    /// Adds a value.
    pub fn push(&self, value: T) {
        assert!(
            self.0.push(value).is_ok(),
            "a model fills no unbounded queue"
        );
    }

    /// Takes the oldest value, if there is any.
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// Returns whether the queue has no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A queue for as many values as its users say, or as a model puts in.
pub(crate) struct Channel<T>(Queue<T>);

impl<T> Channel<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self(Queue::new(most.min(UNBOUNDED)))
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
