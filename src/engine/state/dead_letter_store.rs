//! The dead-letter store of one topic.

use std::collections::BTreeMap;

use crate::engine::parts::pending::Failure;
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::message::batch::Batch;
use crate::sync::{Arc, Weak};
use crate::types::config::DeadLetterOverflow;
use crate::types::reason::DeadReason;

/// A delivery that will not be tried again unless it is redriven.
pub(crate) struct Letter<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) index: u8,
    pub(crate) generation: u16,
    pub(crate) attempts: u32,
    pub(crate) subscription: Arc<str>,
    pub(crate) reason: DeadReason,
    pub(crate) history: Option<Box<Failure>>,
    pub(crate) buried_ns: u64,
    /// The letter's key stays parked as long as the letter is in the store.
    pub(crate) parks: bool,
    /// The letter's number, which the store gives.
    pub(crate) arrival: u64,
}

impl<T> Letter<T> {
    pub(crate) fn id(&self) -> MessageId {
        self.batch.stamp(usize::from(self.index)).id
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.batch.meta(usize::from(self.index))?.key.as_deref()
    }
}

/// The messages whose letters park a key, by the arrival of the letters.
type Parking = BTreeMap<u64, MessageId>;

/// The dead letters of a topic. At most `capacity` are kept, and each keeps its batch alive.
pub(crate) struct DeadLetterStore<T> {
    /// By arrival, so that any letter is found among millions.
    store: BTreeMap<u64, Arc<Letter<T>>>,
    capacity: usize,
    overflow: DeadLetterOverflow,
    arrivals: u64,
    evicted: u64,
    /// The letters that park keys, by subscription and key.
    parking: BTreeMap<Arc<str>, BTreeMap<Box<str>, Parking>>,
    /// Lanes whose parked arrivals wait for room, or for their key to be freed.
    waiting: Vec<Weak<Lane<T>>>,
}

/// A letter that has left the store. It is dropped once the lock is gone, because dropping it runs
/// the user's code.
pub(crate) struct Left<T> {
    pub(crate) letter: Arc<Letter<T>>,
    /// Lanes that waited for that, to be [notified](notify) once the lock is gone, too.
    pub(crate) waiting: Vec<Weak<Lane<T>>>,
}

impl<T> DeadLetterStore<T> {
    pub(crate) fn new(capacity: usize, overflow: DeadLetterOverflow) -> Self {
        Self {
            store: BTreeMap::new(),
            capacity,
            overflow,
            arrivals: 0,
            evicted: 0,
            parking: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Returns whether a letter can be kept without evicting another.
    pub(crate) fn has_room(&self) -> bool {
        self.store.len() < self.capacity
    }

    /// Has the lane notified when there is room, or when a key is no longer parked.
    pub(crate) fn call_later(&mut self, lane: &Arc<Lane<T>>) {
        let lane = Arc::downgrade(lane);
        if self.waiting.iter().all(|other| !other.ptr_eq(&lane)) {
            self.waiting.push(lane);
        }
    }

    /// Keeps a letter; returns the letter that was evicted for it. A letter that is not kept comes
    /// back, to be dropped like an evicted one.
    pub(crate) fn bury(&mut self, mut letter: Letter<T>) -> Result<Option<Left<T>>, Letter<T>> {
        let is_full = !self.has_room();
        self.evicted += u64::from(is_full);
        if is_full && self.overflow == DeadLetterOverflow::EvictNewest {
            return Err(letter);
        }
        letter.arrival = self.arrivals;
        self.arrivals += 1;
        if letter.parks
            && let Some(key) = letter.key()
        {
            let keys = self.parking.entry(Arc::clone(&letter.subscription));
            let ids = keys.or_default().entry(Box::from(key)).or_default();
            ids.insert(letter.arrival, letter.id());
        }
        self.store.insert(letter.arrival, Arc::new(letter));
        if !is_full {
            return Ok(None);
        }
        let evicted = self.store.pop_first();
        Ok(evicted.map(|(_, letter)| Left {
            waiting: match self.forget(&letter) {
                true => std::mem::take(&mut self.waiting),
                false => Vec::new(),
            },
            letter,
        }))
    }

    /// Returns whether letters in the store park this key.
    pub(crate) fn park(&self, subscription: &str, key: &str) -> bool {
        let keys = self.parking.get(subscription);
        keys.is_some_and(|keys| keys.contains_key(key))
    }

    /// Returns the keys of a subscription that letters in the store park.
    pub(crate) fn parked(&self, subscription: &str) -> impl Iterator<Item = &str> {
        let keys = self.parking.get(subscription);
        keys.into_iter()
            .flat_map(|keys| keys.keys().map(|key| &**key))
    }

    /// Returns the number that the next letter gets.
    pub(crate) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Returns the messages whose letters park the key of `letter` and have this number or a later
    /// one.
    pub(crate) fn parking_since(
        &self,
        letter: &Letter<T>,
        arrival: u64,
    ) -> impl Iterator<Item = MessageId> {
        let keys = self.parking.get(&letter.subscription);
        let ids = letter.key().and_then(|key| keys?.get(key));
        let since = ids.into_iter().flat_map(move |ids| ids.range(arrival..));
        since.map(|(_, id)| *id)
    }

    /// Forgets a letter that has left the store. Returns `true` if its key is no longer parked.
    fn forget(&mut self, letter: &Letter<T>) -> bool {
        let (true, Some(key)) = (letter.parks, letter.key()) else {
            return false;
        };
        let Some(keys) = self.parking.get_mut(&letter.subscription) else {
            return false;
        };
        let Some(ids) = keys.get_mut(key) else {
            return false;
        };
        ids.remove(&letter.arrival);
        let is_freed = ids.is_empty();
        if is_freed {
            keys.remove(key);
        }
        if keys.is_empty() {
            self.parking.remove(&letter.subscription);
        }
        is_freed
    }

    /// Returns the letters, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Letter<T>>> {
        self.store.values().cloned().collect()
    }

    /// Takes one particular letter out, if it is still there.
    pub(crate) fn take(&mut self, letter: &Letter<T>) -> Option<Left<T>> {
        let letter = self.store.remove(&letter.arrival)?;
        self.forget(&letter);
        Some(Left {
            letter,
            waiting: std::mem::take(&mut self.waiting),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.store.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }
}

/// Has the lanes that waited judge their parked arrivals, because letters have left the store.
pub(crate) fn notify<T: Send + Sync + 'static>(waiting: Vec<Weak<Lane<T>>>) {
    for lane in waiting.iter().filter_map(Weak::upgrade) {
        lane.judge_parked_again();
    }
}
