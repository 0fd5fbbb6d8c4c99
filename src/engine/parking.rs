//! Keys that are parked: what is exhausted takes those behind it along into the dead letters.
//!
//! Letters in the store park their key, so the store is asked, not remembered. The
//! feared interleaving: somebody redrives the last letter of a key and a delivery published since
//! overtakes it, because the store has no letter any more. A redrive puts the delivery into the
//! lane before it lets go of the store, and who finds the store without letters of a key looks into the
//! lane once more before it lets its strays go on.
//!
//! Another: somebody redrives two letters of a key, the first fails again while the second is on
//! its way, and that overtakes it. The first is in the store before its followers are looked for: what
//! was redriven before that is in the lane by then, and what comes later is told that it is
//! behind. Model: `loom-tests/tests/models/keys.rs`.

use super::crew::{Crew, State, Tray};
use super::lane::{Lane, Redelivery};
use crate::dead_letters::DeadReason;
use crate::event::EventKind;
use crate::message::MessageId;
use crate::pure::lifecycle::Status;
use crate::pure::sequencer::{Key, Taken};
use crate::sync::{Arc, breakable};

/// A key whose letters are in the store.
pub(super) struct Parked {
    pub(super) name: Box<str>,
    /// How many are still taking its followers there.
    pub(super) busy: u32,
}

/// Parked keys that are not worth a look.
pub(super) const FORGET_AT: usize = 64;

/// A delivery whose letter parks its key.
pub(super) struct Head {
    pub(super) key: Key,
    pub(super) name: Box<str>,
    pub(super) id: MessageId,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// What is behind a letter that parks its key, first that in the same hands, joins
    /// it in the store. The key is still out meanwhile.
    pub(super) fn park(
        self: &Arc<Self>,
        crew: &Crew<T>,
        head: Head,
        in_hand: Vec<Taken<Redelivery<T>>>,
        tray: &mut Tray<T>,
    ) {
        let Head { key, name, id } = head;
        let mut state = crew.state.lock();
        if !state.rules.parks() || key.epoch != state.epoch {
            // The rules have changed since it was judged.
            let back = in_hand.into_iter();
            tray.untried
                .extend(back.map(|taken| (taken.key, taken.item)));
            return;
        }
        self.forget_freed(crew, &mut state);
        let is_news = !state.parked.contains_key(&key);
        let parked = state.parked.entry(key).or_insert_with(|| Parked {
            name: name.clone(),
            busy: 0,
        });
        parked.busy += 1;
        // Those that were redriven are in the lane by now; see the module's text.
        breakable!(
            "keys: parked without a last look",
            self.file_returns(crew, &mut state)
        );
        let followers = state.sequencer.drain_behind(key, id.get());
        drop(state);
        if is_news {
            self.tell_key(&name, |key| EventKind::KeyParked { key });
        }
        for follower in in_hand {
            tray.end(follower.key);
            self.bury(follower.item, Status::Queued, DeadReason::KeyParked);
        }
        self.bury_followers(followers);
        let mut state = crew.state.lock();
        if let Some(parked) = state.parked.get_mut(&key) {
            parked.busy -= 1;
        }
        let has_strays = !state.strays.is_empty();
        drop(state);
        if has_strays {
            self.ring();
        }
    }

    /// Keys whose letters were redriven, purged or evicted are forgotten when the next
    /// of them arrives, which it may never do: so that they are bounded by the store all
    /// the same, whenever there are twice as many as were left the last time.
    fn forget_freed(&self, crew: &Crew<T>, state: &mut State<T>) {
        if state.parked.len() < state.forget_at {
            return;
        }
        let letters = self.topic.letters.lock();
        let parks = |parked: &Parked| parked.busy > 0 || letters.park(&self.name, &parked.name);
        state.parked.retain(|_, parked| parks(parked));
        drop(letters);
        // As in `park`.
        self.file_returns(crew, state);
        state.forget_at = (2 * state.parked.len()).max(FORGET_AT);
    }

    /// Parks the keys of which the store has letters: they may have been there before.
    pub(crate) fn park_by_letters(&self, crew: &Crew<T>) {
        let mut state = crew.state.lock();
        if !state.rules.parks() {
            return;
        }
        let letters = self.topic.letters.lock();
        for name in letters.parked(&self.name) {
            let key = crew.key_named(&state, name);
            state.parked.entry(key).or_insert_with(|| Parked {
                name: Box::from(name),
                busy: 0,
            });
        }
    }

    /// How many keys are parked.
    pub(super) fn parked_keys(&self, state: &State<T>) -> usize {
        let letters = self.topic.letters.lock();
        let parked = state.parked.values();
        parked
            .filter(|parked| letters.park(&self.name, &parked.name))
            .count()
    }

    fn bury_followers(self: &Arc<Self>, followers: Vec<Redelivery<T>>) {
        let count = followers.len() as u32;
        for follower in followers {
            self.bury(follower, Status::Queued, DeadReason::KeyParked);
        }
        self.end_places(count);
    }

    /// New deliveries of parked keys follow into the dead letters, as long as those
    /// have letters of the key. `true`: some were judged.
    pub(super) fn judge_strays(self: &Arc<Self>, crew: &Crew<T>) -> bool {
        let mut state = crew.state.lock();
        let strays = std::mem::take(&mut state.strays);
        let before = strays.len();
        let mut followers = Vec::new();
        let mut freed: Vec<(Key, Box<str>)> = Vec::new();
        let letters = self.topic.letters.lock();
        for stray in strays {
            let key = crew.key_of(&state, &stray);
            let parked = key.and_then(|key| Some((key, state.parked.get(&key)?)));
            match parked {
                Some((_, parked)) if parked.busy > 0 => state.strays.push(stray),
                Some((_, parked)) if letters.park(&self.name, &parked.name) => {
                    followers.push(stray);
                }
                Some((key, parked)) => {
                    if freed.iter().all(|(other, _)| *other != key) {
                        freed.push((key, parked.name.clone()));
                    }
                    state.strays.push(stray);
                }
                None => crew.file(&mut state, stray),
            }
        }
        drop(letters);
        if !freed.is_empty() {
            // As in `park`.
            breakable!(
                "keys: freed without a last look",
                self.file_returns(crew, &mut state)
            );
            for (key, _) in &freed {
                state.parked.remove(key);
            }
            for stray in std::mem::take(&mut state.strays) {
                crew.arrive(&mut state, stray);
            }
        }
        let judged = before > state.strays.len();
        drop(state);
        for (_, name) in &freed {
            self.tell_key(name, |key| EventKind::KeyFreed { key });
        }
        self.bury_followers(followers);
        judged
    }

    fn tell_key(&self, key: &str, kind: impl FnOnce(Arc<str>) -> EventKind) {
        if self.topic.bus().observed() {
            let kind = kind(Arc::from(key));
            self.topic.tell_of(Some(&self.name), None, 0, None, kind);
        }
    }
}
