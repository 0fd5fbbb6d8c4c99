//! A queue, and the state of its dispatcher. A topic has one of these, or one for each of its
//! partitions.
//!
//! The newest messages are in an open batch. A publisher holds its lock while it writes a message
//! there. The publisher that fills the batch sends it through a channel, still under the lock. So
//! the channel has batches in the order in which they were written. A dispatcher takes full batches
//! out of the channel without the lock. When the channel is empty, it takes the open one under the
//! lock.
//!
//! Two interleavings are feared, and neither can happen:
//!
//! - The open batch overtakes a full one. But the thread that takes the open one first looks into
//!   the channel once more under the lock, while nothing can be sent.
//! - A message is written while its dispatcher goes to rest, and nobody looks. But the dispatcher
//!   finds nothing under the lock, and asks there to be notified; the next writer sees that. The
//!   writer takes the request with it and must notify, and later writers need not. It notifies by
//!   the fences of [`TaskState`]: the request may be one of an earlier turn.
//!
//! A publisher that drops the oldest takes from the queue, too, and may take only a part of a
//! batch. The rest of that batch is `left`, older than everything in the channel. Where the topic
//! drops its oldest, all threads that take hold the lock. A topic that comes to drop them waits until
//! its dispatcher has agreed.
//!
//! The channel is as large as the topic's capacity wants it when the first batch is sent. A topic
//! that has more room since lets batches that find the channel full `spill`, under the lock. They
//! are newer than everything in the channel, and nothing is sent there before they are gone.

use crate::engine::base::cell::Shared;
use crate::engine::base::task_state::TaskState;
use crate::engine::parts::dispatcher::DispatcherState;
use crate::engine::runtime::directory::{LiveSettings, Ttl};
use crate::engine::runtime::expiry::Expiry;
use crate::message::batch::{Accepted, BATCH, Batch, BatchSlice, OpenBatch, QueueEntry, Stamp};
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::pure::words::schedule::Then;
use crate::sync::{Arc, CachePadded, Channel, Mutex, MutexGuard, OnceLock, mutant};

use crate::types::config::Overflow;

use std::collections::VecDeque;

/// Least messages of a chunk that stays in its publisher's own vector. A smaller one joins the open
/// batch. A chunk may send the open batch before its time, to let it pass: the two hold more
/// messages than this.
const OWN: usize = BATCH / 2;

/// The number that no message has: nobody notifies, because somebody is bound to look.
const QUIET: u64 = u64::MAX;

/// One queue with its task. Publishers touch the tail. The dispatcher's state belongs to the thread
/// that runs the task.
pub(crate) struct PartitionQueue<T> {
    tail: CachePadded<Mutex<Tail<T>>>,
    /// Made with the first full batch. The gate bounds it exactly, in messages, which slots can't.
    full: OnceLock<Channel<Arc<Batch<T>>>>,
    /// Batches that the gate lets into it at once.
    most_full: usize,
    /// Whether publishers may drop the oldest messages when there is no room.
    pub(crate) evicts: Shared,
    pub(crate) task: TaskState,
    pub(crate) dispatcher: Mutex<Option<Box<DispatcherState<T>>>>,
    /// When the first message here expires, as far as that is known. An expiry by the topic's time
    /// to live is known only once a dispatcher has come to rest.
    pub(crate) expiry: Expiry,
}

/// The end of the queue, where publishers and the dispatcher meet.
pub(crate) struct Tail<T> {
    open: OpenBatch<T>,
    /// The part of the oldest batch that an eviction has left.
    left: Option<BatchSlice<T>>,
    /// Full batches that found the channel full.
    #[allow(
        clippy::box_collection,
        reason = "seldom there, and the tail fills its cache lines"
    )]
    spill: Option<Box<VecDeque<Arc<Batch<T>>>>>,
    /// The writer of a message with this number, or a higher one, notifies.
    notify_from: u64,
    /// The writer that fills the open batch notifies, too.
    notify_when_full: bool,
}

