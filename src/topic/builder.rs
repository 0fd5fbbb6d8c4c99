//! Opening a topic.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::engine::base::contain::{SharedPolicy, SharedStrategy, share_policy, share_strategy};
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::{AnyTopic, LiveSettings, Partitions, TopicSettings};
use crate::engine::state::topic::TopicCore;
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::policy::strategy::Strategy;
use crate::pure::words::Packed;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::config::{DeadLetterOverflow, NoSubscribers, OnExpired, Overflow, Unkeyed};
use crate::types::duration::check_ttl;
use crate::types::error::{OpenError, SettingError};
use crate::types::range::in_range;

/// The default capacity of a queue and of a lane.
///
/// It is some milliseconds of heavy traffic: 90 KB of 64-byte payloads, allocated with the first
/// message.
const DEFAULT_CAPACITY: usize = 1_024;
/// The most partitions of a topic: far more than there are cores to dispatch them.
const MAX_PARTITIONS: usize = 256;
/// The largest payload by value, in bytes. A topic of larger payloads is refused.
///
/// A build without optimization moves a message through a score of places on a worker's stack. The
/// stack has 2 MiB, unless [`stack_size`](crate::BrokerBuilder::stack_size) says otherwise.
/// Contents behind a [`Box`] or an [`Arc`] don't count.
pub const MAX_PAYLOAD: usize = 16 * 1_024;
/// The default capacity of a dead-letter store.
const DEFAULT_LETTERS: usize = 1_024;

