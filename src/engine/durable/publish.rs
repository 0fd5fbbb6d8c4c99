//! Publishing through the log.
//!
//! A message gets its ticket first, so that what was written has room in the queue. Then it joins
//! the open group of the log, where it gets its number. It enters the queue from the hook of its
//! group, when that has reached the topic's level. So nothing is delivered before, and the queue has
//! the order of the log.
//!
//! A publisher waits for its group, and may write it. So it waits for the disk inside a handler,
//! too, but never for a worker.

use std::time::Duration;

use crate::engine::durable::delayed::Late;
use crate::engine::journal::encoded::Encoded;
use crate::engine::journal::submitted::{Job, Submitted};
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::publish::ask::{Admitted, Patience, Refused, Wait};
use crate::engine::publish::chunks::split;
use crate::engine::state::topic::TopicCore;
use crate::log::commit::{Due, Hook};
use crate::message::batch::{Accepted, DeferredDrops, QueueEntry, Stamp};
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
use crate::message::{BatchReceipt, Fate, MessageId, Receipt};
use crate::observe::event::{DropCause, EventKind, Subject};
use crate::pure::decide::lifecycle::Status;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::types::error::store::StoreError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Submits messages that were encoded and admitted. Hands them back if the log refuses them.
    /// They are the first of those that were encoded. With a delay it is one, which waits until it is
    /// due.
    pub(crate) fn submit(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        mut chunk: Chunk<T>,
        encoded: &Encoded,
        admitted: &Admitted,
        due: Due,
        delay: Duration,
    ) -> Result<Submitted<T>, (StoreError, Chunk<T>)> {
        let late = Late::by(delay, &self.engine.clock);
        chunk.mark_logged();
        let job = Arc::new(Job {
            count: chunk.len() as u64,
            chunk: Mutex::new(Some(chunk)),
            first: AtomicU64::new(0),
            last_ticket: admitted.last_id(),
        });
        let put = |frame: &mut _| {
            let first = match late {
                None => stored.put(encoded, job.count, frame),
                Some(late) => stored.put_delayed(encoded, late.due_ms, frame),
            };
            // ORDERING: relaxed, because the lock of the log's groups publishes it.
            job.first.store(first, Ordering::Relaxed);
        };
        let hook: Hook = {
            let (topic, job) = (Arc::clone(self), Arc::clone(&job));
            Box::new(move |result| match (result, late) {
                (Ok(()), None) => topic.take_in_stored(&job),
                (Ok(()), Some(late)) => topic.arm_stored(&job, late),
                (Err(_), _) => topic.refuse_stored(&job),
            })
        };
        match stored.log().submit(stored.syncs(), due, put, Some(hook)) {
            Ok(ticket) => Ok(Submitted::new(job, ticket)),
            Err((error, _)) => {
                self.refuse_stored(&job);
                Err((error, job.take_back()))
            }
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
            Err(error) => Err((error, submitted.job.take_back())),
        }
    }

    /// Lets messages into the queue that have reached the topic's level.
    pub(crate) fn take_in_stored(self: &Arc<Self>, job: &Job<T>) {
        let Some(chunk) = job.chunk.lock().take() else {
            return;
        };
        let first = job.first.load(Ordering::Relaxed);
        self.settle_claims(&chunk, Some(first));
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
        // From here on a subscription that is behind may be handed them. So observers hear first
        // that they are there.
        if let Some(stored) = self.stored() {
            stored.show_before(first + job.count);
        }
        self.enqueue(entry, job.last_ticket, None);
    }

    /// Ends messages that the log has refused, whether anybody waits for them or not. They have
    /// tickets, and are counted as dropped. Their publisher takes them back.
    pub(crate) fn refuse_stored(&self, job: &Job<T>) {
        let chunk = job.chunk.lock();
        let Some(refused) = &*chunk else {
            return;
        };
        self.settle_claims(refused, None);
        self.unload_refused(refused);
        refused.end_tracked(Status::Dropped);
        drop(chunk);
        self.count_dropped(job.count, || {
            for _ in 0..job.count {
                // They have no numbers. Those of their tickets are other messages'.
                let cause = DropCause::NotStored;
                let subject = Subject::default().status(Status::Dropped);
                self.tell_of(subject, EventKind::Dropped { cause });
            }
        });
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
        let patience = &mut Patience::of(wait);
        let published = self.store_one(stored, &mut chunk, patience, Duration::ZERO);
        match (published, chunk.into_one()) {
            (Ok(granted), _) => Ok(stored.receipt(granted)),
            (Err(refused), Ok((payload, meta))) => {
                self.note_refused(&refused, 1);
                Err((refused, payload, meta))
            }
            (Err(_), Err(_)) => unreachable!("one message was published, or is still there"),
        }
    }

    /// Publishes a message with a dedup id or a delay through the log, or hands it back and counts
    /// nothing.
    pub(crate) fn publish_once_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        mut message: Message<T>,
        patience: &mut Patience,
    ) -> Result<Receipt, (Refused, Message<T>)> {
        self.weigh_message(&mut message);
        let delay = message.delay(|| self.engine.clock.time_of_day());
        let (payload, meta) = message.into_parts();
        let mut chunk = Chunk::EMPTY;
        chunk.push(payload, meta);
        let published = self.store_one(stored, &mut chunk, patience, delay);
        match (published, chunk.into_one()) {
            (Ok(granted), _) => Ok(stored.receipt(granted)),
            (Err(refused), Ok(parts)) => Err((refused, Message::from_parts(parts).after(delay))),
            (Err(_), Err(_)) => unreachable!("one message was published, or is still there"),
        }
    }

    /// Publishes these messages, as one commit if there is room for all at once. Messages that
    /// are refused stay.
    pub(crate) fn publish_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        chunk: &mut Chunk<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
    ) -> Result<(), Refused> {
        let mut encoded = None;
        while !chunk.is_empty() {
            let granted = self.store(stored, chunk, &mut encoded, patience, Duration::ZERO)?;
            stored.note_in(receipt, granted);
        }
        stored.give_back(encoded);
        Ok(())
    }

    /// Publishes the only message of a chunk, as [`store`](Self::store) does.
    fn store_one(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        chunk: &mut Chunk<T>,
        patience: &mut Patience,
        delay: Duration,
    ) -> Result<(u64, u64), Refused> {
        let mut encoded = None;
        let granted = self.store(stored, chunk, &mut encoded, patience, delay)?;
        stored.give_back(encoded);
        Ok(granted)
    }

    /// Publishes as many of these messages as there is room for, as one commit. The others stay,
    /// and so do all of them if they are refused. Returns the number of the first message, and how
    /// many there are: none if it is a duplicate of that one.
    ///
    /// `encoded` has messages at the front of the chunk, and those that stay are left in it.
    fn store(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        chunk: &mut Chunk<T>,
        encoded: &mut Option<Box<Encoded>>,
        patience: &mut Patience,
        delay: Duration,
    ) -> Result<(u64, u64), Refused> {
        let not_stored = |error| Refused::NotStored(Box::new(error));
        let encoded = stored.encode(encoded, chunk.each()).map_err(not_stored)?;
        let (wanted, _) = self.way_of(chunk, encoded.len() as u64, None);
        let mut drops = DeferredDrops::new();
        let admitted = loop {
            match self.admit(chunk.ask(wanted), patience, &mut drops, None) {
                Err(Refused::Claimed) => stored.await_claim().map_err(not_stored)?,
                admitted => break admitted?,
            }
        };
        if admitted.is_duplicate() {
            encoded.skip(1);
            return Ok(self.drop_duplicate(chunk, &admitted, &mut drops));
        }
        let count = admitted.count as usize;
        let taken = chunk.take_front(count, split);
        let due = Due::Waits;
        let submitted = self.submit(stored, taken, encoded, &admitted, due, delay);
        encoded.skip(count);
        let first = submitted.and_then(|submitted| self.await_stored(stored, &submitted));
        match first {
            Ok(first) => Ok((first, admitted.count)),
            Err((error, taken)) => {
                chunk.put_front(taken);
                Err(not_stored(error))
            }
        }
    }
}

impl<T: Send + Sync + 'static> TopicLog<T> {
    /// Adds messages that have reached the topic's level to a receipt.
    pub(crate) fn note_in(&self, receipt: &mut BatchReceipt, (first, count): (u64, u64)) {
        if count == 0 {
            receipt.duplicates += 1;
            return;
        }
        let first = MessageId::new(first);
        receipt.accepted += count as usize;
        receipt.first = receipt.first.or(Some(first));
        receipt.last = Some(first.after(count - 1));
        receipt.durability = Some(self.level);
    }

    /// Returns the receipt for one.
    pub(crate) fn receipt(&self, (first, count): (u64, u64)) -> Receipt {
        Receipt {
            durability: self.level,
            duplicate: count == 0,
            ..Receipt::volatile(MessageId::new(first), 0, Fate::Queued)
        }
    }
}
