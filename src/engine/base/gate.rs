//! Admission to a topic: the ticket word, and the count of released tickets against which it is
//! measured.

use crate::engine::base::cell::Cell;
use crate::pure::words::tickets::{Refusal, Tickets};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, mutant};

/// The gate of one topic.
pub struct Gate {
    front: CachePadded<Front>,
    /// Tickets whose message has left the queue. The consuming side writes it, so it keeps away
    /// from the cache line that publishers fight over.
    released: AtomicU64,
}

struct Front {
    tickets: Cell<Tickets>,
    /// The last value of `released` that a publisher saw. It spares publishers the consumers' cache
    /// line as long as it shows that there is room.
    seen: AtomicU64,
}

impl Gate {
    /// Makes an open gate.
    pub fn new() -> Self {
        Self::at(Tickets::OPEN)
    }

    /// Makes an open gate that has given out this many tickets before, and got them back.
    #[cfg(feature = "log")]
    pub(crate) fn after(tickets: u64) -> Self {
        Self::at(Tickets::after(tickets))
    }

    fn at(tickets: Tickets) -> Self {
        let issued = tickets.issued();
        Self {
            front: CachePadded::new(Front {
                tickets: Cell::new(tickets),
                seen: AtomicU64::new(issued),
            }),
            released: AtomicU64::new(issued),
        }
    }

    /// Admits up to `wanted` messages if fewer than `capacity` are in. Returns the first id and how
    /// many were admitted.
    pub fn admit(&self, wanted: u64, capacity: u64) -> Result<(u64, u64), Refusal> {
        // ORDERING: relaxed. The count carries no data (the queue orders its own slots) and a stale
        // value can only refuse; see `Tickets::admit`.
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

    /// Admits as [`admit`](Self::admit) does, without the compare-and-swap. Every other thread that
    /// changes the gate holds the lock that the caller holds.
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

    /// Admits messages that a handler publishes. They may be let in though others are not.
    pub fn admit_handler(&self, wanted: u64, capacity: u64) -> Result<(u64, u64), Refusal> {
        let released = self.released.load(Ordering::Acquire);
        self.front.tickets.update(|tickets| {
            let (next, granted) = tickets.admit_handler(wanted, released, capacity);
            (next, granted.map(|granted| (tickets.issued() + 1, granted)))
        })
    }

    /// Gives back `count` tickets, whose messages have left the queue.
    pub fn release(&self, count: u64) {
        // ORDERING: release, so that a thread that sees the place free also sees the counters that
        // say where its message went.
        let order = mutant!(Ordering::Release, "gate.release-order", Ordering::Relaxed);
        self.released.fetch_add(count, order);
    }

    /// Closes the gate to everybody.
    pub fn close(&self) {
        mutant!(self.front.tickets.update(Tickets::close), "gate.close");
    }

    /// Closes the gate to everybody but handlers.
    pub fn close_outside(&self) {
        self.front.tickets.update(Tickets::close_outside);
    }

    /// Returns whether the gate is closed to everybody.
    pub fn is_sealed(&self) -> bool {
        self.front.tickets.load().is_sealed()
    }

    /// Returns whether the gate is closed, though perhaps not to handlers.
    pub fn is_closed(&self) -> bool {
        self.front.tickets.load().is_closed()
    }

    /// Returns the number of tickets handed out so far.
    pub fn issued(&self) -> u64 {
        self.front.tickets.load().issued()
    }

    /// Returns the number of tickets given back so far.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    /// Returns the number of tickets that are out: an upper bound while others publish.
    pub fn outstanding(&self) -> u64 {
        self.counts().0
    }

    /// Returns the tickets that are out, and all tickets handed out so far.
    pub fn counts(&self) -> (u64, u64) {
        let released = self.released();
        let issued = self.issued();
        // In release builds, too: past zero a drain would wait forever.
        assert!(
            released <= issued,
            "released {released} of {issued} tickets"
        );
        (issued - released, issued)
    }
}
