//! Values that bytes are turned into: mostly small ones, and the extremes.

use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use millstream::dead_letters::DeadLetterOverflow;
use millstream::strategy::{Backlog, FlushCause, Plan, Strategy};
use millstream::{Backoff, Batched, LaneFull, NoSubscribers, Overflow, Unsubscribe};

/// A time of any magnitude.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

impl<'a> Arbitrary<'a> for Time {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let count = u64::from(u.arbitrary::<u8>()?);
        Ok(Self(match u.int_in_range(0..=9)? {
            0 => Duration::from_nanos(count),
            // A tick of the timer wheel, and around it.
            1 => Duration::from_micros(100 * count),
            2 => Duration::from_nanos((100_000 * count).saturating_sub(1)),
            3 => Duration::from_millis(count),
            4 => Duration::from_secs(count),
            5 => Duration::from_secs(count << 16),
            6 => Duration::from_nanos(u.arbitrary()?),
            7 => Duration::from_nanos(u64::MAX - count),
            8 => Duration::MAX,
            _ => Duration::ZERO,
        }))
    }
}

/// A number of things of any magnitude.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub usize);

impl<'a> Arbitrary<'a> for Size {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0..=7)? {
            0 => u.arbitrary()?,
            1 => 1 << 24,
            2 => (1 << 24) + 1,
            3 => usize::MAX,
            4 => usize::from(u.arbitrary::<u16>()?),
            _ => u.int_in_range(0..=9)?,
        }))
    }
}

/// When waiting messages are handed on.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum How {
    Immediate,
    Batched(Size, Linger),
    Odd(Odd),
}

#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Linger {
    Default,
    UntilFull,
    For(Time),
}

/// A strategy of somebody's own, with answers that make no sense.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Odd {
    Deliver(Size),
    Flush(Size),
    Wait(Size, Option<Time>),
    Panic,
}

impl Strategy for Odd {
    fn plan(&self, _: &Backlog) -> Plan {
        match *self {
            Self::Deliver(Size(at_most)) => Plan::Deliver { at_most },
            Self::Flush(Size(at_most)) => Plan::Flush {
                at_most,
                cause: FlushCause::Requested,
            },
            Self::Wait(Size(until_waiting), at_most) => Plan::Wait {
                until_waiting,
                at_most: at_most.map(|Time(time)| time),
            },
            Self::Panic => quiet_panic(),
        }
    }

    fn name(&self) -> &str {
        "odd"
    }
}

/// Unwinds like any panic, but past the panic hook, which is the fuzzer's.
pub fn quiet_panic() -> ! {
    std::panic::resume_unwind(Box::new("as the bytes will have it"))
}

