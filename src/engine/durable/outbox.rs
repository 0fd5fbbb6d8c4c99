//! Messages that a delivery publishes, on their way from its handler to the log.
//!
//! A message gets its ticket when it is published, so that its topic has room for it. So its handler
//! hears at once of a topic that is full or closed. It gets its number with the frame that its
//! delivery ends with. If there is no such frame, it is counted as dropped.

use crate::engine::base::contain::discard;
use crate::engine::journal::encoded::Encoded;
use crate::engine::journal::submitted::Job;
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::outbox::staged::{Clearance, Gone, Staged};
use crate::engine::publish::ask::{Ask, Patience, Refused, Wait};
use crate::engine::publish::chunks::split;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::topic::TopicCore;
use crate::log::commit::Log;
use crate::message::MessageId;
use crate::message::batch::DeferredDrops;
use crate::message::chunk::Chunk;
use crate::message::outgoing::Message;
use crate::observe::event::DropCause;
use crate::pure::decide::lifecycle::Status;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::policy::dedup::Claim;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::types::error::store::StoreError;

/// A message of one topic that waits for the ack of its delivery.
pub(crate) struct StagedMessage<T: Send + Sync + 'static> {
    topic: Arc<TopicCore<T>>,
    job: Arc<Job<T>>,
    encoded: Box<Encoded>,
    dedup_id: Option<Arc<str>>,
}

/// Payloads that nobody takes back. A hook of the log drops none, because a destructor is the user's
/// and may publish.
struct Leftover<T>(Mutex<Option<Chunk<T>>>);

impl<T: Send + Sync + 'static> Task for Leftover<T> {
    fn run(self: Arc<Self>, _: &mut Worker<'_>) {
        let chunk = self.0.lock().take();
        chunk.into_iter().for_each(|chunk| {
            chunk.payloads.into_iter().for_each(discard);
        });
    }
}

fn refuse(why: &'static str) -> Refused {
    Refused::NotStored(Box::new(StoreError::Outbox { why }))
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Makes a message ready to go to this log with the ack of a delivery. It has its ticket then.
    /// `None` stands for a duplicate, which goes nowhere. It waits for nothing.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        log: &Arc<Log>,
        mut message: Message<T>,
    ) -> Result<Option<StagedMessage<T>>, (Refused, Message<T>)> {
        let stored = match self.fit_for(log, &message) {
            Ok(stored) => stored,
            Err(refused) => return Err((refused, message)),
        };
        self.weigh_message(&mut message);
        let (payload, meta) = message.into_parts();
        let mut chunk = Chunk::EMPTY;
        chunk.push(payload, meta);
        let prepared = self.prepare_chunk(stored, &mut chunk);
        match (prepared, chunk.into_one()) {
            (Ok(staged), _) => Ok(staged),
            (Err(refused), Ok(parts)) => {
                self.note_refused(&refused, 1);
                Err((refused, Message::from_parts(parts)))
            }
            (Err(_), Err(_)) => unreachable!("a message that is refused is still there"),
        }
    }

    /// Returns the topic's side of the log, if the message may go to it with an ack in this log.
    fn fit_for(&self, log: &Arc<Log>, message: &Message<T>) -> Result<&TopicLog<T>, Refused> {
        let Some(stored) = self.stored() else {
            return Err(refuse("the topic is not durable"));
        };
        if !Arc::ptr_eq(&stored.store.log, log) {
            return Err(refuse("the topic is in another store"));
        }
        self.check(message)?;
        match message.is_late() {
            true => Err(refuse("the message has a delay")),
            false => Ok(stored),
        }
    }

    fn prepare_chunk(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        chunk: &mut Chunk<T>,
    ) -> Result<Option<StagedMessage<T>>, Refused> {
        let not_stored = |error| Refused::NotStored(Box::new(error));
        let mut kept = None;
        stored.encode(&mut kept, chunk.each()).map_err(not_stored)?;
        let encoded = kept.unwrap_or_default();
        let dedup_id = chunk.first_meta().and_then(|meta| meta.dedup_id.clone());
        if let Some(first) = dedup_id.as_ref().and_then(|id| self.accepted_as(id)) {
            self.note_duplicate(MessageId::new(first));
            let duplicate = chunk.take_front(1, split);
            duplicate.payloads.into_iter().for_each(discard);
            return Ok(None);
        }
        // The id is claimed later, so that nobody waits for the handler.
        let ask = Ask {
            together: &chunk.meta,
            ..Ask::any(1)
        };
        let (patience, drops) = (&mut Patience::of(Wait::Never), &mut DeferredDrops::new());
        let admitted = self.admit(ask, patience, drops, None)?;
        let mut taken = chunk.take_front(1, split);
        taken.mark_logged();
        let job = Arc::new(Job {
            count: 1,
            chunk: Mutex::new(Some(taken)),
            first: AtomicU64::new(0),
            last_ticket: admitted.last_id(),
        });
        Ok(Some(StagedMessage {
            topic: Arc::clone(self),
            job,
            encoded,
            dedup_id,
        }))
    }

    /// Takes back a message that has its ticket and was not staged.
    pub(crate) fn take_back_staged(&self, job: &Job<T>) -> Chunk<T> {
        self.drop_staged(job, DropCause::RolledBack)
    }

    /// Counts a message with a ticket that goes nowhere, and returns it.
    fn drop_staged(&self, job: &Job<T>, cause: DropCause) -> Chunk<T> {
        let chunk = job.take_back();
        self.unload_refused(&chunk);
        chunk.end_tracked(Status::Dropped);
        let ticket = MessageId::new(job.last_ticket);
        self.drop_messages(std::iter::once(ticket), cause);
        chunk
    }
}

