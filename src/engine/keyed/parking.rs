//! Parked keys: an exhausted delivery takes later deliveries of its key along into the dead
//! letters.
//!
//! A key is parked as long as the store has parking letters of it. So the lane asks the
//! store and does not rely on its memory. The feared interleaving: somebody redrives the
//! last letter of a key. The store then has no letter of the key, and a delivery published
//! since overtakes the redriven one. It can't happen. A redrive puts the delivery into the
//! lane before it releases the store. And a lane that finds no letter of the key looks at
//! its returns once more before its parked arrivals go on.
//!
//! A second one: somebody redrives two letters of a key. The first fails again while the
//! second is on its way, and the second overtakes it. It can't happen, because the first is
//! in the store before its followers are looked for. Letters redriven before that are in
//! the lane by then, and later ones learn that they are behind.
//!
//! A third one: a delivery is a parked arrival while later letters of its key are in the store.
//! One of these is redriven. The arrival follows into the store, and the lane finds nobody before
//! the redriven one. It can't happen. Under the store's lock, the lane looks at its returns before
//! an arrival follows, and files a later one behind it. Letters redriven after that learn that
//! they are behind. Model of all three: `loom-tests/tests/models/keys.rs`.
//!
//! Parking loses no delivery. Only a letter that was kept parks its key, and a follower
//! joins the letter only if the store has room without evicting another. Until then the
//! follower is a *parked arrival*: it keeps its place in the lane and its position in the
//! key's order. The lane leaves word with the store, under the store's lock. A thread that
//! takes a letter out finds the word and has the parked arrivals judged again. Arrivals and
//! redrives must not wait for each other. So a redrive finds as many places beyond a full
//! lane's capacity as the lane has parked arrivals.

use crate::engine::keyed::take::Settlements;
use crate::engine::parts::parked_arrivals::FORGET_AT;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::{KeyedLane, State};
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::order::sequencer::{Key, Taken};
use crate::pure::words::room::Reserved;
use crate::sync::{Arc, mutant};
use crate::types::reason::DeadReason;

/// How many keys one step judges, and how many parked arrivals of a key follow into the
/// store in one step, under the locks.
const STEP: u32 = 64;

