//! The open handles of a topic, and whether it may be removed.
//!
//! One word counts the open handles and holds a *removed* bit. The feared interleaving: somebody
//! opens a topic while it is being removed, and publishes into a topic that nobody else can find.
//! It cannot happen: joining and removing are steps on this word, and each refuses the other.

use std::fmt;

const REMOVED: u64 = 1 << 63;

/// The handle count of one topic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Handles(u64);

impl Handles {
    /// No handle yet.
    pub const NONE: Self = Self(0);

    /// Adds a handle. Returns `false` if the topic has been removed.
    pub fn join(self) -> (Self, bool) {
        if self.0 & REMOVED != 0 {
            return (self, false);
        }
        let joined = self.0 + 1;
        // One handle more, and the topic would be removed.
        assert!(joined & REMOVED == 0, "too many handles: {self:?}");
        (Self(joined), true)
    }

    /// Takes a handle off.
    pub fn leave(self) -> (Self, ()) {
        // In release builds, too: past zero it would be removed, and never open again.
        assert!(
            self.0 != 0 && self.0 & REMOVED == 0,
            "no handle is left to leave: {self:?}"
        );
        (Self(self.0 - 1), ())
    }

    /// Marks the topic as removed, unless handles are out: then returns how many. Zero means that
    /// somebody else has marked it.
    pub fn remove(self) -> (Self, Result<(), u64>) {
        match self.0 {
            0 => (Self(REMOVED), Ok(())),
            REMOVED => (self, Err(0)),
            handles => (self, Err(handles)),
        }
    }

    /// Takes the mark back.
    pub fn restore(self) -> (Self, ()) {
        (Self(self.0 & !REMOVED), ())
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles")
            .field("out", &(self.0 & !REMOVED))
            .field("removed", &(self.0 & REMOVED != 0))
            .finish()
    }
}

impl crate::pure::words::Packed for Handles {
    fn pack(self) -> u64 {
        self.0
    }

    fn unpack(word: u64) -> Self {
        Self(word)
    }
}

/// The handles of a subscription, and whether it stays when the last of them has gone.
///
/// The feared interleaving: one thread takes the subscription up again, while another drops the last
/// handle and ends it. One of the two comes first. Either the new handle keeps it, or there is
/// nothing left to take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holders {
    count: u32,
    is_detached: bool,
}

impl Holders {
    /// The handle of the subscriber.
    pub const FIRST: Self = Self {
        count: 1,
        is_detached: false,
    };

    /// Lets the subscription stay without handles.
    pub fn detach(self) -> (Self, ()) {
        let detached = Self {
            is_detached: true,
            ..self
        };
        (detached, ())
    }

    /// Adds a handle, which ends the subscription again when it is the last to go. Returns `false`
    /// if the subscription is ending for want of handles.
    pub fn attach(self) -> (Self, bool) {
        if self.count == 0 && !self.is_detached {
            return (self, false);
        }
        let attached = Self {
            count: self.count + 1,
            is_detached: false,
        };
        (attached, true)
    }

    /// Takes a handle off. Returns whether the subscription is to end.
    pub fn leave(self) -> (Self, bool) {
        // In release builds, too: past zero it would never end.
        assert!(self.count > 0, "no handle is left to leave: {self:?}");
        let count = self.count - 1;
        (Self { count, ..self }, count == 0 && !self.is_detached)
    }
}

impl crate::pure::words::Packed for Holders {
    fn pack(self) -> u64 {
        u64::from(self.count) << 1 | u64::from(self.is_detached)
    }

    fn unpack(word: u64) -> Self {
        Self {
            count: (word >> 1) as u32,
            is_detached: word & 1 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::words::Packed;

    #[test]
    fn its_word_tells_how_many_hold_it_and_whether_it_is_removed() {
        let two = Handles::NONE.join().0.join().0;
        for handles in [Handles::NONE, two, Handles::NONE.remove().0] {
            assert_eq!(Handles::unpack(handles.pack()), handles);
        }
    }

    #[test]
    fn a_topic_that_is_held_is_not_removed_and_a_removed_one_is_not_held() {
        let (held, joined) = Handles::NONE.join();
        assert!(joined);
        assert_eq!(held.remove(), (held, Err(1)));
        let (free, ()) = held.leave();
        let (removed, marked) = free.remove();
        assert_eq!(marked, Ok(()));
        assert!(!removed.join().1);
        assert_eq!(removed.restore().0, Handles::NONE);
    }
    #[test]
    #[should_panic = "no handle is left to leave: Handles { out: 0, removed: false }"]
    fn a_handle_that_leaves_twice_is_told_the_state() {
        let _ = Handles::NONE.leave();
    }

    #[test]
    #[should_panic = "no handle is left to leave: Handles { out: 0, removed: true }"]
    fn a_handle_that_leaves_a_removed_topic_is_told_the_state() {
        let _ = Handles::NONE.remove().0.leave();
    }

    #[test]
    #[should_panic = "too many handles: Handles { out: 9223372036854775807, removed: false }"]
    fn a_handle_too_many_is_told_the_state() {
        let _ = Handles(REMOVED - 1).join();
    }

    #[test]
    fn a_detached_subscription_stays_until_it_was_attached_and_dropped() {
        let (held, ()) = Holders::FIRST.detach();
        let (free, ends) = held.leave();
        assert!(!ends);
        let (attached, is_held) = free.attach();
        assert!(is_held);
        let (two, is_held) = attached.attach();
        assert!(is_held && !two.leave().1);
        let (ended, ends) = two.leave().0.leave();
        assert!(ends);
        assert!(!ended.attach().1, "it is ending");
        for holders in [held, free, attached, two, ended] {
            assert_eq!(Holders::unpack(holders.pack()), holders);
        }
    }

    #[test]
    #[should_panic = "no handle is left to leave: Holders { count: 0, is_detached: false }"]
    fn a_holder_that_leaves_twice_is_told_the_state() {
        let _ = Holders::FIRST.leave().0.leave();
    }
}
