//! A topic's side of the log.

use std::time::SystemTime;

use std::collections::BTreeSet;

use crate::engine::base::contain::contain;
use crate::engine::base::task_state::TaskState;
use crate::engine::journal::encoded::Encoded;
use crate::engine::journal::lane_log::Past;
use crate::log::commit::Log;
use crate::log::reader::{Read, TopicReader};
use crate::log::store::Inner;
use crate::message::meta::{Meta, Value};
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::message::{StoredMessage, StoredValue};
use crate::pure::log::record::Record;
use crate::pure::log::retention::Limits;
use crate::pure::log::state::delayed::{FIRST_DELAYED, put_due};
use crate::pure::log::state::{LetterState, Piece, TopicState};
use crate::pure::policy::dedup::{Dedup, DedupIds};
use crate::pure::protect::priority::Priority;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, unix_ms};
use crate::types::durable::codec::{Codec, CodecError};
use crate::types::durable::durability::Durability;
use crate::types::error::store::StoreError;

/// How payloads become bytes.
pub(crate) type SharedCodec<T> = Arc<dyn Codec<T>>;

/// A topic's side of the log.
pub(crate) struct TopicLog<T> {
    pub(crate) store: Arc<Inner>,
    pub(crate) topic: u32,
    pub(crate) codec: SharedCodec<T>,
    pub(crate) level: Durability,
    /// How much of it is kept.
    pub(crate) limits: Limits,
    /// The number of the first message that this process publishes.
    pub(crate) first_own: u64,
    /// The time of day by which dedup ids are kept, at the zero of the broker's clock, in
    /// nanoseconds since 1970.
    pub(crate) began_ns: u64,
    /// The number of the next message. Written under the lock of the log's open group.
    next: AtomicU64,
    /// The number of the next delayed message. Written under the same lock.
    next_delayed: AtomicU64,
    /// Publishes the delayed messages that are due.
    pub(crate) due_task: TaskState,
    /// Messages before this one have reached the topic's level.
    visible: AtomicU64,
    /// Memory for messages that are to be encoded.
    spare: Mutex<Option<Box<Encoded>>>,
    /// Subscriptions that have been here in this process.
    known: Mutex<BTreeSet<u32>>,
}

impl<T> Drop for TopicLog<T> {
    fn drop(&mut self) {
        self.store.close_topic(self.topic);
    }
}

