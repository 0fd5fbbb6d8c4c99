//! A queue, and what whoever dispatches it needs: a topic has one of these, or one
//! for each of its partitions.
//!
//! Its newest messages are in an open batch, behind a lock that a publisher holds while it
//! writes its message there. The publisher that fills the batch sends it, still under the
//! lock, through a channel, so that the channel has them in the order in which they were
//! written. A dispatcher takes full batches out of the channel without the lock, and takes
//! the open one under it when the channel is empty.
//!
//! The feared interleavings. A full batch is overtaken by the open one: no, because who
//! takes the open one looks into the channel once more under the lock, where nothing can
//! be sent. A message is written while its dispatcher goes to rest, and nobody looks: no,
//! because the dispatcher says under the lock, when it finds nothing there, that it wants
//! to be notified, and whoever writes next sees that. Whoever takes the request with it
//! must notify, and everybody after it need not. It notifies by the fences of
//! [`TaskState`]: the request may be one of an earlier turn.
//!
//! Who drops the oldest takes from the queue, too, and may take a part of a batch only:
//! what is left of that is `left`, older than everything in the channel. Where the topic
//! drops its oldest, all who take hold the lock.

use crate::engine::base::task_state::TaskState;
use crate::engine::parts::dispatcher::DispatcherState;
use crate::engine::runtime::directory::TopicSettings;
use crate::engine::runtime::expiry::Expiry;
use crate::message::batch::{
    BATCH, Batch, BatchSlice, Message, Meta, OpenBatch, QueueEntry, Stamp,
};
use crate::pure::words::schedule::Then;
use crate::sync::{Arc, CachePadded, Channel, Mutex, MutexGuard, OnceLock, mutant};
use crate::types::config::Overflow;

/// Least messages of a chunk that stays in its publisher's own vector. A smaller one joins
/// the open batch: so a batch in the channel, with the one that was sent before its time
/// to let it pass, stands for more messages than this.
const OWN: usize = BATCH / 2;

/// Nobody notifies: somebody is bound to look.
const QUIET: u64 = u64::MAX;

/// Who touches what: publishers the tail; the dispatcher, which is whoever holds
/// the task, the dispatcher.
pub(crate) struct PartitionQueue<T> {
    tail: CachePadded<Mutex<Tail<T>>>,
    /// Made with the first full batch. Bounded by the gate, exactly and in messages, which
    /// slots can't be.
    full: OnceLock<Channel<Arc<Batch<T>>>>,
    /// Batches that the gate lets into it at once.
    most_full: usize,
    /// Publishers drop the oldest messages when there is no room.
    evicts: bool,
    pub(crate) task: TaskState,
    pub(crate) dispatcher: Mutex<Option<Box<DispatcherState<T>>>>,
    /// When the first of what waits here expires, as far as that is known: of what its
    /// topic says how long it lives, only once a dispatcher has come to rest.
    pub(crate) expiry: Expiry,
}

/// Where publishers and the dispatcher meet.
pub(crate) struct Tail<T> {
    open: OpenBatch<T>,
    /// What an eviction has left of the oldest batch.
    left: Option<BatchSlice<T>>,
    /// Whoever writes a message with this number, or a higher one, notifies.
    notify_from: u64,
    /// And whoever fills the open batch.
    notify_when_full: bool,
}

/// What was taken out of a queue.
pub(crate) struct Taken<T> {
    pub(crate) part: BatchSlice<T>,
    /// It is the open batch: nothing was behind it.
    pub(crate) was_open: bool,
}

