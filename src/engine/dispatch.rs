//! The dispatcher: takes waiting messages as one shared batch and hands it to
//! every lane. One worker at a time runs it for a queue, whoever holds the baton.

use std::time::Duration;

use super::contain::{StrategyInUse, contain, discard};
use super::linger::Linger;
use super::partition::Partition;
use super::pool::{Task, Worker};
use super::table::Source;
use super::timer::{Fire, LOOK};
use super::topic::{Lanes, TopicCore};
use super::topic_expiry::Shelf;
use crate::batch::{Batch, Collected, Parcel};
use crate::event::{DropCause, EventKind, Hook};
use crate::message::MessageId;
use crate::pure::lifecycle::Status;
use crate::pure::room::Reserved;
use crate::pure::schedule::Then;
use crate::pure::strategy::{Backlog, FlushCause, Plan, Strategy};
use crate::pure::verdict::nanos;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Reader, Weak, breakable, fence};

/// Most messages in a batch. One allocation and one lane operation per
/// subscription are shared by so many; a retry or a dead letter keeps so many
/// messages alive at most.
pub(crate) const BATCH: usize = 64;
/// Most messages that one turn dispatches before others have theirs.
const QUANTUM: usize = 1_024;

/// A batch on its way to the lanes, and how much of it has gone.
type Hand<T> = (Arc<Batch<T>>, usize);

/// What only the dispatcher touches.
pub(crate) struct Desk<T> {
    /// Taken out of the queue, oldest first: at least the oldest, because a
    /// crossbeam channel can't be peeked into and a strategy wants to know its
    /// age; and a whole batch before it is flushed, so that it is whole.
    pub(super) shelf: Shelf<T>,
    /// Messages that the last plan still allows to be handed on, and whose plan
    /// that was.
    pub(super) allowance: usize,
    /// The queue was seen empty, so that whoever has pushed since rings.
    dry: bool,
    allowed_by: Weak<StrategyInUse>,
    pub(super) hand: Option<Hand<T>>,
    /// The lanes had room for all of the hand when it was taken.
    pub(super) fits: bool,
    linger: Linger,
    pub(super) grants: Vec<Reserved>,
}

impl<T> Desk<T> {
    pub(super) fn new() -> Self {
        Self {
            shelf: Shelf::new(),
            allowance: 0,
            dry: false,
            allowed_by: Weak::new(),
            hand: None,
            fits: false,
            linger: Linger::default(),
            grants: Vec::new(),
        }
    }

    /// Keeps what is left of a batch from this message on, if anything is.
    pub(super) fn keep(&mut self, batch: Arc<Batch<T>>, next: usize) {
        if next < batch.len() {
            self.hand = Some((batch, next));
            self.fits = false;
        }
    }

    /// Takes the rest of the batch in hand, or else the oldest parcel.
    fn take_oldest(&mut self) -> (Option<Hand<T>>, Option<Parcel<T>>) {
        match self.hand.take() {
            None => (None, self.shelf.pop_front()),
            hand => (hand, None),
        }
    }
}

/// Why the dispatcher stops for now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Nothing to do until somebody rings.
    Rest,
    /// More to do after others have had their turn.
    Yield,
}

impl<T: Send + Sync + 'static> Task for TopicCore<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if self.plain.baton.start() && self.run_claimed(&Source::Plain(&self.plain), worker) {
            worker.requeue(self);
        }
    }
}