impl<T: Send + Sync + 'static> TopicLog<T> {
    pub(crate) fn new(
        store: Arc<Inner>,
        topic: u32,
        next_seq: u64,
        codec: SharedCodec<T>,
        level: Durability,
        now_ns: u64,
    ) -> Self {
        let next_delayed = {
            let state = store.log.shared.state.lock();
            let known = state.topic(topic).map(|topic| topic.next_delayed);
            known.unwrap_or(FIRST_DELAYED)
        };
        Self {
            store,
            topic,
            codec,
            level,
            limits: Limits::default(),
            first_own: next_seq,
            began_ns: in_ns(unix_ms()).saturating_sub(now_ns),
            next: AtomicU64::new(next_seq),
            next_delayed: AtomicU64::new(next_delayed),
            due_task: TaskState::new(),
            visible: AtomicU64::new(next_seq),
            spare: Mutex::default(),
            known: Mutex::default(),
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.store.log
    }

    /// Whether a commit has to be synced to reach the topic's level.
    pub(crate) fn syncs(&self) -> bool {
        self.level == Durability::Synced
    }

    /// Returns the last number that a message has got.
    pub(crate) fn last_given(&self) -> u64 {
        self.next.load(Ordering::Acquire) - 1
    }

    /// Returns the number after the last message that has reached the topic's level.
    pub(crate) fn visible(&self) -> u64 {
        // ORDERING: whoever sees the number finds the messages before it in the log.
        self.visible.load(Ordering::Acquire)
    }

    /// Notes that all before this message have reached the topic's level.
    pub(crate) fn show_before(&self, next: u64) {
        self.visible.fetch_max(next, Ordering::AcqRel);
    }

    /// Writes a record for each of the first messages, and returns the number of the first. The log
    /// calls it under the lock of its open group, so numbers have the order of the records.
    pub(crate) fn put(&self, messages: &Encoded, count: u64, frame: &mut FrameBuffer) -> u64 {
        let first = self.next.load(Ordering::Relaxed);
        let time_ms = unix_ms();
        let next = first + count;
        for (seq, message) in (first..next).zip(messages.messages()) {
            let topic = self.topic;
            Record::Publish {
                topic,
                seq,
                time_ms,
                message,
            }
            .put(frame.record());
        }
        self.next.store(next, Ordering::Release);
        first
    }

    /// Writes a record for the first message, which is due at this time. Returns its number. The log
    /// calls it as it calls [`put`](Self::put).
    pub(crate) fn put_delayed(
        &self,
        messages: &Encoded,
        due_ms: u64,
        frame: &mut FrameBuffer,
    ) -> u64 {
        let id = self.next_delayed.load(Ordering::Relaxed);
        let (topic, time_ms) = (self.topic, unix_ms());
        for message in messages.messages().take(1) {
            Record::Delayed {
                topic,
                id,
                time_ms,
                due_ms,
                message,
            }
            .put(frame.record());
        }
        self.next_delayed.store(id + 1, Ordering::Release);
        id
    }

    /// Publishes delayed messages in the log, which are due. Returns the number of the first. The
    /// log calls it as it calls [`put`](Self::put).
    pub(crate) fn put_due(&self, due: &[(u64, Box<[u8]>)], frame: &mut FrameBuffer) -> u64 {
        let first = self.next.load(Ordering::Relaxed);
        let time_ms = unix_ms();
        for (seq, (id, message)) in (first..).zip(due) {
            put_due(self.topic, *id, seq, time_ms, message, |record| {
                record.put(frame.record());
            });
        }
        self.next.store(first + due.len() as u64, Ordering::Release);
        first
    }

    /// Returns the bytes of these messages, or of the first ones if one commit doesn't take all. They
    /// are kept in `slot`, and encoded if none are left in it.
    pub(crate) fn encode<'a, 's>(
        &self,
        slot: &'s mut Option<Box<Encoded>>,
        messages: impl Iterator<Item = (&'a T, Option<&'a Meta>)>,
    ) -> Result<&'s mut Encoded, StoreError> {
        let kept = slot.take().filter(|encoded| encoded.len() > 0);
        let encoded = match kept {
            Some(encoded) => encoded,
            None => self.encode_anew(messages)?,
        };
        Ok(slot.insert(encoded))
    }

    fn encode_anew<'a>(
        &self,
        messages: impl Iterator<Item = (&'a T, Option<&'a Meta>)>,
    ) -> Result<Box<Encoded>, StoreError> {
        let mut encoded = self.spare.lock().take().unwrap_or_default();
        for (payload, meta) in messages {
            if encoded.size() >= FULL_COMMIT {
                break;
            }
            let bytes = encoded.add(stored(meta), |bytes| {
                let put = contain(|| self.codec.encode(payload, bytes));
                let put = put.unwrap_or_else(|_| Err(PANICKED.into()));
                put.map_err(|error| StoreError::Codec(Arc::from(error)))
            })?;
            if bytes > MOST_BYTES {
                return Err(StoreError::TooLarge {
                    bytes: bytes as u64,
                    most: MOST_BYTES as u64,
                });
            }
        }
        Ok(encoded)
    }

    /// Keeps the memory of messages that are in the log.
    pub(crate) fn give_back(&self, encoded: Option<Box<Encoded>>) {
        if let Some(mut encoded) = encoded
            && encoded.clear()
        {
            *self.spare.lock() = Some(encoded);
        }
    }

    /// Returns a payload of its bytes, with the parts that its publisher added, if there are any.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<(T, Option<Box<Meta>>), StoreError> {
        if let Some(payload) = StoredMessage::plain_payload(bytes) {
            return Ok((self.decode_payload(payload)?, None));
        }
        let malformed = |_| CodecError::from("this is no message");
        let message = StoredMessage::read(bytes).map_err(malformed);
        let message = message.map_err(|error| StoreError::Codec(Arc::from(error)))?;
        let payload = self.decode_payload(message.payload)?;
        let meta = (!message.is_plain()).then(|| Box::new(parts(&message)));
        Ok((payload, meta))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<T, StoreError> {
        let payload = contain(|| self.codec.decode(bytes));
        let payload = payload.unwrap_or_else(|_| Err(PANICKED.into()));
        payload.map_err(|error| StoreError::Codec(Arc::from(error)))
    }

    /// Returns the dedup ids that the log knows, within these bounds.
    pub(crate) fn dedup_ids(&self, dedup: Dedup) -> DedupIds<Arc<str>, u64> {
        let mut ids = DedupIds::new(dedup);
        self.look(|topic| {
            for one in &topic.remembered {
                ids.commit(Arc::from(&*one.dedup_id), one.seq, in_ns(one.time_ms));
            }
        });
        ids
    }

    /// Has the log forget dedup ids that are out of these bounds.
    pub(crate) fn remember(&self, dedup: Dedup) {
        self.log().remember(self.topic, dedup.memory());
    }

    /// Returns a reader of the messages from this one on.
    pub(crate) fn reader(&self, next: u64) -> TopicReader {
        TopicReader::new(Arc::clone(&self.log().shared), self.topic, next)
    }

    /// Returns the first message before `next` that was published at this time or later, or `next`.
    pub(crate) fn seek_time(
        &self,
        time: SystemTime,
        first: u64,
        next: u64,
    ) -> Result<u64, StoreError> {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        // Segments whose last message is older are passed over without a look.
        let from = self.look(|topic| {
            let old = |piece: &&Piece| piece.last_ms < time_ms;
            let last = topic.pieces.iter().take_while(old).last();
            last.map_or(first, |piece| piece.end_seq.max(first))
        });
        let mut reader = self.reader(from);
        let mut found = None;
        while found.is_none()
            && reader.read_frame(next, |read| {
                if found.is_none() && read.time_ms >= time_ms {
                    found = Some(read.seq);
                }
            })?
        {}
        Ok(found.unwrap_or(next))
    }

    /// Returns a subscription that is in the log, and what it has done.
    pub(crate) fn find_subscription(&self, name: &str) -> Option<(u32, Past)> {
        let state = self.log().shared.state.lock();
        let (id, found) = state.subscription_named(self.topic, name)?;
        let was_here = !self.known.lock().insert(id);
        let past = Past {
            done: found.done.clone(),
            failed: found.failed.clone(),
            had_before: match was_here {
                true => self.last_given() + 1,
                false => self.first_own,
            },
        };
        Some((id, past))
    }

    /// Adds a subscription that is to start with this message.
    pub(crate) fn add_subscription(
        &self,
        name: &str,
        next: u64,
    ) -> Result<(u32, Past), StoreError> {
        self.store.add_subscription(self.topic, name, next)?;
        let (id, past) = self.find_subscription(name).ok_or(StoreError::Closed)?;
        Ok((id, Past::new(past.done)))
    }

    /// Returns the letters of a subscription that the log has.
    pub(crate) fn letters_left(&self, subscription: u32) -> Vec<(u64, LetterState)> {
        let state = self.log().shared.state.lock();
        let letters = state.subscription(subscription).map(|one| &one.letters);
        let letters = letters.into_iter().flatten();
        letters
            .map(|(seq, letter)| (*seq, letter.clone()))
            .collect()
    }

    /// Reads one message.
    pub(crate) fn read_one(&self, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut found = None;
        let take = |read: Read<'_>| {
            if read.seq == seq {
                found = Some(read.message.to_vec());
            }
        };
        self.reader(seq).read_frame(seq + 1, take)?;
        Ok(found)
    }

    /// Looks at what the log knows of the topic.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&TopicState) -> R) -> R {
        let state = self.log().shared.state.lock();
        look(
            state
                .topic(self.topic)
                .expect("it was added when the topic was opened"),
        )
    }
}

