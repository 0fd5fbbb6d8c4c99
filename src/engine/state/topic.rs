//! A topic: the state that its publishers, its dispatcher and its lanes share.

use crate::engine::base::cell::Cell;
use crate::engine::base::contain::{PolicyInUse, SharedPolicy, SharedStrategy, StrategyInUse};
use crate::engine::base::counters::{DeliveryCounts, TopicBooks};
use crate::engine::base::gate::Gate;
#[cfg(feature = "log")]
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::late::retained::RetainedMessages;
use crate::engine::parts::delayed::DelayedMessages;
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::{Live, LiveSettings, TopicSettings};
use crate::engine::state::dead_letter_store::{DeadLetterState, DeadLetterStore, Left, Letter};
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_queue::PartitionQueue;
use crate::engine::state::partition_set::Split;
use crate::engine::state::roll::Roll;
use crate::engine::terms::rate::PublishRate;
use crate::engine::terms::weights::Weights;
use crate::engine::wait::holds::Holds;
use crate::engine::wait::waiters::Waiters;
use crate::message::batch::{BatchSlice, QueueEntry};
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::lifecycle::Status;
use crate::pure::policy::dedup::DedupIds;
use crate::pure::words::ending::Ending;
use crate::pure::words::handles::Handles;
use crate::pure::words::schedule::Then;
use crate::pure::words::start::Starts;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, CachePadded, Mutex, OnceLock, Slot, in_order};

mod rate;
mod replies;
mod tell;

/// The list of a topic's lanes.
pub(crate) type Lanes<T> = Vec<Arc<Lane<T>>>;

/// The dedup ids of accepted messages, each with the number of its message.
pub(crate) type AcceptedIds = Mutex<DedupIds<Arc<str>, u64>>;

/// The policies that a topic begins with.
pub(crate) struct Policies {
    pub(crate) strategy: SharedStrategy,
    pub(crate) retry: SharedPolicy,
}

