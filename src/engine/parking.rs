//! Keys that are parked: what is exhausted takes those behind it along into the dead letters.
//!
//! Letters in the store park their key, so the store is asked, not remembered. The feared
//! interleaving: somebody redrives the last letter of a key and a delivery published since
//! overtakes it, because the store has no letter any more. A redrive puts the delivery into
//! the lane before it lets go of the store, and who finds the store without letters of a key
//! looks into the lane once more before it lets its strays go on.
//!
//! Another: somebody redrives two letters of a key, the first fails again while the second is
//! on its way, and that overtakes it. The first is in the store before its followers are
//! looked for: what was redriven before that is in the lane by then, and what comes later is
//! told that it is behind. Model: `loom-tests/tests/models/keys.rs`.
//!
//! Nothing good is lost: only a letter that was kept parks its key, and a follower joins it
//! only where there is room without another letter's leaving. Until then it is a *stray*: it
//! keeps its place in the lane and in its key's order. The lane leaves word with the store,
//! under its lock; whoever takes a letter out finds it there and has the strays judged again.
//! So that the two can't wait for each other, a redrive finds as much room beyond a full lane
//! as there are strays in it.

use std::collections::{BTreeMap, BTreeSet};

use super::crew::{KeyedLane, State};
use super::crew_hands::Settlements;
use super::lane::{Lane, PendingDelivery};
use crate::dead_letters::DeadReason;
use crate::event::EventKind;
use crate::message::MessageId;
use crate::pure::lifecycle::{Status, Step};
use crate::pure::room::Reserved;
use crate::pure::sequencer::{Key, Taken};
use crate::sync::{Arc, Weak, breakable};

/// Parked keys that are not worth a look.
pub(super) const FORGET_AT: usize = 64;

/// Keys that are judged in one step, and strays of each that follow into the store in one,
/// under the locks.
const STEP: u32 = 64;

/// A delivery whose letter parks its key.
pub(super) struct Head {
    pub(super) key: Key,
    pub(super) name: Box<str>,
    pub(super) id: MessageId,
}

/// Deliveries of parked keys: they follow into the store, or go on when their key is
/// freed.
pub(super) struct Strays<T> {
    /// By message id.
    lines: BTreeMap<Key, BTreeMap<u64, PendingDelivery<T>>>,
    count: usize,
    /// Keys for the lane's runner to judge.
    news: BTreeSet<Key>,
}