impl<T: Send + Sync + 'static> StagedMessage<T> {
    /// Returns the means to get the message back if it can't be staged.
    pub(crate) fn job(&self) -> Arc<Job<T>> {
        Arc::clone(&self.job)
    }

    fn stored(&self) -> &TopicLog<T> {
        let stored = self.topic.stored();
        stored.expect("only a message of a durable topic is staged")
    }
}

impl<T: Send + Sync + 'static> Staged for StagedMessage<T> {
    fn dedup_id(&self) -> Option<(u32, &str)> {
        Some((self.stored().topic, self.dedup_id.as_deref()?))
    }

    fn claim(&mut self) -> Clearance {
        let Some(id) = &self.dedup_id else {
            return Clearance::Granted;
        };
        match self.topic.claim_id(id) {
            Claim::New => Clearance::Granted,
            Claim::Pending => Clearance::Pending,
            Claim::Duplicate(first) => {
                self.topic.note_duplicate(MessageId::new(first));
                Clearance::Duplicate
            }
        }
    }

    fn abandon(&mut self) {
        if let Some(id) = &self.dedup_id {
            self.topic.abandon_id(id);
        }
    }

    fn syncs(&self) -> bool {
        self.stored().syncs()
    }

    fn put(&self, frame: &mut FrameBuffer) {
        let first = self.stored().put(&self.encoded, 1, frame);
        // ORDERING: relaxed, because the lock of the log's groups publishes it.
        self.job.first.store(first, Ordering::Relaxed);
    }

    fn conclude(self: Box<Self>, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => self.topic.take_in_stored(&self.job),
            Err(_) => {
                self.topic.refuse_stored(&self.job);
                let chunk = Mutex::new(Some(self.job.take_back()));
                let leftover = Arc::new(Leftover(chunk));
                self.topic.engine.pool.submit(leftover);
            }
        }
        let Self { topic, encoded, .. } = *self;
        if let Some(stored) = topic.stored() {
            stored.give_back(Some(encoded));
        }
    }

    fn drop_unseen(self: Box<Self>, why: Gone) {
        let cause = match why {
            Gone::RolledBack => DropCause::RolledBack,
            Gone::Duplicate => DropCause::Duplicate,
        };
        let chunk = self.topic.drop_staged(&self.job, cause);
        chunk.payloads.into_iter().for_each(discard);
    }
}
