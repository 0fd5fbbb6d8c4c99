//! The broker, which opens topics and owns the threads.

pub(crate) mod builder;
pub(crate) mod dead_letters;
#[cfg(feature = "async")]
pub(crate) mod futures;

use std::fmt;
use std::time::Duration;

use crate::broker::builder::BrokerBuilder;
use crate::broker::dead_letters::BrokerDeadLetters;
use crate::engine::base::contain::{Contained, share_strategy};
use crate::engine::registry::drain::{DROP_GRACE, Outcome};
use crate::engine::runtime::bus::Bus;
use crate::engine::runtime::{Engine, context};
use crate::engine::state::topic::TopicCore;
use crate::message::Receipt;
use crate::observe::event::{Event, EventKind};
use crate::observe::metrics::{Metrics, TopicMetrics};
use crate::pure::policy::strategy::Strategy;
use crate::pure::words::ending::{Ending, Refuse};
use crate::subscription::builder::pattern::PatternSubscriptionBuilder;
use crate::sync::{Arc, Instant, StaticOnce};
use crate::topic::Topic;
use crate::topic::builder::TopicBuilder;
use crate::types::error::{
    BuildError, DrainError, ObserveError, PublishError, RemoveError, SettingError,
};
use crate::types::report::DrainReport;

/// A publish-subscribe engine inside your process.
///
/// Clones are handles to the same broker. When the last one is dropped, the broker stops: running
/// handler calls may finish, for a second at most, and all other work is cancelled. Call
/// [`drain`](Self::drain) first to let the broker finish its work.
///
/// A value that holds a `Broker` keeps the broker and its threads alive. A handler does so until its
/// subscription ends, and an observer until it is removed. A strategy or a retry policy does so
/// until it is replaced. A payload does so while it is queued or in the dead letters. Give them a
/// [`Topic`] instead, or drain: that drops all of them but the dead letters.
///
/// # Threads
///
/// `workers` threads run dispatch and handlers. One thread turns the timer wheel. One more calls
/// observers, and is started with the first of them. With `workers(0)` there are no threads: the
/// caller runs everything with [`run_until_idle`](Self::run_until_idle). Several threads may do so
/// at once.
///
/// A forked process has none of its parent's threads. In the child, a broker with workers delivers
/// nothing. Dropping it does nothing, and a drain of it does not wait for the threads. Any call but
/// the drop may still wait for a lock that a thread held at the fork. Build another broker after
/// the fork.
///
/// # Inside a handler
///
/// Calls that would wait for the broker never wait inside its own handlers, retry policies,
/// strategies or observers. A publish under [`Overflow::Block`](crate::Overflow::Block) returns
/// `Full`, a receive returns at once, and an unsubscribe only begins the end.
///
/// Another broker, say one that a library keeps for itself, works there as on any thread. A call
/// that waits for it holds up the handler. Two brokers whose handlers wait for each other may do so
/// forever.
#[derive(Clone)]
pub struct Broker {
    pub(crate) owner: Arc<Owner>,
}

