//! What a program is made of: the settings of a broker, and the steps that are taken on it.

use std::time::Duration;

use millstream::{
    Backlog, Backoff, Batched, DeadLetterOverflow, LaneFull, NoSubscribers, OnExpired, Overflow,
    Plan, Unsubscribe,
};

/// The model counts time in ticks of the timer wheel.
pub const TICK: Duration = Duration::from_micros(100);
pub const SLOTS: usize = 3;
pub const NAMES: [&str; SLOTS] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub base: u64,
    pub shape: u8,
    pub max: u32,
    /// What the cap exceeds the base by.
    pub cap: Option<u64>,
    pub limit: Option<u64>,
}

impl Policy {
    /// The delay before the next attempt, or none. The handler may have asked for one.
    pub fn decide(self, attempt: u32, elapsed: u64, asked: Option<u64>) -> Option<u64> {
        let own = match self.shape {
            0 => self.base,
            1 => self.base * u64::from(attempt),
            _ => self.base << (attempt - 1),
        };
        let cap = self.cap.map_or(u64::MAX, |more| self.base + more);
        let delay = asked.unwrap_or(own).min(cap);
        let is_in_time = elapsed + delay <= self.limit.unwrap_or(u64::MAX);
        (attempt < self.max && is_in_time).then_some(delay)
    }

    pub fn real(self) -> Backoff {
        let base = ticks(self.base);
        let backoff = match self.shape {
            0 => Backoff::fixed(base),
            1 => Backoff::linear(base),
            _ => Backoff::exponential(base),
        };
        let backoff = backoff.max_attempts(self.max);
        let capped = self
            .cap
            .into_iter()
            .fold(backoff, |backoff, more| backoff.cap(base + ticks(more)));
        self.limit
            .into_iter()
            .fold(capped, |backoff, limit| backoff.max_elapsed(ticks(limit)))
    }
}

#[derive(Clone, Copy, Debug)]
pub enum How {
    Immediate,
    OneByOne,
    Panics,
    Batched { size: usize, linger: Option<u64> },
}

pub struct OneByOne;

impl millstream::Strategy for OneByOne {
    fn plan(&self, _: &Backlog) -> Plan {
        Plan::Deliver { at_most: 0 }
    }

    fn name(&self) -> &str {
        "one by one"
    }
}

pub struct Panics;

impl millstream::Strategy for Panics {
    fn plan(&self, _: &Backlog) -> Plan {
        // Unwinds like any panic, but without a word from the panic hook.
        std::panic::resume_unwind(Box::new("a strategy without a plan"))
    }

    fn name(&self) -> &str {
        "panics"
    }
}

pub fn batched(size: usize, linger: Option<u64>) -> Batched {
    match linger {
        Some(linger) => Batched::of(size).linger(ticks(linger)),
        None => Batched::of(size).until_full(),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub capacity: usize,
    pub when_full: LaneFull,
    /// Takes batches of this size and linger.
    pub batches: Option<(usize, Option<u64>)>,
    pub own: Option<Policy>,
}

impl Shape {
    pub fn is_exact(&self) -> bool {
        self.when_full == LaneFull::Wait && self.linger().is_none()
    }

    /// How long the lane's batches linger, if they do.
    pub fn linger(&self) -> Option<u64> {
        self.batches.and_then(|(_, linger)| linger)
    }
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub capacity: usize,
    pub overflow: Overflow,
    pub no_subscribers: NoSubscribers,
    pub ttl: Option<u64>,
    pub on_expired: OnExpired,
    pub letters: usize,
    pub letter_overflow: DeadLetterOverflow,
    pub how: How,
    pub policy: Policy,
    pub shapes: [Shape; SLOTS],
}

#[derive(Clone, Debug)]
pub enum Step {
    Publish,
    PublishKeyed { ttl: Option<u64> },
    PublishBatch(usize),
    PublishAfter(u64),
    Run,
    Advance(u64),
    Flush,
    Swap(How),
    SetRetry(Policy),
    SetOwnRetry(usize, Policy),
    Subscribe(usize),
    Unsubscribe(usize, Unsubscribe),
    Forget(usize),
    Redrive(Option<usize>),
    Purge(Option<usize>),
}

pub fn ticks(count: u64) -> Duration {
    TICK * count as u32
}
