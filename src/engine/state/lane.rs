//! A lane: the deliveries of one subscription, on their way to its handler.

use crate::engine::base::cell::{Cell, Setting, Shared};
use crate::engine::base::contain::SharedPolicy;
use crate::engine::base::counters::LaneBooks;
use crate::engine::base::task_state::TaskState;
use crate::engine::gates::lane_gate::LaneGate;
#[cfg(feature = "log")]
use crate::engine::journal::lane_log::LaneLog;
use crate::engine::parts::handler::{FailedCall, Handler, SharedFilter};
use crate::engine::parts::pending::{PendingDelivery, Return};
use crate::engine::runtime::Engine;
use crate::engine::runtime::expiry::Expiry;
use crate::engine::runtime::linger::Linger;
use crate::engine::runtime::pool::Home;
use crate::engine::state::keyed::{Consumers, Keyed};
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::fire::{Fire, Tag};
use crate::message::batch::BatchSlice;
use crate::observe::latency::Latencies;
use crate::pure::decide::stride::Stride;
use crate::pure::order::conflation::Conflation;
use crate::pure::order::gaps::Gaps;
use crate::pure::order::rules::Nature;
use crate::pure::policy::retry::salt;
use crate::pure::wheel::TimerKey;
use crate::pure::wheel::arena::Arena;
use crate::pure::words::handles::Holders;
use crate::pure::words::room::{Phase, Reserved, Room};
use crate::pure::words::schedule::Then;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, OnceLock, Slot, Unbounded, mutant};
use crate::types::config::LaneFull;
use std::collections::VecDeque;

mod conflating;
mod inbox;
mod observing;

/// The state that only the lane's runner touches. It is taken out while the runner runs, so that no
/// lock is held while the handler is called.
pub(crate) struct Turn<T> {
    pub(crate) handler: Handler<T>,
    /// Slices taken out of the inbox and not yet handled.
    pub(crate) prefetched: VecDeque<BatchSlice<T>>,
    /// Deliveries that came back while the gate of a plain lane was closed, in order.
    pub(crate) returned: VecDeque<PendingDelivery<T>>,
    /// Deliveries that were requeued and may go on, in order.
    pub(crate) requeued: VecDeque<PendingDelivery<T>>,
    pub(crate) linger: Linger,
    /// The last delivery had come back, so a new one goes next, if there is one.
    pub(crate) is_new_next: bool,
    /// How many deliveries are left of a batch that was due, because their keys had to wait.
    pub(crate) carried_over: usize,
    /// How many deliveries the lane's gate still lets go in this step.
    pub(crate) granted: usize,
    pub(crate) stride: Stride,
    pub(crate) failed_calls: Vec<FailedCall>,
    /// Equal errors share their text: a million failures of one kind store it once.
    pub(crate) last_error: Option<Arc<str>>,
}

impl<T> Turn<T> {
    pub(crate) fn new(handler: Handler<T>) -> Self {
        Self {
            handler,
            prefetched: VecDeque::new(),
            returned: VecDeque::new(),
            requeued: VecDeque::new(),
            linger: Linger::default(),
            is_new_next: false,
            carried_over: 0,
            granted: usize::MAX,
            stride: Stride::ONE,
            failed_calls: Vec::new(),
            last_error: None,
        }
    }

    /// Takes the oldest prefetched deliveries, at most `most`.
    pub(crate) fn pop_some(&mut self, most: u32) -> Option<BatchSlice<T>> {
        let (taken, left) = self.prefetched.pop_front()?.split_at_most(most);
        if let Some(left) = left {
            self.prefetched.push_front(left);
        }
        Some(taken)
    }
}

/// A retry policy, or `None` for a lane without one of its own.
pub(crate) type Policy = Option<SharedPolicy>;

/// How the handlers of a lane are called, checked.
#[derive(Clone, Copy)]
pub(crate) struct Calling {
    /// The longest time of a call, or [`NEVER`](crate::pure::decide::expiry::NEVER).
    pub(crate) timeout_ns: u64,
    /// The subscription was made with a timeout, which may have been removed.
    pub(crate) is_timed: bool,
    /// The pool on whose workers the calls run.
    pub(crate) home: Home,
}

