//! The rate at which a topic accepts messages.
//!
//! Steps. Under the lock of the rate, a publisher finds how many of its messages may pass. It takes its
//! step at the gate for so many, and pays for those that got a ticket. So a publisher that is refused
//! for another reason has paid nothing. A publisher that waits for a permit has the topic *called* at
//! the time of the next one. Then publishers that wait look again, in the order in which they came.
//!
//! The feared interleavings. Two publishers take the same permit. They can't, because both hold the
//! lock. A publisher sleeps though a permit has come. It can't, because it joins the line of waiters
//! before it looks and has the topic called. One is called and never looks, such as a future that nobody
//! polls. It holds the others up for the time of one permit, because the topic is called again as long
//! as anybody waits.

use crate::engine::runtime::Engine;
use crate::engine::runtime::linger::Linger;
use crate::engine::wait::fire::Fire;
use crate::pure::protect::rate::{Gcra, RateLimit};
use crate::sync::{Arc, Mutex};

/// The rate of one topic.
pub(crate) struct PublishRate(Mutex<State>);

struct State {
    limit: Option<RateLimit>,
    gcra: Gcra,
    /// The word of the limit.
    word: u64,
    /// Messages that were refused for it.
    refused: u64,
    /// Calls those who wait.
    call: Linger,
}

impl PublishRate {
    /// Makes it with nothing to keep.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            limit: None,
            gcra: Gcra::UNLIMITED,
            word: 0,
            refused: 0,
            call: Linger::default(),
        }))
    }

    /// Changes the limit. Permits that are spent stay spent, as far as the new burst goes.
    pub(crate) fn set(&self, limit: Option<RateLimit>, now_ns: u64) {
        let mut state = self.0.lock();
        let gcra = limit.map_or(Gcra::UNLIMITED, RateLimit::gcra);
        if gcra != state.gcra {
            state.word = gcra.carry(state.gcra, state.word, now_ns);
            state.gcra = gcra;
        }
        state.limit = limit;
    }

    pub(crate) fn limit(&self) -> Option<RateLimit> {
        self.0.lock().limit
    }

    /// Takes a step at the gate for as many of the `wanted` messages as may pass, and pays for those
    /// that it has let in. If none may pass, returns the time until one may.
    pub(crate) fn pass<E>(
        &self,
        now_ns: u64,
        wanted: u64,
        step: impl FnOnce(u64) -> Result<(u64, u64), E>,
    ) -> Result<Result<(u64, u64), E>, u64> {
        let mut state = self.0.lock();
        let (next, granted) = state.take(now_ns, wanted)?;
        let passed = step(u64::from(granted));
        if let Ok((_, count)) = passed {
            state.word = state.gcra.give_back(next, granted - count as u32);
        }
        Ok(passed)
    }

    /// Pays for as many of the `wanted` messages as may pass. If none may, returns the time until one
    /// may.
    pub(crate) fn pay(&self, now_ns: u64, wanted: u64) -> Result<u64, u64> {
        let mut state = self.0.lock();
        let (next, granted) = state.take(now_ns, wanted)?;
        state.word = next;
        Ok(u64::from(granted))
    }

    /// Takes permits back that were paid for and not used.
    pub(crate) fn give_back(&self, count: u64) {
        let mut state = self.0.lock();
        state.word = state.gcra.give_back(state.word, count as u32);
    }

    /// Returns how many messages may pass, and the time until one more than these may.
    pub(crate) fn outlook(&self, now_ns: u64) -> (usize, u64) {
        let state = self.0.lock();
        let (word, count) = match state.gcra.take(state.word, now_ns, u32::MAX) {
            Ok((next, granted)) => (next, granted as usize),
            Err(_) => (state.word, 0),
        };
        let more = state.gcra.take(word, now_ns, 1);
        (
            count,
            more.map_or_else(|wait| wait.until_ns.saturating_sub(now_ns), |_| 0),
        )
    }

    /// Has `target` look again in `delay_ns`, or earlier.
    pub(crate) fn call(&self, engine: &Engine, delay_ns: u64, target: Arc<dyn Fire>) {
        let mut state = self.0.lock();
        state.call.set(engine, Some(delay_ns), target);
    }

    pub(crate) fn note_refused(&self, count: u64) {
        self.0.lock().refused += count;
    }

    pub(crate) fn refused(&self) -> u64 {
        self.0.lock().refused
    }
}

impl State {
    /// Returns the word after up to `wanted` messages have passed, and how many these are. If none may
    /// pass, returns the time until one may.
    fn take(&self, now_ns: u64, wanted: u64) -> Result<(u64, u32), u64> {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let taken = self.gcra.take(self.word, now_ns, wanted);
        taken.map_err(|wait| wait.until_ns.saturating_sub(now_ns))
    }
}