/// A delivery whose letter parks its key.
pub(crate) struct ParkedBy {
    pub(crate) key: Key,
    pub(crate) name: Box<str>,
    pub(crate) id: MessageId,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Has the lane judge its parked arrivals again, after letters that it waited for have left
    /// the store.
    pub(crate) fn judge_parked_again(self: &Arc<Self>) {
        if let Some(keyed) = self.keyed() {
            keyed.keyed.state.lock().parked_arrivals.judge_all();
            self.schedule();
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// How many keys are parked.
    pub(crate) fn parked_keys(&self, state: &State<T>) -> usize {
        let letters = self.topic.letters().lock();
        let names = state.parked.values();
        names.filter(|name| letters.park(&self.name, name)).count()
    }

    /// Reserves a place for a redriven letter. Parked arrivals may wait for the room that the
    /// letter leaves in the store, so they don't take its place in the lane.
    ///
    /// With `wait`, the topic's redrives are called at the next release if there is no room.
    pub(crate) fn reserve_for_letter(self: &Arc<Self>, wait: bool) -> Reserved {
        let reserved = match self.reserve(1, wait) {
            Reserved::Full => self.reserve_expired(1),
            reserved => reserved,
        };
        match (reserved, self.keyed.get()) {
            (Reserved::Full, Some(keyed)) => {
                let arrivals = keyed.state.lock().parked_arrivals.len() as u32;
                let room = self.capacity.get().saturating_add(arrivals);
                self.room.update(|occupied| occupied.reserve(1, room, wait))
            }
            (reserved, _) => reserved,
        }
    }

    fn tell_key(&self, key: &str, kind: impl FnOnce(Arc<str>) -> EventKind) {
        if self.topic.bus().observed() {
            let kind = kind(Arc::from(key));
            self.topic.tell_of(Subject::of(&self.name), kind);
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Parks a key by a letter: turns the later deliveries of the key into parked arrivals,
    /// first the ones that were taken together with it. The key is still out meanwhile.
    pub(crate) fn park(
        self,
        parked_by: ParkedBy,
        together: Vec<Taken<PendingDelivery<T>>>,
        settlements: &mut Settlements<T>,
    ) {
        let ParkedBy { key, name, id } = parked_by;
        let mut state = self.keyed.state.lock();
        if !state.rules.parks() || key.epoch != state.epoch {
            // The rules have changed since the verdict.
            let back = together.into_iter();
            settlements
                .untried
                .extend(back.map(|taken| (taken.key, taken.item)));
            return;
        }
        self.forget_freed(&mut state);
        if state.parked.insert(key, name.clone()).is_none() {
            self.lane
                .tell_key(&name, |key| EventKind::KeyParked { key });
        }
        // Redriven letters are in the lane by now; see the module's text.
        mutant!(self.file_returns(&mut state), "keyed.parked-look");
        for follower in together {
            settlements.lay_down(follower.key);
            state.parked_arrivals.add(key, follower.item);
        }
        for follower in state.sequencer.drain_behind(key, id.get()) {
            state.parked_arrivals.add(key, follower);
        }
        drop(state);
        self.lane.schedule();
    }

    /// Forgets parked keys whose letters were redriven, purged or evicted. Such a key is
    /// otherwise forgotten when its next delivery arrives, which may never happen. This runs
    /// whenever there are twice as many keys as the last run left, so the store bounds them.
    fn forget_freed(self, state: &mut State<T>) {
        if state.parked.len() < state.forget_at {
            return;
        }
        let letters = self.lane.topic.letters().lock();
        let State {
            parked,
            parked_arrivals,
            ..
        } = &mut *state;
        parked.retain(|key, name| {
            parked_arrivals.lines.contains_key(key) || letters.park(&self.lane.name, name)
        });
        drop(letters);
        // See `park`.
        self.file_returns(state);
        state.forget_at = (2 * state.parked.len()).max(FORGET_AT);
    }

    /// Parks the keys of which the store already has letters.
    pub(crate) fn park_by_letters(self) {
        let mut state = self.keyed.state.lock();
        if !state.rules.parks() {
            return;
        }
        let letters = self.lane.topic.letters().lock();
        for name in letters.parked(&self.lane.name) {
            let key = self.keyed.key_rule(&state).key_named(name);
            state.parked.entry(key).or_insert_with(|| Box::from(name));
        }
    }

    /// Judges the parked arrivals of some keys. Returns `true` if there were any to judge.
    pub(crate) fn judge_parked(self) -> bool {
        (0..STEP).take_while(|_| self.judge_key()).count() > 0
    }

    /// Judges the parked arrivals of one key. While the store has letters of the key, they
    /// follow into it as far as there is room, unless they have expired. Otherwise they go on.
    /// Returns `false` if there was no key to judge.
    fn judge_key(self) -> bool {
        let mut state = self.keyed.state.lock();
        let Some(key) = state.parked_arrivals.news.pop_first() else {
            return false;
        };
        let now_ns = self.lane.engine().clock.now_ns();
        let mut letters = self.lane.topic.letters().lock();
        let name = state.parked.get(&key).cloned();
        let is_parked = name
            .as_ref()
            .is_some_and(|name| letters.park(&self.lane.name, name));
        let _motion = self.lane.books.motions.begin(u64::from(STEP));
        let mut ended = 0;
        // Both are for when the locks are gone: a waker is the user's, and an expired delivery may
        // become a letter.
        let (mut trackers, mut late) = (Vec::new(), Vec::new());
        // See the module's text: a letter that was redriven past these joins them.
        mutant!(self.file_returns(&mut state), "keyed.judged-look");
        if is_parked {
            while ended < STEP
                && letters.has_room()
                && let Some(arrival) = state.parked_arrivals.pop(key)
            {
                ended += 1;
                if self.lane.is_past(&arrival, now_ns) {
                    late.push(arrival);
                    continue;
                }
                self.lane.books.record(Status::Queued, Step::Bury, 1);
                trackers.extend(arrival.tracker().cloned());
                let letter = self.lane.letter(arrival, DeadReason::KeyParked, true);
                let buried = self.lane.topic.bury_in(&mut letters, letter);
                debug_assert!(matches!(buried, Ok(None)), "there was room");
            }
            if state.parked_arrivals.lines.contains_key(&key) {
                if letters.has_room() {
                    state.parked_arrivals.news.insert(key);
                } else {
                    letters.call_later(self.lane);
                }
            }
            drop(letters);
        } else {
            drop(letters);
            state.parked.remove(&key);
            let arrivals = state.parked_arrivals.take(key);
            arrivals.for_each(|arrival| self.keyed.file(&mut state, arrival));
            if let Some(name) = name {
                self.lane.tell_key(&name, |key| EventKind::KeyFreed { key });
            }
        }
        drop(state);
        for tracker in trackers {
            tracker.end(Status::DeadLetter);
        }
        for late in late {
            self.lane.expire_at(late, Status::Queued);
        }
        self.lane.end_places(ended);
        true
    }
}