impl<T> Strays<T> {
    pub(super) const fn none() -> Self {
        Self {
            lines: BTreeMap::new(),
            count: 0,
            news: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn are_to_be_judged(&self) -> bool {
        !self.news.is_empty()
    }

    pub(super) fn add(&mut self, key: Key, stray: PendingDelivery<T>) {
        let line = self.lines.entry(key).or_default();
        line.insert(stray.id().get(), stray);
        self.count += 1;
        self.news.insert(key);
    }

    /// Whether one of the key before this message is here.
    pub(super) fn precede(&self, key: Key, id: u64) -> bool {
        let first = self.lines.get(&key).and_then(|line| line.first_key_value());
        first.is_some_and(|(first, _)| *first < id)
    }

    /// Takes the first of a key.
    fn pop(&mut self, key: Key) -> Option<PendingDelivery<T>> {
        let line = self.lines.get_mut(&key)?;
        let (_, first) = line.pop_first()?;
        if line.is_empty() {
            self.lines.remove(&key);
        }
        self.count -= 1;
        Some(first)
    }

    /// Takes all of a key, in order.
    fn take(&mut self, key: Key) -> impl Iterator<Item = PendingDelivery<T>> + use<T> {
        let line = self.lines.remove(&key).unwrap_or_default();
        self.count -= line.len();
        line.into_values()
    }

    /// Takes out what is `chosen`.
    pub(super) fn extract(
        &mut self,
        mut chosen: impl FnMut(&PendingDelivery<T>) -> bool,
    ) -> Vec<PendingDelivery<T>> {
        let mut out = Vec::new();
        self.lines.retain(|_, line| {
            let ids = line.iter().filter(|(_, stray)| chosen(stray));
            let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
            out.extend(ids.iter().filter_map(|id| line.remove(id)));
            !line.is_empty()
        });
        self.count -= out.len();
        out
    }

    /// Takes all.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = PendingDelivery<T>> + use<T> {
        let all = std::mem::replace(self, Self::none());
        all.lines.into_values().flat_map(BTreeMap::into_values)
    }
}

/// Letters have left the store: has the lanes that waited for that judge their strays.
pub(crate) fn call<T: Send + Sync + 'static>(waiting: Vec<Weak<Lane<T>>>) {
    for lane in waiting.iter().filter_map(Weak::upgrade) {
        if let Some(crew) = lane.crew.get() {
            let mut state = crew.state.lock();
            let Strays { lines, news, .. } = &mut state.strays;
            news.extend(lines.keys());
            drop(state);
            lane.ring();
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// How many keys are parked.
    pub(super) fn parked_keys(&self, state: &State<T>) -> usize {
        let letters = self.topic.letters().lock();
        let names = state.parked.values();
        names.filter(|name| letters.park(&self.name, name)).count()
    }

    /// Reserves a place for a letter that is redriven. Strays may wait for the room that it
    /// leaves in the store, so they don't take its place here.
    pub(crate) fn reserve_for_letter(self: &Arc<Self>) -> Reserved {
        let reserved = match self.reserve(1, false) {
            Reserved::Full => self.reserve_expired(1),
            reserved => reserved,
        };
        match (reserved, self.crew.get()) {
            (Reserved::Full, Some(crew)) => {
                let strays = crew.state.lock().strays.len() as u32;
                let room = self.capacity.saturating_add(strays);
                self.room
                    .update(|occupied| occupied.reserve(1, room, false))
            }
            (reserved, _) => reserved,
        }
    }

    fn tell_key(&self, key: &str, kind: impl FnOnce(Arc<str>) -> EventKind) {
        if self.topic.bus().observed() {
            let kind = kind(Arc::from(key));
            self.topic.tell_of(Some(&self.name), None, 0, None, kind);
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// What is behind a letter that parks its key, first that in the same hands, is to
    /// join it in the store. The key is still out meanwhile.
    pub(super) fn park(
        self,
        head: Head,
        together: Vec<Taken<PendingDelivery<T>>>,
        settlements: &mut Settlements<T>,
    ) {
        let Head { key, name, id } = head;
        let mut state = self.crew.state.lock();
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
        breakable!(
            "keys: parked without a last look",
            self.file_returns(&mut state)
        );
        for follower in together {
            settlements.lay_down(follower.key);
            state.strays.add(key, follower.item);
        }
        for follower in state.sequencer.drain_behind(key, id.get()) {
            state.strays.add(key, follower);
        }
        drop(state);
        self.lane.ring();
    }

    /// Keys whose letters were redriven, purged or evicted are forgotten when the next
    /// of them arrives, which it may never do: so that they are bounded by the store all
    /// the same, whenever there are twice as many as were left the last time.
    fn forget_freed(self, state: &mut State<T>) {
        if state.parked.len() < state.forget_at {
            return;
        }
        let letters = self.lane.topic.letters().lock();
        let State { parked, strays, .. } = &mut *state;
        parked.retain(|key, name| {
            strays.lines.contains_key(key) || letters.park(&self.lane.name, name)
        });
        drop(letters);
        // As in `park`.
        self.file_returns(state);
        state.forget_at = (2 * state.parked.len()).max(FORGET_AT);
    }

    /// Parks the keys of which the store has letters: they may have been there before.
    pub(crate) fn park_by_letters(self) {
        let mut state = self.crew.state.lock();
        if !state.rules.parks() {
            return;
        }
        let letters = self.lane.topic.letters().lock();
        for name in letters.parked(&self.lane.name) {
            let key = self.crew.key_rule(&state).key_named(name);
            state.parked.entry(key).or_insert_with(|| Box::from(name));
        }
    }

    /// Judges the strays of some keys. `true`: there were any to judge.
    pub(super) fn judge_strays(self) -> bool {
        (0..STEP).take_while(|_| self.judge_key()).count() > 0
    }

    /// The strays of a key follow into the dead letters, as far as there is room, as long as
    /// those have letters of the key; else they go on. `false`: there was none to judge.
    fn judge_key(self) -> bool {
        let mut state = self.crew.state.lock();
        let Some(key) = state.strays.news.pop_first() else {
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
                && let Some(stray) = state.strays.pop(key)
            {
                self.lane.books.record(Status::Queued, Step::Bury, 1);
                let letter = self.lane.letter(stray, DeadReason::KeyParked, true);
                let buried = self.lane.topic.bury_in(&mut letters, letter);
                debug_assert!(matches!(buried, Ok(None)), "there was room");
                followed += 1;
            }
            if state.strays.lines.contains_key(&key) {
                if letters.has_room() {
                    state.strays.news.insert(key);
                } else {
                    letters.call_later(self.lane);
                }
            }
            drop(letters);
        } else {
            drop(letters);
            let strays = state.strays.take(key);
            // As in `park`.
            breakable!(
                "keys: freed without a last look",
                self.file_returns(&mut state)
            );
            state.parked.remove(&key);
            strays.for_each(|stray| self.crew.file(&mut state, stray));
            if let Some(name) = name {
                self.lane.tell_key(&name, |key| EventKind::KeyFreed { key });
            }
        }
        drop(state);
        self.lane.end_places(followed);
        true
    }
}
