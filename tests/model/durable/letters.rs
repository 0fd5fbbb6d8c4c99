//! Dead letters, in the store of letters and in the log.

use std::collections::BTreeMap;

use millstream::dead_letters::DeadReason;

use super::reference::{Lane, Seen, State};
use super::run::Pair;
use super::{NAMES, SLOTS, TOPICS};

/// What the store of letters has of one subscription.
type Letters = BTreeMap<u64, Seen>;

impl Pair {
    /// The letters of a topic that is open, by subscription.
    fn letters(&self, topic: usize) -> [Letters; SLOTS] {
        let mut letters: [Letters; SLOTS] = Default::default();
        for letter in self.topic(topic).dead_letters().list() {
            let seen = Seen {
                attempts: letter.attempts(),
                reason: letter.reason(),
            };
            letters[slot_of(letter.subscription())].insert(letter.id().get(), seen);
        }
        letters
    }

    /// The letters are those that the model knows, and those that it can't know.
    pub fn check_letters(&mut self) {
        for topic in 0..TOPICS.len() {
            let letters = self.letters(topic);
            let model = &mut self.model[topic];
            let stored = &model.stored;
            for (lane, letters) in model.lanes.iter_mut().zip(&letters) {
                let has_key = |id: u64| stored[id as usize - 1].key.is_some();
                lane.check_letters(letters, has_key);
            }
        }
    }

    /// A subscription was ended so that what it had became letters.
    pub fn note_buried(&mut self, topic: usize, slot: usize) {
        let letters = &self.letters(topic)[slot];
        let lane = &mut self.model[topic].lanes[slot];
        for (id, seen) in letters {
            let state = lane.states.get_mut(id);
            if let Some(
                state @ (State::Open { .. } | State::Redriven { .. } | State::PerhapsDone),
            ) = state
            {
                *state = State::Letter {
                    seen: Some(*seen),
                    is_sure: true,
                };
            }
        }
    }

    pub fn redrive(&mut self, topic: usize) {
        let is_durable = self.model[topic].lanes.each_ref();
        let is_durable = is_durable.map(|lane| lane.shape.is_durable);
        let before = self.letters(topic);
        let letters = self.topic(topic).dead_letters();
        let real = letters.redrive(|letter| is_durable[slot_of(letter.subscription())]);
        let after = self.letters(topic);
        let mut redriven = 0;
        for (slot, (before, after)) in before.iter().zip(&after).enumerate() {
            let lane = &mut self.model[topic].lanes[slot];
            for id in before.keys().filter(|id| !after.contains_key(id)) {
                assert!(lane.is_open, "who redrives {id}?");
                redriven += 1;
                let state = lane.states.get_mut(id).expect("it was its letter");
                *state = State::Redriven { attempts: 0 };
            }
        }
        assert_eq!(real.redriven, redriven);
    }

    pub fn purge(&mut self, topic: usize) {
        let letters = self.letters(topic);
        self.topic(topic).dead_letters().purge_all();
        for (lane, letters) in self.model[topic].lanes.iter_mut().zip(letters) {
            if lane.shape.is_durable {
                lane.states
                    .extend(letters.keys().map(|id| (*id, State::Done)));
            }
        }
    }
}

impl Lane {
    fn check_letters(&mut self, letters: &Letters, has_key: impl Fn(u64) -> bool) {
        let parks = self.parks();
        if !self.shape.is_durable {
            // An earlier one of its name may have left letters of the same messages. Those that
            // follow a parked key do so again, without a call.
            let follows = |of: &(&u64, &Seen)| parks && of.1.reason == DeadReason::KeyParked;
            let followers = letters.iter().filter(follows).map(|(id, _)| id);
            for id in followers.filter(|id| has_key(**id)) {
                if let Some(state @ State::Open { .. }) = self.states.get_mut(id) {
                    *state = State::Done;
                }
            }
            return;
        }
        if !self.has_letters {
            assert!(letters.is_empty(), "it has not come yet");
            return;
        }
        for (id, seen) in letters {
            let name = NAMES[self.slot];
            let Some(state) = self.states.get_mut(id) else {
                panic!("{id} is none of the messages of {name}");
            };
            match state {
                State::Letter {
                    seen: Some(known),
                    is_sure,
                } => {
                    // A crash may bring back the letter that was redriven before it became this one.
                    let is_earlier = !*is_sure && self.letters.contains(&(*id, *seen));
                    assert!(
                        known == seen || is_earlier,
                        "the letter of {id} in {name} is {seen:?}, not {known:?}"
                    );
                }
                State::Letter { seen: None, .. } | State::PerhapsDone => {}
                State::Open { .. } | State::Redriven { .. } if parks && has_key(*id) => {}
                state => panic!("{id} in {name} is {state:?}, and has a letter"),
            }
            self.letters.insert((*id, *seen));
            *state = State::Letter {
                seen: Some(*seen),
                is_sure: true,
            };
        }
        for (id, state) in &mut self.states {
            if let State::Letter { is_sure, .. } = *state
                && !letters.contains_key(id)
            {
                assert!(!is_sure, "{} has lost its letter of {id}", NAMES[self.slot]);
                if self.is_open {
                    *state = State::AGAIN;
                }
            }
        }
    }
}

pub fn slot_of(name: &str) -> usize {
    let at = NAMES.iter().position(|other| *other == name);
    at.expect("nobody else subscribed")
}
