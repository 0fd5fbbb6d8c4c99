//! The messages that a buffering publisher has collected and not yet published.
//!
//! Two threads may flush a buffer. Its publisher does when the buffer is full or when asked
//! to. A worker does when the oldest message has lingered. The feared interleaving is a
//! wrong order: a worker holds older messages while the publisher sends newer ones past it.
//! It can't happen, because a worker flushes under the lock. A worker never waits for room,
//! because it is inside the engine. Payloads that its flush evicts are dropped after the
//! lock is released, because a drop is user code. The publisher may wait for room that only
//! workers make. So it takes everything out of the buffer first, and a worker that comes
//! then finds nothing.
//!
//! Messages that were refused for want of room, or of a subscription, join the topic's line
//! of waiting buffers. They have no timer meanwhile, and a worker publishes them once there
//! is room. A buffer without a linger waits for its publisher instead, as it does with all
//! its messages.

use crate::engine::base::contain::discard;
use crate::engine::publish::ask::{Patience, Refused, Wait};
use crate::engine::runtime::linger::Linger;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::fire::{Fire, Tag};
use crate::engine::wait::standby::Place;
use crate::message::BatchReceipt;
use crate::message::batch::DeferredDrops;
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
use crate::pure::policy::strategy::Batched;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, in_order};
use crate::types::duration::nanos;
use crate::types::error::PublishBatchError;

/// The buffer of one publisher.
pub(crate) struct Buffer<T: Send + Sync + 'static> {
    topic: Arc<TopicCore<T>>,
    /// The route of all its messages, if the topic's partitions keep the order of each
    /// publisher.
    route: Option<u64>,
    size: usize,
    linger_ns: Option<u64>,
    held: Mutex<Held<T>>,
    /// Whether the buffer is on the ready queue. Once is enough.
    ready: AtomicBool,
}

struct Held<T> {
    /// The messages, oldest first. There are at most `size` of them.
    chunk: Chunk<T>,
    /// When the oldest of them arrived.
    since_ns: u64,
    linger: Linger,
    /// The buffer's position in the line, taken while the messages wait for room.
    place: Place,
    /// The result for the messages that have left since the last flush asked for it.
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
                chunk: Chunk::EMPTY,
                since_ns: 0,
                linger: Linger::default(),
                place: Place::default(),
                receipt: BatchReceipt::default(),
            }),
            ready: AtomicBool::new(false),
        }
    }

    /// How many messages the buffer holds.
    pub(crate) fn len(&self) -> usize {
        self.held.lock().chunk.len()
    }

    /// Holds the message, or hands it back. Publishes it at once if the buffer is empty and the
    /// topic starves, because its workers would only wait for it.
    #[inline]
    pub(crate) fn publish(
        self: &Arc<Self>,
        payload: T,
        meta: Option<Box<Meta>>,
    ) -> Result<(), (Refused, T, Option<Box<Meta>>)> {
        let meta = match self.topic.weights.is_some() {
            // Before the lock, because this is the user's code.
            true => self.topic.weigh(&payload, meta),
            false => meta,
        };
        let mut held = self.held.lock();
        if held.chunk.len() >= self.size {
            drop(held);
            let refused = self.publish_all().err();
            held = self.held.lock();
            if let Some(refused) = refused
                && held.chunk.len() >= self.size
            {
                self.topic.books.rejected.add(1);
                if let Refused::RateLimited(_) = refused {
                    self.topic.note_rate_limited(1);
                }
                return Err((refused, payload, meta));
            }
        }
        if held.chunk.is_empty() {
            if self.topic.is_starving() {
                drop(held);
                let is_keyed = meta.as_ref().is_some_and(|meta| meta.key.is_some());
                let route = self.route.filter(|_| !is_keyed);
                let published = self.topic.publish_to(route, payload, meta, Wait::ByPolicy);
                let receipt = published?;
                self.held.lock().receipt.add(receipt);
                return Ok(());
            }
            held.chunk.payloads.reserve_exact(self.size);
            self.await_linger(&mut held);
        }
        held.chunk.push(payload, meta);
        if held.chunk.len() >= self.size {
            drop(held);
            // If the messages are refused, the next publish finds the buffer full and returns
            // the error.
            let _ = self.publish_all();
        }
        Ok(())
    }

    /// Refuses a message that its topic can't accept at any time.
    pub(crate) fn check(&self, message: &Message<T>) -> Result<(), Refused> {
        self.topic.check(message)
    }

    /// Accepts a message that is due later, past the buffer, or hands it back.
    pub(crate) fn publish_late(&self, message: Message<T>) -> Result<(), (Refused, Message<T>)> {
        let (patience, drops) = (&mut Patience::default(), &mut DeferredDrops::new());
        let accepted = self.topic.accept_alone(message, patience, drops);
        let receipt = accepted.inspect_err(|(refused, _)| self.topic.note_refused(refused, 1))?;
        self.held.lock().receipt.add(receipt);
        Ok(())
    }

    /// Publishes everything in the buffer. Refused messages are handed back and forgotten.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<BatchReceipt, PublishBatchError<Message<T>>> {
        let flushed = self.publish_all();
        let mut held = self.held.lock();
        let receipt = std::mem::take(&mut held.receipt);
        let Err(refused) = flushed else {
            return Ok(receipt);
        };
        let rest = std::mem::replace(&mut held.chunk, Chunk::EMPTY);
        self.topic.waiters.step_out(&mut held.place);
        if rest.is_empty() {
            // A worker has published the rest in the meantime.
            return Ok(receipt);
        }
        Err(self
            .topic
            .refuse_batch(refused, rest.into_messages().collect(), receipt))
    }

    /// Publishes everything in the buffer, on the publisher's thread. Refused messages stay.
    fn publish_all(self: &Arc<Self>) -> Result<(), Refused> {
        let mut held = self.held.lock();
        let mut chunk = std::mem::replace(&mut held.chunk, Chunk::EMPTY);
        let mut receipt = held.receipt;
        drop(held);
        let published = self.publish_held(
            &mut chunk,
            &mut receipt,
            &mut Patience::default(),
            &mut DeferredDrops::new(),
        );
        let mut held = self.held.lock();
        held.chunk = chunk;
        held.receipt = receipt;
        self.await_room(&mut held, published.clone());
        published
    }

    fn publish_held(
        &self,
        chunk: &mut Chunk<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<(), Refused> {
        // All chunks together have one timeout.
        while !chunk.is_empty() {
            self.topic
                .publish_chunk(self.route, chunk, copy_out, receipt, patience, drops)?;
        }
        Ok(())
    }

    /// Puts the buffer into the line for room after a refusal, if room may come and workers may
    /// publish for it. Otherwise takes the buffer out of the line.
    fn await_room(self: &Arc<Self>, held: &mut Held<T>, published: Result<(), Refused>) {
        let waiters = &self.topic.waiters;
        if self.linger_ns.is_none() || matches!(published, Ok(()) | Err(Refused::Closed)) {
            return waiters.step_out(&mut held.place);
        }
        held.linger.cancel(&self.topic.engine);
        waiters.stand(&mut held.place, Arc::clone(self) as _);
        if self.topic.may_admit() {
            waiters.call_next();
        } else if let Some(retry_after) = self.topic.held_by_rate() {
            self.topic.call_after(retry_after);
        }
    }

    /// Sets the linger timer of a buffer that has just stopped being empty.
    fn await_linger(self: &Arc<Self>, held: &mut Held<T>) {
        if self.linger_ns.is_some() {
            let engine = &self.topic.engine;
            held.since_ns = engine.clock.now_ns();
            let target = Arc::clone(self) as _;
            held.linger.set(engine, self.linger_ns, target);
        }
    }

    /// Publishes all it can when the publisher goes, and counts the rest as rejected.
    pub(crate) fn close(self: &Arc<Self>) {
        let _ = self.publish_all();
        let mut held = self.held.lock();
        held.linger.cancel(&self.topic.engine);
        self.topic.waiters.step_out(&mut held.place);
        let left = std::mem::replace(&mut held.chunk, Chunk::EMPTY);
        drop(held);
        self.topic.books.rejected.add(left.len() as u64);
        left.payloads.into_iter().for_each(discard);
    }
}

