//! The settings that topics share.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::engine::base::contain::{SharedPolicy, SharedStrategy};
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::{AnyTopic, LiveSettings, Partitions, TopicSettings};
use crate::pure::policy::dedup::Dedup;
use crate::pure::policy::retained::Retain;
use crate::pure::policy::retry::RetryPolicy;
use crate::pure::protect::rate::RateLimit;
use crate::pure::words::Packed;
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
/// The default capacity of a dead-letter store.
const DEFAULT_LETTERS: usize = 1_024;

/// Defines the setters of all settings, for types that can lend their [`TopicOptions`].
macro_rules! topic_setters {
    () => {
        /// Sets how many messages may wait for dispatch, delayed ones included.
        ///
        /// The range is 1 to 16,777,216, and the default is 1,024. The queue is allocated with the
        /// first message.
        pub fn capacity(mut self, messages: usize) -> Self {
            self.options_mut().capacity = Some(messages);
            self
        }

        /// Sets the policy for a publish into a full topic. The default is [`Overflow::Reject`](crate::Overflow::Reject).
        pub fn overflow(mut self, overflow: crate::types::config::Overflow) -> Self {
            self.options_mut().overflow = Some(overflow);
            self
        }

        /// Bounds the rate at which the topic accepts messages. By default there is no limit.
        ///
        /// Each message of a publisher takes one permit when it is accepted: from outside or from a
        /// handler, due now or [later](crate::Topic::publish_after). A duplicate, a retry, a redrive
        /// and a message that is refused take none. A batch takes a permit for each message. So a
        /// batch that is larger than the burst is accepted in pieces, as time goes on.
        ///
        /// Over the rate, a publish waits where it would wait for room, and as long. Otherwise it
        /// returns [`PublishError::RateLimited`](crate::PublishError::RateLimited).
        /// [The table](crate::docs::protection#the-rate-of-a-topic) says who waits. A topic that drops
        /// messages when it is full drops none for the rate.
        ///
        /// A message of a topic with a limit costs one more lock. Others pay nothing.
        /// [`Topic::set_rate_limit`](crate::Topic::set_rate_limit) changes the limit while traffic
        /// runs.
        ///
        /// ```
        /// # use millstream::{Broker, PublishError};
        /// use millstream::protect::RateLimit;
        /// use std::time::Duration;
        ///
        /// # let broker = Broker::builder().workers(0).build()?;
        /// let limit = RateLimit::new(1, Duration::from_secs(60));
        /// let mails = broker.topic::<u32>("mails").rate_limit(limit).open()?;
        /// mails.publish(1)?;
        /// match mails.publish(2) {
        ///     Err(PublishError::RateLimited { payload, retry_after }) => {
        ///         println!("{payload} again in {retry_after:?}");
        ///     }
        ///     other => panic!("it is over the rate: {other:?}"),
        /// }
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn rate_limit(mut self, limit: crate::protect::RateLimit) -> Self {
            self.options_mut().rate = Some(limit);
            self
        }

        /// Sets the policy for messages without subscriptions. The default is
        /// [`NoSubscribers::Discard`](crate::NoSubscribers::Discard).
        pub fn no_subscribers(mut self, policy: crate::types::config::NoSubscribers) -> Self {
            self.options_mut().no_subscribers = Some(policy);
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
        /// any subscription, it is dropped under [`NoSubscribers::Retain`](crate::NoSubscribers::Retain), and otherwise unrouted. A
        /// letter that is [redriven](crate::DeadLetters::redrive) has no time to live any more.
        pub fn ttl(mut self, ttl: std::time::Duration) -> Self {
            self.options_mut().ttl = Some(ttl);
            self
        }

        /// Sets the policy for deliveries that outlive the time to live of their message or topic.
        ///
        /// The default is [`OnExpired::Drop`](crate::OnExpired::Drop).
        pub fn on_expired(mut self, then: crate::types::config::OnExpired) -> Self {
            self.options_mut().on_expired = Some(then);
            self
        }

        /// Has the topic accept each [dedup id](crate::Message::dedup_id) once.
        ///
        /// By default it does not, and a message with such an id is refused as
        /// [`PublishError::Invalid`](crate::PublishError::Invalid). A publisher that doesn't know
        /// whether its message was accepted publishes it again with the same id. A message whose id
        /// the topic remembers is dropped. Its publisher gets the first message's
        /// [receipt](crate::Receipt::is_duplicate), even when the topic is full or closed. It is
        /// counted ([`duplicates`](crate::metrics::TopicMetrics::duplicates)) and reported as an event.
        ///
        /// Where two publish one id at the same time, one message is accepted. If that is refused,
        /// the other may still be accepted. An id is forgotten when its window is over or too many
        /// came after it. It stays when its message is delivered, evicted or expires.
        /// Messages without an id pay nothing.
        ///
        /// A durable topic (feature `log`) writes the ids to its log, and remembers
        /// them when it is opened again. There, a duplicate that comes while the first message is
        /// being written waits for that.
        ///
        /// [`Topic::set_dedup`](crate::Topic::set_dedup) changes the bounds while traffic runs.
        pub fn dedup(mut self, dedup: crate::pure::policy::dedup::Dedup) -> Self {
            self.options_mut().dedup = Some(dedup);
            self
        }

        /// Has the topic keep its last messages for subscriptions that come late.
        ///
        /// By default it keeps none, and a subscription begins with the messages accepted after it came.
        /// With this setting, a subscription first gets the last messages that were dispatched, oldest
        /// first, at most this many. Then it gets everything that is dispatched after them, without a
        /// gap and without a double. [`Delivery::is_retained`](crate::Delivery::is_retained) tells the
        /// first ones from the others.
        ///
        /// A message is kept when it is dispatched, whether or not it finds a subscription. One that is
        /// dropped or expires in the queue is not kept. Kept messages that have expired meanwhile are
        /// not given. A subscription's filter is asked about each, on the thread that subscribes. The
        /// topic dispatches nothing until it has answered. A lane with room for fewer gets the newest.
        ///
        /// The range is 1 to the topic's [`lane_capacity`](Self::lane_capacity). A kept message keeps
        /// its batch alive, which is up to 63 neighbors. A topic with this setting takes one lock more
        /// for each batch that it dispatches. A durable topic (feature `log`) refuses this setting:
        /// its subscriptions begin where they like.
        ///
        /// This replaces [`retain_last_per_key`](Self::retain_last_per_key). Neither has to do with
        /// [`NoSubscribers::Retain`](crate::NoSubscribers::Retain), under which messages wait in the
        /// queue for a first subscription.
        pub fn retain_last(mut self, messages: usize) -> Self {
            let retain = crate::pure::policy::retained::Retain::Last(messages);
            self.options_mut().retain = Some(retain);
            self
        }

        /// Has the topic keep the last message of each key for subscriptions that come late.
        ///
        /// By default it keeps none. Everything said of [`retain_last`](Self::retain_last) holds here,
        /// except for which messages are kept. They come in the order in which they were dispatched.
        /// All messages without a key count as those of one more key. Of more keys than `keys`, the
        /// one whose last message is the oldest is given up and counted
        /// ([`retained_evicted`](crate::metrics::TopicMetrics::retained_evicted)).
        ///
        /// The range is 1 to the topic's [`lane_capacity`](Self::lane_capacity). A key takes its text
        /// and some 200 bytes. Its message keeps its batch alive, which is up to 63 neighbors. A
        /// message costs two searches among the keys when it is dispatched.
        ///
        /// This replaces [`retain_last`](Self::retain_last).
        pub fn retain_last_per_key(mut self, keys: usize) -> Self {
            let retain = crate::pure::policy::retained::Retain::PerKey(keys);
            self.options_mut().retain = Some(retain);
            self
        }

        /// Sets how many deliveries may be in each subscription's lane, unless the subscription says
        /// otherwise.
        ///
        /// Queued deliveries count, and so do those in flight or waiting for a retry. The range is 1 to
        /// 16,777,216, and the default is 1,024.
        pub fn lane_capacity(mut self, deliveries: usize) -> Self {
            self.options_mut().lane_capacity = Some(deliveries);
            self
        }

        /// Sets how many letters the dead-letter store keeps.
        ///
        /// The range is 1 to 16,777,216, and the default is 1,024.
        pub fn dead_letter_capacity(mut self, letters: usize) -> Self {
            self.options_mut().letters = Some(letters);
            self
        }

        /// Sets the policy of a full dead-letter store. The default is
        /// [`DeadLetterOverflow::EvictOldest`](crate::dead_letters::DeadLetterOverflow::EvictOldest).
        pub fn dead_letter_overflow(
            mut self,
            overflow: crate::types::config::DeadLetterOverflow,
        ) -> Self {
            self.options_mut().letter_overflow = Some(overflow);
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
        /// messages that wait there. [`Overflow::DropOldest`](crate::Overflow::DropOldest) drops the oldest messages of the new
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
        /// [`Topic::set_partitions`](crate::Topic::set_partitions) changes the number while traffic runs.
        pub fn partitions(mut self, partitions: usize) -> Self {
            self.options_mut().partitions = Some(partitions);
            self
        }

        /// Sets where messages without a key go. The default is [`Unkeyed::RoundRobin`](crate::Unkeyed::RoundRobin).
        ///
        /// It needs [`partitions`](Self::partitions).
        pub fn unkeyed(mut self, unkeyed: crate::types::config::Unkeyed) -> Self {
            self.options_mut().unkeyed = Some(unkeyed);
            self
        }

        /// Sets the strategy, which decides when waiting messages are dispatched.
        ///
        /// The default is the broker's strategy, which is [`Immediate`](crate::Immediate) unless set.
        pub fn strategy(mut self, strategy: impl crate::pure::policy::strategy::Strategy) -> Self {
            self.options_mut().strategy =
                Some(crate::engine::base::contain::share_strategy(strategy));
            self
        }

        /// Sets the retry policy, unless a subscription has one of its own.
        ///
        /// The default is [`Backoff::default`](crate::Backoff::default).
        pub fn retry(mut self, policy: impl crate::pure::policy::retry::RetryPolicy) -> Self {
            self.options_mut().retry = Some(crate::engine::base::contain::share_policy(policy));
            self
        }
    };
}

pub(crate) use topic_setters;

/// The settings of a topic, as a value that many topics can share.
///
/// The [builder](crate::TopicBuilder) of a topic has the same settings as methods of its own, and
/// takes this value with [`options`](crate::TopicBuilder::options). Nothing is checked before a
/// topic is opened.
///
/// ```
/// use millstream::{Backoff, Broker, Overflow, TopicOptions};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let per_tenant = TopicOptions::new()
///     .capacity(256)
///     .overflow(Overflow::DropOldest)
///     .retry(Backoff::fixed(Duration::from_millis(50)).max_attempts(4));
/// for tenant in ["ann", "bob", "eve"] {
///     let topic = broker.topic::<u64>(&format!("orders.{tenant}"));
///     topic.options(&per_tenant).open()?.publish(7)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "options do nothing until a topic is opened with them"]
pub struct TopicOptions {
    pub(crate) capacity: Option<usize>,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) rate: Option<RateLimit>,
    pub(crate) no_subscribers: Option<NoSubscribers>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) on_expired: Option<OnExpired>,
    pub(crate) dedup: Option<Dedup>,
    pub(crate) retain: Option<Retain>,
    pub(crate) lane_capacity: Option<usize>,
    pub(crate) letters: Option<usize>,
    pub(crate) letter_overflow: Option<DeadLetterOverflow>,
    pub(crate) partitions: Option<usize>,
    pub(crate) unkeyed: Option<Unkeyed>,
    pub(crate) strategy: Option<SharedStrategy>,
    pub(crate) retry: Option<SharedPolicy>,
}

