//! Records: what a store has been told, one thing each.
//!
//! ```text
//! length varint | kind u8 | content
//! ```
//!
//! A reader that doesn't know a kind skips it if the kind is 128 or more, and refuses the store
//! otherwise.

use crate::pure::log::format::bytes::{Malformed, Reader, put_bytes, put_varint};

/// Kinds from here on are skipped by readers that don't know them.
const OPTIONAL: u8 = 0x80;

const TOPIC: u8 = 1;
const SUBSCRIPTION: u8 = 2;
const PUBLISH: u8 = 3;
const DONE: u8 = 4;
const FAILED: u8 = 5;
const LETTER: u8 = 6;
const DELAYED: u8 = 8;
const DELAYED_GONE: u8 = 9;
const TRIM: u8 = 10;
const UNSUBSCRIBED: u8 = 11;
const REMEMBERED: u8 = 12;
const CHECKPOINTED: u8 = 13;
const LOST: u8 = 14;
const DELAYED_NEXT: u8 = 15;

/// Why a record can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRecord {
    Malformed,
    /// It is of a kind that this version doesn't know and may not skip.
    Unknown(u8),
}

impl From<Malformed> for BadRecord {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// One thing that a store has been told. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// A topic is there. In a checkpoint it says how far the topic has come, too.
    Topic {
        topic: u32,
        /// The first message that retention has left.
        first_seq: u64,
        next_seq: u64,
        name: &'a str,
    },
    /// A durable subscription is there, and done with all before `next`.
    Subscription {
        subscription: u32,
        topic: u32,
        next: u64,
        name: &'a str,
    },
    Publish {
        topic: u32,
        seq: u64,
        time_ms: u64,
        message: &'a [u8],
    },
    /// A subscription is done with these messages: ranges, as distances from `base`.
    Done {
        subscription: u32,
        base: u64,
        ranges: &'a [u8],
    },
    /// A handler has been called this often for a message, and has failed.
    Failed {
        subscription: u32,
        seq: u64,
        attempts: u32,
    },
    /// A delivery is a dead letter. It has the message with it if retention takes that. Otherwise
    /// that is empty.
    Letter {
        subscription: u32,
        seq: u64,
        attempts: u32,
        time_ms: u64,
        reason: u8,
        error: &'a str,
        message: &'a [u8],
    },
    /// A message was accepted, and waits until it is due. Its number is one of those from
    /// [`FIRST_DELAYED`](crate::pure::log::state::delayed::FIRST_DELAYED) on.
    Delayed {
        topic: u32,
        id: u64,
        time_ms: u64,
        due_ms: u64,
        message: &'a [u8],
    },
    /// A delayed message was published: the record before this one does that, with the number
    /// `seq`. If that is zero, the message was cancelled.
    DelayedGone {
        topic: u32,
        id: u64,
        seq: u64,
    },
    /// The numbers of delayed messages before this one were given. Only a checkpoint says so.
    DelayedNext {
        topic: u32,
        next: u64,
    },
    /// Retention has taken the messages before this one.
    Trim {
        topic: u32,
        first_seq: u64,
    },
    Unsubscribed {
        subscription: u32,
    },
    /// A message was published under this id. Only a checkpoint says so; elsewhere the message
    /// does.
    Remembered {
        topic: u32,
        seq: u64,
        time_ms: u64,
        dedup_id: &'a str,
    },
    /// The checkpoint at the head of a segment is complete.
    Checkpointed,
    /// The messages from `from` up to `to`, which is not among them, were lost to damage. Their
    /// numbers are not given again.
    Lost {
        topic: u32,
        from: u64,
        to: u64,
    },
}