fn in_ns(time_ms: u64) -> u64 {
    time_ms.saturating_mul(1_000_000)
}

/// The error of a codec that has panicked.
const PANICKED: &str = "the codec has panicked";

/// The largest message in bytes.
const MOST_BYTES: usize = 64 << 20;

/// The size from which on a commit takes no more messages. With one more, and with what is before
/// it in its frame, it is less than what a frame takes.
const FULL_COMMIT: usize = if cfg!(test) { 1 << 10 } else { MOST_BYTES };

/// Returns a message with the parts that its publisher added, and no payload.
fn stored(meta: Option<&Meta>) -> StoredMessage<'_> {
    let mut message = StoredMessage::default();
    if let Some(meta) = meta {
        message.key = meta.key.as_deref();
        message.dedup_id = meta.dedup_id.as_deref();
        message.ttl_ns = meta.ttl_ns;
        let is_default = meta.priority == Priority::default();
        message.priority = (!is_default).then_some(meta.priority as u8);
        let headers = meta.headers.iter().map(|(name, value)| {
            let value = match value {
                Value::Text(text) => StoredValue::Text(text),
                Value::Bytes(bytes) => StoredValue::Bytes(bytes),
            };
            (&**name, value)
        });
        message.headers = headers.collect();
    }
    message
}

/// Returns the parts that the publisher of a message added.
fn parts(message: &StoredMessage<'_>) -> Meta {
    let headers = message.headers.iter().map(|(name, value)| {
        let value = match value {
            StoredValue::Text(text) => Value::Text((*text).into()),
            StoredValue::Bytes(bytes) => Value::Bytes((*bytes).into()),
        };
        (Box::from(*name), value)
    });
    Meta {
        key: message.key.map(Box::from),
        headers: headers.collect(),
        ttl_ns: message.ttl_ns,
        priority: message
            .priority
            .map_or(Priority::default(), Priority::nearest),
        track: None,
        is_logged: false,
        dedup_id: message.dedup_id.map(Arc::from),
        weight: None,
    }
}
