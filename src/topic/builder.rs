//! Opening a topic.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::engine::base::contain::{SharedPolicy, SharedStrategy, share_policy, share_strategy};
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::{AnyTopic, Partitions, TopicSettings};
use crate::engine::state::topic::TopicCore;
use crate::pure::decide::retry::RetryPolicy;
use crate::pure::decide::strategy::Strategy;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::config::{DeadLetterOverflow, NoSubscribers, OnExpired, Overflow, Unkeyed};
use crate::types::duration::nanos;
use crate::types::error::{InvalidSetting, OpenError};
use crate::types::range::in_range;

/// Messages a queue holds unless told otherwise: some milliseconds of heavy
/// traffic, 90 KB of 64-byte payloads, allocated with the first message.
const DEFAULT_CAPACITY: usize = 1_024;
/// The most partitions of a topic: far more than there are cores to dispatch them.
const MAX_PARTITIONS: usize = 256;
/// The largest payload by value, in bytes; a topic of larger ones is refused. A build
/// without optimization moves a message through a score of places on a worker's stack,
/// which is 2 MiB unless [`stack_size`](crate::BrokerBuilder::stack_size) says otherwise.
/// What is behind a [`Box`] or an [`Arc`](std::sync::Arc) doesn't count.
pub const MAX_PAYLOAD: usize = 16 * 1_024;
/// Letters a topic keeps unless told otherwise.
const DEFAULT_LETTERS: usize = 1_024;

/// Opens a topic. A value: set what you care about, then [`open`](Self::open),
/// where everything is checked at once.
#[must_use = "a builder does nothing until the topic is opened"]
pub struct TopicBuilder<'b, T> {
    engine: &'b Arc<Engine>,
    name: String,
    capacity: Option<usize>,
    overflow: Option<Overflow>,
    no_subscribers: Option<NoSubscribers>,
    ttl: Option<Duration>,
    on_expired: Option<OnExpired>,
    lane_capacity: Option<usize>,
    letters: Option<usize>,
    letter_overflow: Option<DeadLetterOverflow>,
    partitions: Option<usize>,
    unkeyed: Option<Unkeyed>,
    strategy: Option<SharedStrategy>,
    retry: Option<SharedPolicy>,
    carries: PhantomData<fn(T) -> T>,
}