/// Messages taken out of a queue.
pub(crate) struct Taken<T> {
    pub(crate) part: BatchSlice<T>,
    /// The messages were the open batch: nothing was behind it.
    pub(crate) was_open: bool,
}

impl<T> PartitionQueue<T> {
    pub(crate) fn new(live: LiveSettings) -> Self {
        let capacity = usize::try_from(live.capacity).unwrap_or(usize::MAX);
        Self {
            tail: CachePadded::new(Mutex::new(Tail {
                open: OpenBatch::new(live.ttl),
                left: None,
                spill: None,
                notify_from: 0,
                notify_when_full: false,
            })),
            full: OnceLock::new(),
            most_full: (capacity / (OWN + 1)).saturating_mul(2).saturating_add(2),
            evicts: Shared::new(live.overflow == Overflow::DropOldest),
            task: TaskState::new(),
            dispatcher: Mutex::new(None),
            expiry: Expiry::new(),
        }
    }

    #[inline(always)]
    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail<T>> {
        self.tail.lock()
    }

    /// Writes a message into the open batch, under the lock.
    #[inline(always)]
    pub(crate) fn write(&self, tail: &mut Tail<T>, message: Accepted<T>, meta: Option<Box<Meta>>) {
        tail.open.push(message, meta);
        if tail.open.len() == BATCH {
            self.send_open(tail);
        }
    }

    /// Writes messages that were accepted at once into the open batch, or sends them in their own
    /// vector, under the lock.
    pub(crate) fn write_chunk(&self, tail: &mut Tail<T>, chunk: Chunk<T>, first: Stamp) {
        if chunk.len() > OWN {
            if tail.open.len() > 0 {
                self.send_open(tail);
            }
            let ttl = tail.open.ttl();
            return self.send(tail, Batch::chunk(chunk, first, ttl));
        }
        if chunk.meta.is_empty() {
            for (payload, stamp) in chunk.payloads.into_iter().zip(first.each()) {
                self.write(tail, Accepted { stamp, payload }, None);
            }
            return;
        }
        for ((payload, meta), stamp) in chunk.into_each().zip(first.each()) {
            self.write(tail, Accepted { stamp, payload }, meta);
        }
    }

    #[inline(never)]
    fn send_open(&self, tail: &mut Tail<T>) {
        let batch = tail.open.take();
        self.send(tail, batch);
    }

    fn send(&self, tail: &mut Tail<T>, batch: Batch<T>) {
        let full = self.full.get_or_init(|| Channel::new(self.most_full));
        let batch = Arc::new(batch);
        if tail.spill.is_some() {
            tail.spill(batch);
        } else if let Err(batch) = full.push(batch) {
            tail.spill(batch);
        }
        if tail.notify_when_full {
            tail.notify_when_full = false;
            tail.notify_from = 0;
        }
    }

    /// Pushes an entry, given the number of its last message, and returns whether the dispatcher is
    /// to be put on the ready queue.
    pub(crate) fn push(&self, entry: QueueEntry<T>, last: u64) -> Then {
        let own_expires_ns = entry.own_expires_ns();
        let mut tail = self.tail.lock();
        match entry {
            QueueEntry::One(message, meta) => self.write(&mut tail, message, meta),
            QueueEntry::Chunk(chunk, first) => self.write_chunk(&mut tail, chunk, first),
        }
        let notifies = tail.notifies(last);
        drop(tail);
        self.after_push(notifies, own_expires_ns)
    }

    /// Notifies the dispatcher after a push, if it has to know.
    #[inline(always)]
    pub(crate) fn after_push(&self, notifies: bool, own_expires_ns: Option<u64>) -> Then {
        // Noted after the push: a dispatcher forgets it when there is nothing.
        let expires_first = own_expires_ns.is_some_and(|at_ns| self.expiry.note(at_ns));
        if notifies || expires_first {
            return self.task.nudge();
        }
        Then::Nothing
    }

    /// Asks the writer of the message with this number, or of a later one, to notify. If `is_late`
    /// returns `true`, it asks the next writer instead.
    pub(crate) fn be_notified_from(&self, number: u64, is_late: impl FnOnce() -> bool) {
        let mut tail = self.tail.lock();
        let is_late = mutant!(is_late(), "queue.quiet", false);
        tail.notify_from = if is_late { 0 } else { number };
    }