/// The settings of a topic to be opened.
///
/// Set the ones that you care about, then call [`open`](Self::open), which checks all of them at
/// once.
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

    /// Sets how many messages may wait for dispatch, delayed ones included.
    ///
    /// The range is 1 to 16,777,216, and the default is 1,024. The queue is allocated with the
    /// first message.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = Some(messages);
        self
    }

    /// Sets the policy for a publish into a full topic. The default is [`Overflow::Reject`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// Sets the policy for messages without subscriptions. The default is
    /// [`NoSubscribers::Discard`].
    pub fn no_subscribers(mut self, policy: NoSubscribers) -> Self {
        self.no_subscribers = Some(policy);
        self
    }

    /// Sets how long after its acceptance a message is still worth handling.
    ///
    /// By default, messages live forever. No attempt begins after the time to live, and a retry
    /// that would come later is not made. An expired message ends by itself and makes room,
    /// wherever it waits. That takes up to a timer's tick. Where more than 256 wait, it takes about
    /// a microsecond each.
    ///
    /// A publisher, the topic at a full lane, or a redrive may need the room. It then ends expired
    /// messages before any policy for a full queue or lane acts. It frees their payloads on its own
    /// thread.
    ///
    /// A message that expires before it was dispatched has expired for every subscription. Without
    /// any subscription, it is dropped under [`NoSubscribers::Retain`], and otherwise unrouted. A
    /// letter that is [redriven](crate::DeadLetters::redrive) has no time to live any more.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the policy for deliveries that outlive the time to live of their message or topic.
    ///
    /// The default is [`OnExpired::Drop`].
    pub fn on_expired(mut self, then: OnExpired) -> Self {
        self.on_expired = Some(then);
        self
    }

    /// Sets how many deliveries may be in each subscription's lane, unless the subscription says
    /// otherwise.
    ///
    /// Queued deliveries count, and so do those in flight or waiting for a retry. The range is 1 to
    /// 16,777,216, and the default is 1,024.
    pub fn lane_capacity(mut self, deliveries: usize) -> Self {
        self.lane_capacity = Some(deliveries);
        self
    }

    /// Sets how many letters the dead-letter store keeps.
    ///
    /// The range is 1 to 16,777,216, and the default is 1,024.
    pub fn dead_letter_capacity(mut self, letters: usize) -> Self {
        self.letters = Some(letters);
        self
    }

    /// Sets the policy of a full dead-letter store. The default is
    /// [`DeadLetterOverflow::EvictOldest`].
    pub fn dead_letter_overflow(mut self, overflow: DeadLetterOverflow) -> Self {
        self.letter_overflow = Some(overflow);
        self
    }

    /// Splits the topic by key, so that several workers can dispatch it at once.
    ///
    /// The range is 1 to 256, and no more than the topic's capacity. By default the topic is not
    /// split, which costs least.
    ///
    /// [`key_hash(key)`](crate::key_hash) `% partitions` chooses the partition of a message with a
    /// key. [`unkeyed`](Self::unkeyed) decides about the others. Each partition has a queue and is
    /// dispatched by one worker at a time. So the messages of one key keep their order. Between
    /// partitions there is no order.
    ///
    /// Everything else belongs to the topic: subscriptions and their lanes, ids, the counts, and
    /// the capacity, which all partitions share. The strategy decides for each partition, about the
    /// messages that wait there. [`Overflow::DropOldest`] drops the oldest messages of the new
    /// message's partition, or, if that is empty, of another one. A full lane holds up all
    /// partitions.
    ///
    /// Partitions spread the work of dispatching and of strategies, not that of handlers. The
    /// handler of a subscription is still called by one worker at a time. With handlers that do
    /// next to nothing, partitions cost more than they give. Messages with keys lose about half of
    /// their throughput, and messages without keys some three quarters. [How to choose the shape of
    /// delivery](crate::docs::delivery#partitions) says how that was measured. Measure before you
    /// split.
    ///
    /// [`Topic::set_partitions`] changes the number while traffic runs.
    pub fn partitions(mut self, partitions: usize) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Sets where messages without a key go. The default is [`Unkeyed::RoundRobin`].
    ///
    /// It needs [`partitions`](Self::partitions).
    pub fn unkeyed(mut self, unkeyed: Unkeyed) -> Self {
        self.unkeyed = Some(unkeyed);
        self
    }

    /// Sets the strategy, which decides when waiting messages are dispatched.
    ///
    /// The default is the broker's strategy, which is [`Immediate`](crate::Immediate) unless set.
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Some(share_strategy(strategy));
        self
    }

    /// Sets the retry policy, unless a subscription has one of its own.
    ///
    /// The default is [`Backoff::default`](crate::Backoff::default).
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.retry = Some(share_policy(policy));
        self
    }

    /// Opens the topic, or joins it if it is open.
    ///
    /// A call that joins may give settings, as long as they agree with those that the topic has
    /// now. Setters such as [`Topic::set_strategy`] may have changed them since it was opened.
    /// Settings that are not given agree.
    ///
    /// Strategies and retry policies agree if they are of one type and
    /// [say that they decide alike](RetryPolicy::same_as).
    /// [`Immediate`](crate::Immediate), [`Batched`](crate::Batched) and [`Backoff`](crate::Backoff)
    /// compare their settings, and an [`Arc`] agrees with its clones. Two closures, or two boxes,
    /// never agree.
    ///
    /// ```
    /// # use millstream::{Backoff, Broker};
    /// # use std::time::Duration;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let retry = Backoff::fixed(Duration::from_secs(1)).max_attempts(5);
    /// let _opened = broker.topic::<u64>("orders").retry(retry.clone()).open()?;
    /// let _joined = broker.topic::<u64>("orders").retry(retry).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an [`OpenError`]: an invalid name or setting, another payload type, settings that
    /// clash, or a closed broker. A payload of more than [`MAX_PAYLOAD`] bytes by value is
    /// [`OpenError::Invalid`]: it would overflow a worker's stack. Publish a [`Box`] or an [`Arc`]
    /// of it.
    pub fn open(self) -> Result<Topic<T>, OpenError> {
        let name = crate::types::name::parse(&self.name)?;
        let (settings, live) = self.settings()?;
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
                    live,
                    strategy.unwrap_or_else(|| self.engine.strategy.load()),
                    retry.unwrap_or_else(|| Arc::clone(&self.engine.retry)),
                );
                // The handle is taken before anybody can find and remove the topic.
                let topic = Topic::join(Arc::clone(&core));
                let ours: Arc<dyn AnyTopic> = core;
                if let Some(topic) = topic
                    && self.engine.register(&ours)
                {
                    return Ok(topic);
                }
                continue;
            };
            self.check_clash(&*found, &settings, live)?;
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
            // The topic is being removed at this moment, and will be gone.
            crate::sync::yield_now();
        }
    }

    fn settings(&self) -> Result<(TopicSettings, LiveSettings), SettingError> {
        if size_of::<T>() > MAX_PAYLOAD {
            let rule = "must not exceed 16,384 bytes by value: publish a Box or an Arc of it";
            return Err(SettingError::new("payload", size_of::<T>(), rule));
        }
        let capacity = in_range("capacity", self.capacity, DEFAULT_CAPACITY)?;
        let lane_capacity = in_range("lane_capacity", self.lane_capacity, DEFAULT_CAPACITY)?;
        let letters = in_range("dead_letter_capacity", self.letters, DEFAULT_LETTERS)?;
        let overflow = self.overflow.unwrap_or_default();
        check_overflow(overflow, self.engine)?;
        let ttl_ns = self.ttl.map(check_ttl).transpose()?;
        let partitions = match (self.partitions, self.unkeyed) {
            (Some(count), unkeyed) => Some(Partitions {
                count: check_partitions(count, capacity as u64)?,
                unkeyed: unkeyed.unwrap_or_default(),
            }),
            (None, Some(unkeyed)) => {
                let rule = "needs partitions";
                return Err(SettingError::new("unkeyed", format!("{unkeyed:?}"), rule));
            }
            (None, None) => None,
        };
        let settings = TopicSettings {
            no_subscribers: self.no_subscribers.unwrap_or_default(),
            on_expired: self.on_expired.unwrap_or_default(),
            letters,
            letter_overflow: self.letter_overflow.unwrap_or_default(),
            partitions,
        };
        let live = LiveSettings {
            capacity: capacity as u64,
            overflow,
            ttl: ttl_ns.and_then(NonZeroU64::new),
            lane_capacity: lane_capacity as u32,
        };
        Ok((settings, live))
    }

    /// Checks that the settings asked for are those that the topic has.
    fn check_clash(
        &self,
        found: &dyn AnyTopic,
        asked: &TopicSettings,
        asked_live: LiveSettings,
    ) -> Result<(), OpenError> {
        let (open, live) = (found.settings(), found.live());
        let strategy_clashes = |asked: &SharedStrategy| !asked.agrees(&found.strategy());
        let retry_clashes = |asked: &SharedPolicy| !asked.agrees(&found.retry());
        let clashes = [
            (
                "capacity",
                self.capacity.is_some() && live.capacity != asked_live.capacity,
            ),
            (
                "overflow",
                self.overflow.is_some() && live.overflow.pack() != asked_live.overflow.pack(),
            ),
            (
                "no_subscribers",
                self.no_subscribers.is_some() && open.no_subscribers != asked.no_subscribers,
            ),
            ("ttl", self.ttl.is_some() && live.ttl != asked_live.ttl),
            (
                "on_expired",
                self.on_expired.is_some() && open.on_expired != asked.on_expired,
            ),
            (
                "lane_capacity",
                self.lane_capacity.is_some() && live.lane_capacity != asked_live.lane_capacity,
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
                "partitions",
                self.partitions.is_some()
                    && open.partitions.map(|open| open.count)
                        != asked.partitions.map(|asked| asked.count),
            ),
            (
                "unkeyed",
                self.unkeyed.is_some() && open.partitions != asked.partitions,
            ),
            (
                "strategy",
                self.strategy.as_ref().is_some_and(strategy_clashes),
            ),
            ("retry", self.retry.as_ref().is_some_and(retry_clashes)),
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

/// Refuses a policy that could make publishers wait where nobody makes room.
pub(crate) fn check_overflow(overflow: Overflow, engine: &Engine) -> Result<(), SettingError> {
    if matches!(overflow, Overflow::Block { .. }) && engine.is_manual() {
        let rule = "needs worker threads, or nobody would ever make room";
        return Err(SettingError::new("overflow", "Block", rule));
    }
    Ok(())
}

/// Returns the number of partitions, if a topic of this capacity can have it.
pub(crate) fn check_partitions(asked: usize, capacity: u64) -> Result<u16, SettingError> {
    let rule = match asked {
        0 => "must be at least 1",
        n if n > MAX_PARTITIONS => "must be at most 256",
        n if n as u64 > capacity => "must not exceed the topic's capacity",
        n => return Ok(n as u16),
    };
    Err(SettingError::new("partitions", asked, rule))
}