impl<'b, T: Send + Sync + 'static> TopicBuilder<'b, T> {
    pub(crate) fn new(engine: &'b Arc<Engine>, name: &str) -> Self {
        Self {
            engine,
            name: name.to_owned(),
            capacity: None,
            overflow: None,
            no_subscribers: None,
            ttl: None,
            on_expired: None,
            lane_capacity: None,
            letters: None,
            letter_overflow: None,
            partitions: None,
            unkeyed: None,
            strategy: None,
            retry: None,
            carries: PhantomData,
        }
    }

    /// Messages that may wait for dispatch, delayed ones included: 1 to
    /// 16,777,216. Default 1,024. The queue is allocated with the first message.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = Some(messages);
        self
    }

    /// What happens when so many wait. Default [`Overflow::Reject`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// What happens without subscriptions. Default [`NoSubscribers::Discard`].
    pub fn no_subscribers(mut self, policy: NoSubscribers) -> Self {
        self.no_subscribers = Some(policy);
        self
    }

    /// How long after its acceptance a message is still worth handling. No attempt begins
    /// later, and a retry that would come later is not made. What has expired ends by itself
    /// and makes room, wherever it waits: within a timer's tick (for more than 256 waiting
    /// there, a microsecond each). Whoever needs the room (a publisher, the topic at a full
    /// lane, a redrive) ends it before any policy for what is full acts, and frees the
    /// payloads on its own thread. A message that expires before it was handed on has expired
    /// for every subscription; without any, it is dropped under [`NoSubscribers::Retain`],
    /// and otherwise unrouted. A letter that is [redriven](crate::DeadLetters::redrive) has
    /// no time to live any more. Default: for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// What happens to deliveries that outlive their message's time to live, the
    /// topic's or its own. Default [`OnExpired::Drop`].
    pub fn on_expired(mut self, then: OnExpired) -> Self {
        self.on_expired = Some(then);
        self
    }

    /// Deliveries that may be in each subscription's lane (queued, in flight or
    /// awaiting a retry), unless the subscription says otherwise: 1 to
    /// 16,777,216. Default 1,024.
    pub fn lane_capacity(mut self, deliveries: usize) -> Self {
        self.lane_capacity = Some(deliveries);
        self
    }

    /// Letters the dead-letter store keeps: 1 to 16,777,216. Default 1,024.
    pub fn dead_letter_capacity(mut self, letters: usize) -> Self {
        self.letters = Some(letters);
        self
    }

    /// What a full dead-letter store does. Default
    /// [`DeadLetterOverflow::EvictOldest`].
    pub fn dead_letter_overflow(mut self, overflow: DeadLetterOverflow) -> Self {
        self.letter_overflow = Some(overflow);
        self
    }

    /// Splits the topic by key, so that several workers can dispatch it at once: 1 to
    /// 256, and no more than its capacity. Default: not at all, which costs least.
    ///
    /// A message with a key goes to the partition
    /// [`key_hash(key)`](crate::key_hash) `% partitions`; where the others go is said by
    /// [`unkeyed`](Self::unkeyed). Each partition has a queue and is dispatched by one
    /// worker at a time, so the messages of one key keep their order, as those of a
    /// topic do otherwise. Between partitions there is none.
    ///
    /// All else is the topic's: subscriptions and their lanes, ids, the counts, and the
    /// capacity, which is that of all partitions together. A strategy is asked for each
    /// partition, about what waits there. [`Overflow::DropOldest`] drops the oldest of
    /// the new message's partition, or if that is empty, of another one. A lane that is
    /// full holds up all of them.
    ///
    /// The handler of a subscription is called by one worker at a time, with partitions
    /// as without: they spread the work of dispatching, and of strategies. Where that is
    /// little they cost more than they give (with cheap handlers on two cores a seventh
    /// to a third of the throughput), so measure.
    ///
    /// [`Topic::set_partitions`] changes the number while traffic runs.
    pub fn partitions(mut self, partitions: usize) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Where messages without a key go; needs [`partitions`](Self::partitions). Default
    /// [`Unkeyed::RoundRobin`].
    pub fn unkeyed(mut self, unkeyed: Unkeyed) -> Self {
        self.unkeyed = Some(unkeyed);
        self
    }

    /// When waiting messages are handed on. Default: the broker's, which is
    /// [`Immediate`](crate::Immediate) unless set.
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Some(share_strategy(strategy));
        self
    }

    /// What follows a failure, unless the subscription says otherwise. Default
    /// [`Backoff::default`](crate::Backoff::default).
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.retry = Some(share_policy(policy));
        self
    }

    /// Opens the topic, or joins it if it is open. Joining with settings is
    /// fine as long as they agree with how it was opened; a strategy or a retry
    /// policy can't be compared and belongs to whoever opens the topic (or to
    /// [`Topic::set_strategy`] and [`Topic::set_retry`]).
    ///
    /// # Errors
    ///
    /// [`OpenError`]: an invalid name or setting, another payload type, settings
    /// that clash, or a closed broker. A payload of more than [`MAX_PAYLOAD`] bytes by value is
    /// [`OpenError::Invalid`]: it would overflow a worker's stack. Publish a [`Box`] or an
    /// [`Arc`](std::sync::Arc) of it.
    pub fn open(self) -> Result<Topic<T>, OpenError> {
        let name = crate::types::name::parse(&self.name)?;
        let settings = self.settings()?;
        if let Some(strategy) = &self.strategy {
            strategy.check()?;
        }
        if let Some(retry) = &self.retry {
            retry.check()?;
        }
        loop {
            if self.engine.is_ending() {
                return Err(OpenError::Closed);
            }
            let Some(found) = self.engine.topics.get(&name) else {
                let strategy = self.strategy.clone();
                let retry = self.retry.clone();
                let core = TopicCore::<T>::new(
                    Arc::clone(&name),
                    Arc::clone(self.engine),
                    settings.clone(),
                    strategy.unwrap_or_else(|| self.engine.strategy.load()),
                    retry.unwrap_or_else(|| Arc::clone(&self.engine.retry)),
                );
                // The handle is taken before anybody can find and remove it.
                let topic = Topic::join(Arc::clone(&core));
                let ours: Arc<dyn AnyTopic> = core;
                if let Some(topic) = topic
                    && self.engine.register(&ours)
                {
                    return Ok(topic);
                }
                continue;
            };
            self.check_clash(found.settings(), &settings)?;
            let existing = found.payload_type();
            let core = found.into_any().downcast::<TopicCore<T>>();
            let core = core.map_err(|_| OpenError::WrongType {
                topic: self.name.clone(),
                existing,
                requested: type_name::<T>(),
            })?;
            if let Some(topic) = Topic::join(core) {
                return Ok(topic);
            }
            // It is being removed at this moment, and will be gone.
            crate::sync::yield_now();
        }
    }

    fn settings(&self) -> Result<TopicSettings, InvalidSetting> {
        if size_of::<T>() > MAX_PAYLOAD {
            let rule = "must not exceed 16,384 bytes by value: publish a Box or an Arc of it";
            return Err(InvalidSetting::new("payload", size_of::<T>(), rule));
        }
        let capacity = in_range("capacity", self.capacity, DEFAULT_CAPACITY)?;
        let lane_capacity = in_range("lane_capacity", self.lane_capacity, DEFAULT_CAPACITY)?;
        let letters = in_range("dead_letter_capacity", self.letters, DEFAULT_LETTERS)?;
        let overflow = self.overflow.unwrap_or_default();
        if matches!(overflow, Overflow::Block { .. }) && self.engine.is_manual() {
            let rule = "needs worker threads, or nobody would ever make room";
            return Err(InvalidSetting::new("overflow", "Block", rule));
        }
        let ttl_ns = self.ttl.map(check_ttl).transpose()?;
        let partitions = match (self.partitions, self.unkeyed) {
            (Some(count), unkeyed) => Some(Partitions {
                count: check_partitions(count, capacity as u64)?,
                unkeyed: unkeyed.unwrap_or_default(),
            }),
            (None, Some(unkeyed)) => {
                let rule = "needs partitions";
                return Err(InvalidSetting::new("unkeyed", format!("{unkeyed:?}"), rule));
            }
            (None, None) => None,
        };
        Ok(TopicSettings {
            capacity: capacity as u64,
            overflow,
            no_subscribers: self.no_subscribers.unwrap_or_default(),
            ttl_ns,
            on_expired: self.on_expired.unwrap_or_default(),
            lane_capacity: lane_capacity as u32,
            letters,
            letter_overflow: self.letter_overflow.unwrap_or_default(),
            partitions,
        })
    }

    /// Settings asked for must be those the topic was opened with.
    fn check_clash(&self, open: &TopicSettings, asked: &TopicSettings) -> Result<(), OpenError> {
        let clashes = [
            (
                "capacity",
                self.capacity.is_some() && open.capacity != asked.capacity,
            ),
            (
                "overflow",
                self.overflow.is_some() && open.overflow != asked.overflow,
            ),
            (
                "policy without subscribers",
                self.no_subscribers.is_some() && open.no_subscribers != asked.no_subscribers,
            ),
            ("ttl", self.ttl.is_some() && open.ttl_ns != asked.ttl_ns),
            (
                "policy for what expires",
                self.on_expired.is_some() && open.on_expired != asked.on_expired,
            ),
            (
                "lane_capacity",
                self.lane_capacity.is_some() && open.lane_capacity != asked.lane_capacity,
            ),
            (
                "dead_letter_capacity",
                self.letters.is_some() && open.letters != asked.letters,
            ),
            (
                "dead_letter_overflow",
                self.letter_overflow.is_some() && open.letter_overflow != asked.letter_overflow,
            ),
            (
                "number of partitions",
                self.partitions.is_some()
                    && open.partitions.map(|open| open.count)
                        != asked.partitions.map(|asked| asked.count),
            ),
            (
                "policy for messages without a key",
                self.unkeyed.is_some() && open.partitions != asked.partitions,
            ),
            ("strategy", self.strategy.is_some()),
            ("retry policy", self.retry.is_some()),
        ];
        match clashes.into_iter().find(|(_, clashes)| *clashes) {
            None => Ok(()),
            Some((setting, _)) => Err(OpenError::Clash {
                topic: self.name.clone(),
                setting,
            }),
        }
    }
}

impl<T> fmt::Debug for TopicBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicBuilder")
            .field("name", &self.name)
            .field("payload", &type_name::<T>())
            .finish_non_exhaustive()
    }
}

/// A time to live in nanoseconds, of a topic's messages or of one.
pub(crate) fn check_ttl(ttl: Duration) -> Result<u64, InvalidSetting> {
    if ttl.is_zero() {
        let rule = "must be longer, or every message would expire at once";
        return Err(InvalidSetting::new("ttl", "zero", rule));
    }
    Ok(nanos(ttl))
}

/// A number of partitions, if it is one that a topic of this capacity can have.
pub(crate) fn check_partitions(asked: usize, capacity: u64) -> Result<u16, InvalidSetting> {
    let rule = match asked {
        0 => "must be at least 1",
        n if n > MAX_PARTITIONS => "must be at most 256",
        n if n as u64 > capacity => "must not exceed the topic's capacity",
        n => return Ok(n as u16),
    };
    Err(InvalidSetting::new("partitions", asked, rule))
}