/// The owner of the engine, which stops it when the last handle goes.
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
    /// Returns a builder with the default settings: as many workers as the machine has cores.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Builds a broker with the default settings.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Spawn`] if the system refuses a thread.
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// Returns the one broker of the whole process, built with the default settings on first use.
    ///
    /// It is never dropped. It is for small programs; a library should take a `Broker` from its
    /// caller instead.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Spawn`] if the system refuses a thread. The next call tries again.
    pub fn global() -> Result<Self, BuildError> {
        static GLOBAL: StaticOnce<Broker> = StaticOnce::new();
        if let Some(broker) = GLOBAL.get() {
            return Ok(broker.clone());
        }
        let broker = Self::new()?;
        Ok(GLOBAL.get_or_init(|| broker).clone())
    }

    /// Begins to open a topic for payloads of type `T`.
    ///
    /// Finish with [`open`](TopicBuilder::open). A topic that is already open is joined.
    pub fn topic<T: Send + Sync + 'static>(&self, name: &str) -> TopicBuilder<'_, T> {
        TopicBuilder::new(&self.owner.engine, name)
    }

    /// Publishes to a topic by name, which costs a map lookup each time.
    ///
    /// A [`Topic`] handle costs none.
    ///
    /// # Errors
    ///
    /// Returns [`PublishError::UnknownTopic`] if no topic of this name is open. Returns
    /// [`PublishError::WrongType`] if the topic carries another type. It also returns all the
    /// errors of [`Topic::publish`]. Each hands the payload back.
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

    /// Begins a subscription to all topics of payload type `T` whose names match a pattern.
    ///
    /// It covers topics that are opened later. Name the patterns with
    /// [`matching`](PatternSubscriptionBuilder::matching), and finish with
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

    /// Removes a topic that is no longer in use.
    ///
    /// It must have no handle, no message, no delivery, no dead letter, and no subscription.
    /// [Pattern subscriptions](Self::subscription) are the exception: they leave the topic. Its
    /// counts stay in the metrics' `removed`.
    ///
    /// # Errors
    ///
    /// Returns a [`RemoveError`], which says what still refers to the topic, or that there is none
    /// of this name.
    pub fn remove_topic(&self, name: &str) -> Result<(), RemoveError> {
        let engine = &self.owner.engine;
        let topic = engine.topics.get(name).ok_or(RemoveError::Unknown)?;
        // No pattern subscription joins the topic while this lock is held.
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

    /// Returns the dead letters of all topics, to look through them and to purge them.
    ///
    /// They are shown without their payloads, because topics carry different ones.
    /// [`Topic::dead_letters`] has these, and redrives. A [subscriber](BrokerDeadLetters::subscribe)
    /// gets those of one payload type.
    ///
    /// ```
    /// # use millstream::{Broker, Nack};
    /// # let broker = Broker::builder().workers(0).build()?;
    /// # let orders = broker.topic::<u64>("orders").open()?;
    /// # let _billing = orders.subscribe("billing", |_| Err(Nack::dead_letter("no such account")))?;
    /// # orders.publish(7)?;
    /// # broker.run_until_idle();
    /// for letter in broker.dead_letters().list() {
    ///     println!("{}: {:?}", letter.topic(), letter.error());
    /// }
    /// let purged = broker.dead_letters().purge(|letter| letter.subscription() == "billing");
    /// assert_eq!(purged, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dead_letters(&self) -> BrokerDeadLetters {
        BrokerDeadLetters::new(self.clone())
    }

    /// Sets the strategy of every open topic, and the default of topics that are opened later.
    ///
    /// The new strategy judges waiting messages at once. No message is lost, reordered or made
    /// younger.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] if the strategy refuses its own settings.
    pub fn set_strategy(&self, strategy: impl Strategy) -> Result<(), SettingError> {
        let strategy = share_strategy(strategy);
        strategy.check()?;
        self.owner.engine.strategy.swap(Arc::clone(&strategy));
        for topic in self.owner.engine.topics.values() {
            topic.swap_strategy(Arc::clone(&strategy));
        }
        Ok(())
    }

    /// Pauses all subscriptions of all topics, later ones included, until [`resume`](Self::resume).
    ///
    /// Topics go on to accept and to dispatch messages. Each subscription waits as after
    /// [`Subscription::pause`](crate::Subscription::pause). The pauses of topics and subscriptions
    /// are apart from this one.
    pub fn pause(&self) {
        self.owner.engine.set_paused(true);
    }

    /// Ends the broker's own pause.
    pub fn resume(&self) {
        self.owner.engine.set_paused(false);
    }

    /// Returns whether the broker itself is paused.
    pub fn is_paused(&self) -> bool {
        self.owner.engine.pauses.is_paused()
    }

    /// Calls `observer` for every event from now on, until the returned [`Observation`] is dropped.
    ///
    /// A thread of the observers' own makes the calls. A broker without workers makes them within
    /// [`run_until_idle`](Self::run_until_idle).
    ///
    /// An observer never holds up deliveries. If it is slow, events are missed and counted. If it
    /// panics, that is counted.
    ///
    /// # Errors
    ///
    /// Returns [`ObserveError::Spawn`] if the system refuses the thread, and
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

    /// Returns a snapshot of all counts.
    pub fn metrics(&self) -> Metrics {
        self.owner.engine.read_metrics()
    }

    /// Runs ready and due work on the calling thread until none is left, and returns the number of
    /// turns.
    ///
    /// Deliveries that are [requeued](crate::Nack::requeue) meanwhile are left to the next call.
    /// This is for brokers built with `workers(0)`. On others, and inside a handler of this broker,
    /// it does nothing.
    pub fn run_until_idle(&self) -> usize {
        self.owner.engine.run_until_idle()
    }

    /// Waits until the broker is idle, and returns whether that happened before the timeout.
    ///
    /// The broker is idle when nothing is queued, in flight, delayed or waiting for a retry, and
    /// observers have been told. No handler of dead letters runs, or has a letter due.
    ///
    /// Messages that a topic retains for its first subscription don't count. Deliveries of a parked
    /// key that wait for room among the dead letters do count.
    ///
    /// With `workers(0)` it runs the work that is due now, and does not wait. Inside a handler of
    /// this broker it returns `false` at once.
    #[must_use = "the time may be up before the broker is idle"]
    pub fn wait_until_idle(&self, timeout: Duration) -> bool {
        self.owner.engine.wait_until_idle(timeout)
    }

    /// Returns the time until the next retry, linger, delayed message or expiry, or `None` if there
    /// is none.
    ///
    /// A caller that runs a manual broker may sleep for this long.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.owner.engine.next_deadline()
    }

    /// Ends the broker in good order, and reports on every message ever accepted.
    ///
    /// From the first moment on, every publish is refused with `Closed`. That includes blocked
    /// publishers and handlers. If handlers publish onward to topics of the same broker, use
    /// [`drain_pipeline`](Self::drain_pipeline), which lets them. To end one topic, use
    /// [`Topic::drain`]. [The chapter on shutdown](crate::docs::shutdown) compares them.
    ///
    /// Then pending batches are flushed. Messages and deliveries that are queued, or become due
    /// before `deadline`, are handled. The rest is cancelled. Retries that are due only after the
    /// deadline are not waited for.
    ///
    /// Failures that the end itself causes are not failures. A publish of a handler to this broker
    /// may be refused as `Closed`. If the same call then returns an error, its delivery is
    /// cancelled, not retried or dead-lettered. A retry, a requeue and a snooze count as such
    /// errors; [`Nack::dead_letter`](crate::Nack::dead_letter) and
    /// [`Nack::discard`](crate::Nack::discard) still hold. If a thread that holds leases has a
    /// publish refused, that counts for the lease that it settles next.
    ///
    /// A second call waits for the first and returns the same report. With `workers(0)` the drain
    /// runs on the calling thread. With a manual clock it does the work that is due by that clock.
    ///
    /// # Errors
    ///
    /// Returns [`DrainError::Incomplete`] if the end cut anything off. It cuts off work that is
    /// left when the time is up, and deliveries cancelled for a refused publish. The same error
    /// means that a handler had not returned shortly after the deadline. Returns
    /// [`DrainError::InsideHandler`] inside a handler of this broker. Both carry the report.
    pub fn drain(&self, deadline: Duration) -> Result<DrainReport, DrainError> {
        self.drain_by(deadline, Refuse::All)
    }

    /// Ends the broker as [`drain`](Self::drain) does, but stage by stage, for handlers that
    /// publish onward.
    ///
    /// Until no work is left, publishes to this broker that are made in calls of its handlers are
    /// still accepted. The capacity and the overflow policy of their topics apply. All other
    /// publishes are refused with `Closed` from the first moment on. These are publishes of other
    /// threads, of observers, of tasks that a handler has spawned, and of threads that hold a
    /// lease. Handlers that publish in a circle are ended by the deadline.
    ///
    /// A handler with a [buffering publisher](crate::BufferedPublisher) should flush it before it
    /// returns. Messages that linger there have not been accepted.
    ///
    /// A second drain, of either kind, waits for the first and returns its report.
    ///
    /// # Errors
    ///
    /// The errors are those of [`drain`](Self::drain).
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
        self.drain_by(deadline, Refuse::Outside)
    }

    pub(crate) fn drain_by(
        &self,
        deadline: Duration,
        whom: Refuse,
    ) -> Result<DrainReport, DrainError> {
        let engine = &self.owner.engine;
        engine.drain(deadline, whom, &self.owner.outcome)
    }

    /// Returns whether the broker is draining or has stopped.
    ///
    /// Every topic then refuses every publish. Only publishes of handlers are accepted while
    /// [`drain_pipeline`](Self::drain_pipeline) lets them.
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

/// The registration of an observer. Dropping it removes the observer.
#[must_use = "dropping it takes the observer off at once; call `detach` to keep it"]
pub struct Observation {
    engine: Arc<Engine>,
    number: u64,
    detached: bool,
}

impl Observation {
    /// Keeps the observer until the broker ends.
    ///
    /// An observer that holds a [`Broker`] keeps it from ending until it is drained.
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
