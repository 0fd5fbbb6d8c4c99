//! The broker: opens topics, and owns the threads.

pub(crate) mod builder;

use std::fmt;
use std::time::Duration;

use crate::broker::builder::BrokerBuilder;
use crate::engine::base::contain::{Contained, share_strategy};
use crate::engine::registry::drain::{DROP_GRACE, Outcome};
use crate::engine::runtime::bus::Bus;
use crate::engine::runtime::{Engine, context};
use crate::engine::state::topic::TopicCore;
use crate::message::Receipt;
use crate::observe::event::{Event, EventKind};
use crate::observe::metrics::{Metrics, TopicMetrics};
use crate::pure::decide::strategy::Strategy;
use crate::pure::words::ending::{Ending, Refuse};
use crate::subscription::pattern::PatternSubscriptionBuilder;
use crate::sync::{Arc, Instant, StaticOnce};
use crate::topic::Topic;
use crate::topic::builder::TopicBuilder;
use crate::types::error::{
    BuildError, DrainError, InvalidSetting, ObserveError, PublishError, RemoveError,
};
use crate::types::report::DrainReport;

/// A publish-subscribe engine inside your process.
///
/// Clones are handles to the same broker. When the last one is dropped the broker stops:
/// handler calls that are running may finish (for a second at most), everything else is
/// cancelled. Call [`drain`](Self::drain) first to let it finish its work. Anything that the
/// broker holds keeps it alive, threads included, if it holds a `Broker` itself: a handler
/// until its subscription ends, an observer until it is taken off, a strategy or a retry
/// policy until it is replaced, a payload for as long as it is queued or in the dead letters.
/// Give them a [`Topic`] instead, or drain: that lets go of all of them but the dead letters.
///
/// # Threads
///
/// `workers` threads run dispatch and handlers, one turns the timer wheel, and
/// one more calls observers, started with the first of them. With `workers(0)`
/// there are none: the caller runs everything with
/// [`run_until_idle`](Self::run_until_idle). Several threads may do so at once.
///
/// A process that is forked off has none of its parent's threads. There, nothing is
/// delivered, dropping a broker with workers does nothing, and a drain waits for nobody.
/// Anything but the drop may still wait for a lock that one of the threads held at that
/// moment: build another broker after the fork.
///
/// # Inside a handler
///
/// Nothing that would wait for the broker waits inside one of its handlers, retry
/// policies, strategies or observers: a publish under
/// [`Overflow::Block`](crate::Overflow::Block) returns `Full`, a receive returns at
/// once, an unsubscribe only begins the end. That concerns the broker whose handler it
/// is. Another broker, say one that a library keeps for itself, works there as it does
/// on any thread, and what waits for it holds up the handler. Two brokers whose
/// handlers wait for each other may do so for ever.
#[derive(Clone)]
pub struct Broker {
    pub(crate) owner: Arc<Owner>,
}

/// Stops the engine when the last handle goes.
pub(crate) struct Owner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) outcome: Outcome,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.engine.has_lost_its_threads() {
            return;
        }
        let began = Instant::now();
        if self.engine.ending.load() < Ending::Stopped {
            let grace = if context::is_inside(&self.engine) {
                Duration::ZERO
            } else {
                DROP_GRACE
            };
            self.engine.stop(began.checked_add(grace), began);
        }
        let ending = &self.engine.ending;
        ending.update(|ending| ending.advance(Ending::Dropped));
        for topic in self.engine.all_topics() {
            topic.release_user_code();
        }
        self.engine.topics.clear();
        let retired_topics = std::mem::take(&mut *self.engine.retired_topics.lock());
        drop(retired_topics);
        let pattern_subs = std::mem::take(&mut *self.engine.pattern_subs.lock());
        drop(pattern_subs);
        self.engine.release_settings();
        self.engine.bus.release_user_code();
    }
}

