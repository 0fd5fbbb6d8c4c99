//! Slots: consumers of a lane besides its own runner. A subscription with concurrency has
//! several, and so have the members of a consumer group together.
//!
//! Each slot is a task, as a lane is, and takes from its keyed lane when it is notified. A
//! thread that files deliveries notifies slots after it has released the keyed lane's lock.
//! A slot that finds nothing has looked under that lock, so one of the two sees the other.
//! A thread that changes the set of consumers notifies the lane, and the lane's turn
//! notifies the slots.
//!
//! The end of a slot: `leaving` is set, and whoever claims the slot then drops the handler
//! and never gives the slot back. The feared interleaving: a slot looks for the mark, is
//! marked, and goes to rest with its handler. It can't happen: a thread that marks a
//! running slot leaves a notice in its task state, so the slot runs once more. Model:
//! `loom-tests/tests/models/group.rs`.

use crate::engine::base::contain::{Contained, discard};
use crate::engine::base::task_state::TaskState;
use crate::engine::deliver::turn::{Progress, SHARE_LOOKS, SHARE_NS};
use crate::engine::gates::asking::Calls;
use crate::engine::keyed::batch::Batcher;
use crate::engine::keyed::take::Next;
use crate::engine::parts::handler::Handler;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::pass::ask::Grant;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::{Lane, Turn};
use crate::engine::state::slots::{ConsumerSlot, Member, Shared, Work};
use crate::engine::wait::fire::{Fire, Tag};
use crate::message::Delivery;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::nack::Nack;
use crate::pure::decide::expiry::NEVER;
use crate::pure::order::sequencer::Taken;
use crate::pure::policy::strategy::Batched;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, mutant};

/// Returns the work of a slot that has a handler of its own.
pub(crate) fn own<T, F>(handler: F) -> Box<dyn Work<T>>
where
    T: Send + Sync + 'static,
    F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
{
    Box::new(Turn::new(Handler::Each(Box::new(handler))))
}

