//! Reasons that the API names, and decisions about letters.

use std::fmt;
use std::time::Duration;

/// The reason why a delivery is in the dead-letter store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// The limits of the retry policy were used up.
    Exhausted,
    /// A [`Nack`](crate::Nack) or the policy's classifier said that trying again can't help.
    Rejected,
    /// The retry policy panicked.
    PolicyPanicked,
    /// The subscription ended with [`Unsubscribe::DeadLetter`](crate::Unsubscribe::DeadLetter).
    Unsubscribed,
    /// The lane was full, under [`LaneFull::DeadLetter`](crate::LaneFull::DeadLetter).
    LaneFull,
    /// An earlier delivery of the same key is in the store, under
    /// [`OnExhausted::ParkKey`](crate::OnExhausted::ParkKey).
    KeyParked,
    /// The delivery was not handled within its time to live, under
    /// [`OnExpired::DeadLetter`](crate::OnExpired::DeadLetter).
    Expired,
    /// The topic was full, under [`Overflow::DeadLetter`](crate::Overflow::DeadLetter).
    Overflow,
}

impl DeadReason {
    /// Returns whether a delivery with this end has failed, so that its key may have to wait.
    pub(crate) fn parks(self) -> bool {
        matches!(
            self,
            Self::Exhausted | Self::KeyParked | Self::PolicyPanicked | Self::Rejected
        )
    }

    /// Returns a label in snake case, for metrics and logs. It doesn't change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::PolicyPanicked => "policy_panicked",
            Self::Unsubscribed => "unsubscribed",
            Self::LaneFull => "lane_full",
            Self::KeyParked => "key_parked",
            Self::Expired => "expired",
            Self::Overflow => "overflow",
        }
    }
}

#[cfg(feature = "log")]
impl DeadReason {
    /// The reasons in the order of their numbers in the log, which don't change.
    const NUMBERED: [Self; 8] = [
        Self::Exhausted,
        Self::Rejected,
        Self::PolicyPanicked,
        Self::Unsubscribed,
        Self::LaneFull,
        Self::KeyParked,
        Self::Expired,
        Self::Overflow,
    ];

    /// Returns its number in the log.
    pub(crate) fn number(self) -> u8 {
        let at = Self::NUMBERED.iter().position(|reason| *reason == self);
        at.unwrap_or_default() as u8
    }

    /// Returns the reason with this number. One of a later version is read as the first.
    pub(crate) fn numbered(number: u8) -> Self {
        let known = Self::NUMBERED.get(usize::from(number));
        *known.unwrap_or(&Self::Exhausted)
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exhausted => "attempts exhausted",
            Self::Rejected => "rejected",
            Self::PolicyPanicked => "the retry policy panicked",
            Self::Unsubscribed => "unsubscribed",
            Self::LaneFull => "lane full",
            Self::KeyParked => "key parked",
            Self::Expired => "expired",
            Self::Overflow => "topic full",
        })
    }
}

/// The decision of a subscriber to dead letters about a letter that it was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LetterAction {
    /// The letter stays in the store, and is not handed to this subscriber again.
    Keep,
    /// The letter leaves the store for good.
    Purge,
    /// The letter goes back to the subscription that failed, as by
    /// [`DeadLetters::redrive`](crate::DeadLetters::redrive).
    ///
    /// If it can't go, it stays, and the call counts as failed. If its delivery fails for good once
    /// more, it comes back as a new letter, of the next
    /// [generation](crate::dead_letters::DeadLetter::generation). A handler that redrives every
    /// generation may do so forever.
    Redrive,
    /// The letter stays in the store, and is handed to this subscriber again after this time, at
    /// the earliest.
    Snooze(Duration),
}

labels!(LetterAction {
    Self::Keep => "keep",
    Self::Purge => "purge",
    Self::Redrive => "redrive",
    Self::Snooze(_) => "snooze",
});
