//! The dead-letter store of one topic.
//!
//! A letter that is to go elsewhere is *claimed* first: it is out of everybody's reach, keeps its
//! room, and keeps its key parked. Then it is gone, or it is back in its old place. So nobody
//! takes a letter twice, and none is lost if its new place refuses it. The feared interleaving: the
//! store fills up while a letter is claimed. A full store evicts letters that are not claimed. With
//! all of them claimed it keeps the new letter, too, and evicts the oldest once one is back. So
//! there are never more letters than the capacity and the claims.
//!
//! Subscribers to the letters are called under the lock, whenever a letter has arrived or a claim
//! has ended. So a subscriber that has found nothing, or a letter that somebody else has claimed,
//! looks again. Under the same lock a letter that leaves is forgotten by all of them.

use std::collections::BTreeMap;

use crate::engine::letters::subscribers::{AnyLetterReader, Subscribers};
use crate::engine::parts::pending::Failure;
use crate::engine::runtime::directory::AnyLetter;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::waiters::Waiters;
#[cfg(feature = "log")]
use crate::log::cursor::Cursor;
use crate::message::MessageId;
use crate::message::batch::Batch;
use crate::message::meta::Meta;
use crate::sync::{Arc, Mutex, Weak};
use crate::types::config::DeadLetterOverflow;
use crate::types::reason::DeadReason;

/// The dead letters of a topic, and the redrives that wait for room in a lane.
pub(crate) struct DeadLetterState<T> {
    pub(crate) store: Mutex<DeadLetterStore<T>>,
    pub(crate) redrives: Waiters,
}

impl<T> DeadLetterState<T> {
    pub(crate) fn new(capacity: usize, overflow: DeadLetterOverflow) -> Self {
        Self {
            store: Mutex::new(DeadLetterStore::new(capacity, overflow)),
            redrives: Waiters::new(),
        }
    }
}

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
    /// The cursor that has to know when the letter is gone.
    #[cfg(feature = "log")]
    pub(crate) cursor: Option<Arc<Cursor>>,
}

impl<T> Letter<T> {
    pub(crate) fn id(&self) -> MessageId {
        self.batch.stamp(usize::from(self.index)).id
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.batch.meta(usize::from(self.index))?.key.as_deref()
    }

    /// Notes in the log that the letter is gone: purged, evicted, or moved elsewhere. A redriven
    /// one is a letter there until its delivery has ended.
    pub(crate) fn note_gone(&self) {
        #[cfg(feature = "log")]
        if let Some(cursor) = &self.cursor {
            cursor.done(std::iter::once(self.id().get()));
        }
    }
}

