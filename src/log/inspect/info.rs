//! The facts about a store that an operator asks for.

use std::fmt;
use std::ops::Range;

/// A file with records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its number, which is the name of its file.
    pub number: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Frames that can be read. Each is one commit.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// The lsns of its frames, which count the commits of the store.
    pub lsns: Range<u64>,
    /// The highest lsn that a frame says to be synced. A crash can't take anything up to it.
    pub synced: u64,
}

/// A durable topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// The first message that retention has left.
    pub first_seq: u64,
    /// The number that the next message gets.
    pub next_seq: u64,
    /// Messages from `first_seq` on that are there.
    pub messages: u64,
    /// Bytes of messages in the files. Retention takes whole files, so some may be older than
    /// `first_seq`.
    pub bytes: u64,
    /// Messages that wait until they are due.
    pub delayed: u64,
}

/// A durable subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// The name of its topic.
    pub topic: String,
    /// Its name.
    pub name: String,
    /// Its cursor: the first message that it is not done with.
    pub next_seq: u64,
    /// Ranges of messages above the cursor that it is done with.
    pub done_above: u64,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Messages that have failed and wait for a retry.
    pub failed: u64,
    /// Messages that it is not done with.
    pub lag: u64,
}

/// A part of a log that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The number of the segment, which is the name of its file.
    pub segment: u64,
    /// The first byte in it that can't be used.
    pub offset: u64,
    /// Bytes that can't be used. Zero if they are missing, or don't follow those before them.
    pub bytes: u64,
    /// The lsns of the frames that are lost, each of which was one commit. It is empty if the
    /// damage took none.
    pub lsns: Range<u64>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment, offset, ..
        } = self;
        write!(f, "segment {segment}, byte {offset}: ")?;
        match self.bytes {
            0 => write!(f, "does not follow what is before it")?,
            bytes => write!(f, "{} unreadable", Counted(bytes, "byte"))?,
        }
        match self.lsns.end.saturating_sub(self.lsns.start) {
            0 => Ok(()),
            1 => write!(f, ", lsn {}", self.lsns.start),
            _ => write!(f, ", lsns {}", Inclusive(&self.lsns)),
        }
    }
}

/// A number with its noun.
pub(crate) struct Counted(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        let plural = if *count == 1 { "" } else { "s" };
        write!(f, "{count} {noun}{plural}")
    }
}

/// A range by its first and last number.
pub(crate) struct Inclusive<'a>(pub(crate) &'a Range<u64>);

impl fmt::Display for Inclusive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = *self.0;
        match end.saturating_sub(start) {
            1 => write!(f, "{start}"),
            _ => write!(f, "{start} to {}", end.saturating_sub(1)),
        }
    }
}
