//! The consumers of a lane, and the owner of each key.
//!
//! The owner of a key is the consumer with the highest weight for it (rendezvous hashing; Thaler
//! and Ravishankar, 1996). So a consumer that joins or leaves moves no keys but its own.

use crate::pure::decide::key_hash::mix;
use crate::pure::order::line::Ready;
use crate::pure::order::sequencer::Key;

/// A consumer that owns keys.
pub(crate) struct Owner {
    pub(crate) id: u64,
    /// Lines that may go on, by their next delivery.
    pub(crate) ready: Ready,
    /// The tiers whose delivery that it took last had come back, a bit for each.
    last_was_again: u8,
}

impl Owner {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            ready: Ready::EMPTY,
            last_was_again: 0,
        }
    }

    /// Returns whether the delivery that it took last of this tier had come back.
    pub(crate) fn last_was_again(&self, tier: u64) -> bool {
        self.last_was_again & (1 << tier) != 0
    }

    /// Notes whether the delivery that it takes of this tier has come back.
    pub(crate) fn note_taken(&mut self, tier: u64, is_again: bool) {
        self.note_new(tier);
        self.last_was_again |= u8::from(is_again) << tier;
    }

    /// Notes that the delivery that it takes of this tier is new.
    pub(crate) fn note_new(&mut self, tier: u64) {
        self.last_was_again &= !(1 << tier);
    }

    fn weight(&self, key: Key) -> u64 {
        mix(key.hash ^ mix(self.id))
    }
}

/// Returns the owner of the key.
pub(crate) fn owner_of(owners: &mut [Owner], key: Key) -> Option<&mut Owner> {
    owners.iter_mut().max_by_key(|owner| owner.weight(key))
}

/// Returns whether the key is this owner's.
pub(crate) fn owns(owners: &[Owner], id: u64, key: Key) -> bool {
    if let [only] = owners {
        return only.id == id;
    }
    let owner = owners.iter().max_by_key(|owner| owner.weight(key));
    owner.is_some_and(|owner| owner.id == id)
}
