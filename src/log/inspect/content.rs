//! The content of records, as an operator reads it.

use std::ops::Range;

use crate::log::inspect::info::Damage;
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::message::{StoredMessage, StoredValue};
use crate::pure::log::ranges::read_ranges;
use crate::pure::log::record::Record;

/// A record of a store, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// The number of the segment, which is the name of its file.
    pub segment: u64,
    /// The byte in it at which the record's frame starts.
    pub offset: u64,
    /// The lsn of the frame, which was one commit.
    pub lsn: u64,
    /// The topic that it is about.
    pub topic: Option<String>,
    /// The subscription that it is about.
    pub subscription: Option<String>,
    /// Its content.
    pub content: Content,
}

/// The content of a record. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The topic is there. In a checkpoint it says how far it has come.
    #[non_exhaustive]
    Topic {
        /// The first message that retention has left.
        first_seq: u64,
        /// The number that the next message gets.
        next_seq: u64,
    },
    /// The durable subscription is there.
    #[non_exhaustive]
    Subscription {
        /// Its cursor: it is done with all messages before.
        next_seq: u64,
    },
    /// A message was published.
    #[non_exhaustive]
    Publish {
        /// Its number.
        seq: u64,
        /// The time at which it was accepted.
        time_ms: u64,
        /// The message.
        message: MessageInfo,
    },
    /// The subscription is done with messages.
    #[non_exhaustive]
    Done {
        /// Ranges of their numbers.
        messages: Vec<Range<u64>>,
    },
    /// A handler has failed.
    #[non_exhaustive]
    Failed {
        /// The number of the message.
        seq: u64,
        /// Calls of the handler so far.
        attempts: u32,
    },
    /// A delivery is a dead letter.
    #[non_exhaustive]
    Letter {
        /// The number of the message.
        seq: u64,
        /// Calls of the handler.
        attempts: u32,
        /// The time at which it became one.
        time_ms: u64,
        /// The text of the error.
        error: String,
        /// The message.
        message: MessageInfo,
    },
    /// A dead letter was redriven, purged or evicted.
    #[non_exhaustive]
    LetterGone {
        /// The number of the message.
        seq: u64,
    },
    /// A message waits until it is due.
    #[non_exhaustive]
    Delayed {
        /// The number of its receipt.
        id: u64,
        /// The time at which it was accepted.
        time_ms: u64,
        /// The time at which it is due.
        due_ms: u64,
        /// The message.
        message: MessageInfo,
    },
    /// A delayed message was published or canceled.
    #[non_exhaustive]
    DelayedGone {
        /// The number of its receipt.
        id: u64,
        /// The number under which it was published. It is `None` if the message was canceled.
        seq: Option<u64>,
    },
    /// Numbers were given to delayed messages. Checkpoints say so.
    #[non_exhaustive]
    DelayedNext {
        /// The number that the next one gets.
        next: u64,
    },
    /// Retention has taken messages.
    #[non_exhaustive]
    Trim {
        /// The first message that is left.
        first_seq: u64,
    },
    /// The subscription is gone.
    Unsubscribed,
    /// A message was published under a dedup id. Checkpoints say so.
    #[non_exhaustive]
    Remembered {
        /// The number of the message.
        seq: u64,
        /// The time at which it was accepted.
        time_ms: u64,
        /// The id.
        dedup_id: String,
    },
    /// The checkpoint at the head of a segment is complete.
    Checkpointed,
    /// Messages were lost to damage that a salvage has reported.
    #[non_exhaustive]
    Lost {
        /// Their numbers.
        messages: Range<u64>,
    },
    /// Here are bytes that can't be read: damage, or the torn end of the log. Its lsns are those of the
    /// frames that are lost, as far as the same file tells.
    Unreadable(Damage),
}

/// A message as it was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageInfo {
    /// Its key.
    pub key: Option<String>,
    /// The id under which a duplicate is recognized.
    pub dedup_id: Option<String>,
    /// Its time to live, in nanoseconds.
    pub ttl_ns: Option<u64>,
    /// Its headers by their names. A text is its bytes in UTF-8.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The bytes of its payload, as the topic's codec wrote them.
    pub payload: Vec<u8>,
}

pub(crate) fn content(record: &Record<'_>) -> Content {
    match *record {
        Record::Topic {
            first_seq,
            next_seq,
            ..
        } => Content::Topic {
            first_seq,
            next_seq,
        },
        Record::Subscription { next, .. } => Content::Subscription { next_seq: next },
        Record::Publish {
            seq,
            time_ms,
            message,
            ..
        } => Content::Publish {
            seq,
            time_ms,
            message: MessageInfo::of(message),
        },
        Record::Done { base, ranges, .. } => {
            let mut messages = Vec::new();
            // A record that can't be read is of no ranges. The survey reports it.
            let _ = read_ranges(Reader::new(ranges), base, |from, to| {
                messages.push(from..to);
            });
            Content::Done { messages }
        }
        Record::Failed { seq, attempts, .. } => Content::Failed { seq, attempts },
        Record::Letter {
            seq,
            attempts,
            time_ms,
            error,
            message,
            ..
        } => Content::Letter {
            seq,
            attempts,
            time_ms,
            error: error.to_owned(),
            message: MessageInfo::of(message),
        },
        Record::Delayed {
            id,
            time_ms,
            due_ms,
            message,
            ..
        } => Content::Delayed {
            id,
            time_ms,
            due_ms,
            message: MessageInfo::of(message),
        },
        Record::DelayedGone { id, seq, .. } => Content::DelayedGone {
            id,
            seq: (seq > 0).then_some(seq),
        },
        Record::DelayedNext { next, .. } => Content::DelayedNext { next },
        Record::Trim { first_seq, .. } => Content::Trim { first_seq },
        Record::Unsubscribed { .. } => Content::Unsubscribed,
        Record::Remembered {
            seq,
            time_ms,
            dedup_id,
            ..
        } => Content::Remembered {
            seq,
            time_ms,
            dedup_id: dedup_id.to_owned(),
        },
        Record::Checkpointed => Content::Checkpointed,
        Record::Lost { from, to, .. } => Content::Lost { messages: from..to },
    }
}

impl MessageInfo {
    /// Reads a stored message. One of a later version is all payload.
    fn of(bytes: &[u8]) -> Self {
        let Ok(message) = StoredMessage::read(bytes) else {
            return Self {
                payload: bytes.to_owned(),
                ..Self::default()
            };
        };
        let header = |(name, value): &(&str, StoredValue<'_>)| {
            let value = match value {
                StoredValue::Text(text) => text.as_bytes(),
                StoredValue::Bytes(bytes) => bytes,
            };
            ((*name).to_owned(), value.to_owned())
        };
        Self {
            key: message.key.map(str::to_owned),
            dedup_id: message.dedup_id.map(str::to_owned),
            ttl_ns: message.ttl_ns,
            headers: message.headers.iter().map(header).collect(),
            payload: message.payload.to_owned(),
        }
    }
}