impl TopicOptions {
    /// Returns the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    topic_setters!();

    fn options_mut(&mut self) -> &mut Self {
        self
    }

    /// Returns the settings of a topic with these options, if they make sense together.
    pub(crate) fn checked(
        &self,
        engine: &Engine,
    ) -> Result<(TopicSettings, LiveSettings), SettingError> {
        let capacity = in_range("capacity", self.capacity, DEFAULT_CAPACITY)?;
        let lane_capacity = in_range("lane_capacity", self.lane_capacity, DEFAULT_CAPACITY)?;
        let letters = in_range("dead_letter_capacity", self.letters, DEFAULT_LETTERS)?;
        let overflow = self.overflow.unwrap_or_default();
        check_overflow(overflow, engine)?;
        self.rate.map_or(Ok(()), RateLimit::check)?;
        let ttl_ns = self.ttl.map(check_ttl).transpose()?;
        self.dedup.map_or(Ok(()), Dedup::check)?;
        let retain_check = |retain: Retain| retain.check(lane_capacity);
        self.retain.map_or(Ok(()), retain_check)?;
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
        if let Some(strategy) = &self.strategy {
            strategy.check()?;
        }
        if let Some(retry) = &self.retry {
            retry.check()?;
        }
        check_conflate(overflow, partitions.is_some(), false)?;
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
            dedup: self.dedup,
            weight_limit: None,
            rate: self.rate,
            retain: self.retain,
        };
        Ok((settings, live))
    }

    /// Checks that the settings asked for are those that the topic has.
    pub(crate) fn check_clash(
        &self,
        name: &str,
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
                "rate_limit",
                self.rate.is_some() && live.rate != asked_live.rate,
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
                "weight_limit",
                asked_live.weight_limit.is_some() && live.weight_limit != asked_live.weight_limit,
            ),
            (
                "dedup",
                self.dedup.is_some() && live.dedup != asked_live.dedup,
            ),
            (
                "retain_last",
                self.retain.is_some() && live.retain != asked_live.retain,
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
                topic: name.to_owned(),
                setting,
            }),
        }
    }
}

impl fmt::Debug for TopicOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicOptions")
            .field("capacity", &self.capacity)
            .field("overflow", &self.overflow)
            .field("rate_limit", &self.rate)
            .field("no_subscribers", &self.no_subscribers)
            .field("ttl", &self.ttl)
            .field("dedup", &self.dedup)
            .field("retain", &self.retain)
            .field("lane_capacity", &self.lane_capacity)
            .field("partitions", &self.partitions)
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

/// Refuses a policy that replaces messages where it can't.
pub(crate) fn check_conflate(
    overflow: Overflow,
    is_split: bool,
    is_weighed: bool,
) -> Result<(), SettingError> {
    let rule = match overflow {
        Overflow::Conflate if is_split => "must not be Conflate in a topic with partitions",
        Overflow::Conflate if is_weighed => "must not be Conflate in a topic with a weight limit",
        _ => return Ok(()),
    };
    Err(SettingError::new("overflow", "Conflate", rule))
}

/// Refuses a limit that nothing fits.
pub(crate) fn check_weight_limit(limit: u64) -> Result<(), SettingError> {
    match limit {
        0 => Err(SettingError::new("weight_limit", 0, "must be at least 1")),
        _ => Ok(()),
    }
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
