//! Publishing through the log.
//!
//! A message gets its ticket first, so that what was written has room in the queue. Then it joins
//! the open group of the log, where it gets its number. It enters the queue from the hook of its
//! group, when that has reached the topic's level. So nothing is delivered before, and the queue has
//! the order of the log.
//!
//! A publisher waits for its group, and may write it. So it waits for the disk inside a handler,
//! too, but never for a worker.

use crate::engine::journal::encoded::Encoded;
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::publish::admit::{Admitted, Patience, Refused, Wait};
use crate::engine::publish::chunks::split;
use crate::engine::state::topic::TopicCore;
use crate::log::commit::{Due, Hook, Ticket};
use crate::message::batch::{Accepted, DeferredDrops, QueueEntry, Stamp};
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::message::{BatchReceipt, MessageId, Receipt};
use crate::observe::event::DropCause;
use crate::pure::decide::lifecycle::Status;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::types::error::store::StoreError;

/// Messages on their way to the log. Whoever publishes them and the hook of their group share it.
pub(crate) struct Job<T> {
    /// The messages, until the hook takes them, or their publisher takes them back.
    chunk: Mutex<Option<Chunk<T>>>,
    pub(crate) count: u64,
    /// The number of the first message, once it has one.
    first: AtomicU64,
    /// The ticket of the last message.
    last_ticket: u64,
}

/// Messages that are written when the group of their ticket is.
pub(crate) struct Submitted<T> {
    pub(crate) job: Arc<Job<T>>,
    pub(crate) ticket: Ticket,
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Submits messages that were encoded and admitted. Hands them back if the log refuses them.
    /// They are the first of those that were encoded.
    pub(crate) fn submit(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        mut chunk: Chunk<T>,
        encoded: &Encoded,
        admitted: &Admitted,
        due: Due,
    ) -> Result<Submitted<T>, (StoreError, Chunk<T>)> {
        chunk.mark_logged();
        let job = Arc::new(Job {
            count: chunk.len() as u64,
            chunk: Mutex::new(Some(chunk)),
            first: AtomicU64::new(0),
            last_ticket: admitted.last_id(),
        });
        let put = |frame: &mut _| {
            let first = stored.put(encoded, job.count, frame);
            // ORDERING: relaxed, because the lock of the log's groups publishes it.
            job.first.store(first, Ordering::Relaxed);
        };
        let hook: Hook = {
            let (topic, job) = (Arc::clone(self), Arc::clone(&job));
            Box::new(move |result| {
                if result.is_ok() {
                    topic.take_in_stored(&job);
                }
            })
        };
        match stored.log().submit(stored.syncs(), due, put, Some(hook)) {
            Ok(ticket) => Ok(Submitted { job, ticket }),
            Err((error, _)) => Err((error, self.take_back(&job))),
        }
    }

    /// Waits until submitted messages have reached the topic's level, and returns the number of the
    /// first. Hands the messages back if they never will.
    pub(crate) fn await_stored(
        &self,
        stored: &TopicLog<T>,
        submitted: &Submitted<T>,
    ) -> Result<u64, (StoreError, Chunk<T>)> {
        let waited = stored.log().wait(submitted.ticket);
        self.conclude(submitted, waited)
    }

    /// Returns the number of the first message, or hands the messages back.
    pub(crate) fn conclude(
        &self,
        submitted: &Submitted<T>,
        result: Result<(), StoreError>,
    ) -> Result<u64, (StoreError, Chunk<T>)> {
        match result {
            Ok(()) => Ok(submitted.job.first.load(Ordering::Relaxed)),
            Err(error) => Err((error, self.take_back(&submitted.job))),
        }
    }

    /// Lets messages into the queue that have reached the topic's level.
    fn take_in_stored(self: &Arc<Self>, job: &Job<T>) {
        let Some(chunk) = job.chunk.lock().take() else {
            return;
        };
        let first = job.first.load(Ordering::Relaxed);
        if let Some(stored) = self.stored() {
            stored.show_before(first + job.count);
        }
        let stamp = Stamp {
            id: MessageId::new(first),
            accepted_ns: self.engine.clock.now_ns(),
        };
        let entry = match chunk.into_one() {
            Ok((payload, meta)) => QueueEntry::One(Accepted { stamp, payload }, meta),
            Err(chunk) => QueueEntry::Chunk(chunk, stamp),
        };
        if self.bus().observed() {
            self.tell_enqueued(entry.ids(), stamp.accepted_ns);
        }
        self.enqueue(entry, job.last_ticket, None);
    }

    /// Takes back messages that the log has refused. They have tickets, and are counted as dropped.
    fn take_back(&self, job: &Job<T>) -> Chunk<T> {
        let chunk = job.chunk.lock().take().unwrap_or(Chunk::EMPTY);
        let first = MessageId::new(job.last_ticket + 1 - job.count);
        let ids = (0..job.count as u32).map(|at| first.after(u64::from(at)));
        self.drop_messages(ids, DropCause::NotStored);
        chunk.end_tracked(Status::Dropped);
        chunk
    }

    /// Publishes one message through the log, or hands it back.
    pub(crate) fn publish_one_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        payload: T,
        meta: Option<Box<Meta>>,
        wait: Wait,
    ) -> Result<Receipt, (Refused, T, Option<Box<Meta>>)> {
        let mut chunk = Chunk::EMPTY;
        chunk.push(payload, meta);
        let (receipt, patience) = (&mut BatchReceipt::default(), &mut Patience::of(wait));
        let published = self.publish_stored(stored, &mut chunk, receipt, patience);
        match (published, receipt.first, chunk.into_one()) {
            (Err(refused), _, Ok((payload, meta))) => {
                self.note_refused(&refused, 1);
                Err((refused, payload, meta))
            }
            (_, Some(id), _) => Ok(stored.receipt(id)),
            _ => unreachable!("one message was published, or is still there"),
        }
    }

    /// Publishes as many of these messages as there is room for, as one commit. The others stay,
    /// and so do all of them if they are refused.
    pub(crate) fn publish_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        chunk: &mut Chunk<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
    ) -> Result<(), Refused> {
        let not_stored = |error| Refused::NotStored(Box::new(error));
        let encoded = stored.encode(chunk.each()).map_err(not_stored)?;
        let mut drops = DeferredDrops::new();
        let admitted = self.admit(chunk.len() as u64, patience, &mut drops, None, None)?;
        let count = admitted.count as usize;
        let taken = chunk.take_front(count, split);
        let submitted = self.submit(stored, taken, &encoded, &admitted, Due::Waits);
        stored.give_back(encoded);
        let first = submitted.and_then(|submitted| self.await_stored(stored, &submitted));
        match first {
            Ok(first) => {
                stored.note_in(receipt, MessageId::new(first), admitted.count);
                Ok(())
            }
            Err((error, taken)) => {
                chunk.put_front(taken);
                Err(not_stored(error))
            }
        }
    }
}

impl<T: Send + Sync + 'static> TopicLog<T> {
    /// Adds messages that have reached the topic's level to a receipt.
    pub(crate) fn note_in(&self, receipt: &mut BatchReceipt, first: MessageId, count: u64) {
        receipt.accepted += count as usize;
        receipt.first = receipt.first.or(Some(first));
        receipt.last = Some(first.after(count - 1));
        receipt.durability = Some(self.level);
    }

    /// Returns the receipt for one.
    pub(crate) fn receipt(&self, id: MessageId) -> Receipt {
        Receipt {
            durability: self.level,
            ..Receipt::volatile(id, 0, false)
        }
    }
}
