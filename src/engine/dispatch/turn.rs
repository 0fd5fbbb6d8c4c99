//! The dispatcher: it takes waiting messages as one shared batch and hands the batch to
//! every lane. One thread at a time runs the dispatcher of a queue.

use std::time::Duration;

use crate::engine::base::contain::{StrategyInUse, contain};
use crate::engine::parts::dispatcher::DispatcherState;
use crate::engine::runtime::pool::{After, Task, Worker};
use crate::engine::state::partition_queue::PartitionQueue;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::engine::wait::fire::{Fire, Tag};
use crate::message::MessageId;
use crate::message::batch::{BATCH, BatchSlice};
use crate::observe::event::Hook;
use crate::observe::event::{DropCause, EventKind};
use crate::pure::decide::lifecycle::Status;
use crate::pure::policy::strategy::{Backlog, FlushCause, Plan, Strategy};
use crate::pure::words::schedule::Then;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Reader, mutant};
use crate::types::duration::nanos;

/// The most messages that one turn dispatches before other tasks have their turn.
const QUANTUM: usize = 1_024;

/// Why the dispatcher stops for now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// There is nothing to do until somebody notifies.
    Rest,
    /// The queue is empty. More messages may come soon.
    Dry,
    /// There is more to do after other tasks have had their turn.
    Yield,
}

impl<T> DispatcherState<T> {
    /// Takes the next batch from the queue. Returns `false` if the queue is empty.
    pub(crate) fn fill(&mut self, at: &PartitionQueue<T>) -> bool {
        self.fill_from_full(at) || self.fill_from_any(at)
    }

    /// Takes the next full batch.
    pub(crate) fn fill_from_full(&mut self, at: &PartitionQueue<T>) -> bool {
        let Some(part) = at.pop_full() else {
            return false;
        };
        self.queue_was_empty = false;
        self.shelf.extend(Some(part));
        true
    }

    /// Takes the next batch, even if it is the open one.
    pub(crate) fn fill_from_any(&mut self, at: &PartitionQueue<T>) -> bool {
        let taken = at.pop();
        self.queue_was_empty = taken.as_ref().is_none_or(|taken| taken.was_open);
        let part = taken.map(|taken| taken.part);
        let is_filled = part.is_some();
        self.shelf.extend(part);
        is_filled
    }
}

impl<T: Send + Sync + 'static> Task for TopicCore<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if self.plain.task.start() {
            let then = self.run_claimed(&QueueRef::Plain(&self.plain), worker);
            worker.put_down(self, then);
        }
    }

    fn has_news(&self) -> bool {
        self.waiting() > 0
    }
}

