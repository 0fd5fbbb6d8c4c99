//! The state that a dispatcher keeps between its turns.

use crate::engine::base::contain::StrategyInUse;
use crate::engine::parts::handler::{SharedFilter, WeakFilter};
use crate::engine::runtime::linger::Linger;
use crate::message::batch::{Batch, BatchSlice};
use crate::pure::words::room::Reserved;
use crate::sync::{Arc, Weak};
use crate::types::config::LaneFull;

use std::collections::VecDeque;

/// The state that only the dispatcher touches.
pub(crate) struct DispatcherState<T> {
    /// Messages taken out of the queue, oldest first. The oldest is always taken, because a
    /// strategy wants to know its age, and a queue can't be peeked into. A batch is taken whole
    /// before it is flushed.
    pub(crate) shelf: Shelf<T>,
    /// Messages that the last plan still allows to be handed on. `allowed_by` is the strategy that
    /// made the plan.
    pub(crate) allowance: usize,
    /// The messages taken last in this turn were the newest: a publisher that has pushed since
    /// notifies.
    pub(crate) queue_was_empty: bool,
    pub(crate) allowed_by: Weak<StrategyInUse>,
    /// The batch on its way to the lanes.
    pub(crate) current_batch: Option<BatchSlice<T>>,
    /// The lanes had room for all of it when it was taken.
    pub(crate) has_room: bool,
    /// Every lane that got something last was scheduled, or ran, already.
    pub(crate) finds_busy: bool,
    pub(crate) linger: Linger,
    pub(crate) grants: Vec<Grant>,
    pub(crate) sieve: Sieve<T>,
}

/// The results of the filters for the batch at hand. Each filter is asked once about a message, however often
/// the message has to wait.
pub(crate) struct Sieve<T> {
    batch: Weak<Batch<T>>,
    answers: Vec<Answers<T>>,
}

/// The results of one filter.
struct Answers<T> {
    by: WeakFilter<T>,
    /// The place in the batch of the first answer.
    from: u32,
    refused: Vec<bool>,
}

impl<T> Sieve<T> {
    pub(crate) fn new() -> Self {
        Self {
            batch: Weak::new(),
            answers: Vec::new(),
        }
    }

    /// Returns whether `filter` refuses each message of the part, in order. Asks what it has not
    /// been asked yet.
    pub(crate) fn sift(
        &mut self,
        filter: &SharedFilter<T>,
        part: &BatchSlice<T>,
        ask: impl FnMut(usize) -> bool,
    ) -> &[bool] {
        if self.batch.as_ptr() != Arc::as_ptr(&part.batch) {
            self.batch = Arc::downgrade(&part.batch);
            self.answers.clear();
        }
        let known = self.answers.iter().position(|known| {
            known.is_by(filter) && known.from <= part.from && known.to() >= part.to
        });
        let at = known.unwrap_or_else(|| {
            self.answers.retain(|known| !known.is_by(filter));
            let each = part.from as usize..part.to as usize;
            self.answers.push(Answers {
                by: Arc::downgrade(filter),
                from: part.from,
                refused: each.map(ask).collect(),
            });
            self.answers.len() - 1
        });
        let known = &self.answers[at];
        &known.refused[(part.from - known.from) as usize..(part.to - known.from) as usize]
    }
}

impl<T> Answers<T> {
    fn is_by(&self, filter: &SharedFilter<T>) -> bool {
        self.by.as_ptr() == Arc::as_ptr(filter)
    }

    fn to(&self) -> u32 {
        self.from + self.refused.len() as u32
    }
}

/// The answer of a lane to a request for places.
#[derive(Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) reserved: Reserved,
    /// The policy of the lane then, which holds for these messages.
    pub(crate) when_full: LaneFull,
}

/// The messages that a dispatcher has taken out of its queue, oldest first.
///
/// A look through it, and the queue behind it, may take several steps. Messages that the look has
/// passed are `seen`, and older than the `rest`.
pub(crate) struct Shelf<T> {
    pub(crate) seen: VecDeque<BatchSlice<T>>,
    pub(crate) rest: VecDeque<BatchSlice<T>>,
    pub(crate) look: Option<Look>,
    /// When it was last looked through, since it was empty.
    pub(crate) looked_ns: Option<u64>,
}

/// A place on the shelf, in front of a part.
#[derive(Clone, Copy)]
pub(crate) struct ShelfPlace {
    is_seen: bool,
    at: usize,
}

