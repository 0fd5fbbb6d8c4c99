//! The messages that a record of events is about.

use crate::message::MessageId;

/// The messages that a record is about.
pub(crate) enum About {
    None,
    One(MessageId),
    /// Several messages whose ids follow each other: the first, and their number.
    Neighbors(MessageId, u64),
    Many(Box<[MessageId]>),
}

impl About {
    pub(crate) fn these(mut ids: impl Iterator<Item = MessageId>) -> Self {
        let Some(first) = ids.next() else {
            return Self::None;
        };
        let mut count = 1;
        loop {
            match ids.next() {
                Some(id) if id == first.after(count) => count += 1,
                Some(id) => {
                    let before = (0..count).map(|at| first.after(at));
                    return Self::Many(before.chain([id]).chain(ids).collect());
                }
                None if count == 1 => return Self::One(first),
                None => return Self::Neighbors(first, count),
            }
        }
    }

    /// Returns the number of events that it makes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::None | Self::One(_) => 1,
            Self::Neighbors(_, count) => *count,
            Self::Many(ids) => ids.len() as u64,
        }
    }

    pub(super) fn id(&self, at: u64) -> Option<MessageId> {
        match self {
            Self::None => None,
            Self::One(id) => Some(*id),
            Self::Neighbors(first, _) => Some(first.after(at)),
            Self::Many(ids) => Some(ids[at as usize]),
        }
    }
}