/// Settings of a lane, checked.
pub(crate) struct LaneSettings<T> {
    pub(crate) capacity: u32,
    pub(crate) when_full: LaneFull,
    pub(crate) retry: Policy,
    pub(crate) nature: Nature,
    pub(crate) keyed: Option<Keyed<T>>,
    pub(crate) filter: Option<SharedFilter<T>>,
    pub(crate) by_pattern: bool,
    pub(crate) consumers: Consumers,
    pub(crate) calling: Calling,
    #[cfg(feature = "log")]
    pub(crate) stored: Option<Box<LaneLog<T>>>,
}

/// Whether the topic may wait for a lane to run dry, and does.
pub(crate) struct Lag {
    pub(crate) may_be: bool,
    /// The topic is to be notified when the inbox is empty.
    pub(crate) awaited_dry: AtomicBool,
}

impl Lag {
    fn of<T>(handler: &Handler<T>) -> Self {
        Self {
            may_be: matches!(handler, Handler::Each(_)),
            awaited_dry: AtomicBool::new(false),
        }
    }
}

/// The lane of one subscription.
///
/// The topic's dispatcher reserves room and pushes into `inbox`. The timer thread and redrives push
/// into `returns`. Everything else belongs to the lane's runner.
pub(crate) struct Lane<T> {
    pub(crate) name: Arc<str>,
    /// Keeps jitter apart between subscriptions, topics and brokers.
    pub(crate) salt: u64,
    pub(crate) topic: Arc<TopicCore<T>>,
    pub(crate) capacity: Setting<u32>,
    pub(crate) when_full: Setting<LaneFull>,
    /// The deliveries that its handler takes at once, if it takes batches.
    pub(crate) batch_size: Option<usize>,
    /// Held while a setting changes that others have to fit.
    pub(crate) changing: Mutex<()>,
    /// The lane is one of several of a pattern subscription. Its topic may be removed before it ends.
    pub(crate) by_pattern: bool,
    pub(crate) consumers: Consumers,
    /// The longest time of a call, or [`NEVER`](crate::pure::decide::expiry::NEVER).
    pub(crate) timeout_ns: Setting<u64>,
    /// The pools on whose workers its own turns and the calls of its slots run.
    pub(crate) home: Home,
    pub(crate) slots_home: Home,
    pub(crate) holders: Cell<Holders>,
    /// The lane gets messages with ids greater than this. It is set before the lane is on the list.
    after: AtomicU64,
    pub(crate) retry: Slot<Policy>,
    /// The messages that it wants, if not all. It goes with the lane's end.
    pub(crate) filter: Mutex<Option<SharedFilter<T>>>,
    pub(crate) room: Cell<Room>,
    /// The gate that holds its deliveries back.
    pub(crate) gate: LaneGate,
    pub(crate) task: TaskState,
    pub(crate) lag: Lag,
    /// The lane's last turn was brisk.
    pub(crate) is_brisk: AtomicBool,
    pub(crate) books: LaneBooks,
    pub(crate) latencies: Mutex<Option<Box<Latencies>>>,
    /// First attempts, in accept order. Bounded by `capacity`: every delivery in it holds a place.
    inbox: OnceLock<Box<Unbounded<BatchSlice<T>>>>,
    /// Whether others than the runner of a plain lane may take from the inbox.
    pub(crate) shared: Shared,
    /// Slices taken out of the inbox that are still to be had, where others than the runner take
    /// from it. They are older than everything in the inbox.
    split: Mutex<VecDeque<BatchSlice<T>>>,
    pub(crate) nature: Nature,
    /// This takes the place of the inbox, if the newest delivery of a key replaces the one that
    /// waits.
    conflation: Option<Box<Mutex<Conflation<BatchSlice<T>>>>>,
    /// Messages with a priority of their own may be queued.
    leveled: AtomicBool,
    /// The messages that it has skipped, if it only observes.
    pub(crate) gaps: Option<Arc<Mutex<Gaps>>>,
    /// When the first delivery here expires.
    pub(crate) expiry: Expiry,
    /// Bounded like the inbox.
    returns: OnceLock<Box<Unbounded<Return<T>>>>,
    pub(crate) turn: Mutex<Option<Box<Turn<T>>>>,
    /// Retries and snoozes on the timer wheel, by their tag. On an engine without workers,
    /// deliveries that were requeued in this run are here, too.
    pub(crate) waiting: Mutex<Arena<PendingDelivery<T>>>,
    /// The keyed state, where order has to survive failures, or several consumers share the lane.
    pub(crate) keyed: OnceLock<Box<Keyed<T>>>,
    /// Its side of the log, if it is durable or starts with an earlier message.
    #[cfg(feature = "log")]
    pub(crate) stored: Option<Box<LaneLog<T>>>,
    /// The deadline of a drain that was begun inside a handler.
    end: Mutex<TimerKey>,
    /// No call of the handler runs or will start, and the handler is gone.
    retired: AtomicBool,
}