impl<T> PartitionQueue<T> {
    pub(crate) fn new(settings: &TopicSettings) -> Self {
        let capacity = usize::try_from(settings.capacity).unwrap_or(usize::MAX);
        Self {
            tail: CachePadded::new(Mutex::new(Tail {
                open: OpenBatch::new(),
                left: None,
                notify_from: 0,
                notify_when_full: false,
            })),
            full: OnceLock::new(),
            most_full: (capacity / (OWN + 1)).saturating_mul(2).saturating_add(2),
            evicts: settings.overflow == Overflow::DropOldest,
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
    pub(crate) fn write(&self, tail: &mut Tail<T>, message: Message<T>, meta: Option<Meta>) {
        tail.open.push(message, meta);
        if tail.open.len() == BATCH {
            self.send_open(tail);
        }
    }

    /// Writes messages that were accepted at once into the open batch, or sends them in the
    /// vector they are in, under the lock.
    pub(crate) fn write_chunk(&self, tail: &mut Tail<T>, payloads: Vec<T>, first: Stamp) {
        if payloads.len() > OWN {
            if tail.open.len() > 0 {
                self.send_open(tail);
            }
            return self.send(tail, Batch::chunk(payloads, first));
        }
        for (payload, stamp) in payloads.into_iter().zip(first.each()) {
            self.write(tail, Message { stamp, payload }, None);
        }
    }

    #[inline(never)]
    fn send_open(&self, tail: &mut Tail<T>) {
        let batch = tail.open.take();
        self.send(tail, batch);
    }

    fn send(&self, tail: &mut Tail<T>, batch: Batch<T>) {
        let full = self.full.get_or_init(|| Channel::new(self.most_full));
        full.push(Arc::new(batch));
        if tail.notify_when_full {
            tail.notify_when_full = false;
            tail.notify_from = 0;
        }
    }

    /// Pushes an entry, given the number of its last message, and returns whether
    /// the dispatcher is to be put on the ready queue.
    pub(crate) fn push(&self, entry: QueueEntry<T>, last: u64) -> Then {
        let own_expires_ns = entry.own_expires_ns();
        let mut tail = self.tail.lock();
        match entry {
            QueueEntry::One(message, meta) => self.write(&mut tail, message, meta),
            QueueEntry::Chunk(payloads, first) => self.write_chunk(&mut tail, payloads, first),
        }
        let notifies = tail.notifies(last);
        drop(tail);
        self.after_push(notifies, own_expires_ns)
    }

    /// Lets the dispatcher know what it has to, after a push.
    #[inline(always)]
    pub(crate) fn after_push(&self, notifies: bool, own_expires_ns: Option<u64>) -> Then {
        // Noted after the push: a dispatcher forgets it when there is nothing.
        let expires_first = own_expires_ns.is_some_and(|at_ns| self.expiry.note(at_ns));
        if notifies || expires_first {
            return self.task.nudge();
        }
        Then::Nothing
    }

    /// Whoever writes a message with this number or a higher one notifies, and before that
    /// nobody, unless `is_late` then.
    pub(crate) fn be_notified_from(&self, number: u64, is_late: impl FnOnce() -> bool) {
        let mut tail = self.tail.lock();
        let is_late = mutant!(is_late(), "queue.quiet", false);
        tail.notify_from = if is_late { 0 } else { number };
    }

    /// Nobody needs to notify: whoever makes room for what the dispatcher has does.
    pub(crate) fn stay_quiet(&self) {
        self.be_notified_from(QUIET, || false);
    }

    /// Nobody needs to notify before the open batch is full. `false`, and nothing is changed:
    /// there is a full one already, or nothing at all.
    pub(crate) fn be_notified_when_full(&self) -> bool {
        let mut tail = self.tail.lock();
        let is_only_open = tail.open.len() > 0 && tail.left.is_none() && !self.has_full();
        if is_only_open {
            tail.notify_from = QUIET;
            tail.notify_when_full = true;
        }
        is_only_open
    }

    /// Takes the oldest batch that is full, without the lock, where nobody else takes any.
    pub(crate) fn pop_full(&self) -> Option<BatchSlice<T>> {
        if self.evicts {
            return None;
        }
        self.full.get()?.pop().map(BatchSlice::whole)
    }

    /// Takes the oldest there is. If that is nothing, or the open batch, the next to push
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
        if let Some(part) = tail.left.take().or_else(full) {
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

    /// Takes the oldest messages, at most so many, for a topic that drops its oldest.
    pub(crate) fn pop_some(&self, most: u32) -> Option<BatchSlice<T>> {
        let mut tail = self.tail.lock();
        let (taken, left) = self.pop_from(&mut tail)?.part.split_at_most(most);
        tail.left = left;
        Some(taken)
    }
}

impl<T> Tail<T> {
    /// Whether whoever has written the message with this number must notify.
    #[inline(always)]
    pub(crate) fn notifies(&mut self, number: u64) -> bool {
        let notifies = number >= self.notify_from;
        if notifies {
            self.notify_from = QUIET;
        }
        notifies
    }
}