/// A look that is underway.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    /// When the first of the messages it has passed expires.
    pub(crate) first_ns: u64,
    pub(crate) passed: usize,
}

impl<T> DispatcherState<T> {
    pub(crate) fn new() -> Self {
        Self {
            shelf: Shelf::new(),
            allowance: 0,
            queue_was_empty: false,
            allowed_by: Weak::new(),
            current_batch: None,
            has_room: false,
            finds_busy: false,
            linger: Linger::default(),
            grants: Vec::new(),
            sieve: Sieve::new(),
        }
    }

    /// Keeps the rest of the current batch, if anything is left.
    pub(crate) fn keep(&mut self, left: Option<BatchSlice<T>>) {
        self.current_batch = left;
        self.has_room = false;
    }

    /// Takes the oldest messages, at most `most`: the rest of the current batch, or else messages
    /// on the shelf.
    pub(crate) fn take_oldest(&mut self, most: u32) -> Option<BatchSlice<T>> {
        let Some(current_batch) = self.current_batch.take() else {
            return self.shelf.take_front(most);
        };
        let (oldest, left) = current_batch.split_at_most(most);
        self.keep(left);
        Some(oldest)
    }
}

impl<T> Shelf<T> {
    pub(crate) fn new() -> Self {
        Self {
            seen: VecDeque::new(),
            rest: VecDeque::new(),
            look: None,
            looked_ns: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.rest.is_empty()
    }

    /// Returns the number of messages on it.
    pub(crate) fn len(&self) -> usize {
        self.iter().map(BatchSlice::len).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &BatchSlice<T>> {
        self.seen.iter().chain(&self.rest)
    }

    pub(crate) fn front(&self) -> Option<&BatchSlice<T>> {
        self.seen.front().or_else(|| self.rest.front())
    }

    pub(crate) fn back(&self) -> Option<&BatchSlice<T>> {
        self.rest.back().or_else(|| self.seen.back())
    }

    /// Takes the oldest messages, at most `most`.
    pub(crate) fn take_front(&mut self, most: u32) -> Option<BatchSlice<T>> {
        let oldest = match self.seen.is_empty() {
            true => &mut self.rest,
            false => &mut self.seen,
        };
        let (taken, left) = oldest.pop_front()?.split_at_most(most);
        if let Some(left) = left {
            oldest.push_front(left);
        }
        Some(taken)
    }

    /// Returns whether a message of this key is on it.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.iter().any(|part| part.find_key(key).is_some())
    }

    /// Takes out the messages of this key. Returns them, oldest first, and the place of the first.
    pub(crate) fn take_key(&mut self, key: &str) -> (Vec<BatchSlice<T>>, ShelfPlace) {
        let mut taken = Vec::new();
        let seen = cut(&mut self.seen, key, &mut taken);
        let rest = cut(&mut self.rest, key, &mut taken);
        let place = match seen {
            Some(at) => ShelfPlace { is_seen: true, at },
            None => ShelfPlace {
                is_seen: false,
                at: rest.unwrap_or(self.rest.len()),
            },
        };
        (taken, place)
    }

    /// Puts a part into a place, if nothing was taken since that was found.
    pub(crate) fn put(&mut self, place: ShelfPlace, part: BatchSlice<T>) {
        let parts = match place.is_seen {
            true => &mut self.seen,
            false => &mut self.rest,
        };
        parts.insert(place.at, part);
    }

    /// Adds the next messages of the queue.
    pub(crate) fn extend(&mut self, part: Option<BatchSlice<T>>) {
        self.rest.extend(part);
    }
}

/// Takes the messages of a key out of these parts. Returns where the first was.
fn cut<T>(
    parts: &mut VecDeque<BatchSlice<T>>,
    key: &str,
    taken: &mut Vec<BatchSlice<T>>,
) -> Option<usize> {
    let (mut first, mut at) = (None, 0);
    while at < parts.len() {
        let Some(index) = parts[at].find_key(key) else {
            at += 1;
            continue;
        };
        let Some(part) = parts.remove(at) else { break };
        let count = index - part.from;
        let (before, others) = part.split_front(count);
        let (one, after) = others.split_at_most(1);
        if let Some(after) = after {
            parts.insert(at, after);
        }
        if let Some(before) = before.unless_empty() {
            parts.insert(at, before);
            at += 1;
        }
        first.get_or_insert(at);
        taken.push(one);
    }
    first
}