impl Broker {
    /// A builder with the defaults: as many workers as the machine has cores.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// A broker with the defaults.
    ///
    /// # Errors
    ///
    /// [`BuildError::Spawn`] if the system refuses a thread.
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// One broker for the whole process, made with the defaults on first use and
    /// never dropped. A convenience for small programs; a library should take a
    /// `Broker` from its caller instead.
    ///
    /// # Errors
    ///
    /// [`BuildError::Spawn`] if the system refuses a thread; the next call tries
    /// again.
    pub fn global() -> Result<Self, BuildError> {
        static GLOBAL: StaticOnce<Broker> = StaticOnce::new();
        if let Some(broker) = GLOBAL.get() {
            return Ok(broker.clone());
        }
        let broker = Self::new()?;
        Ok(GLOBAL.get_or_init(|| broker).clone())
    }

    /// Begins to open a topic for payloads of type `T`; finish with
    /// [`open`](TopicBuilder::open). A topic that is open already is joined.
    pub fn topic<T: Send + Sync + 'static>(&self, name: &str) -> TopicBuilder<'_, T> {
        TopicBuilder::new(&self.owner.engine, name)
    }

    /// Publishes to a topic by name: a convenience that costs a map lookup each
    /// time. A [`Topic`] handle costs none.
    ///
    /// # Errors
    ///
    /// [`PublishError::UnknownTopic`] if none of this name is open,
    /// [`PublishError::WrongType`] if it carries another type, and all that
    /// [`Topic::publish`] returns. Each hands the payload back.
    pub fn publish<T: Send + Sync + 'static>(
        &self,
        topic: &str,
        payload: T,
    ) -> Result<Receipt, PublishError<T>> {
        let Some(found) = self.owner.engine.topics.get(topic) else {
            return Err(PublishError::UnknownTopic(payload));
        };
        let existing = found.payload_type();
        let Ok(core) = found.into_any().downcast::<TopicCore<T>>() else {
            return Err(PublishError::WrongType { payload, existing });
        };
        match Topic::join(core) {
            Some(topic) => topic.publish(payload),
            None => Err(PublishError::UnknownTopic(payload)),
        }
    }

    /// Begins a subscription to all topics for payloads of type `T` whose names match
    /// a pattern, those that are opened later included. Name the patterns with
    /// [`matching`](PatternSubscriptionBuilder::matching), finish with
    /// [`subscribe`](PatternSubscriptionBuilder::subscribe).
    ///
    /// ```
    /// # use millstream::Broker;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let audit = broker
    ///     .subscription::<u64>("audit")
    ///     .matching("orders.>")
    ///     .subscribe(|delivery| {
    ///         println!("{}: {}", delivery.topic(), delivery.payload());
    ///         Ok(())
    ///     })?;
    /// broker.topic("orders.eu").open()?.publish(42_u64)?;
    /// broker.run_until_idle();
    /// assert_eq!(audit.metrics().counts.delivered, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscription<T: Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> PatternSubscriptionBuilder<'_, T> {
        PatternSubscriptionBuilder::new(&self.owner.engine, name)
    }

    /// Removes a topic that nothing refers to any more: no handle, no message, no
    /// delivery, no dead letter, and no subscription but those
    /// [to patterns](Self::subscription), which let go of it. Its counts stay in the
    /// metrics' `removed`.
    ///
    /// # Errors
    ///
    /// [`RemoveError`], with what still refers to it.
    pub fn remove_topic(&self, name: &str) -> Result<(), RemoveError> {
        let engine = &self.owner.engine;
        let topic = engine.topics.get(name).ok_or(RemoveError::Unknown)?;
        // Nobody begins to follow it meanwhile.
        let pattern_subs = engine.pattern_subs.lock();
        let marked = topic.handles().update(|handles| handles.remove());
        marked.map_err(|handles| match handles {
            0 => RemoveError::Unknown,
            handles => RemoveError::InUse { handles },
        })?;
        if let Some(what) = topic.contents() {
            topic.handles().update(|handles| handles.restore());
            return Err(RemoveError::NotEmpty { what });
        }
        let mut removed = engine.removed.lock();
        if engine.topics.remove(name).is_some() {
            removed
                .get_or_insert_with(TopicMetrics::default)
                .absorb(&topic.metrics());
            topic.announce(EventKind::TopicRemoved);
        }
        drop(removed);
        let mut left = pattern_subs.clone();
        left.retain(|pattern_sub| pattern_sub.on_topic_removed(name));
        drop(pattern_subs);
        if topic.has_lanes() {
            engine.retire_topic(&topic);
            topic.end(engine);
        }
        for pattern_sub in left {
            pattern_sub.reap_ended();
        }
        Ok(())
    }

    /// Sets the strategy of every open topic and the default of those opened
    /// later. Messages that wait are judged by the new strategy at once; none is
    /// lost, moved or made younger by it.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] if the strategy refuses its own settings.
    pub fn set_strategy(&self, strategy: impl Strategy) -> Result<(), InvalidSetting> {
        let strategy = share_strategy(strategy);
        strategy.check()?;
        self.owner.engine.strategy.swap(Arc::clone(&strategy));
        for topic in self.owner.engine.topics.values() {
            topic.swap_strategy(Arc::clone(&strategy));
        }
        Ok(())
    }

    /// Calls `observer` for every event from now on, on a thread of its own (on
    /// an engine without workers, within [`run_until_idle`](Self::run_until_idle)),
    /// until the returned [`Observation`] is dropped.
    ///
    /// An observer can do as it likes: if it is slow, events are missed and
    /// counted; if it panics, that is counted; deliveries go on either way.
    ///
    /// # Errors
    ///
    /// [`ObserveError::Spawn`] if the system refuses the thread, and
    /// [`ObserveError::Closed`] after the end of the broker.
    pub fn observe(
        &self,
        observer: impl Fn(&Event<'_>) + Send + Sync + 'static,
    ) -> Result<Observation, ObserveError> {
        let engine = &self.owner.engine;
        if engine.has_stopped() {
            return Err(ObserveError::Closed);
        }
        if !engine.is_manual() {
            Bus::start(engine).map_err(ObserveError::Spawn)?;
        }
        Ok(Observation {
            number: engine.bus.add(Contained::new(Box::new(observer))),
            engine: Arc::clone(engine),
            detached: false,
        })
    }

    /// A snapshot of everything counted.
    pub fn metrics(&self) -> Metrics {
        self.owner.engine.read_metrics()
    }

    /// Runs what is ready and due on the calling thread until there is nothing
    /// left to do now; returns how many turns that took. What is
    /// [requeued](crate::Nack::requeue) meanwhile is for the next call. For brokers built
    /// with `workers(0)`; on others, and from inside a handler of this broker, it does
    /// nothing.
    pub fn run_until_idle(&self) -> usize {
        self.owner.engine.run_until_idle()
    }

    /// Waits until nothing is queued, in flight, delayed or awaiting a retry, and
    /// observers have been told; `false` if that did not happen in time. Messages
    /// that a topic retains for its first subscription don't count; the followers of a
    /// parked key that wait for room among the dead letters do. With
    /// `workers(0)` it runs what is due now, and doesn't wait. From inside a
    /// handler of this broker it is `false` at once.
    pub fn wait_until_idle(&self, timeout: Duration) -> bool {
        self.owner.engine.wait_until_idle(timeout)
    }

    /// How long until the next retry, linger, delayed message or expiry of what waits;
    /// `None` if there is none. What a caller that runs a manual broker may sleep.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.owner.engine.next_deadline()
    }

    /// Ends the broker in good order. From the first moment on publishes are
    /// refused with `Closed`, blocked publishers and handlers included. If handlers
    /// publish onward to topics of the same broker, take
    /// [`drain_pipeline`](Self::drain_pipeline), which lets them. Then pending batches
    /// are flushed and what is queued or becomes due before `deadline` is
    /// delivered. What is left then is cancelled, and the report accounts for
    /// every message ever accepted. Retries due only after the deadline are not
    /// waited for.
    ///
    /// Failures that the end itself causes are not failures: a handler that
    /// returns an error after a publish of its own, in the same call and to this
    /// broker, was refused as `Closed` has its delivery cancelled, not retried or
    /// dead-lettered. [`Nack::dead_letter`](crate::Nack::dead_letter) and
    /// [`Nack::discard`](crate::Nack::discard) hold all the same;
    /// a retry and a requeue don't. A publish refused to a thread that holds leases counts
    /// for the lease that it settles next.
    ///
    /// A second call waits for the first and returns the same report. With
    /// `workers(0)` the drain runs on the calling thread, and with a manual clock
    /// it does what is due by that clock.
    ///
    /// # Errors
    ///
    /// [`DrainError::Incomplete`] if the end cut anything off: what was left when the time
    /// was up, and deliveries cancelled for a refused publish; or if a handler had
    /// not returned shortly after the deadline; [`DrainError::InsideHandler`] if
    /// called by a handler of this broker. Both carry the report.
    pub fn drain(&self, deadline: Duration) -> Result<DrainReport, DrainError> {
        let engine = &self.owner.engine;
        engine.drain(deadline, Refuse::All, &self.owner.outcome)
    }

    /// Ends the broker as [`drain`](Self::drain) does, but stage by stage, for brokers whose
    /// handlers publish onward: until nothing is left to do, publishes to this broker that
    /// are made in calls of its handlers are still accepted, within the capacity and by the
    /// overflow policy of their topics. All others are refused with `Closed` from the first
    /// moment on: those of other threads, of observers, of tasks that a handler has spawned,
    /// and of whoever holds a lease. Handlers that publish in a circle are ended by the
    /// deadline.
    ///
    /// A handler that publishes by a [buffering publisher](crate::BufferedPublisher)
    /// should flush it before it returns: what lingers there has not been accepted.
    ///
    /// A drain that comes second, of either kind, waits for the first and returns its report.
    ///
    /// # Errors
    ///
    /// As [`drain`](Self::drain).
    ///
    /// ```
    /// # use millstream::Broker;
    /// # use std::time::Duration;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let raw = broker.topic::<u32>("raw").open()?;
    /// let cooked = broker.topic::<u32>("cooked").open()?;
    /// let onward = cooked.clone();
    /// let _cook = raw.subscribe("cook", move |delivery| {
    ///     onward.publish(delivery.payload() * 2)?;
    ///     Ok(())
    /// })?;
    /// let _eat = cooked.subscribe("eat", |_| Ok(()))?;
    /// raw.publish_batch(0..100)?;
    /// let report = broker.drain_pipeline(Duration::from_secs(5))?;
    /// assert_eq!(report.delivered, 200);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_pipeline(&self, deadline: Duration) -> Result<DrainReport, DrainError> {
        let engine = &self.owner.engine;
        engine.drain(deadline, Refuse::Outside, &self.owner.outcome)
    }

    /// Whether the broker is draining or has stopped: every topic refuses every publish
    /// then, except those of handlers while [`drain_pipeline`](Self::drain_pipeline)
    /// still accepts them.
    pub fn is_closed(&self) -> bool {
        self.owner.engine.is_closed()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("workers", &self.owner.engine.workers)
            .field("ending", &self.owner.engine.ending)
            .finish_non_exhaustive()
    }
}

/// Keeps an observer on; dropping it takes the observer off.
#[must_use = "dropping it takes the observer off at once; call `detach` to keep it"]
pub struct Observation {
    engine: Arc<Engine>,
    number: u64,
    detached: bool,
}

impl Observation {
    /// Keeps the observer on until the broker ends. One that holds a [`Broker`] keeps it
    /// from ending until it is drained.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        if !self.detached {
            self.engine.bus.remove(self.number);
        }
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