    /// Asks nobody to notify, because a thread that makes room for the dispatcher's batch does.
    pub(crate) fn stay_quiet(&self) {
        self.be_notified_from(QUIET, || false);
    }

    /// Asks nobody to notify before the open batch is full. Returns `false` and changes nothing if
    /// there is a full batch already, or no message at all.
    pub(crate) fn be_notified_when_full(&self) -> bool {
        let mut tail = self.tail.lock();
        let has_full = tail.spill.is_some() || self.has_full();
        let is_only_open = tail.open.len() > 0 && tail.left.is_none() && !has_full;
        if is_only_open {
            tail.notify_from = QUIET;
            tail.notify_when_full = true;
        }
        is_only_open
    }

    /// Takes the oldest full batch, without the lock, where nobody else takes any.
    pub(crate) fn pop_full(&self) -> Option<BatchSlice<T>> {
        if self.evicts.is_agreed() {
            return None;
        }
        self.full.get()?.pop().map(BatchSlice::whole)
    }

    /// Takes the oldest batch. If there is none, or it is the open one, the next publisher to push
    /// notifies.
    pub(crate) fn pop(&self) -> Option<Taken<T>> {
        let mut tail = self.tail.lock();
        self.pop_from(&mut tail)
    }

    fn has_full(&self) -> bool {
        self.full.get().is_some_and(|full| !full.is_empty())
    }

    fn pop_from(&self, tail: &mut Tail<T>) -> Option<Taken<T>> {
        let full = || self.full.get()?.pop().map(BatchSlice::whole);
        let full = || mutant!(full(), "queue.full-first", None);
        let spilled = |tail: &mut Tail<T>| tail.pop_spilled().map(BatchSlice::whole);
        if let Some(part) = tail.left.take().or_else(full).or_else(|| spilled(tail)) {
            let was_open = false;
            return Some(Taken { part, was_open });
        }
        mutant!(tail.notify_from = 0, "queue.rest-word");
        tail.notify_when_full = false;
        if tail.open.len() == 0 {
            return None;
        }
        let mut batch = tail.open.take();
        batch.shrink();
        let part = BatchSlice::whole(Arc::new(batch));
        let was_open = true;
        Some(Taken { part, was_open })
    }

    /// Sets the time to live of the messages that are written from now on. The dispatcher is to
    /// look when the others expire.
    pub(crate) fn set_ttl(&self, ttl: Ttl, now_ns: u64) {
        let mut tail = self.tail.lock();
        if tail.open.len() > 0 {
            self.send_open(&mut tail);
        }
        tail.open.set_ttl(ttl);
        drop(tail);
        self.expiry.note(now_ns);
    }

    /// Takes the oldest messages, at most `most`, for a topic that drops its oldest. The dispatcher
    /// must have agreed to that.
    pub(crate) fn pop_some(&self, most: u32) -> Option<BatchSlice<T>> {
        if !self.evicts.is_agreed() {
            return None;
        }
        let mut tail = self.tail.lock();
        let (taken, left) = self.pop_from(&mut tail)?.part.split_at_most(most);
        tail.left = left;
        Some(taken)
    }
}

impl<T> Tail<T> {
    #[cold]
    fn spill(&mut self, batch: Arc<Batch<T>>) {
        self.spill.get_or_insert_default().push_back(batch);
    }

    fn pop_spilled(&mut self) -> Option<Arc<Batch<T>>> {
        let spill = self.spill.as_mut()?;
        let oldest = spill.pop_front();
        if spill.is_empty() {
            self.spill = None;
        }
        oldest
    }

    /// Returns whether the writer of the message with this number must notify.
    #[inline(always)]
    pub(crate) fn notifies(&mut self, number: u64) -> bool {
        let notifies = number >= self.notify_from;
        if notifies {
            self.notify_from = QUIET;
        }
        notifies
    }
}