impl<'a> Record<'a> {
    /// Writes the record with its length.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        // The length is written when it is known. Room for one byte is kept, and most need no more.
        let start = out.len();
        out.push(0);
        self.put_content(out);
        let length = out.len() - start - 1;
        if length < 0x80 {
            out[start] = length as u8;
            return;
        }
        let mut bytes = Vec::with_capacity(10);
        put_varint(&mut bytes, length as u64);
        out.splice(start..=start, bytes);
    }

    fn put_content(&self, out: &mut Vec<u8>) {
        let mut head = |kind: u8, numbers: &[u64]| {
            out.push(kind);
            numbers.iter().for_each(|number| put_varint(out, *number));
        };
        match *self {
            Self::Topic {
                topic,
                first_seq,
                next_seq,
                name,
            } => {
                head(TOPIC, &[topic.into(), first_seq, next_seq]);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Subscription {
                subscription,
                topic,
                next,
                name,
            } => {
                head(SUBSCRIPTION, &[subscription.into(), topic.into(), next]);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Publish {
                topic,
                seq,
                time_ms,
                message,
            } => {
                head(PUBLISH, &[topic.into(), seq, time_ms]);
                out.extend_from_slice(message);
            }
            Self::Done {
                subscription,
                base,
                ranges,
            } => {
                head(DONE, &[subscription.into(), base]);
                out.extend_from_slice(ranges);
            }
            Self::Failed {
                subscription,
                seq,
                attempts,
            } => head(FAILED, &[subscription.into(), seq, attempts.into()]),
            Self::Letter {
                subscription,
                seq,
                attempts,
                time_ms,
                reason,
                error,
                message,
            } => {
                let numbers = [subscription.into(), seq, attempts.into(), time_ms];
                head(LETTER, &numbers);
                out.push(reason);
                put_bytes(out, error.as_bytes());
                out.extend_from_slice(message);
            }
            Self::Delayed {
                topic,
                id,
                time_ms,
                due_ms,
                message,
            } => {
                head(DELAYED, &[topic.into(), id, time_ms, due_ms]);
                out.extend_from_slice(message);
            }
            Self::DelayedGone { topic, id, seq } => head(DELAYED_GONE, &[topic.into(), id, seq]),
            Self::DelayedNext { topic, next } => head(DELAYED_NEXT, &[topic.into(), next]),
            Self::Trim { topic, first_seq } => head(TRIM, &[topic.into(), first_seq]),
            Self::Unsubscribed { subscription } => head(UNSUBSCRIBED, &[subscription.into()]),
            Self::Remembered {
                topic,
                seq,
                time_ms,
                dedup_id,
            } => {
                head(REMEMBERED, &[topic.into(), seq, time_ms]);
                out.extend_from_slice(dedup_id.as_bytes());
            }
            Self::Checkpointed => head(CHECKPOINTED, &[]),
            Self::Lost { topic, from, to } => head(LOST, &[topic.into(), from, to]),
        }
    }

    /// Reads the next of the records. `None` stands for one of a kind that may be skipped.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Option<Self>, BadRecord> {
        let mut content = Reader::new(reader.bytes()?);
        let kind = content.u8()?;
        let record = match kind {
            TOPIC => Self::Topic {
                topic: content.varint32()?,
                first_seq: content.varint()?,
                next_seq: content.varint()?,
                name: rest_text(&mut content)?,
            },
            SUBSCRIPTION => Self::Subscription {
                subscription: content.varint32()?,
                topic: content.varint32()?,
                next: content.varint()?,
                name: rest_text(&mut content)?,
            },
            PUBLISH => Self::Publish {
                topic: content.varint32()?,
                seq: content.varint()?,
                time_ms: content.varint()?,
                message: rest(&mut content),
            },
            DONE => Self::Done {
                subscription: content.varint32()?,
                base: content.varint()?,
                ranges: rest(&mut content),
            },
            FAILED => Self::Failed {
                subscription: content.varint32()?,
                seq: content.varint()?,
                attempts: content.varint32()?,
            },
            LETTER => Self::Letter {
                subscription: content.varint32()?,
                seq: content.varint()?,
                attempts: content.varint32()?,
                time_ms: content.varint()?,
                reason: content.u8()?,
                error: content.text()?,
                message: rest(&mut content),
            },
            DELAYED => Self::Delayed {
                topic: content.varint32()?,
                id: content.varint()?,
                time_ms: content.varint()?,
                due_ms: content.varint()?,
                message: rest(&mut content),
            },
            DELAYED_GONE => Self::DelayedGone {
                topic: content.varint32()?,
                id: content.varint()?,
                seq: content.varint()?,
            },
            DELAYED_NEXT => Self::DelayedNext {
                topic: content.varint32()?,
                next: content.varint()?,
            },
            TRIM => Self::Trim {
                topic: content.varint32()?,
                first_seq: content.varint()?,
            },
            UNSUBSCRIBED => Self::Unsubscribed {
                subscription: content.varint32()?,
            },
            REMEMBERED => Self::Remembered {
                topic: content.varint32()?,
                seq: content.varint()?,
                time_ms: content.varint()?,
                dedup_id: rest_text(&mut content)?,
            },
            CHECKPOINTED => Self::Checkpointed,
            LOST => Self::Lost {
                topic: content.varint32()?,
                from: content.varint()?,
                to: content.varint()?,
            },
            OPTIONAL.. => return Ok(None),
            unknown => return Err(BadRecord::Unknown(unknown)),
        };
        if !content.is_empty() {
            return Err(BadRecord::Malformed);
        }
        Ok(Some(record))
    }
}