impl<T: Send + Sync + 'static> Lane<T> {
    pub(crate) fn new(
        name: Arc<str>,
        topic: Arc<TopicCore<T>>,
        settings: LaneSettings<T>,
        handler: Handler<T>,
    ) -> Self {
        let lag = Lag::of(&handler);
        let is_shared =
            settings.when_full == LaneFull::DropOldest || topic.live.ttl.get().is_some();
        let conflates = settings.nature.conflates;
        let batch_size = match &handler {
            Handler::Batch(_, batched) => Some(batched.size()),
            Handler::Each(_) | Handler::External => None,
        };
        let keyed = OnceLock::new();
        if let Some(settings) = settings.keyed {
            keyed.get_or_init(|| Box::new(settings));
        }
        Self {
            salt: salt(topic.engine.seed, [&topic.name, &name]),
            name,
            topic,
            capacity: Setting::new(settings.capacity),
            when_full: Setting::new(settings.when_full),
            batch_size,
            changing: Mutex::new(()),
            by_pattern: settings.by_pattern,
            consumers: settings.consumers,
            timeout_ns: Setting::new(settings.calling.timeout_ns),
            home: match settings.consumers {
                Consumers::Runner => settings.calling.home,
                _ => Home::DEFAULT,
            },
            slots_home: settings.calling.home,
            holders: Cell::new(Holders::FIRST),
            after: AtomicU64::new(0),
            retry: Slot::new(Arc::new(settings.retry)),
            filter: Mutex::new(settings.filter),
            room: Cell::new(Room::EMPTY),
            gate: LaneGate::new(),
            task: TaskState::new(),
            lag,
            is_brisk: AtomicBool::new(true),
            books: LaneBooks::default(),
            latencies: Mutex::new(None),
            inbox: OnceLock::new(),
            shared: Shared::new(is_shared || conflates),
            split: Mutex::new(VecDeque::new()),
            nature: settings.nature,
            leveled: AtomicBool::new(false),
            gaps: settings.nature.observes.then(Arc::default),
            conflation: conflates.then(|| Box::new(Mutex::new(Conflation::new()))),
            expiry: Expiry::new(),
            returns: OnceLock::new(),
            turn: Mutex::new(Some(Box::new(Turn::new(handler)))),
            waiting: Mutex::new(Arena::new()),
            keyed,
            #[cfg(feature = "log")]
            stored: settings.stored,
            end: Mutex::new(TimerKey::NONE),
            retired: AtomicBool::new(false),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.topic.engine
    }

    pub(crate) fn phase(&self) -> Phase {
        self.room.load().phase
    }

    /// Starts the lane after this id: it gets only later messages.
    pub(crate) fn start_after(&self, id: u64) {
        // ORDERING: relaxed, as the load below: the list of lanes publishes it.
        self.after.store(id, Ordering::Relaxed);
    }

    pub(crate) fn starts_after(&self) -> u64 {
        self.after.load(Ordering::Relaxed)
    }

    /// Returns whether it is fed from the log, and the dispatcher passes it by.
    pub(crate) fn is_behind(&self) -> bool {
        #[cfg(feature = "log")]
        if let Some(stored) = &self.stored {
            return stored.feed.lock().next().is_some();
        }
        false
    }

    /// Returns whether the message was accepted after the subscription came.
    pub(crate) fn wants(&self, id: u64) -> bool {
        self.starts_after() < id
    }

    /// Returns how many new deliveries have room now.
    pub(crate) fn free(&self) -> u32 {
        let capacity = self.capacity.get();
        capacity.saturating_sub(self.room.load().occupied)
    }

    pub(crate) fn reserve(&self, wanted: u32, wait: bool) -> Reserved {
        self.room
            .update(|room| room.reserve(wanted, self.capacity.get(), wait))
    }

    /// Gives places back, and notifies the topic if it waits for them. Returns `true` if the lane
    /// is ending and now empty.
    pub(crate) fn release(&self, places: u32) -> bool {
        let released = self.room.update(|room| room.release(places));
        if released.wake_topic {
            mutant!(self.topic.notify_room(), "lane.notify-room");
        }
        released.ended
    }

    /// Pushes deliveries that hold a place.
    #[inline(always)]
    pub(crate) fn push(&self, part: BatchSlice<T>) {
        let has_levels = part.batch.has_priority();
        self.inbox
            .get_or_init(|| Box::new(Unbounded::new()))
            .push(part);
        if has_levels {
            self.note_levels();
        }
    }

    /// Takes the oldest deliveries that are queued.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<BatchSlice<T>> {
        if self.conflates() {
            return self.pop_oldest_conflated();
        }
        let inbox = self.inbox.get()?;
        if self.has_own_inbox() {
            return inbox.pop();
        }
        let mut split = self.split.lock();
        split.pop_front().or_else(|| inbox.pop())
    }

    /// Returns whether nobody but the one who has the turn takes from the inbox.
    pub(crate) fn has_own_inbox(&self) -> bool {
        !self.is_sifted() && self.keyed.get().is_none() && self.conflation.is_none()
    }

    /// Returns whether others than the runner may take from the inbox. They take the oldest
    /// deliveries, to make room, or expired ones. The runner of a plain lane then takes no more
    /// than it is about to deliver.
    pub(crate) fn is_sifted(&self) -> bool {
        self.shared.is_agreed()
    }

    /// Returns the policy for a full lane. A lane that is to drop its oldest makes the topic wait
    /// until others than the runner may take from it.
    #[inline]
    pub(crate) fn when_full(&self) -> LaneFull {
        match self.when_full.get() {
            LaneFull::DropOldest if !self.is_sifted() && self.keyed.get().is_none() => {
                LaneFull::Wait
            }
            policy => policy,
        }
    }

    /// Lets others take from the inbox, for the runner at the beginning of a turn, if they asked.
    #[inline(always)]
    pub(crate) fn share_if_asked(&self) {
        if self.shared.agree_if_asked() {
            // The topic may wait for room that it can make itself from now on.
            self.topic.schedule();
        }
    }

    /// Pushes a return; [`schedule_for_return`](Self::schedule_for_return) follows.
    pub(crate) fn push_return(&self, returned: Return<T>) {
        self.returns
            .get_or_init(|| Box::new(Unbounded::new()))
            .push(returned);
    }

    pub(crate) fn schedule_for_return(self: &Arc<Self>) {
        mutant!(self.schedule(), "lane.notify-return");
    }

    pub(crate) fn has_returns(&self) -> bool {
        self.returns
            .get()
            .is_some_and(|returns| !returns.is_empty())
    }

    pub(crate) fn pop_return(&self) -> Option<Return<T>> {
        self.returns.get()?.pop()
    }

    /// Puts the lane on the ready queue unless somebody is bound to look at it.
    pub(crate) fn schedule(self: &Arc<Self>) {
        if self.task.notify() == Then::Enqueue {
            let pool = self.engine().pool_of(self.home);
            pool.submit(Arc::clone(self) as _);
        }
    }

    /// Starts the lane's end, or hastens it.
    pub(crate) fn close(self: &Arc<Self>, phase: Phase) {
        let released = self.room.update(|room| room.close(phase));
        if released.wake_topic {
            self.topic.notify_room();
        }
        self.stop_lagging();
        self.schedule();
    }

    pub(crate) fn is_retired(&self) -> bool {
        // ORDERING: a thread that sees it sees that the handler is gone.
        self.retired.load(Ordering::Acquire)
    }

    pub(crate) fn set_retired(&self) {
        self.retired.store(true, Ordering::Release);
        let end = std::mem::replace(&mut *self.end.lock(), TimerKey::NONE);
        self.engine().timer.cancel(end);
        self.expiry.cancel(self.engine());
        self.end_leases();
    }

    /// Remembers the deadline of its drain, to be taken back when it ends first.
    pub(crate) fn set_end(&self, key: TimerKey) {
        *self.end.lock() = key;
        if self.is_retired() {
            self.engine().timer.cancel(key);
        }
    }
}

impl<T: Send + Sync + 'static> Fire for Lane<T> {
    fn fire(self: Arc<Self>, tag: Tag) {
        let returned = match tag {
            Tag::Look => {
                self.schedule();
                // Expired deliveries may hold the room that the topic waits for, while the runner
                // is in a handler for long.
                if self.room.load().awaited {
                    self.topic.schedule();
                }
                return;
            }
            Tag::Cancel => {
                self.close(Phase::Cancelling);
                // Whoever awaits the end may bring it about.
                return self.engine().quiescence.notify();
            }
            Tag::Lease => Return::Overdue,
            Tag::Parked(index) => Return::Due(index),
        };
        self.push_return(returned);
        self.schedule_for_return();
    }
}
