//! Deadlines: the things that they are set for, and the tags that tell them apart.

use crate::sync::Arc;

/// Something for which a deadline can be set.
pub(crate) trait Fire: Send + Sync {
    /// Reacts to the deadline with this tag, which has come.
    fn fire(self: Arc<Self>, tag: Tag);
}

/// The meaning of a deadline to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Look again: a linger or a time to live has ended.
    Look,
    /// The time of a lane's drain is up.
    Cancel,
    /// The first deadline of a lane's leases has come.
    Lease,
    /// The retry or the delayed message at this index is due.
    Parked(u32),
}

impl Tag {
    const LOOK: u32 = u32::MAX;
    const CANCEL: u32 = u32::MAX - 1;
    const LEASE: u32 = u32::MAX - 2;

    /// The number that the wheel keeps. Indices are below those of the others, because an
    /// arena has fewer places than that.
    pub(crate) fn pack(self) -> u32 {
        match self {
            Self::Look => Self::LOOK,
            Self::Cancel => Self::CANCEL,
            Self::Lease => Self::LEASE,
            Self::Parked(index) => index,
        }
    }

    pub(crate) fn unpack(number: u32) -> Self {
        match number {
            Self::LOOK => Self::Look,
            Self::CANCEL => Self::Cancel,
            Self::LEASE => Self::Lease,
            index => Self::Parked(index),
        }
    }

    /// Whether a message or a delivery waits for this deadline.
    pub(crate) fn is_parked(self) -> bool {
        matches!(self, Self::Parked(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_as_it_was() {
        let parked = [0, 1, 1 << 30, Tag::LEASE - 1].map(Tag::Parked);
        for tag in parked
            .into_iter()
            .chain([Tag::Look, Tag::Cancel, Tag::Lease])
        {
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
    }
}
