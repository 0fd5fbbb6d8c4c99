//! Topics, as users hold them.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::config::{DeadLetterOverflow, NoSubscribers, Overflow};
use crate::dead_letters::DeadLetters;
use crate::engine::Engine;
use crate::engine::contain::{SharedPolicy, SharedStrategy, share_policy, share_strategy};
use crate::engine::registry::AnyTopic;
use crate::engine::topic::{TopicCore, TopicSettings};
use crate::error::{InvalidSetting, OpenError, PartialBatch, PublishError, SubscribeError};
use crate::event::EventKind;
use crate::message::{BatchReceipt, Delivery, Meta, Receipt};
use crate::metrics::TopicMetrics;
use crate::nack::Nack;
use crate::pure::retry::RetryPolicy;
use crate::pure::strategy::Strategy;
use crate::pure::verdict::nanos;
use crate::subscription::{Subscription, SubscriptionBuilder};
use crate::sync::Arc;

/// A handle to a typed topic. Clone it freely, publish from any thread.
///
/// # When the queue is full, and when the broker closes
///
/// A full queue is answered by the topic's [`Overflow`] policy, and after the
/// broker's drain has begun every publish is answered by
/// [`PublishError::Closed`]. Both hand the payload back.
///
/// # Cost
///
/// A publish is two compare-and-swaps (admission, and the queue's slot), a fence
/// and a reading of the clock; no allocation, no lock, no map lookup. With a key,
/// headers or a time to live it allocates once.
pub struct Topic<T: Send + Sync + 'static> {
    pub(crate) core: Arc<TopicCore<T>>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// One more handle, unless the topic has been removed.
    pub(crate) fn join(core: Arc<TopicCore<T>>) -> Option<Self> {
        let joined = core.handles.update(|handles| handles.join());
        joined.then_some(Self { core })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Publishes a message.
    ///
    /// Blocks only under [`Overflow::Block`], and then never inside a handler.
    ///
    /// # Errors
    ///
    /// [`PublishError`], which hands the payload back: `Full`, `TimedOut`,
    /// `Closed` or `NoSubscribers`.
    pub fn publish(&self, payload: T) -> Result<Receipt, PublishError<T>> {
        self.core.publish(payload, None)
    }

    /// Publishes many messages in order, in chunks of up to 64 that take one slot
    /// of the queue each. Either all are accepted, or those before the first
    /// refusal are and [`PartialBatch`] hands back the rest: "all or nothing" per
    /// message, never per batch.
    ///
    /// Chunks of several publishers may interleave; within this call the order is
    /// kept.
    ///
    /// # Errors
    ///
    /// [`PartialBatch`], with how many were accepted, why no more, and the rest.
    pub fn publish_batch(
        &self,
        payloads: impl IntoIterator<Item = T>,
    ) -> Result<BatchReceipt, PartialBatch<T>> {
        self.core.publish_batch(payloads.into_iter().collect())
    }

    /// Publishes a message that enters the queue only after `delay` (rounded up
    /// to a tick of 100 µs). It is accepted now: it has its id and holds its place
    /// meanwhile, so it can be neither rejected nor dropped later. A drain delivers
    /// it if it is due before the deadline.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_after(&self, delay: Duration, payload: T) -> Result<Receipt, PublishError<T>> {
        self.core.publish_after(delay, payload, None)
    }

    /// Begins a message with a key, headers, a time to live or a delay; finish
    /// with [`publish`](MessageBuilder::publish).
    pub fn message(&self, payload: T) -> MessageBuilder<'_, T> {
        MessageBuilder {
            topic: self,
            payload,
            meta: Meta::default(),
            delay: None,
        }
    }

    /// Subscribes with the defaults: `handler` is called for each delivery, one
    /// call at a time, in accept order.
    ///
    /// The subscription gets every message published after this returns, and
    /// perhaps some that were queued before.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] for an invalid or taken name, or a closed broker.
    pub fn subscribe<F>(&self, name: &str, handler: F) -> Result<Subscription, SubscribeError>
    where
        F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
    {
        self.subscription(name).subscribe(handler)
    }

    /// Begins a subscription with settings of its own.
    pub fn subscription(&self, name: &str) -> SubscriptionBuilder<'_, T> {
        SubscriptionBuilder::new(&self.core, name)
    }

    /// Sets the strategy, while traffic runs. Messages that wait are judged by
    /// the new strategy at once; none is lost, moved or made younger by it.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] if the strategy refuses its own settings.
    pub fn set_strategy(&self, strategy: impl Strategy) -> Result<(), InvalidSetting> {
        strategy.check()?;
        Arc::clone(&self.core).swap_strategy(share_strategy(strategy));
        Ok(())
    }

    /// Sets the retry policy of those subscriptions that have none of their own.
    /// It decides from the next failure on; retries already granted stand.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] if the policy refuses its own settings.
    pub fn set_retry(&self, policy: impl RetryPolicy) -> Result<(), InvalidSetting> {
        policy.check()?;
        self.core.retry.swap(share_policy(policy));
        Ok(())
    }

    /// Hands on everything accepted so far, whatever the strategy says, and lets
    /// subscriptions that accumulate batches do the same with it. Doesn't wait.
    pub fn flush(&self) {
        self.core.flush();
    }

    /// The letters of deliveries that failed for good.
    pub fn dead_letters(&self) -> DeadLetters<T> {
        DeadLetters::new(self.clone())
    }

    /// A snapshot of this topic's counts.
    pub fn metrics(&self) -> TopicMetrics {
        self.core.read_metrics()
    }
}