pub fn batched(Size(size): Size, linger: Linger) -> Batched {
    match linger {
        Linger::Default => Batched::of(size),
        Linger::UntilFull => Batched::of(size).until_full(),
        Linger::For(Time(time)) => Batched::of(size).linger(time),
    }
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub struct Policy {
    shape: u8,
    base: Time,
    cap: Option<Time>,
    jitter: Option<u64>,
    attempts: Option<u32>,
    elapsed: Option<Time>,
}

impl Policy {
    pub fn backoff(self) -> Backoff {
        let Time(base) = self.base;
        let mut backoff = match self.shape % 4 {
            0 => Backoff::none(),
            1 => Backoff::fixed(base),
            2 => Backoff::linear(base),
            _ => Backoff::exponential(base),
        };
        if let Some(Time(cap)) = self.cap {
            backoff = backoff.cap(cap);
        }
        if let Some(seed) = self.jitter {
            backoff = backoff.full_jitter(seed);
        }
        if let Some(attempts) = self.attempts {
            backoff = backoff.max_attempts(attempts);
        }
        if let Some(Time(limit)) = self.elapsed {
            backoff = backoff.max_elapsed(limit);
        }
        backoff
    }
}

/// How a topic is opened.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub struct TopicShape {
    pub capacity: Option<Size>,
    pub overflow: Option<Full>,
    pub alone: Option<Alone>,
    pub ttl: Option<Time>,
    pub lanes: Option<Size>,
    pub letters: Option<Size>,
    pub keep_newest: Option<bool>,
    pub how: Option<How>,
    pub policy: Option<Policy>,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Full {
    Reject,
    Block(Time),
    DropOldest,
    DropNewest,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Alone {
    Discard,
    Retain,
    Reject,
}

impl TopicShape {
    pub fn open<T: Send + Sync + 'static>(
        self,
        broker: &millstream::Broker,
        name: &str,
    ) -> std::result::Result<millstream::Topic<T>, millstream::error::OpenError> {
        let mut topic = broker.topic(name);
        if let Some(Size(messages)) = self.capacity {
            topic = topic.capacity(messages);
        }
        if let Some(full) = self.overflow {
            topic = topic.overflow(match full {
                Full::Reject => Overflow::Reject,
                Full::Block(Time(timeout)) => Overflow::Block { timeout },
                Full::DropOldest => Overflow::DropOldest,
                Full::DropNewest => Overflow::DropNewest,
            });
        }
        if let Some(alone) = self.alone {
            topic = topic.no_subscribers(match alone {
                Alone::Discard => NoSubscribers::Discard,
                Alone::Retain => NoSubscribers::Retain,
                Alone::Reject => NoSubscribers::Reject,
            });
        }
        if let Some(Time(ttl)) = self.ttl {
            topic = topic.ttl(ttl);
        }
        if let Some(Size(deliveries)) = self.lanes {
            topic = topic.lane_capacity(deliveries);
        }
        if let Some(Size(letters)) = self.letters {
            topic = topic.dead_letter_capacity(letters);
        }
        if let Some(keep_newest) = self.keep_newest {
            topic = topic.dead_letter_overflow(match keep_newest {
                true => DeadLetterOverflow::EvictOldest,
                false => DeadLetterOverflow::EvictNewest,
            });
        }
        topic = match self.how {
            None => topic,
            Some(How::Immediate) => topic.strategy(millstream::Immediate),
            Some(How::Batched(size, linger)) => topic.strategy(batched(size, linger)),
            Some(How::Odd(odd)) => topic.strategy(odd),
        };
        if let Some(policy) = self.policy {
            topic = topic.retry(policy.backoff());
        }
        topic.open()
    }
}

/// How a subscription is made.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub struct LaneShape {
    pub capacity: Option<Size>,
    pub when_full: Option<LaneFullShape>,
    pub policy: Option<Policy>,
    pub batches: Option<(Size, Linger)>,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum LaneFullShape {
    Wait,
    DropOldest,
    DropNewest,
    DeadLetter,
}

impl LaneShape {
    pub fn begin<'t, T: Send + Sync + 'static>(
        self,
        topic: &'t millstream::Topic<T>,
        name: &str,
    ) -> millstream::SubscriptionBuilder<'t, T> {
        let mut lane = topic.subscription(name);
        if let Some(Size(deliveries)) = self.capacity {
            lane = lane.capacity(deliveries);
        }
        if let Some(when_full) = self.when_full {
            lane = lane.when_full(match when_full {
                LaneFullShape::Wait => LaneFull::Wait,
                LaneFullShape::DropOldest => LaneFull::DropOldest,
                LaneFullShape::DropNewest => LaneFull::DropNewest,
                LaneFullShape::DeadLetter => LaneFull::DeadLetter,
            });
        }
        if let Some(policy) = self.policy {
            lane = lane.retry(policy.backoff());
        }
        lane
    }
}

/// How a subscription ends.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum End {
    Cancel,
    DeadLetter,
    Drain(Time),
}

impl End {
    pub fn mode(self) -> Unsubscribe {
        match self {
            Self::Cancel => Unsubscribe::Cancel,
            Self::DeadLetter => Unsubscribe::DeadLetter,
            Self::Drain(Time(timeout)) => Unsubscribe::Drain { timeout },
        }
    }
}