/// A topic.
///
/// Publishers touch the gate and the queue. Subscribe and unsubscribe replace the list of lanes
/// under the lock of `ended`.
pub(crate) struct TopicCore<T> {
    pub(crate) name: Arc<str>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) settings: TopicSettings,
    pub(crate) live: Live,
    /// The dedup ids of accepted messages, if it accepts each once.
    pub(crate) dedup: Option<Box<AcceptedIds>>,
    /// The weight of its messages, if it has a limit for that.
    pub(crate) weights: Option<Box<Weights<T>>>,
    /// The rate at which it accepts messages. Made when it first has a limit.
    pub(crate) rate: OnceLock<Box<PublishRate>>,
    /// The messages that it keeps for subscriptions that come late, if it does.
    pub(crate) retained: Option<Box<RetainedMessages<T>>>,
    /// Whether a publisher has to look at nothing but the gate and the queue.
    pub(crate) is_plain: AtomicBool,
    pub(crate) gate: Gate,
    /// The topic's queue, whose messages are numbered by their ids; unused if it is split.
    pub(crate) plain: PartitionQueue<T>,
    pub(crate) split: Option<Box<Split<T>>>,
    /// Its side of the log, if it is durable.
    #[cfg(feature = "log")]
    pub(crate) stored: Option<Box<TopicLog<T>>>,
    /// Messages up to this id are handed on whatever the strategy says.
    pub(crate) flush_to: AtomicU64,
    pub(crate) lanes: Slot<Lanes<T>>,
    /// The means to change that list.
    roll: Roll<T>,
    /// Whether there may be messages that some lane doesn't want.
    pub(crate) starts: Cell<Starts>,
    /// Whether some lane has, or had, a filter.
    filters: AtomicBool,
    /// Whether some lane conflates, or did.
    conflation: AtomicBool,
    /// Serializes changes of the list; holds the counts of lanes that ended.
    pub(crate) ended: Mutex<Option<Box<DeliveryCounts>>>,
    pub(crate) strategy: Slot<StrategyInUse>,
    pub(crate) retry: Slot<PolicyInUse>,
    pub(crate) waiters: Waiters,
    /// Made when it is first needed.
    delayed: OnceLock<Box<Mutex<DelayedMessages<T>>>>,
    /// Made when they are first needed.
    pub(crate) letters: OnceLock<Box<DeadLetterState<T>>>,
    /// Written for every batch: kept off the lines that publishers read.
    pub(crate) books: CachePadded<TopicBooks>,
    pub(crate) handles: Cell<Handles>,
    /// Whether a drain of the topic has ended it.
    pub(crate) is_stopped: AtomicBool,
    /// The pauses that its lanes have from it, and from its broker. They change under the lock of
    /// `ended`.
    pub(crate) pauses: Holds,
    /// Held while the topic is drained.
    pub(crate) draining: Mutex<()>,
    /// Held while a setting changes.
    pub(crate) changing: Mutex<()>,
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    pub(crate) fn new(
        name: Arc<str>,
        engine: Arc<Engine>,
        settings: TopicSettings,
        live: LiveSettings,
        weights: Option<Weights<T>>,
        policies: Policies,
        #[cfg(feature = "log")] stored: Option<Box<TopicLog<T>>>,
    ) -> Arc<Self> {
        #[cfg(feature = "log")]
        let (is_stored, gate) = match &stored {
            Some(stored) => (true, Gate::new(stored.first_own - 1)),
            None => (false, Gate::new(0)),
        };
        #[cfg(not(feature = "log"))]
        let (is_stored, gate) = (false, Gate::new(0));
        let ids = live.dedup.map(|dedup| {
            #[cfg(feature = "log")]
            if let Some(stored) = &stored {
                return stored.dedup_ids(dedup);
            }
            DedupIds::new(dedup)
        });
        let is_plain = settings.is_plain() && weights.is_none() && !is_stored;
        let rate = OnceLock::new();
        if live.rate.is_some() {
            let limited = rate.get_or_init(|| Box::new(PublishRate::new()));
            limited.set(live.rate, engine.clock.now_ns());
        }
        Arc::new_cyclic(|topic| Self {
            name,
            is_plain: AtomicBool::new(is_plain && live.rate.is_none()),
            rate,
            weights: weights.map(Box::new),
            retained: live
                .retain
                .map(|retain| Box::new(RetainedMessages::new(retain))),
            gate,
            dedup: ids.map(|ids| Box::new(Mutex::new(ids))),
            plain: PartitionQueue::new(live),
            split: settings
                .partitions
                .map(|partitions| Box::new(Split::new(topic, live, partitions))),
            #[cfg(feature = "log")]
            stored,
            flush_to: AtomicU64::new(0),
            lanes: Slot::new(Arc::new(Vec::new())),
            roll: Roll::new(),
            starts: Cell::new(Starts::NONE),
            filters: AtomicBool::new(false),
            conflation: AtomicBool::new(false),
            ended: Mutex::new(None),
            strategy: Slot::new(policies.strategy),
            retry: Slot::new(policies.retry),
            waiters: Waiters::new(),
            delayed: OnceLock::new(),
            letters: OnceLock::new(),
            books: CachePadded::new(TopicBooks::default()),
            handles: Cell::new(Handles::NONE),
            is_stopped: AtomicBool::new(false),
            pauses: Holds::new(),
            draining: Mutex::new(()),
            changing: Mutex::new(()),
            settings,
            live: Live::new(live),
            engine,
        })
    }

    /// Returns the settings that may change, as they are now.
    pub(crate) fn live_now(&self) -> LiveSettings {
        let (weights, retained) = (self.weights.as_ref(), self.retained.as_ref());
        LiveSettings {
            dedup: self.dedup.as_ref().map(|ids| ids.lock().settings()),
            weight_limit: weights.map(|weights| weights.load().limit()),
            rate: self.rate.get().and_then(|rate| rate.limit()),
            retain: retained.map(|retained| retained.retain()),
            ..self.live.now()
        }
    }

    /// Pushes an admitted entry and lets the dispatcher know.
    #[inline(always)]
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        entry: QueueEntry<T>,
        last_id: u64,
        route: Option<u64>,
    ) {
        if let Some(split) = &self.split {
            split.enqueue(self, entry, route);
        } else if self.plain.push(entry, last_id) == Then::Enqueue {
            self.engine.pool.submit(Arc::clone(self) as _);
        }
    }

    /// Returns how many accepted messages wait for the dispatcher. Messages on the timer wheel are
    /// not among them.
    pub(crate) fn waiting(&self) -> u64 {
        let delayed = self.books.delayed.get();
        self.gate.outstanding().saturating_sub(delayed)
    }

    /// Returns whether it cancels what it has: it was drained, or its broker has stopped.
    #[inline]
    pub(crate) fn has_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire) || self.engine.has_stopped()
    }

    /// Returns its side of the log, if it is durable.
    #[cfg(feature = "log")]
    #[inline]
    pub(crate) fn stored(&self) -> Option<&TopicLog<T>> {
        self.stored.as_deref()
    }

    /// Returns whether it is durable.
    #[inline(always)]
    pub(crate) fn is_stored(&self) -> bool {
        #[cfg(feature = "log")]
        {
            self.stored.is_some()
        }
        #[cfg(not(feature = "log"))]
        {
            false
        }
    }

    /// Returns the highest id that a message has got.
    ///
    /// It is the number of tickets that were given out. In a durable topic the log numbers the
    /// messages. Each has a ticket, too, but racing publishers may come to the log in another order.
    pub(crate) fn last_id(&self) -> u64 {
        #[cfg(feature = "log")]
        if let Some(stored) = &self.stored {
            return stored.last_given();
        }
        self.gate.issued()
    }

    /// Returns whether all its places are taken, or it has turned a message away for its weight.
    pub(crate) fn is_full(&self) -> bool {
        let is_short = |weights: &Weights<T>| weights.load().is_short();
        self.gate.outstanding() >= self.live.capacity.get()
            || self.weights.as_deref().is_some_and(is_short)
    }

    /// Removes the weight of messages that leave the queue, before their tickets are released.
    #[cold]
    pub(crate) fn unload(&self, part: &BatchSlice<T>) {
        if let Some(weights) = &self.weights {
            weights.load().remove(part.weight());
        }
    }

    /// Returns whether it has no accepted messages, and nobody looks for more.
    pub(crate) fn is_starving(&self) -> bool {
        let is_idle = match &self.split {
            None => self.plain.task.is_idle(),
            Some(split) => split.is_idle(),
        };
        is_idle && self.gate.outstanding() == 0
    }

    /// Puts the topic on the ready queue unless somebody is bound to look at it.
    pub(crate) fn schedule(self: &Arc<Self>) {
        if let Some(split) = &self.split {
            split.schedule(&self.engine);
        } else if self.plain.task.notify() == Then::Enqueue {
            self.engine.pool.submit(Arc::clone(self) as _);
        }
    }

    /// Gives back the tickets of messages that have left the queue, and lets blocked publishers
    /// know.
    pub(crate) fn release(&self, count: u64) {
        self.gate.release(count);
        self.call_publishers();
    }

    /// Lets waiting publishers look, because there may be room.
    pub(crate) fn call_publishers(&self) {
        self.waiters.wake(|| self.room());
    }

    /// Returns how many more messages it takes now. Where only the rate holds them up it is one, so
    /// that somebody looks, and has the topic called for the next permit.
    pub(crate) fn room(&self) -> usize {
        let capacity = self.live.capacity.get();
        let free = capacity.saturating_sub(self.gate.outstanding());
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        match self.rate.get() {
            None => free,
            Some(rate) => free.min(rate.outlook(self.engine.clock.now_ns()).0.max(1)),
        }
    }

    /// Hands on everything accepted so far, whatever the strategies say.
    pub(crate) fn flush(self: &Arc<Self>) {
        // ORDERING: pairs with the loads by the dispatcher and the lanes. The notifications below
        // bring them to look.
        self.flush_to.fetch_max(self.last_id(), Ordering::AcqRel);
        self.schedule();
        for lane in self.lanes.load().iter() {
            lane.schedule();
        }
    }

    /// Returns the delayed messages.
    pub(crate) fn delayed(&self) -> &Mutex<DelayedMessages<T>> {
        self.delayed
            .get_or_init(|| Box::new(Mutex::new(DelayedMessages::new())))
    }

    /// Returns the store of dead letters.
    pub(crate) fn letters(&self) -> &Mutex<DeadLetterStore<T>> {
        &self.dead_letters().store
    }

    fn dead_letters(&self) -> &DeadLetterState<T> {
        let settings = &self.settings;
        let new = || DeadLetterState::new(settings.letters, settings.letter_overflow);
        self.letters.get_or_init(|| Box::new(new()))
    }

    /// Returns the line of redrives that wait for room in a lane.
    pub(crate) fn redrives(&self) -> &Waiters {
        &self.dead_letters().redrives
    }

    /// Lets those look that wait for room in a lane: the dispatcher, and redrives.
    pub(crate) fn notify_room(self: &Arc<Self>) {
        self.schedule();
        if let Some(letters) = self.letters.get() {
            letters.redrives.wake_all();
        }
    }

    /// Returns how many letters are in the store, and how many were evicted from it.
    pub(crate) fn letter_counts(&self) -> (usize, u64) {
        self.letters.get().map_or((0, 0), |letters| {
            let letters = letters.store.lock();
            (letters.len(), letters.evicted())
        })
    }

    /// Puts a letter into the store. Returns `false` if it was not kept.
    pub(crate) fn bury(&self, letter: Letter<T>) -> bool {
        let mut letters = self.letters().lock();
        let buried = self.bury_in(&mut letters, letter);
        drop(letters);
        let is_kept = buried.is_ok();
        self.tell_evicted(buried.unwrap_or_else(|letter| {
            let letter = Arc::new(letter);
            let waiting = Vec::new();
            Some(Left { letter, waiting })
        }));
        is_kept
    }

    /// Puts a letter into the locked store, and tells observers under the lock. So nobody redrives
    /// it before observers were told, and no observer hears of it before it can be found.
    pub(crate) fn bury_in(
        &self,
        letters: &mut DeadLetterStore<T>,
        letter: Letter<T>,
    ) -> Result<Option<Left<T>>, Letter<T>> {
        let reason = letter.reason;
        self.tell_of(
            Subject::of(&letter.subscription)
                .message(letter.id())
                .attempt(letter.attempts)
                .status(Status::DeadLetter),
            EventKind::DeadLetter { reason },
        );
        letters.bury(letter)
    }

    /// Lets a lane that is about to join get only messages accepted from now on. A publisher that
    /// comes after it has joined finds it on the list: the dispatcher reads the list after it has
    /// taken the message.
    fn start(&self, lane: &Lane<T>) {
        // This order, so that equal counts mean that nothing is there now.
        let released = self.gate.released();
        let after = self.last_id();
        lane.start_after(after);
        // The log numbers messages apart from their tickets, so the counts say nothing there.
        if self.is_stored() || released < after {
            // Before the list, so that a dispatcher that finds the lane there asks it.
            self.starts.update(|starts| starts.begin(after));
        }
    }

    /// Has the dispatcher pass a lane by, which is fed from the log.
    pub(crate) fn pass_by(&self, lane: &Lane<T>) {
        lane.start_after(u64::MAX);
        // It stays so: from here on, the dispatcher asks each lane what it wants.
        self.starts.update(|starts| starts.begin(u64::MAX));
    }

    /// Adds a lane, unless one of its name is there and not ending. It starts now, unless messages
    /// wait for a first lane. Where messages are kept for it, it starts with them, and whoever holds no
    /// lock [gives](Self::welcome) it those.
    pub(crate) fn join(self: &Arc<Self>, lane: &Arc<Lane<T>>) -> bool {
        let joining = self.ended.lock();
        if self.roll.find_open(&self.lanes, &lane.name).is_some() {
            return false;
        }
        if lane.filter.lock().is_some() {
            // ORDERING: relaxed, because the list of lanes publishes it.
            self.filters.store(true, Ordering::Relaxed);
        }
        if lane.conflates() {
            self.conflation.store(true, Ordering::Relaxed);
        }
        lane.gate.holds.take_over(&self.pauses);
        let is_first = self.lanes.peek(|lanes| self.retains(lanes));
        in_order!(
            if lane.is_behind() {
                self.pass_by(lane);
            } else if !is_first && self.retained.is_none() {
                self.start(lane);
            },
            self.list(lane),
            "lanes.start-then-list"
        );
        drop(joining);
        if self.live.ttl.get().is_some() {
            // It may have got its time to live while the lane was made.
            lane.shared.ask();
        }
        self.schedule();
        // A buffer may wait for a lane to publish to.
        self.call_publishers();
        true
    }

    fn list(&self, lane: &Arc<Lane<T>>) {
        let list = || self.roll.add(&self.lanes, lane);
        match &self.retained {
            None => list(),
            Some(retained) => retained.join(Arc::as_ptr(lane).addr(), list),
        }
    }

    /// Returns whether a dispatcher has to ask the lanes on the list for filters.
    #[inline(always)]
    pub(crate) fn has_filters(&self) -> bool {
        self.filters.load(Ordering::Relaxed)
    }

    /// Returns whether a message may take the place of an older one in some lane.
    #[inline(always)]
    pub(crate) fn conflates(&self) -> bool {
        self.conflation.load(Ordering::Relaxed)
    }

    /// Takes a lane off the list that should never have been on it.
    pub(crate) fn leave(&self, lane: &Arc<Lane<T>>) {
        let _joining = self.ended.lock();
        self.roll.remove(&self.lanes, lane);
    }

    /// Returns its open lane of this name, if it has one.
    pub(crate) fn find_open(&self, name: &str) -> Option<Arc<Lane<T>>> {
        let _joining = self.ended.lock();
        self.roll.find_open(&self.lanes, name)
    }

    /// Takes a lane that has ended off the list and keeps its counts. Between the broker's stop and
    /// its drop, lanes stay on the list for readers of the metrics.
    pub(crate) fn retire(&self, lane: &Arc<Lane<T>>) {
        // Its filter goes as its handler went.
        let filter = lane.filter.lock().take();
        drop(filter);
        let mut ended = self.ended.lock();
        if self.engine.ending.load() != Ending::Stopped {
            self.roll.remove(&self.lanes, lane);
            **ended.get_or_insert_default() += lane.books.read();
        }
        lane.set_retired();
        drop(ended);
        lane.end_protection();
        // Its policy goes as its handler went.
        drop(lane.retry.swap(Arc::new(None)));
        lane.dismiss_receivers();
        self.tell_of(Subject::of(&lane.name), EventKind::SubscriptionRemoved);
        self.engine.quiescence.notify();
    }

    /// Keeps the counts of its lanes, and nothing else of them, after the broker was dropped. A
    /// lane that somebody still runs follows when it is put down.
    pub(crate) fn release_lanes(&self) {
        let mut ended = self.ended.lock();
        let lanes = self.lanes.load();
        let (gone, busy): (Lanes<T>, _) = Lanes::clone(&lanes)
            .into_iter()
            .partition(|lane| lane.is_retired());
        for lane in &gone {
            **ended.get_or_insert_default() += lane.books.read();
        }
        let before = (
            self.lanes.swap(Arc::new(busy)),
            self.roll.release_user_code(),
        );
        drop(ended);
        // Handlers, and what they have captured, go after the lock.
        drop((before, lanes, gone));
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Returns whether this is the open lane of that name.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        *self.name == *name && self.phase() == crate::pure::words::room::Phase::Open
    }
}