/// Returns the work of a slot that has a handler for batches.
pub(crate) fn own_batches<T, F>(batches: Batched, handler: F) -> Box<dyn Work<T>>
where
    T: Send + Sync + 'static,
    F: FnMut(&mut DeliveryBatch<'_, T>) -> Result<(), Nack> + Send + 'static,
{
    Box::new(Turn::new(Handler::Batch(Box::new(handler), batches)))
}

/// Returns the work of `count` slots that share a handler.
pub(crate) fn share<T, F>(handler: &Arc<Contained<F>>, count: usize) -> Shared<T>
where
    T: Send + Sync + 'static,
    F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
{
    let calling =
        |handler: Arc<Contained<F>>| own(move |delivery: &Delivery<'_, T>| (**handler)(delivery));
    share_by(handler, count, calling)
}

/// Returns the work of `count` slots that are `calling` a shared handler.
pub(crate) fn share_by<T, H>(
    handler: &Arc<H>,
    count: usize,
    calling: impl Fn(Arc<H>) -> Box<dyn Work<T>> + Send + Sync + 'static,
) -> Shared<T>
where
    H: Send + Sync + 'static,
{
    let slots = (0..count).map(|_| calling(Arc::clone(handler))).collect();
    let handler = Arc::downgrade(handler);
    (slots, Box::new(move || handler.upgrade().map(&calling)))
}

impl<T: Send + Sync + 'static> ConsumerSlot<T> {
    pub(crate) fn new(
        lane: &Arc<Lane<T>>,
        member: &Arc<Member<T>>,
        work: Box<dyn Work<T>>,
    ) -> Self {
        Self {
            lane: Arc::downgrade(lane),
            member: Arc::downgrade(member),
            task: TaskState::new(),
            home: lane.slots_home,
            work: Mutex::new(Some(work)),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            busy_since_ns: AtomicU64::new(0),
        }
    }

    /// Notifies the slot that there may be something to take. Returns `true` if it was at rest.
    pub(crate) fn schedule(self: &Arc<Self>, engine: &Engine) -> bool {
        let was_idle = self.task.notify() == Then::Enqueue;
        if was_idle {
            engine.pool_of(self.home).submit(Arc::clone(self) as _);
        }
        was_idle
    }

    pub(crate) fn lane(&self) -> Option<Arc<Lane<T>>> {
        self.lane.upgrade()
    }

    /// Asks the lane's gate. A slot that has to wait is at rest when it asks for the last time.
    fn ask(
        &self,
        keyed: KeyedLane<'_, T>,
        most: usize,
        calls: Calls,
        now_ns: u64,
    ) -> Option<Grant> {
        keyed.lane.may_go(most, calls, now_ns).or_else(|| {
            let state = keyed.keyed.state.lock();
            self.mark_busy(false, now_ns);
            drop(state);
            keyed.lane.may_go(most, calls, now_ns)
        })
    }

    /// Takes one delivery for the slot's member, and notifies other slots if more are left. It
    /// takes no more than one, because no delivery may wait behind a call while another
    /// consumer is free. The slot marks itself busy under the keyed lane's lock. A thread that
    /// files deliveries need not notify a busy slot, because the slot looks again after its
    /// call.
    pub(crate) fn take(
        &self,
        keyed: KeyedLane<'_, T>,
        now_ns: u64,
    ) -> Option<Taken<PendingDelivery<T>>> {
        let member = self.member.upgrade()?;
        let grant = self.ask(keyed, 1, Calls::Each, now_ns)?;
        let mut next = Next::Nobody;
        let taken = keyed.take_one(member.id, now_ns, |state, taken| {
            self.mark_busy(taken > 0, now_ns);
            next = keyed.lane.next_of(state, member.id);
        });
        member.taken.add(u64::from(taken.is_some()));
        keyed.lane.end_take(grant, usize::from(taken.is_some()));
        mutant!(
            match next {
                Next::Nobody => {}
                Next::One => member.schedule_next(keyed.lane.engine()),
                Next::Any => {
                    keyed.call_others();
                }
            },
            "slot.pass-on"
        );
        taken
    }

    /// Delivers one batch for the slot's member, if it wants one now.
    fn try_batch(
        self: &Arc<Self>,
        keyed: KeyedLane<'_, T>,
        turn: &mut Turn<T>,
        batched: Batched,
        now_ns: u64,
    ) -> Progress {
        let Some(member) = self.member.upgrade() else {
            return Progress::Nothing;
        };
        let Some(grant) = self.ask(keyed, batched.size(), Calls::Each, now_ns) else {
            return Progress::Nothing;
        };
        let batcher = Batcher::Slot(self, &member);
        turn.granted = grant.most();
        let progress = keyed.try_batch(turn, &batcher, batched, now_ns);
        keyed.lane.end_take(grant, grant.most() - turn.granted);
        if matches!(progress, Progress::Done { .. }) {
            // A key that is free again may have moved to another member.
            keyed.call_others();
        }
        progress
    }

    /// Marks, under the keyed lane's lock, that the slot has taken something or found nothing.
    pub(crate) fn mark_busy(&self, is_busy: bool, now_ns: u64) {
        let since_ns = if is_busy { now_ns.max(1) } else { 0 };
        self.busy_since_ns.store(since_ns, Ordering::Relaxed);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy_since_ns.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn is_gone(&self) -> bool {
        // ORDERING: a thread that sees the flag sees that the handler is gone.
        self.gone.load(Ordering::Acquire)
    }

    /// Begins the slot's end, and finishes it unless a call of its handler runs.
    pub(crate) fn leave(self: &Arc<Self>, engine: &Engine) {
        self.leaving.store(true, Ordering::Release);
        self.look(engine);
    }

    /// Has the slot check at once what has become of its lane and itself. It does so on the
    /// calling thread, unless it runs.
    pub(crate) fn look(self: &Arc<Self>, engine: &Engine) {
        if !self.task.claim() {
            mutant!(
                {
                    self.schedule(engine);
                },
                "slot.notify-leave"
            );
            return;
        }
        while self.run_claimed(engine) && self.task.claim() {}
    }

    /// Whether the slot has nothing more to do than to end, or to end its call.
    fn is_ending(&self) -> bool {
        let is_cancelled = |lane: Arc<Lane<T>>| lane.phase().ends_at_once();
        self.is_leaving() || self.lane().is_some_and(is_cancelled)
    }

    /// Drops the handler. The caller has claimed the slot and keeps it.
    fn go(&self) {
        let work = self.work.lock().take();
        discard(work);
        self.gone.store(true, Ordering::Release);
        if let Some(lane) = self.lane() {
            // The deliveries that it did not try may be for other slots, or the lane may end.
            mutant!(lane.come_to_end(), "slot.notify-gone");
            lane.topic.engine.quiescence.notify();
        }
    }

    fn run_claimed(self: &Arc<Self>, engine: &Engine) -> bool {
        let _inside = Inside::enter(engine);
        let (mut more, mut is_busy) = (false, false);
        let work = self.work.lock().take();
        if let Some(mut work) = work {
            let lane = self.lane();
            if let Some(keyed) = lane.as_ref().and_then(|lane| lane.keyed()) {
                more = work.work(self, keyed);
            }
            is_busy = work.is_busy();
            if !is_busy && !more {
                self.busy_since_ns.store(0, Ordering::Relaxed);
            }
            *self.work.lock() = Some(work);
        }
        if self.is_leaving() && !is_busy {
            self.go();
            return false;
        }
        self.task.rest(more) == Then::Enqueue
    }
}

impl<T: Send + Sync + 'static> Work<T> for Turn<T> {
    fn work(&mut self, slot: &Arc<ConsumerSlot<T>>, keyed: KeyedLane<'_, T>) -> bool {
        let began_ns = keyed.lane.engine().clock.now_ns();
        let mut now_ns = began_ns;
        let mut looks = 0;
        while !slot.is_leaving() && !keyed.lane.phase().ends_at_once() {
            if now_ns.saturating_sub(began_ns) >= SHARE_NS || looks == SHARE_LOOKS {
                return true;
            }
            looks += 1;
            if let Handler::Batch(_, batched) = self.handler {
                match slot.try_batch(keyed, self, batched, now_ns) {
                    Progress::Done { now_ns: after_ns } => now_ns = after_ns,
                    _ => return false,
                }
                continue;
            }
            let Some(taken) = slot.take(keyed, now_ns) else {
                return false;
            };
            now_ns = match keyed.lane.timeout_ns.get() {
                NEVER => keyed.try_single(self, taken, now_ns),
                timeout_ns => keyed.try_timed(self, taken, timeout_ns, now_ns),
            };
        }
        self.linger.cancel(keyed.lane.engine());
        false
    }

    fn is_busy(&self) -> bool {
        false
    }
}

impl<T: Send + Sync + 'static> Task for ConsumerSlot<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if !self.task.start() || !self.run_claimed(worker.engine) {
            return;
        }
        if self.is_ending() {
            // As in a lane, the end doesn't wait for a free worker.
            self.look(worker.engine);
        } else {
            worker.requeue(self);
        }
    }
}

impl<T: Send + Sync + 'static> Fire for ConsumerSlot<T> {
    /// Looks again, because a batch has lingered.
    fn fire(self: Arc<Self>, _: Tag) {
        if let Some(lane) = self.lane() {
            self.schedule(lane.engine());
        }
    }
}
