//! Keys that are parked: what is exhausted takes those behind it along into the dead letters.
//!
//! Letters in the store park their key, so the store is asked, not remembered. The feared
//! interleaving: somebody redrives the last letter of a key and a delivery published since
//! overtakes it, because the store has no letter any more. A redrive puts the delivery into
//! the lane before it lets go of the store, and who finds the store without letters of a key
//! looks into the lane once more before it lets its parked arrivals go on.
//!
//! Another: somebody redrives two letters of a key, the first fails again while the second is
//! on its way, and that overtakes it. The first is in the store before its followers are
//! looked for: what was redriven before that is in the lane by then, and what comes later is
//! told that it is behind. Model: `loom-tests/tests/models/keys.rs`.
//!
//! Nothing good is lost: only a letter that was kept parks its key, and a follower joins it
//! only where there is room without another letter's leaving. Until then it is a *parked arrival*: it
//! keeps its place in the lane and in its key's order. The lane leaves word with the store,
//! under its lock; whoever takes a letter out finds it there and has the parked arrivals judged again.
//! So that the two can't wait for each other, a redrive finds as much room beyond a full lane
//! as there are parked arrivals in it.

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

/// Keys that are judged in one step, and parked arrivals of each that follow into the store in one,
/// under the locks.
const STEP: u32 = 64;

/// A delivery whose letter parks its key.
pub(crate) struct ParkedBy {
    pub(crate) key: Key,
    pub(crate) name: Box<str>,
    pub(crate) id: MessageId,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Letters that the lane waited for have left the store: has it judge its parked_arrivals.
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

    /// Reserves a place for a letter that is redriven. ParkedArrivals may wait for the room that it
    /// leaves in the store, so they don't take its place here.
    pub(crate) fn reserve_for_letter(self: &Arc<Self>) -> Reserved {
        let reserved = match self.reserve(1, false) {
            Reserved::Full => self.reserve_expired(1),
            reserved => reserved,
        };
        match (reserved, self.keyed.get()) {
            (Reserved::Full, Some(keyed)) => {
                let arrivals = keyed.state.lock().parked_arrivals.len() as u32;
                let room = self.capacity.saturating_add(arrivals);
                self.room
                    .update(|occupied| occupied.reserve(1, room, false))
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
    /// What is behind a letter that parks its key, first that in the same hands, is to
    /// join it in the store. The key is still out meanwhile.
    pub(crate) fn park(
        self,
        parked_by: ParkedBy,
        together: Vec<Taken<PendingDelivery<T>>>,
        settlements: &mut Settlements<T>,
    ) {
        let ParkedBy { key, name, id } = parked_by;
        let mut state = self.keyed.state.lock();
        if !state.rules.parks() || key.epoch != state.epoch {
            // The rules have changed since it was judged.
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
        // Those that were redriven are in the lane by now; see the module's text.
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

    /// Keys whose letters were redriven, purged or evicted are forgotten when the next
    /// of them arrives, which it may never do: so that they are bounded by the store all
    /// the same, whenever there are twice as many as were left the last time.
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
        // As in `park`.
        self.file_returns(state);
        state.forget_at = (2 * state.parked.len()).max(FORGET_AT);
    }

    /// Parks the keys of which the store has letters: they may have been there before.
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

    /// Judges the parked arrivals of some keys. `true`: there were any to judge.
    pub(crate) fn judge_parked(self) -> bool {
        (0..STEP).take_while(|_| self.judge_key()).count() > 0
    }

    /// The parked arrivals of a key follow into the dead letters, as far as there is room, as long as
    /// those have letters of the key; else they go on. `false`: there was none to judge.
    fn judge_key(self) -> bool {
        let mut state = self.keyed.state.lock();
        let Some(key) = state.parked_arrivals.news.pop_first() else {
            return false;
        };
        let mut letters = self.lane.topic.letters().lock();
        let name = state.parked.get(&key).cloned();
        let is_parked = name
            .as_ref()
            .is_some_and(|name| letters.park(&self.lane.name, name));
        let _motion = self.lane.books.motions.begin(u64::from(STEP));
        let mut followed = 0;
        if is_parked {
            while followed < STEP
                && letters.has_room()
                && let Some(arrival) = state.parked_arrivals.pop(key)
            {
                self.lane.books.record(Status::Queued, Step::Bury, 1);
                let letter = self.lane.letter(arrival, DeadReason::KeyParked, true);
                let buried = self.lane.topic.bury_in(&mut letters, letter);
                debug_assert!(matches!(buried, Ok(None)), "there was room");
                followed += 1;
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
            let arrivals = state.parked_arrivals.take(key);
            // As in `park`.
            mutant!(self.file_returns(&mut state), "keyed.freed-look");
            state.parked.remove(&key);
            arrivals.for_each(|arrival| self.keyed.file(&mut state, arrival));
            if let Some(name) = name {
                self.lane.tell_key(&name, |key| EventKind::KeyFreed { key });
            }
        }
        drop(state);
        self.lane.end_places(followed);
        true
    }
}
