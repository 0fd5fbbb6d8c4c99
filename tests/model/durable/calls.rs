//! Judges the calls of handlers.

use std::collections::BTreeMap;

use millstream::dead_letters::DeadReason;
use millstream::{OnExhausted, OnFailure};

use super::reference::{Lane, Seen, State, Topic};
use crate::answers::{Answer, answer, batch_answer};
use crate::program::Policy;

/// One call of a handler.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub id: u64,
    pub attempt: u32,
    pub generation: u16,
    pub is_replayed: bool,
}

/// What is known of the messages.
pub struct Known {
    keys: BTreeMap<u64, u8>,
    /// The last message of an earlier process.
    before: u64,
    policy: Policy,
}

impl Known {
    pub fn of(topic: &Topic, policy: Policy) -> Self {
        let keys = (1..).zip(&topic.stored);
        Self {
            keys: keys.filter_map(|(id, of)| Some((id, of.key?))).collect(),
            before: topic.before,
            policy,
        }
    }
}

impl Lane {
    /// Whether a message may become a letter without a call.
    pub fn parks(&self) -> bool {
        self.shape.on_exhausted == OnExhausted::ParkKey
    }

    pub fn judge(&mut self, call: Call, known: &Known) {
        let Call {
            id,
            attempt,
            generation,
            is_replayed,
        } = call;
        let Some(&state) = self.states.get(&id) else {
            panic!("{call:?} is none of its messages");
        };
        let is_expected = match state {
            State::Open {
                attempts,
                came_again,
            } => {
                // After an end, the log knows of some of the attempts that were made.
                let may_be = came_again && attempt <= known.policy.max;
                generation == 0 && (attempt == attempts + 1 || may_be)
            }
            State::Redriven { attempts } => generation > 0 && attempt == attempts + 1,
            State::PerhapsDone => generation == 0,
            State::Done | State::Letter { .. } => false,
        };
        assert!(is_expected, "{call:?} of what is {state:?}");
        assert!(
            is_replayed || id > known.before,
            "{call:?} comes from the log"
        );
        if generation == 0 {
            self.check_order(call, known);
        }
        let said = match (self.shape.batches, attempt, generation) {
            (Some(_), 1, 0) => batch_answer(id, self.slot),
            _ => answer(id, self.slot, attempt),
        };
        let buried = |reason| State::Letter {
            seen: Some(Seen {
                attempts: attempt,
                reason,
            }),
            is_sure: true,
        };
        let next = match said {
            Answer::Ack => {
                self.delivered += 1;
                State::Done
            }
            Answer::Discard => State::Done,
            Answer::DeadLetter => buried(DeadReason::Rejected),
            _ if attempt >= known.policy.max => buried(DeadReason::Exhausted),
            _ if generation > 0 => State::Redriven { attempts: attempt },
            _ => State::Open {
                attempts: attempt,
                came_again: false,
            },
        };
        // Without a cursor, its letters are nobody's to know.
        let is_letter = matches!(next, State::Letter { .. });
        let next = match is_letter && !self.shape.is_durable {
            true => State::Done,
            false => next,
        };
        self.states.insert(id, next);
    }

    fn check_order(&mut self, call: Call, known: &Known) {
        let id = call.id;
        let line_of = |id: u64| match self.shape.on_failure {
            OnFailure::BlockKey => known.keys.get(&id).copied(),
            OnFailure::BlockSubscription => Some(0),
            _ => None,
        };
        if let Some(line) = line_of(id) {
            let mut earlier = self.states.range(..id);
            let overtaken = earlier.find(|(other, state)| {
                matches!(state, State::Open { .. }) && line_of(**other) == Some(line)
            });
            assert!(overtaken.is_none(), "{call:?} overtakes {overtaken:?}");
        }
        if self.called.insert(id) && self.shape.on_failure == OnFailure::Reorder {
            assert!(id > self.last, "{call:?} after {}", self.last);
            self.last = id;
        }
    }
}