fn rest<'a>(content: &mut Reader<'a>) -> &'a [u8] {
    std::mem::replace(content, Reader::new(&[])).rest()
}

fn rest_text<'a>(content: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    std::str::from_utf8(rest(content)).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record<'static>> {
        let (topic, subscription, seq, time_ms) = (3, 200, 1 << 33, 1_790_000_000_000);
        let message = &[7; 200][..];
        vec![
            Record::Topic {
                topic,
                first_seq: 1,
                next_seq: seq,
                name: "orders",
            },
            Record::Subscription {
                subscription,
                topic,
                next: seq,
                name: "billing",
            },
            Record::Publish {
                topic,
                seq,
                time_ms,
                message,
            },
            Record::Done {
                subscription,
                base: seq,
                ranges: &[1, 2],
            },
            Record::Failed {
                subscription,
                seq,
                attempts: 2,
            },
            Record::Letter {
                subscription,
                seq,
                attempts: 5,
                time_ms,
                reason: 1,
                error: "no such account",
                message,
            },
            Record::Delayed {
                topic,
                id: 4,
                time_ms,
                due_ms: time_ms,
                message,
            },
            Record::DelayedGone { topic, id: 4, seq },
            Record::DelayedNext { topic, next: 5 },
            Record::Trim {
                topic,
                first_seq: seq,
            },
            Record::Unsubscribed { subscription },
            Record::Remembered {
                topic,
                seq,
                time_ms,
                dedup_id: "req-77",
            },
            Record::Checkpointed,
            Record::Lost {
                topic,
                from: 7,
                to: seq,
            },
        ]
    }

    #[test]
    fn every_record_comes_back() {
        let mut bytes = Vec::new();
        records().iter().for_each(|record| record.put(&mut bytes));
        let mut reader = Reader::new(&bytes);
        for record in records() {
            assert_eq!(Record::read(&mut reader), Ok(Some(record)));
        }
        assert!(reader.is_empty());
    }

    #[test]
    fn a_truncated_record_is_malformed() {
        for record in records() {
            let mut bytes = Vec::new();
            record.put(&mut bytes);
            for length in 0..bytes.len() {
                let read = Record::read(&mut Reader::new(&bytes[..length]));
                assert_eq!(read, Err(BadRecord::Malformed));
            }
        }
    }

    #[test]
    fn a_record_of_a_later_version_is_skipped_or_refused_as_its_kind_says() {
        fn read(bytes: &[u8]) -> Result<Option<Record<'_>>, BadRecord> {
            Record::read(&mut Reader::new(bytes))
        }
        assert_eq!(read(&[2, OPTIONAL, 9]), Ok(None));
        assert_eq!(read(&[2, 0x7f, 9]), Err(BadRecord::Unknown(0x7f)));
        let with_content = read(&[2, CHECKPOINTED, 9]);
        assert_eq!(with_content, Err(BadRecord::Malformed));
    }
}
