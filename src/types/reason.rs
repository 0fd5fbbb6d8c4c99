//! Reasons that the API names.

use std::fmt;

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
}

impl DeadReason {
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
        }
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
        })
    }
}
