//! Where a subscription to a stored topic gets its next message from.
//!
//! A subscription that is *behind* is fed from the log, in order, and the dispatcher passes it by.
//! It *joins* when the dispatcher has a message in hand that it was fed up to, or past. From then on
//! it is *live*: the dispatcher hands it its messages. It falls behind again when its lane is full.
//!
//! The feared interleavings: a message that neither hands over, and one that both do. The feeder
//! and the dispatcher take their steps under one lock, so there is one `next`. The dispatcher makes
//! the subscription live from the message in its hand on only if `next` has come that far, and hands
//! over what lies at `next` or behind it. The feeder hands over messages that it has read from
//! `next` on, and moves it. It reads without the lock. Meanwhile the subscription may have joined,
//! and fallen behind again further on. So the feeder hands over nothing if `next` is not where it
//! left it.

/// Where a subscription gets its next message from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// From the dispatcher.
    Live,
    /// From the log: this message is the next.
    Behind { next: u64 },
}

impl Feed {
    /// The message that the feeder is to hand over next, if it is to.
    pub(crate) fn next(self) -> Option<u64> {
        match self {
            Self::Live => None,
            Self::Behind { next } => Some(next),
        }
    }

    /// The feeder hands over the messages from `from` up to `to`, which is not among them. Returns
    /// `false` if they are not the next ones, and then it must not.
    pub(crate) fn feed(self, from: u64, to: u64) -> (Self, bool) {
        match self {
            Self::Behind { next } if next == from => (Self::Behind { next: to }, true),
            _ => (self, false),
        }
    }

    /// The dispatcher has this message in its hand. Returns the message after which the
    /// subscription is live, if it may join now.
    pub(crate) fn join(self, first: u64) -> (Self, Option<u64>) {
        match self {
            Self::Behind { next } if next >= first => (Self::Live, Some(next - 1)),
            _ => (self, None),
        }
    }

    /// The lane has no room for this message.
    pub(crate) fn fall_behind(self, next: u64) -> Self {
        debug_assert_eq!(
            self,
            Self::Live,
            "only a live subscription is handed messages"
        );
        Self::Behind { next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_missed_and_nothing_comes_twice_wherever_the_dispatcher_is() {
        for next in 1..6 {
            for first in 1..6 {
                let behind = Feed::Behind { next };
                let (then, after) = behind.join(first);
                if next < first {
                    assert_eq!((then, after), (behind, None), "some are still to be fed");
                } else {
                    assert_eq!((then, after), (Feed::Live, Some(next - 1)));
                }
            }
        }
    }

    #[test]
    fn what_a_feeder_had_in_its_hand_is_let_go_when_the_subscription_has_gone_on_without_it() {
        assert_eq!(Feed::Live.feed(4, 9), (Feed::Live, false));
        assert_eq!(Feed::Live.next(), None);
        let behind = Feed::Live.fall_behind(4);
        assert_eq!(behind.feed(4, 7), (Feed::Behind { next: 7 }, true));
        for stale in [1, 3, 5] {
            assert_eq!(behind.feed(stale, 7), (behind, false));
        }
        assert_eq!(Feed::Live.join(1), (Feed::Live, None));
    }
}