/// Moves payloads into a vector of their own. The buffer's memory stays, because it is in
/// this core's cache. Memory that workers hand back is in their caches, and each lock would
/// wait for the cache line of the payload before it.
fn copy_out<T>(payloads: &mut Vec<T>, count: usize) -> Vec<T> {
    payloads.drain(..count).collect()
}

impl<T: Send + Sync + 'static> Fire for Buffer<T> {
    fn fire(self: Arc<Self>, _tag: Tag) {
        // A flush may evict payloads and so drop them. That is user code, which must not run on
        // the timer thread.
        // ORDERING: pairs with the swap in `run`. A `fire` that finds the flag set comes before
        // that run's look.
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
    /// Publishes, on a worker's thread, messages that have lingered or have waited for room.
    fn publish_lingering(self: &Arc<Self>, worker: &Worker<'_>) {
        let linger_ns = self.linger_ns.unwrap_or(u64::MAX);
        // The evicted payloads are dropped after the lock is released.
        let mut drops = DeferredDrops::new();
        let held = &mut *self.held.lock();
        let waited_for_room = held.place.is_taken();
        let waited_ns = worker.engine.clock.now_ns().saturating_sub(held.since_ns);
        if held.chunk.is_empty() {
            self.topic.waiters.step_out(&mut held.place);
        } else if !waited_for_room && waited_ns < linger_ns {
            // The timer was set for messages that have left.
            let target = Arc::clone(self) as _;
            let again_ns = Some(linger_ns - waited_ns);
            held.linger.set(worker.engine, again_ns, target);
        } else {
            let mut patience = Patience::locked(waited_for_room);
            let (chunk, receipt) = (&mut held.chunk, &mut held.receipt);
            let published = self.publish_held(chunk, receipt, &mut patience, &mut drops);
            self.await_room(held, published);
        }
    }
}