impl<T: Send + Sync + 'static> AnyLetter for Letter<T> {
    fn arrival(&self) -> u64 {
        self.arrival
    }

    fn id(&self) -> MessageId {
        Letter::id(self)
    }

    fn accepted_ns(&self) -> u64 {
        self.batch.stamp(usize::from(self.index)).accepted_ns
    }

    fn meta(&self) -> Option<&Meta> {
        self.batch.meta(usize::from(self.index))
    }

    fn subscription(&self) -> &str {
        &self.subscription
    }

    fn reason(&self) -> DeadReason {
        self.reason
    }

    fn error(&self) -> Option<&str> {
        Some(&*self.history.as_ref()?.text)
    }

    fn attempts(&self) -> u32 {
        self.attempts
    }

    fn generation(&self) -> u16 {
        self.generation
    }

    fn buried_ns(&self) -> u64 {
        self.buried_ns
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
    /// The letters that are claimed, by arrival.
    claimed: BTreeMap<u64, Arc<Letter<T>>>,
    pub(crate) subscribers: Subscribers,
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
            claimed: BTreeMap::new(),
            subscribers: Subscribers::new(),
            parking: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Returns whether a letter can be kept without evicting another.
    pub(crate) fn has_room(&self) -> bool {
        self.len() < self.capacity
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
        if is_full && self.overflow == DeadLetterOverflow::EvictNewest {
            self.evicted += 1;
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
        let evicted = is_full.then(|| self.evict_oldest()).flatten();
        self.store.insert(letter.arrival, Arc::new(letter));
        self.subscribers.call();
        Ok(evicted)
    }

    fn evict_oldest(&mut self) -> Option<Left<T>> {
        let (_, letter) = self.store.pop_first()?;
        self.evicted += 1;
        Some(Left {
            waiting: match self.forget(&letter) {
                true => std::mem::take(&mut self.waiting),
                false => Vec::new(),
            },
            letter,
        })
    }

    /// Claims the letter with this number, if it is still there.
    fn claim(&mut self, arrival: u64) -> Option<Arc<Letter<T>>> {
        let letter = self.store.remove(&arrival)?;
        self.claimed.insert(arrival, Arc::clone(&letter));
        Some(letter)
    }

    /// Returns whether somebody has claimed the letter with this number.
    pub(crate) fn is_claimed(&self, arrival: u64) -> bool {
        self.claimed.contains_key(&arrival)
    }

    /// Takes a claimed letter out for good.
    fn end_claim(&mut self, letter: Arc<Letter<T>>) -> Left<T> {
        self.claimed.remove(&letter.arrival);
        self.forget(&letter);
        self.subscribers.call();
        let waiting = std::mem::take(&mut self.waiting);
        Left { letter, waiting }
    }

    /// Puts a claimed letter back in its place. Returns the letter that is too many now.
    fn put_back(&mut self, letter: Arc<Letter<T>>) -> Option<Left<T>> {
        self.claimed.remove(&letter.arrival);
        self.store.insert(letter.arrival, letter);
        self.subscribers.call();
        let is_too_much = self.len() > self.capacity;
        is_too_much.then(|| self.evict_oldest()).flatten()
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
        self.subscribers.forget(letter.arrival);
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

    /// Returns the letters, oldest first, the claimed ones included.
    pub(crate) fn list(&self) -> Vec<Arc<Letter<T>>> {
        let mut all: Vec<_> = self.store.values().cloned().collect();
        if !self.claimed.is_empty() {
            all.extend(self.claimed.values().cloned());
            all.sort_unstable_by_key(|letter| letter.arrival);
        }
        all
    }

    /// Takes the letter with this number out, if it is still there.
    pub(crate) fn take(&mut self, arrival: u64) -> Option<Left<T>> {
        let letter = self.store.remove(&arrival)?;
        self.forget(&letter);
        Some(Left {
            letter,
            waiting: std::mem::take(&mut self.waiting),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.store.len() + self.claimed.len()
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

/// A letter that is on its way elsewhere. If it does not go, it is put back.
pub(crate) struct Claim<'t, T: Send + Sync + 'static> {
    topic: &'t TopicCore<T>,
    letter: Option<Arc<Letter<T>>>,
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Claims a letter, unless somebody has taken it.
    pub(crate) fn claim(&self, letter: &Letter<T>) -> Option<Claim<'_, T>> {
        let letter = self.letters().lock().claim(letter.arrival)?;
        Some(self.claimed(letter))
    }

    /// Claims the next letter for a subscriber.
    pub(crate) fn claim_next(&self, reader: &dyn AnyLetterReader, now_ns: u64) -> Found<'_, T> {
        let found = self.letters().lock().claim_next(reader, now_ns);
        match found {
            Ok((letter, failures)) => Found::Letter(self.claimed(letter), failures),
            Err(next_ns) => Found::Nothing(next_ns),
        }
    }

    fn claimed(&self, letter: Arc<Letter<T>>) -> Claim<'_, T> {
        Claim {
            topic: self,
            letter: Some(letter),
        }
    }
}

/// The next letter for a subscriber.
pub(crate) enum Found<'t, T: Send + Sync + 'static> {
    /// There is one. It has failed so often in a row.
    Letter(Claim<'t, T>, u32),
    /// There is none now; at this time there may be.
    Nothing(Option<u64>),
}

impl<T> DeadLetterStore<T> {
    /// Claims the next letter for a subscriber. Returns it, and how often it has failed in a row.
    /// If there is none now, returns the time at which there may be.
    ///
    /// A new letter that is claimed is waited for, so that new letters go in their order.
    fn claim_next(
        &mut self,
        reader: &dyn AnyLetterReader,
        now_ns: u64,
    ) -> Result<(Arc<Letter<T>>, u32), Option<u64>> {
        let (store, claimed) = (&self.store, &self.claimed);
        let first = |from: u64| {
            let (first, _) = store.range(from..).next()?;
            claimed
                .range(from..*first)
                .next()
                .is_none()
                .then_some(*first)
        };
        let has = |arrival| store.contains_key(&arrival);
        let (arrival, failures) = self.subscribers.take_next(reader, now_ns, has, first)?;
        let letter = self.claim(arrival).ok_or(None)?;
        Ok((letter, failures))
    }
}

impl<'t, T: Send + Sync + 'static> Claim<'t, T> {
    pub(crate) fn topic(&self) -> &'t TopicCore<T> {
        self.topic
    }

    pub(crate) fn letter(&self) -> &Arc<Letter<T>> {
        self.letter
            .as_ref()
            .expect("it is there until the claim ends")
    }

    /// Takes the letter out of the store for good: it has a new place.
    pub(crate) fn end(self) {
        let mut letters = self.topic.letters().lock();
        let left = self.end_in(&mut letters);
        drop(letters);
        left.letter.note_gone();
        notify(left.waiting);
    }

    /// Does so under the lock of the store.
    pub(crate) fn end_in(mut self, letters: &mut DeadLetterStore<T>) -> Left<T> {
        let letter = self
            .letter
            .take()
            .expect("it is there until the claim ends");
        letters.end_claim(letter)
    }
}

impl<T: Send + Sync + 'static> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        if let Some(letter) = self.letter.take() {
            let evicted = self.topic.letters().lock().put_back(letter);
            self.topic.tell_evicted(evicted);
        }
    }
}
