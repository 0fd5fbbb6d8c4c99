//! Tickets: the right to enter a topic, and a number for it.
//!
//! One word holds the count of messages ever accepted, a *closed* bit and a *sealed* bit. To be
//! accepted *is* to move that count: the new value is the message's id. So ids begin with 1 and
//! are contiguous. Nothing is accepted after the seal, and nothing from outside of handlers after
//! the close. The capacity can never be overshot. All of this is decided by one compare-and-swap.
//!
//! The feared interleaving: a drain sees an empty queue and reports, while a publisher that was
//! admitted before has not pushed yet. It cannot happen. The books of the topic stay open until
//! every ticket has been *released*. A ticket is released only by the thread that takes its message
//! out of the queue. The shell is [`crate::engine::base::gate`]; the model is
//! `loom-tests/tests/models/gate.rs`.

const CLOSED: u64 = 1 << 63;
/// Set only together with [`CLOSED`].
const SEALED: u64 = 1 << 62;

/// The admission word of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tickets(u64);

/// The reason why nothing was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All places are taken.
    Full,
    /// The topic accepts nothing any more.
    Closed,
}

impl Tickets {
    /// Open, nothing accepted yet.
    pub const OPEN: Self = Self(0);

    /// Open, with this many messages accepted before.
    #[cfg(feature = "log")]
    pub(crate) const fn after(issued: u64) -> Self {
        Self(issued & !(CLOSED | SEALED))
    }

    /// Returns the number of tickets handed out so far, which is also the last id.
    pub fn issued(self) -> u64 {
        self.0 & !(CLOSED | SEALED)
    }

    /// Returns whether it is closed, though perhaps not to handlers.
    pub fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// Returns whether it is closed to everybody.
    pub fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    /// Admits between one and `wanted` messages, given how many tickets were `released` and how
    /// many may be out at once. Returns how many were admitted; their ids follow the previous
    /// [`issued`](Self::issued).
    ///
    /// `released` may be stale. It only grows, so a stale value errs towards refusing and never
    /// towards overshooting.
    pub fn admit(self, wanted: u64, released: u64, capacity: u64) -> (Self, Result<u64, Refusal>) {
        if self.is_closed() {
            return (self, Err(Refusal::Closed));
        }
        // Where it isn't closed, the word is the count.
        self.grant(self.0, wanted, released, capacity)
    }

    /// Admits messages of handlers as [`admit`](Self::admit) does others: until the seal.
    pub fn admit_handler(
        self,
        wanted: u64,
        released: u64,
        capacity: u64,
    ) -> (Self, Result<u64, Refusal>) {
        if self.is_sealed() {
            return (self, Err(Refusal::Closed));
        }
        self.grant(self.issued(), wanted, released, capacity)
    }

    fn grant(
        self,
        issued: u64,
        wanted: u64,
        released: u64,
        capacity: u64,
    ) -> (Self, Result<u64, Refusal>) {
        let out = issued.saturating_sub(released);
        let granted = capacity.saturating_sub(out).min(wanted);
        if granted == 0 {
            return (self, Err(Refusal::Full));
        }
        (Self(self.0 + granted), Ok(granted))
    }

    /// Refuses everything from here on.
    pub fn close(self) -> (Self, ()) {
        (Self(self.0 | CLOSED | SEALED), ())
    }

    /// Refuses everything but messages that handlers publish.
    pub fn close_outside(self) -> (Self, ()) {
        (Self(self.0 | CLOSED), ())
    }
}

impl crate::pure::words::Packed for Tickets {
    fn pack(self) -> u64 {
        self.0
    }

    fn unpack(word: u64) -> Self {
        Self(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::words::Packed;

    #[test]
    fn its_word_tells_the_count_and_the_close() {
        let (tickets, _) = Tickets::OPEN.admit(3, 0, 4);
        for tickets in [Tickets::OPEN, tickets, tickets.close().0] {
            assert_eq!(Tickets::unpack(tickets.pack()), tickets);
        }
    }

    #[test]
    fn ids_are_contiguous_and_capacity_is_exact() {
        let (tickets, granted) = Tickets::OPEN.admit(3, 0, 4);
        assert_eq!((tickets.issued(), granted), (3, Ok(3)));
        let (tickets, granted) = tickets.admit(3, 0, 4);
        assert_eq!((tickets.issued(), granted), (4, Ok(1)));
        assert_eq!(tickets.admit(1, 0, 4), (tickets, Err(Refusal::Full)));
        let (tickets, granted) = tickets.admit(9, 2, 4);
        assert_eq!((tickets.issued(), granted), (6, Ok(2)));
    }

    #[test]
    fn nothing_enters_after_the_close_and_the_count_stands() {
        let (tickets, _) = Tickets::OPEN.admit(2, 0, 4);
        let (closed, ()) = tickets.close();
        assert!(closed.is_closed());
        assert_eq!(closed.issued(), 2);
        assert_eq!(closed.admit(1, 0, 4), (closed, Err(Refusal::Closed)));
        assert_eq!(closed.close().0, closed, "once and for all");
        assert_eq!(
            closed.admit_handler(1, 0, 4),
            (closed, Err(Refusal::Closed))
        );
    }

    #[test]
    fn handlers_enter_until_the_seal_by_the_same_capacity_and_count() {
        let (tickets, _) = Tickets::OPEN.admit(2, 0, 4);
        let (closed, ()) = tickets.close_outside();
        assert!(closed.is_closed() && !closed.is_sealed());
        assert_eq!(closed.admit(1, 0, 4), (closed, Err(Refusal::Closed)));
        let (closed, granted) = closed.admit_handler(3, 0, 4);
        assert_eq!((closed.issued(), granted), (4, Ok(2)));
        assert!(closed.is_closed() && !closed.is_sealed());
        assert_eq!(closed.admit_handler(1, 0, 4).1, Err(Refusal::Full));
        let (sealed, ()) = closed.close();
        assert!(sealed.is_sealed());
        assert_eq!(sealed.issued(), 4);
        assert_eq!(sealed.close_outside().0, sealed);
    }

    #[test]
    fn a_stale_release_count_refuses_rather_than_overshoots() {
        let (tickets, _) = Tickets::OPEN.admit(4, 0, 4);
        let (tickets, granted) = tickets.admit(1, 1, 4);
        assert_eq!(granted, Ok(1));
        assert_eq!(tickets.admit(1, 1, 4).1, Err(Refusal::Full));
    }
}
