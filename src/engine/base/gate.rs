//! Admission to a topic: the ticket word, and the count of released tickets
//! that it is measured against.

use crate::engine::base::cell::Cell;
use crate::pure::words::tickets::{Refusal, Tickets};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, mutant};

/// The door of one topic.
pub struct Gate {
    front: CachePadded<Front>,
    /// Tickets whose message has left the queue. Written by the consuming side,
    /// so it keeps away from the line that publishers fight over.
    released: AtomicU64,
}

struct Front {
    tickets: Cell<Tickets>,
    /// The last value of `released` that a publisher saw. Spares publishers the
    /// consumers' cache line as long as there is room by this reckoning.
    seen: AtomicU64,
}

impl Gate {
    /// Open.
    pub fn new() -> Self {
        Self {
            front: CachePadded::new(Front {
                tickets: Cell::new(Tickets::OPEN),
                seen: AtomicU64::new(0),
            }),
            released: AtomicU64::new(0),
        }
    }

    /// Admits up to `wanted` messages if fewer than `capacity` are in. Returns
    /// the first id and how many were admitted.
    pub fn admit(&self, wanted: u64, capacity: u64) -> Result<(u64, u64), Refusal> {
        // ORDERING: relaxed. The count carries no data (the queue orders its own
        // slots) and a stale value can only refuse; see `Tickets::admit`.
        let seen = self.front.seen.load(Ordering::Relaxed);
        match self.admit_given(wanted, seen, capacity) {
            Err(Refusal::Full) => {
                let released = self.released.load(Ordering::Acquire);
                self.front.seen.fetch_max(released, Ordering::Relaxed);
                self.admit_given(wanted, released, capacity)
            }
            admitted => admitted,
        }
    }

    fn admit_given(
        &self,
        wanted: u64,
        released: u64,
        capacity: u64,
    ) -> Result<(u64, u64), Refusal> {
        self.front.tickets.update(|tickets| {
            let (next, granted) = tickets.admit(wanted, released, capacity);
            (next, granted.map(|granted| (tickets.issued() + 1, granted)))
        })
    }

    /// As [`admit`](Self::admit), for who is alone at the gate: whatever changes it holds
    /// the lock that the caller holds. It spares the compare-and-swap.
    #[inline(always)]
    pub fn admit_alone(&self, wanted: u64, capacity: u64) -> Result<(u64, u64), Refusal> {
        let step = |released| {
            self.front.tickets.update_alone(|tickets| {
                let (next, granted) = tickets.admit(wanted, released, capacity);
                (next, granted.map(|granted| (tickets.issued() + 1, granted)))
            })
        };
        match step(self.front.seen.load(Ordering::Relaxed)) {
            Err(Refusal::Full) => {
                let released = self.released.load(Ordering::Acquire);
                self.front.seen.store(released, Ordering::Relaxed);
                step(released)
            }
            admitted => admitted,
        }
    }

    /// As [`admit`](Self::admit), for what a handler publishes, which may be let in
    /// though others aren't.
    pub fn admit_handler(&self, wanted: u64, capacity: u64) -> Result<(u64, u64), Refusal> {
        let released = self.released.load(Ordering::Acquire);
        self.front.tickets.update(|tickets| {
            let (next, granted) = tickets.admit_handler(wanted, released, capacity);
            (next, granted.map(|granted| (tickets.issued() + 1, granted)))
        })
    }

    /// Gives back `count` tickets, whose messages have left the queue.
    pub fn release(&self, count: u64) {
        // ORDERING: release, so that who sees the place free sees the counters
        // that say where its message went.
        let order = mutant!(Ordering::Release, "gate.release-order", Ordering::Relaxed);
        self.released.fetch_add(count, order);
    }

    /// Admits nobody from here on.
    pub fn close(&self) {
        mutant!(self.front.tickets.update(Tickets::close), "gate.close");
    }

    /// Admits nobody but handlers from here on.
    pub fn close_outside(&self) {
        self.front.tickets.update(Tickets::close_outside);
    }

    /// Whether it was closed to everybody.
    pub fn is_sealed(&self) -> bool {
        self.front.tickets.load().is_sealed()
    }

    /// Whether it was closed, though perhaps not to handlers.
    pub fn is_closed(&self) -> bool {
        self.front.tickets.load().is_closed()
    }

    /// Tickets handed out so far.
    pub fn issued(&self) -> u64 {
        self.front.tickets.load().issued()
    }

    /// Tickets given back so far.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    /// Tickets that are out: an upper bound while others publish.
    pub fn outstanding(&self) -> u64 {
        self.counts().0
    }

    /// Tickets that are out, and those handed out so far, of which they are part.
    pub fn counts(&self) -> (u64, u64) {
        let released = self.released();
        let issued = self.issued();
        // In release builds, too: past zero a drain would wait for ever.
        assert!(
            released <= issued,
            "released {released} of {issued} tickets"
        );
        (issued - released, issued)
    }
}
