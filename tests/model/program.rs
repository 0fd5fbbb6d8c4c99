//! What a program is made of: the settings of a broker, and the steps that are taken on it.

use std::time::Duration;

use millstream::dead_letters::DeadLetterOverflow;
use millstream::protect::{Breaker, CallEnd, RateLimit};
use millstream::strategy::{Backlog, Plan};
use millstream::{
    Backoff, Batched, Dedup, LaneFull, NoSubscribers, OnExhausted, OnExpired, OnFailure, Overflow,
    Unsubscribe,
};

use crate::answers::Answer;

/// The model counts time in ticks of the timer wheel.
pub const TICK: Duration = Duration::from_micros(100);
/// Different keys.
pub const LINES: u8 = 3;
/// The names of members.
pub const MEMBERS: [&str; 3] = ["x", "y", "z"];
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
    pub const NEVER_AGAIN: Self = Self {
        base: 0,
        shape: 0,
        max: 1,
        cap: None,
        limit: None,
    };

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

impl millstream::strategy::Strategy for OneByOne {
    fn plan(&self, _: &Backlog) -> Plan {
        Plan::Deliver { at_most: 0 }
    }

    fn name(&self) -> &str {
        "one by one"
    }
}

pub struct Panics;

impl millstream::strategy::Strategy for Panics {
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
    pub hands: Hands,
    pub on_failure: OnFailure,
    pub on_exhausted: OnExhausted,
    /// Deliveries that may be set aside, if that is not the capacity.
    pub hold: Option<usize>,
    pub own: Option<Policy>,
    /// It refuses each message whose id this divides.
    pub refuses: Option<u64>,
    /// The newest of a key takes the place of the one that waits.
    pub conflates: bool,
    /// Nothing goes of a level while a higher one has deliveries.
    pub by_level: bool,
}

/// Who takes a subscription's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hands {
    /// A handler of one at a time.
    One,
    /// A handler of batches of this size and linger.
    Batches { size: usize, linger: Option<u64> },
    /// A handler of up to so many at once.
    Several(usize),
    /// The members of a group, so many at first.
    Members(usize),
    /// Callers that pull, with so many credits, and until such a deadline.
    Callers { credits: usize, deadline: u64 },
}

/// One delivery in so many ticks, and so many at once after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub interval: u64,
    pub burst: u32,
}

impl Rate {
    pub fn real(self) -> RateLimit {
        RateLimit::new(1, ticks(self.interval)).burst(self.burst)
    }
}

/// What is done to a breaker. It opens by failures in a row, and closes only by hand: for how
/// long it is open by itself is spread at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaking {
    /// So many failures in a row open it.
    Set(u32),
    Remove,
    Isolate,
    Reset,
}

/// Failures that ask for a delay do not count, because they say how long it is open.
pub fn breaker_after(failures: u32) -> Breaker {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
    let counts = |end: &CallEnd<'_>| end.kind().counts_by_default() && end.retry_after().is_none();
    Breaker::new()
        .consecutive_failures(failures)
        .min_endings(u32::MAX)
        .open_for(YEAR)
        .max_open(YEAR)
        .count_if(counts)
}

/// What is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Subscription(usize),
    Topic,
    Broker,
}

/// What a caller does with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    Ack,
    Nack(Answer),
    Drop,
    Extend(u64),
}

impl Shape {
    /// Whether its filter refuses this message.
    pub fn refuses(&self, id: u64) -> bool {
        self.refuses
            .is_some_and(|refuses| id.is_multiple_of(refuses))
    }

    pub fn is_exact(&self) -> bool {
        self.when_full == LaneFull::Wait && self.linger().is_none() && !self.conflates
    }

    pub fn takes_batches(&self) -> bool {
        matches!(self.hands, Hands::Batches { .. })
    }

    /// How long the lane's batches linger, if they do.
    pub fn linger(&self) -> Option<u64> {
        match self.hands {
            Hands::Batches { linger, .. } => linger,
            _ => None,
        }
    }

    /// Whether several hands share the lane.
    pub fn is_shared(&self) -> bool {
        matches!(self.hands, Hands::Several(_) | Hands::Members(_))
    }

    /// Whether a failure holds others up.
    pub fn blocks(&self) -> bool {
        self.on_failure != OnFailure::Reorder
    }

    /// Whether what is exhausted takes its key along.
    pub fn parks(&self) -> bool {
        self.on_exhausted == OnExhausted::ParkKey
    }

