//! Whether a lane may simply go on, in one word.
//!
//! A lane without protection, which nobody has paused, finds the word clear. That is all it pays.
//! Whoever sets a bit does nothing more. Whoever clears one has the lane look again.

use crate::sync::Word;

/// A reason why a lane may not simply go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The subscription is paused.
    Subscription = 1,
    /// The topic is paused.
    Topic = 2,
    /// The broker is paused.
    Broker = 4,
    /// The lane has protection, which is asked.
    Protection = 8,
    /// The lane has a place at a limiter, so its calls may have permits. That is protection, too.
    Limit = 16,
}

/// The reasons that a lane, a topic or a broker has.
pub(crate) struct Holds(Word);

const PAUSES: u64 = Hold::Subscription as u64 | Hold::Topic as u64 | Hold::Broker as u64;

impl Holds {
    pub(crate) fn new() -> Self {
        Self(Word::new(0))
    }

    /// Returns whether the lane may go on without being asked anything.
    #[inline(always)]
    pub(crate) fn is_clear(&self) -> bool {
        self.0.load() == 0
    }

    /// Returns whether the subscription, the topic or the broker is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.0.load() & PAUSES != 0
    }

    /// Returns whether this reason is there.
    pub(crate) fn has(&self, hold: Hold) -> bool {
        self.0.load() & hold as u64 != 0
    }

    /// Sets the bits of a topic, in a lane that joins it.
    pub(crate) fn take_over(&self, of_topic: &Self) {
        self.0.set_bits(of_topic.0.load(), true);
    }

    /// Sets a bit, or clears it. Returns whether that changed anything.
    pub(crate) fn set(&self, hold: Hold, is_on: bool) -> bool {
        let bit = hold as u64;
        let before = self.0.set_bits(bit, is_on);
        (before & bit != 0) != is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_paused_while_anybody_has_paused_it() {
        let holds = Holds::new();
        assert!(holds.is_clear());
        assert!(holds.set(Hold::Subscription, true));
        assert!(holds.set(Hold::Broker, true));
        assert!(!holds.set(Hold::Broker, true), "it is there already");
        assert!(holds.set(Hold::Subscription, false));
        assert!(holds.is_paused());
        assert!(holds.set(Hold::Broker, false));
        assert!(holds.is_clear());
    }

    #[test]
    fn protection_is_no_pause() {
        let holds = Holds::new();
        holds.set(Hold::Protection, true);
        assert!(!holds.is_paused() && !holds.is_clear());
    }
}
