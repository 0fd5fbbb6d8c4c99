//! What a buffering publisher has collected and not yet published.
//!
//! Two threads may flush it: its publisher, when it is full or asked to, and a
//! worker, when its oldest message has lingered. What could go wrong is their
//! order: a worker that holds older messages while the publisher passes newer ones
//! by. So a worker flushes under the lock, and never waits for room (it is inside
//! the engine); what that drops is the user's, and dropped after the lock is. The
//! publisher, who may wait for room that only workers make, takes
//! everything out first; a worker that comes then finds nothing.
//!
//! What was refused for want of room, or of a subscription, stands in line for it, with
//! no timer meanwhile, and a worker publishes it once there is. Without a linger it waits
//! for its publisher, as everything in such a buffer does.

use crate::engine::base::contain::discard;
use crate::engine::publish::admit::{Patience, Refused};
use crate::engine::runtime::linger::Linger;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::fire::{Fire, Tag};
use crate::engine::wait::standby::Place;
use crate::message::BatchReceipt;
use crate::message::batch::DeferredDrops;
use crate::pure::decide::strategy::Batched;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, in_order};
use crate::types::duration::nanos;
use crate::types::error::{PartialBatch, PublishError};

/// The buffer of one publisher.
pub(crate) struct Buffer<T: Send + Sync + 'static> {
    topic: Arc<TopicCore<T>>,
    /// Where all of it goes, if the topic has partitions that keep the order of its
    /// publisher.
    route: Option<u64>,
    size: usize,
    linger_ns: Option<u64>,
    held: Mutex<Held<T>>,
    /// It is on the ready queue, where once is enough.
    ready: AtomicBool,
}

struct Held<T> {
    /// Oldest first; at most as many as the buffer's size.
    payloads: Vec<T>,
    /// When the oldest of them came.
    since_ns: u64,
    linger: Linger,
    /// Taken while they wait for room.
    place: Place,
    /// What became of those that have left since it was last asked for.
    receipt: BatchReceipt,
}

impl<T: Send + Sync + 'static> Buffer<T> {
    pub(crate) fn new(topic: Arc<TopicCore<T>>, batches: Batched) -> Self {
        let split = topic.split.as_deref();
        Self {
            route: split.and_then(|split| split.sticky_route()),
            topic,
            size: batches.size(),
            linger_ns: batches.lingers().map(nanos),
            held: Mutex::new(Held {
                payloads: Vec::new(),
                since_ns: 0,
                linger: Linger::default(),
                place: Place::default(),
                receipt: BatchReceipt::default(),
            }),
            ready: AtomicBool::new(false),
        }
    }

    /// How many messages it holds.
    pub(crate) fn len(&self) -> usize {
        self.held.lock().payloads.len()
    }

    /// Holds the message, or publishes it at once if nobody has anything to do
    /// but wait for it.
    pub(crate) fn publish(self: &Arc<Self>, payload: T) -> Result<(), PublishError<T>> {
        let mut held = self.held.lock();
        if held.payloads.len() >= self.size {
            drop(held);
            let refused = self.publish_all().err();
            held = self.held.lock();
            if let Some(refused) = refused
                && held.payloads.len() >= self.size
            {
                self.topic.books.rejected.add(1);
                return Err(refused.error(payload));
            }
        }
        if held.payloads.is_empty() {
            if self.topic.is_starving() {
                drop(held);
                let receipt = self.topic.publish_to(self.route, payload, None)?;
                self.held.lock().receipt.add(receipt);
                return Ok(());
            }
            held.payloads.reserve_exact(self.size);
            self.await_linger(&mut held);
        }
        held.payloads.push(payload);
        if held.payloads.len() >= self.size {
            drop(held);
            // If it is refused, the next publish finds the buffer full and says so.
            let _ = self.publish_all();
        }
        Ok(())
    }

    /// Publishes all it holds. What is refused is handed back and forgotten.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<BatchReceipt, PartialBatch<T>> {
        let flushed = self.publish_all();
        let mut held = self.held.lock();
        let receipt = std::mem::take(&mut held.receipt);
        let Err(refused) = flushed else {
            return Ok(receipt);
        };
        let rest = std::mem::take(&mut held.payloads);
        self.topic.waiters.step_out(&mut held.place);
        if rest.is_empty() {
            // A worker has found room for it since.
            return Ok(receipt);
        }
        Err(self.topic.refuse_batch(refused, rest, receipt))
    }

    /// Publishes all it holds, on the publisher's thread. What is refused stays.
    fn publish_all(self: &Arc<Self>) -> Result<(), Refused> {
        let mut held = self.held.lock();
        let mut payloads = std::mem::take(&mut held.payloads);
        let mut receipt = held.receipt;
        drop(held);
        let published = self.publish_held(
            &mut payloads,
            &mut receipt,
            &mut Patience::default(),
            &mut DeferredDrops::new(),
        );
        let mut held = self.held.lock();
        held.payloads = payloads;
        held.receipt = receipt;
        self.await_room(&mut held, published);
        published
    }

    fn publish_held(
        &self,
        payloads: &mut Vec<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<(), Refused> {
        // One timeout for all chunks together.
        while !payloads.is_empty() {
            self.topic
                .publish_chunk(self.route, payloads, copy_out, receipt, patience, drops)?;
        }
        Ok(())
    }

    /// Has what was refused wait for room, if that can come and somebody else than the
    /// publisher may publish it; what was published waits no more.
    fn await_room(self: &Arc<Self>, held: &mut Held<T>, published: Result<(), Refused>) {
        let waiters = &self.topic.waiters;
        if self.linger_ns.is_none() || matches!(published, Ok(()) | Err(Refused::Closed)) {
            return waiters.step_out(&mut held.place);
        }
        held.linger.cancel(&self.topic.engine);
        waiters.stand(&mut held.place, Arc::clone(self) as _);
        if self.topic.may_admit() {
            waiters.call_next();
        }
    }

    /// The buffer is no longer empty: has somebody look when that has lasted.
    fn await_linger(self: &Arc<Self>, held: &mut Held<T>) {
        if self.linger_ns.is_some() {
            let engine = &self.topic.engine;
            held.since_ns = engine.clock.now_ns();
            let target = Arc::clone(self) as _;
            held.linger.set(engine, self.linger_ns, target);
        }
    }

    /// The publisher goes, and what it could not publish with it.
    pub(crate) fn close(self: &Arc<Self>) {
        let _ = self.publish_all();
        let mut held = self.held.lock();
        held.linger.cancel(&self.topic.engine);
        self.topic.waiters.step_out(&mut held.place);
        let left = std::mem::take(&mut held.payloads);
        drop(held);
        self.topic.books.rejected.add(left.len() as u64);
        left.into_iter().for_each(discard);
    }
}