    /// By what deliveries wait for each other: those of one line do.
    pub fn line_of(&self, key: Option<u8>) -> Option<u8> {
        match self.on_failure {
            OnFailure::BlockSubscription => Some(0),
            OnFailure::BlockKey => key,
            _ => key.filter(|_| self.is_shared()),
        }
    }
}

/// Which messages a topic keeps: the last ones, or the last one of each key.
#[derive(Clone, Copy, Debug)]
pub enum Retain {
    Last(usize),
    PerKey(usize),
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub capacity: usize,
    pub overflow: Overflow,
    pub no_subscribers: NoSubscribers,
    pub ttl: Option<u64>,
    pub on_expired: OnExpired,
    /// For how long it remembers how many dedup ids, if it does.
    pub dedup: Option<(u64, usize)>,
    /// How much its messages may weigh, if it weighs them. A payload is its own weight.
    pub weight_limit: Option<u64>,
    /// Which messages it keeps for subscriptions that come late.
    pub retain: Option<Retain>,
    pub letters: usize,
    pub letter_overflow: DeadLetterOverflow,
    /// Into how many partitions the topic is split, if it is.
    pub partitions: Option<usize>,
    /// How many of the subscriptions are there from the beginning.
    pub subscribed: usize,
    pub how: How,
    pub policy: Policy,
    pub shapes: [Shape; SLOTS],
}

impl Setup {
    /// The slot of one of the subscriptions of a kind.
    fn nth(&self, at: usize, is_it: impl Fn(Hands) -> bool) -> Option<usize> {
        let slots: Vec<_> = (0..SLOTS)
            .filter(|slot| is_it(self.shapes[*slot].hands))
            .collect();
        slots.get(at % slots.len().max(1)).copied()
    }

    pub fn group(&self, at: usize) -> Option<usize> {
        self.nth(at, |hands| matches!(hands, Hands::Members(_)))
    }

    pub fn pull(&self, at: usize) -> Option<usize> {
        self.nth(at, |hands| matches!(hands, Hands::Callers { .. }))
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// With a key and a time to live of its own.
    Publish(Option<u8>, Option<u64>),
    /// With this dedup id.
    PublishOnce(u8),
    PublishBatch(usize),
    /// So many, every other of which has a key, and every third a time to live.
    PublishMessages(usize, u8, Option<u64>),
    PublishAfter(u64),
    /// Takes back one of the delayed messages, or tries to take back another.
    CancelDelayed(usize),
    Run,
    Advance(u64),
    Flush,
    /// Changes the number of partitions.
    Split(usize),
    Swap(How),
    SetRetry(Policy),
    SetCapacity(usize),
    SetOverflow(Overflow),
    SetWeightLimit(u64),
    /// Changes for how long it remembers how many dedup ids.
    SetDedup(u64, usize),
    /// Makes the lane of a subscription this much larger.
    Widen(usize, usize),
    /// Detaches a subscription and takes it up again.
    Reattach(usize),
    SetOwnRetry(usize, Policy),
    Subscribe(usize),
    Unsubscribe(usize, Unsubscribe),
    Forget(usize),
    /// A member joins one of the groups there are, or leaves it.
    Join(usize, usize),
    Leave(usize, usize),
    /// Leases a delivery from one of the pulls there are, or a batch of at most so many.
    Receive(usize, Option<usize>),
    /// Settles one of those that are held, or a batch.
    Settle(usize, Settle),
    /// Pauses it, or ends its pause.
    SetPaused(Scope, bool),
    /// Asks for so long without deliveries.
    HoldOff(usize, u64),
    /// Sets, removes, isolates or resets a breaker.
    Break(usize, Breaking),
    /// Limits the rate of a subscription, or no longer.
    SetRate(usize, Option<Rate>),
    /// Calls back all that waits for its retry.
    RetryAllNow(usize),
    Redrive(Option<usize>),
    Purge(Option<usize>),
    /// A subscriber to the letters comes, is handed all of them, and goes.
    Read,
}

pub fn ticks(count: u64) -> Duration {
    TICK * count as u32
}

pub fn remembers((window, ids): (u64, usize)) -> Dedup {
    Dedup::window(ticks(window)).ids(ids)
}

/// The name of a key.
pub fn name_of(key: u8) -> String {
    format!("k{key}")
}