impl<T: Send + Sync + 'static> Fire for TopicCore<T> {
    fn fire(self: Arc<Self>, tag: u32) {
        if tag == LOOK {
            return self.ring();
        }
        let due = self.delayed.lock().remove(tag);
        if let Some(due) = due {
            self.publish_due(*due);
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Runs a turn for whoever holds the baton, and puts it down. `true`: it must
    /// go back on the ready queue.
    pub(super) fn run_claimed(
        self: &Arc<Self>,
        at: &Source<'_, T>,
        worker: &mut Worker<'_>,
    ) -> bool {
        let desk = at.desk.lock().take();
        let mut desk = desk.unwrap_or_else(|| Box::new(Desk::new()));
        let released = self.gate.released();
        let more = !self.engine.has_stopped() && self.end_expired_at(at, &mut desk);
        let pause = self.turn(at, &mut desk, worker);
        if self.gate.released() != released {
            // Once for all the room that this turn has made, so that a publisher
            // who is woken, which takes a while, has something to do.
            breakable!("topic: room that nobody hears of", self.call_publishers());
        }
        let more = more || pause == Pause::Yield;
        if !more {
            self.await_expiry(at, &mut desk);
        }
        *at.desk.lock() = Some(desk);
        at.baton.rest(more) == Then::Enqueue
    }

    fn turn(
        self: &Arc<Self>,
        at: &Source<'_, T>,
        desk: &mut Desk<T>,
        worker: &mut Worker<'_>,
    ) -> Pause {
        if at.quiet_below.load(Ordering::Relaxed) > 0 {
            breakable!(
                "queue: quiet for ever",
                at.quiet_below.store(0, Ordering::Relaxed)
            );
            // ORDERING: pairs with the fence in `Partition::push`: who stays quiet after
            // this has pushed before we look.
            fence(Ordering::SeqCst);
        }
        if !at.may_dispatch() && !self.engine.has_stopped() {
            return Pause::Rest;
        }
        let mut lanes = self.lanes.reader();
        let mut strategy = self.strategy.reader();
        let mut dispatched = 0;
        desk.dry = false;
        loop {
            if self.engine.has_stopped() {
                self.drop_everything(at, desk);
                return Pause::Rest;
            }
            if desk.hand.is_none() && !self.take_batch(at, desk, &mut strategy, &mut lanes) {
                return Pause::Rest;
            }
            // The list is read after the messages were taken: whoever was
            // subscribed before one of them was published is on it.
            match self.hand_on(at, desk, lanes.load(), worker) {
                Some(count) => dispatched += count,
                None => return Pause::Rest,
            }
            if desk.dry && desk.hand.is_none() {
                // Who looks again at once finds one or two messages at a time,
                // and fights the publisher for them. Let the lanes run first.
                desk.allowance = 0;
                return Pause::Rest;
            }
            if dispatched >= QUANTUM {
                return Pause::Yield;
            }
        }
    }

    /// Takes the next batch in hand, if the strategy wants it now.
    fn take_batch(
        self: &Arc<Self>,
        at: &Source<'_, T>,
        desk: &mut Desk<T>,
        strategy: &mut Reader<'_, StrategyInUse>,
        lanes: &mut Reader<'_, Lanes<T>>,
    ) -> bool {
        if desk.shelf.is_empty()
            && let Some(parcel) = at.pop()
        {
            desk.shelf.push_back(parcel);
        }
        if desk.shelf.is_empty() {
            desk.allowance = 0;
            return false;
        }
        let strategy = strategy.load();
        if desk.allowed_by.as_ptr() != Arc::as_ptr(strategy) {
            // After a swap the new strategy decides about all that waits.
            desk.allowance = 0;
            desk.allowed_by = Arc::downgrade(strategy);
        }
        if desk.allowance == 0 && strategy.is_immediate {
            desk.allowance = usize::MAX;
        } else if desk.allowance == 0 {
            match self.plan(at, desk, &***strategy) {
                Plan::Deliver { at_most } => desk.allowance = at_most.max(1),
                Plan::Flush { at_most, cause } => {
                    let size = at_most.max(1);
                    desk.allowance = size;
                    self.tell(EventKind::BatchFlush { size, cause });
                }
                Plan::Wait {
                    until_waiting,
                    at_most,
                } => {
                    self.wait(at, desk, until_waiting, at_most);
                    return false;
                }
            }
        }
        desk.linger.cancel(&self.engine);
        let room = self.room_in_lanes(lanes.load());
        if room == 0 {
            at.quiet_below.store(u64::MAX, Ordering::Relaxed);
            return false;
        }
        let batch = self.collect(at, desk, room);
        desk.allowance = desk.allowance.saturating_sub(batch.len());
        desk.fits = batch.len() <= room;
        desk.hand = Some((batch, 0));
        true
    }

    /// What is to be done with the messages that wait.
    fn plan(&self, at: &Source<'_, T>, desk: &mut Desk<T>, strategy: &dyn Strategy) -> Plan {
        let waiting = match at {
            Source::Plain(_) => self.waiting(),
            Source::Lot(_, lot) => lot.waiting(),
        };
        let (at_most, cause) = match self.plan_for(at, desk, strategy, waiting as usize) {
            Plan::Flush { at_most, cause } => (at_most, cause),
            plan => return plan,
        };
        // Tickets run ahead of pushes. A batch is flushed when it is there, and
        // its event says how large it is.
        let there = take_up_to(at, desk, at_most);
        if there >= at_most {
            return Plan::Flush {
                at_most: there,
                cause,
            };
        }
        match self.plan_for(at, desk, strategy, there) {
            Plan::Flush { at_most, cause } => Plan::Flush {
                at_most: at_most.min(there),
                cause,
            },
            plan => plan,
        }
    }

    /// What the strategy says to `waiting` messages, the oldest of them being the
    /// first on the desk; overruled where waiting could never end.
    fn plan_for(
        &self,
        at: &Source<'_, T>,
        desk: &Desk<T>,
        strategy: &dyn Strategy,
        waiting: usize,
    ) -> Plan {
        let Some(oldest) = desk.shelf.front().map(Parcel::first) else {
            return Plan::Deliver { at_most: waiting };
        };
        let now_ns = self.engine.clock.now_ns();
        let backlog = Backlog::new(
            waiting.max(1),
            Duration::from_nanos(now_ns.saturating_sub(oldest.accepted_ns)),
            self.settings.capacity as usize,
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

    /// Arranges to be woken when `until_waiting` messages wait or `at_most` has
    /// passed.
    ///
    /// Whoever has a ticket below the threshold may stay quiet: the one that
    /// reaches it rings. Not all may be in the queue then. So a dispatcher that
    /// finds so many accepted, and fewer there, sets no threshold: whoever pushes
    /// next rings. A ticket that is not pushed now, because its message is dropped or
    /// delayed, is released at once or rings by itself.
    fn wait(
        self: &Arc<Self>,
        at: &Source<'_, T>,
        desk: &mut Desk<T>,
        until_waiting: usize,
        at_most: Option<Duration>,
    ) {
        let delay_ns = at_most.map(nanos);
        let wanted = (until_waiting as u64).clamp(1, self.settings.capacity);
        let target: Arc<dyn Fire>;
        let (wake_at, issued) = match at {
            Source::Plain(_) => {
                target = Arc::clone(self) as _;
                // Delayed messages take places too: the topic may be full before.
                let inside = (self.books.delayed.get() + wanted).min(self.settings.capacity);
                (self.gate.released() + inside, self.gate.issued())
            }
            Source::Lot(_, lot) => {
                target = Arc::clone(*lot) as _;
                let (left, entered) = lot.counts();
                (left + wanted, entered)
            }
        };
        desk.linger.set(&self.engine, delay_ns, target);
        if breakable!("queue: quiet while others push", issued, 0) < wake_at {
            at.quiet_below.store(wake_at, Ordering::Relaxed);
        }
    }

    /// Makes one batch of the oldest messages: a chunk as it is, or as many
    /// single ones as may be taken.
    fn collect(&self, at: &Source<'_, T>, desk: &mut Desk<T>, room: usize) -> Arc<Batch<T>> {
        let most = desk.allowance.min(BATCH).min(room);
        let mut batch = Collected::new();
        let mut shelved = desk.shelf.len();
        // Room for what is there and not for what might come, because a slow lane holds
        // on to it.
        let taken = shelved.max(1);
        let there = || most.min(taken + at.slots());
        while batch.len() < most {
            let oldest = if shelved == 0 {
                at.pop()
            } else {
                shelved -= 1;
                desk.shelf.pop_front()
            };
            match oldest {
                None => {
                    desk.dry = true;
                    break;
                }
                Some(Parcel::One(message)) => batch.push(message, there),
                Some(Parcel::Chunk(chunk)) if chunk.len() == 1 => batch.push_single(chunk, there),
                Some(Parcel::Chunk(chunk)) if batch.len() == 0 => return chunk,
                Some(chunk) => {
                    desk.shelf.push_front(chunk);
                    break;
                }
            }
        }
        Arc::new(batch.finish())
    }

    /// The broker has stopped: what was not dispatched is dropped, and counted.
    fn drop_everything(self: &Arc<Self>, at: &Source<'_, T>, desk: &mut Desk<T>) {
        desk.linger.cancel(&self.engine);
        at.expiry.cancel(&self.engine);
        while let Some((count, parcel)) = self.drop_oldest(at, Some(desk), DropCause::Shutdown) {
            at.leave(self, count as usize);
            discard(parcel);
        }
        self.drop_delayed();
    }

    /// Drops the oldest messages there are: what is left of a batch in hand, or
    /// what fills one slot. Answers how many, and what they were in, for the caller
    /// to discard where it holds no lock. A publisher that wants room passes
    /// no desk; it has the dispatcher's if that one rests.
    pub(super) fn drop_oldest(
        &self,
        at: &Source<'_, T>,
        desk: Option<&mut Desk<T>>,
        cause: DropCause,
    ) -> Option<(u32, Parcel<T>)> {
        let (hand, first) = match desk {
            Some(desk) => desk.take_oldest(),
            None => match at.desk.lock().as_deref_mut() {
                Some(desk) => {
                    breakable!("eviction: past the desk", desk.take_oldest(), (None, None))
                }
                None => (None, None),
            },
        };
        if let Some((batch, next)) = hand {
            self.drop_messages(batch.ids(next, batch.len()), cause);
            return Some(((batch.len() - next) as u32, Parcel::Chunk(batch)));
        }
        let parcel = first.or_else(|| at.pop())?;
        let count = parcel.len() as u32;
        self.drop_messages(parcel.ids(), cause);
        Some((count, parcel))
    }

    /// Messages that go no further: counted, evented, their tickets given back.
    pub(super) fn drop_messages(
        &self,
        ids: impl ExactSizeIterator<Item = MessageId>,
        cause: DropCause,
    ) {
        let count = ids.len() as u64;
        let _motion = self.books.motions.begin(count);
        self.books.dropped.add(count);
        for id in ids {
            self.tell_message(id, Status::Dropped, EventKind::Dropped { cause });
        }
        self.release(count);
        // It may have been the last thing anybody waited for, and no worker has
        // seen it.
        self.engine.stillness.look();
    }
}

/// Takes parcels out of the queue until `wanted` messages or more are on the
/// desk, or no more are there. Answers how many are.
fn take_up_to<T>(at: &Partition<T>, desk: &mut Desk<T>, wanted: usize) -> usize {
    // An earlier plan may have taken more than this one wants.
    let mut there = 0;
    for parcel in desk.shelf.iter() {
        if there >= wanted {
            break;
        }
        there += parcel.len();
    }
    while there < wanted
        && let Some(parcel) = at.pop()
    {
        there += parcel.len();
        desk.shelf.push_back(parcel);
    }
    there
}
