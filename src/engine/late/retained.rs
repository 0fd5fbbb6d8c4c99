//! The messages that a topic keeps for subscriptions that come late, and those subscriptions until
//! they have got theirs.
//!
//! Steps. A *dispatcher* that has places for a batch keeps its messages, and then hands them on. A
//! *subscription* takes a copy of what is kept and joins the list of lanes in one step, under the lock
//! in which dispatchers keep. Its filter is the user's, so it is asked after the lock is released.
//! Until it has *arrived* with the kept messages in its lane, no dispatcher hands on.
//!
//! Three interleavings are feared. A batch is not in the copy, and its dispatcher had read the list
//! before the lane was on it: a gap. A batch is in the copy and goes to the lane, too: a double. A newer
//! message is in the lane before the kept ones. None of them can happen. A dispatcher keeps only if the
//! list that it has read is still the list, and nobody is arriving. Otherwise it keeps and hands on
//! nothing, and looks again. So a batch is in the copy exactly if its dispatcher has an older list.
//!
//! Dispatchers don't wait for a subscription that arrives. They come to rest, and it wakes them.

use crate::message::batch::{Batch, BatchSlice};
use crate::pure::policy::retained::{Retain, Retained};
use crate::sync::{Arc, Mutex};

/// Messages, each by its batch and its place in it.
pub(crate) type KeptMessages<T> = Vec<(Arc<Batch<T>>, u32)>;

/// The answer to a dispatcher that would keep its batch and hand it on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// The messages are kept, and go to the lanes that it has read.
    HandOn,
    /// The list of lanes has changed.
    ReadAgain,
    /// A subscription arrives, and will notify.
    Rest,
}

/// The messages that a topic keeps.
pub(crate) struct RetainedMessages<T> {
    retain: Retain,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// `None` once the topic has ended.
    kept: Option<Retained<Arc<str>, Arc<Batch<T>>>>,
    arrivals: Vec<Arrival<T>>,
}

/// A subscription that is on the list and has yet to get what was kept for it.
struct Arrival<T> {
    /// The address of its lane.
    lane: usize,
    kept: KeptMessages<T>,
}

impl<T> RetainedMessages<T> {
    pub(crate) fn new(retain: Retain) -> Self {
        Self {
            retain,
            state: Mutex::new(State {
                kept: Some(Retained::new(retain)),
                arrivals: Vec::new(),
            }),
        }
    }

    pub(crate) fn retain(&self) -> Retain {
        self.retain
    }

    /// Keeps messages that are about to be handed on, if `is_current` says that the list of lanes is
    /// still what it was.
    pub(crate) fn keep(&self, part: &BatchSlice<T>, is_current: impl FnOnce() -> bool) -> Keeping {
        // Payloads are the user's, and are dropped after the lock is released.
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        if !state.arrivals.is_empty() {
            return Keeping::Rest;
        }
        if !is_current() {
            return Keeping::ReadAgain;
        }
        if let Some(kept) = &mut state.kept {
            let key = |index: u32| part.batch.meta(index as usize)?.key.as_deref();
            kept.keep(&part.batch, part.from, part.to, key, &mut gone);
        }
        drop(state);
        drop(gone);
        Keeping::HandOn
    }

    /// Puts a lane on the list by `join`. If anything is kept, it gets a copy, and arrives.
    pub(crate) fn join(&self, lane: usize, join: impl FnOnce()) {
        let mut state = self.state.lock();
        join();
        let kept = state.kept.as_ref().map_or(Vec::new(), Retained::list);
        if !kept.is_empty() {
            state.arrivals.push(Arrival { lane, kept });
        }
    }

    /// Takes the copy of a lane that arrives.
    pub(crate) fn take(&self, lane: usize) -> Option<KeptMessages<T>> {
        let mut state = self.state.lock();
        let mut arrivals = state.arrivals.iter_mut();
        let arrival = arrivals.find(|arrival| arrival.lane == lane)?;
        Some(std::mem::take(&mut arrival.kept))
    }

    /// Lets dispatchers hand on again, unless others arrive.
    pub(crate) fn arrived(&self, lane: usize) {
        let mut state = self.state.lock();
        state.arrivals.retain(|arrival| arrival.lane != lane);
    }

    /// Returns how many messages are kept, and how many keys had to make room.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        let kept = state.kept.as_ref();
        kept.map_or((0, 0), |kept| (kept.len(), kept.evicted()))
    }

    /// Forgets all messages, for the end. The caller drops them where no lock is held.
    pub(crate) fn release(&self) -> impl Sized + use<T> {
        self.state.lock().kept.take()
    }
}
