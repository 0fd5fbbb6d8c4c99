//! What was acknowledged, and what each subscription has made of it.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use millstream::Message;
use millstream::dead_letters::DeadReason;

use super::{From, SLOTS, Shape};

/// What has become of a message in a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is still to be handled. There were so many attempts, of which none may have been
    /// kept over an end of the subscription.
    Open {
        attempts: u32,
        came_again: bool,
    },
    /// A letter was taken out to be handled, which counts attempts anew. In the log it is a letter
    /// until it has ended.
    Redriven {
        attempts: u32,
    },
    /// Nobody knows whether the log was told that it is done: it may come again.
    PerhapsDone,
    Done,
    /// What it says, if that is known. The log may not have been told of it.
    Letter {
        seen: Option<Seen>,
        is_sure: bool,
    },
}

/// What a letter says about its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub attempts: u32,
    pub reason: DeadReason,
}

impl State {
    pub const NEW: Self = Self::Open {
        attempts: 0,
        came_again: false,
    };

    pub const AGAIN: Self = Self::Open {
        attempts: 0,
        came_again: true,
    };

    const PERHAPS_LETTER: Self = Self::Letter {
        seen: None,
        is_sure: false,
    };

    /// After the end of its subscription.
    fn again(self) -> Self {
        match self {
            Self::Open { attempts, .. } => Self::Open {
                attempts,
                came_again: true,
            },
            Self::Redriven { .. } => Self::PERHAPS_LETTER,
            state => state,
        }
    }

    fn after_crash(self) -> Self {
        match self {
            Self::Done => Self::PerhapsDone,
            Self::Letter { seen, .. } => Self::Letter {
                seen,
                is_sure: false,
            },
            state => state.again(),
        }
    }
}

/// A subscription, by its name.
pub struct Lane {
    pub slot: usize,
    pub shape: Shape,
    /// What it has to do with.
    pub states: BTreeMap<u64, State>,
    /// The letters that it ever had. The log may have an earlier one of a message than the last.
    pub letters: HashSet<(u64, Seen)>,
    /// It was there before, and its name is in the store.
    pub is_known: bool,
    /// It is there.
    pub is_open: bool,
    /// The store of letters has its letters, since it came in this process.
    pub has_letters: bool,
    /// What was called since it came, and the last that was called for the first time.
    pub called: BTreeSet<u64>,
    pub last: u64,
    pub delivered: u64,
}

impl Lane {
    fn new(slot: usize, shape: Shape) -> Self {
        Self {
            slot,
            shape,
            states: BTreeMap::new(),
            letters: HashSet::new(),
            is_known: false,
            is_open: false,
            has_letters: false,
            called: BTreeSet::new(),
            last: 0,
            delivered: 0,
        }
    }

    /// A message for it.
    pub fn offer(&mut self, id: u64) {
        let refuses = self.shape.refuses;
        let is_refused = refuses.is_some_and(|refuses| id.is_multiple_of(refuses));
        let state = if is_refused { State::Done } else { State::NEW };
        self.states.insert(id, state);
    }

    /// It has come, where so many messages are stored.
    pub fn come(&mut self, stored: u64) {
        if !self.is_known {
            let first = match self.shape.from {
                From::Latest => stored + 1,
                From::Earliest => 1,
                From::Seq(seq) => seq.clamp(1, stored + 1),
            };
            (first..=stored).for_each(|id| self.offer(id));
        }
        self.is_known = true;
        self.is_open = true;
        self.has_letters = true;
        self.called.clear();
        self.last = 0;
        self.delivered = 0;
    }

    /// It has gone, and the store knows what it was done with.
    pub fn go(&mut self) {
        self.is_open = false;
        for state in self.states.values_mut() {
            *state = state.again();
        }
        if !self.shape.is_durable {
            self.is_known = false;
            self.states.clear();
        }
    }

    /// The broker has gone.
    pub fn restart(&mut self) {
        self.go();
        self.has_letters = false;
    }

    /// The process has died.
    pub fn crash(&mut self) {
        for state in self.states.values_mut() {
            *state = state.after_crash();
        }
        let refuses = self.shape.refuses;
        for (id, state) in &mut self.states {
            if refuses.is_some_and(|refuses| id.is_multiple_of(refuses)) {
                *state = State::Done;
            }
        }
        self.restart();
    }
}

/// A message that was acknowledged.
#[derive(Clone)]
pub struct Stored {
    pub message: Message<String>,
    pub key: Option<u8>,
}

/// A topic, which is in the store once it was opened.
pub struct Topic {
    /// All that was acknowledged: the first has the number 1.
    pub stored: Vec<Stored>,
    pub lanes: [Lane; SLOTS],
    /// Dedup ids with the first message of each.
    ids: VecDeque<(u8, u64)>,
    most_ids: usize,
    /// The number of the last message of an earlier process.
    pub before: u64,
    /// Accepted in this process, and found to be duplicates.
    pub published: u64,
    pub duplicates: u64,
}

impl Topic {
    pub fn new(shapes: [Shape; SLOTS], most_ids: usize) -> Self {
        Self {
            stored: Vec::new(),
            lanes: std::array::from_fn(|slot| Lane::new(slot, shapes[slot])),
            ids: VecDeque::new(),
            most_ids,
            before: 0,
            published: 0,
            duplicates: 0,
        }
    }

    /// Another process begins.
    pub fn restart(&mut self) {
        self.before = self.stored.len() as u64;
        self.published = 0;
        self.duplicates = 0;
    }

    pub fn is_followed(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_open)
    }

    pub fn accept(&mut self, message: Stored) -> u64 {
        self.stored.push(message);
        self.published += 1;
        let id = self.stored.len() as u64;
        for lane in &mut self.lanes {
            // Who has a cursor gets what comes while it is away.
            if lane.is_open || (lane.is_known && lane.shape.is_durable) {
                lane.offer(id);
            }
        }
        id
    }

    pub fn first_with(&self, id: u8) -> Option<u64> {
        let mut ids = self.ids.iter();
        ids.find(|(of, _)| *of == id).map(|(_, first)| *first)
    }

    pub fn remember(&mut self, id: u8, first: u64) {
        self.ids.push_back((id, first));
        if self.ids.len() > self.most_ids {
            self.ids.pop_front();
        }
    }
}
