//! Reasons that the API names.

use std::fmt;

/// Why a delivery is in the dead-letter store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// The retry policy's limits were used up.
    Exhausted,
    /// A [`Nack`](crate::Nack) or the policy's classifier said that trying again can't help.
    Rejected,
    /// The retry policy panicked.
    PolicyPanicked,
    /// Its subscription ended with [`Unsubscribe::DeadLetter`](crate::Unsubscribe::DeadLetter).
    Unsubscribed,
    /// Its lane was full, under [`LaneFull::DeadLetter`](crate::LaneFull::DeadLetter).
    LaneFull,
    /// One before it of the same key is here, under
    /// [`OnExhausted::ParkKey`](crate::OnExhausted::ParkKey).
    KeyParked,
    /// Nobody handled it in its time to live, under
    /// [`OnExpired::DeadLetter`](crate::OnExpired::DeadLetter).
    Expired,
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
        })
    }
}