impl<T: Send + Sync + 'static> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self::join(Arc::clone(&self.core)).expect("a topic with a handle can't be removed")
    }
}

impl<T: Send + Sync + 'static> Drop for Topic<T> {
    fn drop(&mut self) {
        self.core.handles.update(|handles| handles.leave());
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.core.name)
            .field("payload", &type_name::<T>())
            .finish_non_exhaustive()
    }
}

/// A message with more than a payload.
#[must_use = "a message goes nowhere until it is published"]
pub struct MessageBuilder<'t, T: Send + Sync + 'static> {
    topic: &'t Topic<T>,
    payload: T,
    meta: Meta,
    delay: Option<Duration>,
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// What the message is about: an account, a device. Handlers can read it.
    pub fn key(mut self, key: impl Into<Box<str>>) -> Self {
        self.meta.key = Some(key.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.meta.headers.push((name.into(), value.into()));
        self
    }

    /// How long after its acceptance the message is still worth handling,
    /// instead of the topic's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.meta.ttl_ns = Some(nanos(ttl));
        self
    }

    /// As [`Topic::publish_after`]; the time to live counts from then.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Publishes it.
    ///
    /// # Errors
    ///
    /// As [`Topic::publish`].
    pub fn publish(self) -> Result<Receipt, PublishError<T>> {
        let core = &self.topic.core;
        match self.delay {
            None => core.publish(self.payload, Some(self.meta)),
            Some(delay) => core.publish_after(delay, self.payload, Some(self.meta)),
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for MessageBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBuilder")
            .field("topic", &self.topic.name())
            .field("meta", &self.meta)
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

/// Messages a queue holds unless told otherwise: some milliseconds of heavy
/// traffic, 90 KB of 64-byte payloads, allocated with the first message.
const DEFAULT_CAPACITY: usize = 1_024;
/// The largest queue, lane or store: a bound that is out of reach is none.
pub(crate) const MAX_CAPACITY: usize = 1 << 24;
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
    lane_capacity: Option<usize>,
    letters: Option<usize>,
    letter_overflow: Option<DeadLetterOverflow>,
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
            lane_capacity: None,
            letters: None,
            letter_overflow: None,
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

    /// How long after its acceptance a message is still worth handling. It is
    /// checked before each attempt, and a retry that would come later is not
    /// made. Default: for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Deliveries that may be in each subscription's lane (queued, in hand or
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
    /// that clash, or a closed broker.
    pub fn open(self) -> Result<Topic<T>, OpenError> {
        let name = crate::name::parse(&self.name)?;
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
                let core = Arc::new(TopicCore::<T>::new(
                    Arc::clone(&name),
                    Arc::clone(self.engine),
                    settings.clone(),
                    strategy.unwrap_or_else(|| self.engine.strategy.load()),
                    retry.unwrap_or_else(|| Arc::clone(&self.engine.retry)),
                ));
                // The handle is taken before anybody can find and remove it.
                let topic = Topic::join(Arc::clone(&core));
                let ours: Arc<dyn AnyTopic> = Arc::clone(&core) as _;
                let there = self.engine.topics.get_or_insert(Arc::clone(&name), ours);
                if let Some(topic) = topic
                    && is_same(&there, &core)
                {
                    return self.opened(topic);
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

    fn opened(&self, topic: Topic<T>) -> Result<Topic<T>, OpenError> {
        topic.core.tell(EventKind::TopicOpened);
        if self.engine.is_ending() {
            // A drain may have passed by before the topic was there.
            Arc::clone(&topic.core).close();
            return Err(OpenError::Closed);
        }
        Ok(topic)
    }

    fn settings(&self) -> Result<TopicSettings, InvalidSetting> {
        let capacity = in_range("capacity", self.capacity, DEFAULT_CAPACITY)?;
        let lane_capacity = in_range("lane_capacity", self.lane_capacity, DEFAULT_CAPACITY)?;
        let letters = in_range("dead_letter_capacity", self.letters, DEFAULT_LETTERS)?;
        let overflow = self.overflow.unwrap_or_default();
        if matches!(overflow, Overflow::Block { .. }) && self.engine.is_manual() {
            let rule = "needs worker threads, or nobody would ever make room";
            return Err(InvalidSetting::new("overflow", "Block", rule));
        }
        if self.ttl == Some(Duration::ZERO) {
            let rule = "must be longer, or every message would expire at once";
            return Err(InvalidSetting::new("ttl", "zero", rule));
        }
        Ok(TopicSettings {
            capacity: capacity as u64,
            overflow,
            no_subscribers: self.no_subscribers.unwrap_or_default(),
            ttl_ns: self.ttl.map(nanos),
            lane_capacity: lane_capacity as u32,
            letters,
            letter_overflow: self.letter_overflow.unwrap_or_default(),
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

fn is_same<T: Send + Sync + 'static>(there: &Arc<dyn AnyTopic>, ours: &Arc<TopicCore<T>>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(there), Arc::as_ptr(ours))
}

/// The value asked for, or the default; refused if zero or out of reach.
pub(crate) fn in_range(
    setting: &'static str,
    asked: Option<usize>,
    default: usize,
) -> Result<usize, InvalidSetting> {
    match asked.unwrap_or(default) {
        0 => Err(InvalidSetting::new(setting, 0, "must be at least 1")),
        n if n > MAX_CAPACITY => Err(InvalidSetting::new(setting, n, "must be at most 16777216")),
        n => Ok(n),
    }
}