/// Moves payloads into a vector of their own. The buffer's memory stays: it is in
/// this core's cache. What comes back from the workers is in theirs, and each lock
/// would wait for the cache line of the payload before it.
fn copy_out<T>(payloads: &mut Vec<T>, count: usize) -> Vec<T> {
    payloads.drain(..count).collect()
}

impl<T: Send + Sync + 'static> Fire for Buffer<T> {
    fn fire(self: Arc<Self>, _tag: Tag) {
        // A flush may evict, and so drop, payloads: the user's code, and not for
        // the timer's thread.
        // ORDERING: pairs with the swap in `run`: who finds it set comes before that
        // run's look.
        if !self.ready.swap(true, Ordering::AcqRel) {
            let topic = Arc::clone(&self.topic);
            topic.engine.pool.submit(self);
        }
    }
}

impl<T: Send + Sync + 'static> Task for Buffer<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        in_order!(
            self.ready.swap(false, Ordering::AcqRel),
            self.publish_lingering(worker),
            "buffer.unqueue-then-look"
        );
        if self.topic.may_admit() {
            self.topic.waiters.call_next();
        }
    }
}

impl<T: Send + Sync + 'static> Buffer<T> {
    /// Publishes what has lingered, or has waited for room, on a worker's thread.
    fn publish_lingering(self: &Arc<Self>, worker: &Worker<'_>) {
        let linger_ns = self.linger_ns.unwrap_or(u64::MAX);
        // Goes after the lock.
        let mut drops = DeferredDrops::new();
        let held = &mut *self.held.lock();
        let waited_for_room = held.place.is_taken();
        let waited_ns = worker.engine.clock.now_ns().saturating_sub(held.since_ns);
        if held.payloads.is_empty() {
            self.topic.waiters.step_out(&mut held.place);
        } else if !waited_for_room && waited_ns < linger_ns {
            // The call was for messages that have left.
            let target = Arc::clone(self) as _;
            let again_ns = Some(linger_ns - waited_ns);
            held.linger.set(worker.engine, again_ns, target);
        } else {
            let mut patience = Patience::locked(waited_for_room);
            let (payloads, receipt) = (&mut held.payloads, &mut held.receipt);
            let published = self.publish_held(payloads, receipt, &mut patience, &mut drops);
            self.await_room(held, published);
        }
    }
}