impl<T: Send + Sync + 'static> Fire for TopicCore<T> {
    fn fire(self: Arc<Self>, tag: Tag) {
        let Tag::Parked(index) = tag else {
            self.call_by_rate();
            return self.schedule();
        };
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            return self.note_due(stored, index);
        }
        let due = self.delayed().lock().take(index);
        if let Some(due) = due {
            self.publish_due(*due);
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Runs a turn for the thread that has claimed the task, and gives the task back.
    pub(crate) fn run_claimed(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        worker: &mut Worker<'_>,
    ) -> After {
        let dispatcher = at.dispatcher.lock().take();
        let mut dispatcher = dispatcher.unwrap_or_else(|| Box::new(DispatcherState::new()));
        // A message pushed since the last turn may be the reason for this one.
        mutant!(dispatcher.queue_was_empty = false, "queue.dry");
        at.evicts.agree_if_asked();
        #[cfg(feature = "log")]
        if self.is_stored() {
            self.wake_feeders(&self.lanes.load());
        }
        let released = self.gate.released();
        let more = !self.has_stopped() && self.end_expired_at(at, &mut dispatcher);
        let pause = self.turn(at, &mut dispatcher, worker);
        if self.gate.released() != released {
            // Publishers are called once for all the room that this turn has made. Waking one
            // takes a while, and a publisher that wakes then has something to do.
            mutant!(self.call_publishers(), "topic.wake-room");
        }
        let more = more || pause == Pause::Yield;
        if !more {
            self.await_expiry(at, &mut dispatcher);
        }
        let is_dry = pause == Pause::Dry && !more && dispatcher.is_empty();
        *at.dispatcher.lock() = Some(dispatcher);
        // A durable message has its ticket long before it is here: it goes to the disk first. A
        // worker that kept the topic would look for it all the while.
        if is_dry && !self.is_stored() && worker.may_keep() {
            let has_news = at.task.lend();
            return After::Keep { has_news };
        }
        match at.task.rest(more) {
            Then::Enqueue => After::Requeue,
            Then::Nothing => After::Rest,
        }
    }

    fn turn(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
        worker: &mut Worker<'_>,
    ) -> Pause {
        if !at.may_dispatch() && !self.has_stopped() {
            return Pause::Rest;
        }
        let mut lanes = self.lanes.reader();
        let mut strategy = self.strategy.reader();
        let mut dispatched = 0;
        loop {
            if self.has_stopped() {
                self.drop_everything(at, dispatcher);
                return Pause::Rest;
            }
            if dispatcher.current_batch.is_none()
                && let Err(pause) = self.take_batch(at, dispatcher, &mut strategy, &mut lanes)
            {
                return pause;
            }
            // The list of lanes is read after the messages were taken. So it has every lane
            // that was subscribed before one of them was published.
            match self.hand_on(at, dispatcher, lanes.load(), worker) {
                Some(count) => dispatched += count,
                None => return Pause::Rest,
            }
            if dispatcher.queue_was_empty
                && dispatcher.current_batch.is_none()
                && dispatcher.shelf.is_empty()
            {
                // A dispatcher that looks again at once finds one or two messages at a time,
                // and fights the publisher for them. The lanes run first instead.
                dispatcher.allowance = 0;
                return Pause::Dry;
            }
            if dispatched >= QUANTUM {
                return Pause::Yield;
            }
        }
    }

    /// Takes the next batch if the strategy wants it now. Otherwise returns how to pause.
    fn take_batch(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
        strategy: &mut Reader<'_, StrategyInUse>,
        lanes: &mut Reader<'_, Lanes<T>>,
    ) -> Result<(), Pause> {
        if dispatcher.shelf.is_empty() && !dispatcher.fill_from_full(at) {
            if dispatcher.finds_busy && self.leaves_open(at, strategy.load(), lanes.load()) {
                dispatcher.allowance = 0;
                return Err(Pause::Rest);
            }
            if !dispatcher.fill_from_any(at) {
                dispatcher.allowance = 0;
                return Err(Pause::Dry);
            }
        }
        let strategy = strategy.load();
        if dispatcher.allowed_by.as_ptr() != Arc::as_ptr(strategy) {
            // After a swap the new strategy decides about all waiting messages.
            dispatcher.allowance = 0;
            dispatcher.allowed_by = Arc::downgrade(strategy);
        }
        if dispatcher.allowance == 0 && strategy.is_immediate {
            dispatcher.allowance = usize::MAX;
        } else if dispatcher.allowance == 0 {
            match self.plan(at, dispatcher, &***strategy) {
                Plan::Deliver { at_most } => dispatcher.allowance = at_most.max(1),
                Plan::Flush { at_most, cause } => {
                    let size = at_most.max(1);
                    dispatcher.allowance = size;
                    self.tell(EventKind::BatchFlush { size, cause });
                }
                Plan::Wait {
                    until_waiting,
                    at_most,
                } => {
                    self.wait(at, dispatcher, until_waiting, at_most);
                    return Err(Pause::Rest);
                }
            }
        }
        dispatcher.linger.cancel(&self.engine);
        let room = self.room_in_lanes(dispatcher, lanes.load());
        if room == 0 {
            self.rest_without_room(at);
            return Err(Pause::Rest);
        }
        let most = dispatcher.allowance.min(BATCH).min(room);
        let Some(part) = dispatcher.shelf.take_front(most as u32) else {
            return Err(Pause::Rest);
        };
        dispatcher.allowance = dispatcher.allowance.saturating_sub(part.len());
        dispatcher.has_room = true;
        dispatcher.current_batch = Some(part);
        Ok(())
    }

    /// Decides what to do with the waiting messages.
    fn plan(
        &self,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
        strategy: &dyn Strategy,
    ) -> Plan {
        let waiting = match at {
            QueueRef::Plain(_) => self.waiting(),
            QueueRef::Partition(_, partition) => partition.waiting(),
        };
        let (at_most, cause) = match self.plan_for(at, dispatcher, strategy, waiting as usize) {
            Plan::Flush { at_most, cause } => (at_most, cause),
            plan => return plan,
        };
        // Tickets run ahead of pushes. A batch is flushed once its messages are there, and the
        // event of the flush has their number.
        let there = take_up_to(at, dispatcher, at_most);
        if there >= at_most {
            return Plan::Flush {
                at_most: there,
                cause,
            };
        }
        match self.plan_for(at, dispatcher, strategy, there) {
            Plan::Flush { at_most, cause } => Plan::Flush {
                at_most: at_most.min(there),
                cause,
            },
            plan => plan,
        }
    }

    /// Asks the strategy for a plan for `waiting` messages, the oldest of which is the first on
    /// the shelf. A plan to wait is overruled where waiting could never end.
    fn plan_for(
        &self,
        at: &QueueRef<'_, T>,
        dispatcher: &DispatcherState<T>,
        strategy: &dyn Strategy,
        waiting: usize,
    ) -> Plan {
        let Some(oldest) = dispatcher.shelf.front().map(BatchSlice::first) else {
            return Plan::Deliver { at_most: waiting };
        };
        let now_ns = self.engine.clock.now_ns();
        let backlog = Backlog::new(
            waiting.max(1),
            Duration::from_nanos(now_ns.saturating_sub(oldest.accepted_ns)),
            self.live.capacity.get() as usize,
        );
        let plan = contain(|| strategy.plan(&backlog)).unwrap_or_else(|_| {
            let hook = Hook::Strategy;
            self.tell(EventKind::HookPanicked { hook });
            Plan::Deliver { at_most: waiting }
        });
        let Plan::Wait { .. } = plan else {
            return plan;
        };
        let flush_to = self.flush_to.load(Ordering::Acquire);
        let flush = |at_most, cause| Plan::Flush { at_most, cause };
        if oldest.id.get() <= flush_to {
            let requested = (flush_to - oldest.id.get() + 1) as usize;
            flush(requested.min(waiting), FlushCause::Requested)
        } else if self.gate.is_closed() {
            flush(waiting, FlushCause::Drain)
        } else if self.is_full() {
            flush(waiting, FlushCause::Full)
        } else if at.is_replaced(self) {
            flush(waiting, FlushCause::Requested)
        } else {
            plan
        }
    }

    /// Arranges that the dispatcher is woken when `until_waiting` messages wait or `at_most`
    /// has passed.
    ///
    /// A publisher with a ticket below the threshold may stay quiet, because the one that
    /// reaches the threshold notifies. But not every ticket's message may be in the queue then.
    /// So the dispatcher sets no threshold if enough messages are accepted and too few of them
    /// are pushed. Then the next push notifies. A message that is dropped or delayed is not
    /// pushed now: its ticket is released at once, or it notifies by itself.
    fn wait(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
        until_waiting: usize,
        at_most: Option<Duration>,
    ) {
        let delay_ns = at_most.map(nanos);
        let capacity = self.live.capacity.get();
        let wanted = (until_waiting as u64).clamp(1, capacity);
        match at {
            QueueRef::Plain(_) => {
                dispatcher
                    .linger
                    .set(&self.engine, delay_ns, Arc::clone(self) as _);
                // Delayed messages take tickets, too, so the topic may be full earlier.
                let inside = (self.books.delayed.get() + wanted).min(capacity);
                let wake_at = self.gate.released() + inside;
                at.be_notified_from(wake_at, || self.gate.issued() >= wake_at);
            }
            QueueRef::Partition(_, partition) => {
                dispatcher
                    .linger
                    .set(&self.engine, delay_ns, Arc::clone(*partition) as _);
                let wake_at = partition.counts().0 + wanted;
                at.be_notified_from(wake_at, || partition.counts().1 >= wake_at);
            }
        }
    }

    /// Drops and counts everything not yet dispatched, after the broker has stopped.
    fn drop_everything(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
    ) {
        dispatcher.linger.cancel(&self.engine);
        at.expiry.cancel(&self.engine);
        loop {
            while let Some(part) = dispatcher.take_oldest(u32::MAX) {
                self.unload(&part);
                self.drop_messages(part.ids(), DropCause::Shutdown);
                part.track(|tracker| tracker.end(Status::Dropped));
                at.leave(self, part.len());
            }
            if !dispatcher.fill(at) {
                break;
            }
        }
        self.drop_delayed();
    }

    /// Drops the oldest messages, at most `most`, for a publisher that wants room. They are the
    /// dispatcher's, if it rests and has some, or else the queue's. Returns them, so that the
    /// caller drops the payloads where it holds no lock.
    pub(crate) fn drop_oldest(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        most: u32,
    ) -> Option<BatchSlice<T>> {
        if !at.evicts.is_agreed() {
            self.agree_to_evict(at);
        }
        let on_desk =
            at.dispatcher.lock().as_deref_mut().and_then(|dispatcher| {
                mutant!(dispatcher.take_oldest(most), "evict.dispatcher", None)
            });
        let oldest = on_desk.or_else(|| at.pop_some(most))?;
        self.unload(&oldest);
        self.drop_messages(oldest.ids(), DropCause::Overflow);
        Some(oldest)
    }

    /// Lets publishers drop the oldest messages of this queue, in the place of its dispatcher if it
    /// rests.
    #[cold]
    fn agree_to_evict(self: &Arc<Self>, at: &QueueRef<'_, T>) {
        if !at.task.claim() {
            return;
        }
        at.evicts.agree_if_asked();
        if at.task.rest(true) == Then::Enqueue {
            self.engine.pool.submit(match at {
                QueueRef::Plain(_) => Arc::clone(self) as _,
                QueueRef::Partition(_, partition) => Arc::clone(*partition) as _,
            });
        }
    }

    /// Ends messages that go no further: counts them, tells observers, and gives back their
    /// tickets.
    pub(crate) fn drop_messages(
        &self,
        ids: impl ExactSizeIterator<Item = MessageId>,
        cause: DropCause,
    ) {
        self.count_dropped(ids.len() as u64, || {
            for id in ids {
                self.tell_message(id, Status::Dropped, EventKind::Dropped { cause });
            }
        });
    }

    /// Ends messages that go no further, as [`drop_messages`](Self::drop_messages) does. `tell` tells
    /// observers.
    pub(crate) fn count_dropped(&self, count: u64, tell: impl FnOnce()) {
        let _motion = self.books.motions.begin(count);
        self.books.dropped.add(count);
        tell();
        self.release(count);
        // This may have been the last thing that a waiting thread waited for, and no worker has
        // seen it.
        self.engine.quiescence.notify();
    }
}

/// Moves messages from the queue to the shelf until it has `wanted` of them or the queue is
/// empty. Returns how many messages the shelf has, but no more than `wanted`.
fn take_up_to<T>(
    at: &PartitionQueue<T>,
    dispatcher: &mut DispatcherState<T>,
    wanted: usize,
) -> usize {
    // An earlier plan may have taken more messages than this one wants.
    let mut there = 0;
    for part in dispatcher.shelf.iter() {
        if there >= wanted {
            break;
        }
        there += part.len();
    }
    while there < wanted && dispatcher.fill(at) {
        there += dispatcher.shelf.back().map_or(0, BatchSlice::len);
    }
    there.min(wanted)
}
