//! Reading one record of a store after another.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use crate::log::fs::Fs;
use crate::log::fs::real::RealFs;
use crate::log::inspect::content::{Content, LogRecord, content};
use crate::log::inspect::info::Damage;
use crate::log::inspect::settled;
use crate::log::inspect::survey::{read_segment, records, segment_numbers, store_of};
use crate::pure::log::format::header::{SegmentHeader, seed};
use crate::pure::log::record::Record;
use crate::pure::log::salvage::scan::{Found, Scan};
use crate::types::error::store::StoreError;

/// The records of a store, from [`read_records`].
///
/// Nobody can open the store while it is there.
pub struct Records {
    fs: RealFs,
    source: Source,
}

/// The segments that are left to read.
struct Source {
    directory: std::path::PathBuf,
    store: u128,
    segments: VecDeque<u64>,
    ready: VecDeque<LogRecord>,
    names: Names,
    last: u64,
}

/// The names of what records name by numbers.
#[derive(Default)]
struct Names {
    topics: BTreeMap<u32, String>,
    subscriptions: BTreeMap<u32, (u32, String)>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

/// Reads the records of a store in their order. Changes nothing.
///
/// It goes on behind damage. It holds one segment's records at a time in memory, which is a few
/// times the size of its file.
///
/// ```
/// use millstream::store::{self, Content, Store};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("millstream-records-{}", std::process::id()));
/// drop(Store::open(&directory)?);
/// for record in store::read_records(&directory)? {
///     let record = record?;
///     if let Content::Publish { seq, message, .. } = record.content {
///         println!("message {seq} has {} bytes", message.payload.len());
///     }
/// }
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Returns a [`StoreError`]: `InUse` if the store is open, `Io` if there is none, `Format`, or
/// another. The iterator ends after an error.
pub fn read_records(directory: impl AsRef<Path>) -> Result<Records, StoreError> {
    let directory = directory.as_ref();
    let fs = RealFs::open_to_read(directory)?;
    let source = Source::new(&fs, directory)?;
    Ok(Records { fs, source })
}

impl Iterator for Records {
    type Item = Result<LogRecord, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.source.next(&self.fs)
    }
}

/// Reads all records, and returns how many there are.
#[cfg(test)]
pub(crate) fn count_in(fs: &dyn Fs, directory: &Path) -> Result<usize, StoreError> {
    let mut source = Source::new(fs, directory)?;
    std::iter::from_fn(|| source.next(fs)).try_fold(0, |count, record| record.map(|_| count + 1))
}

impl Source {
    fn new(fs: &dyn Fs, directory: &Path) -> Result<Self, StoreError> {
        let view = settled(fs, directory)?;
        let segments = segment_numbers(&view, directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            store: store_of(&view, directory, &segments)?.store,
            segments: segments.into(),
            ready: VecDeque::new(),
            names: Names::default(),
            last: 0,
        })
    }

    fn next(&mut self, fs: &dyn Fs) -> Option<Result<LogRecord, StoreError>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            let number = self.segments.pop_front()?;
            let read = settled(fs, &self.directory).and_then(|view| read_segment(&view, number));
            match read {
                Ok(bytes) => self.read(number, &bytes),
                Err(error) => {
                    self.segments.clear();
                    return Some(Err(error));
                }
            }
        }
    }

    fn read(&mut self, segment: u64, bytes: &[u8]) {
        if let Ok(header) = SegmentHeader::decode(bytes)
            && (header.store, header.number) == (self.store, segment)
        {
            self.last = header.before.lsn;
        }
        for (offset, found) in Scan::new(bytes, seed(self.store, segment), self.last) {
            let offset = offset as u64;
            let unreadable = |end: usize, next: u64, lsns| LogRecord {
                segment,
                offset,
                lsn: next,
                topic: None,
                subscription: None,
                content: Content::Unreadable(Damage {
                    segment,
                    offset,
                    bytes: end as u64 - offset,
                    lsns,
                }),
            };
            let next = self.last.saturating_add(1);
            let frame = match found {
                Found::Hole(end) => {
                    self.ready.push_back(unreadable(end, next, next..next));
                    continue;
                }
                Found::Frame(frame) => frame,
            };
            let lsn = frame.link.lsn;
            if let Some(LogRecord {
                content: Content::Unreadable(damage),
                ..
            }) = self.ready.back_mut()
            {
                damage.lsns.end = lsn;
            }
            self.last = lsn;
            let Ok(records) = records(&frame) else {
                let end = offset as usize + frame.size();
                let lsns = lsn..lsn.saturating_add(1);
                self.ready.push_back(unreadable(end, lsn, lsns));
                continue;
            };
            for record in &records {
                let (topic, subscription) = self.names.of(record);
                self.ready.push_back(LogRecord {
                    segment,
                    offset,
                    lsn,
                    topic,
                    subscription,
                    content: content(record),
                });
            }
        }
    }
}

impl Names {
    /// Returns the names of the topic and the subscription that a record is about. Learns new ones.
    fn of(&mut self, record: &Record<'_>) -> (Option<String>, Option<String>) {
        match *record {
            Record::Topic { topic, name, .. } => {
                self.topics.insert(topic, name.to_owned());
                (self.topic(topic), None)
            }
            Record::Subscription {
                subscription,
                topic,
                name,
                ..
            } => {
                let named = (topic, name.to_owned());
                self.subscriptions.insert(subscription, named);
                self.subscription(subscription)
            }
            Record::Publish { topic, .. }
            | Record::Delayed { topic, .. }
            | Record::DelayedGone { topic, .. }
            | Record::DelayedNext { topic, .. }
            | Record::Trim { topic, .. }
            | Record::Remembered { topic, .. }
            | Record::Lost { topic, .. } => (self.topic(topic), None),
            Record::Done { subscription, .. }
            | Record::Failed { subscription, .. }
            | Record::Letter { subscription, .. }
            | Record::Unsubscribed { subscription } => self.subscription(subscription),
            Record::Checkpointed => (None, None),
        }
    }

    fn topic(&self, topic: u32) -> Option<String> {
        let known = self.topics.get(&topic).cloned();
        Some(known.unwrap_or_else(|| format!("unnamed-{topic}")))
    }

    fn subscription(&self, subscription: u32) -> (Option<String>, Option<String>) {
        match self.subscriptions.get(&subscription) {
            Some((topic, name)) => (self.topic(*topic), Some(name.clone())),
            None => (None, Some(format!("unnamed-{subscription}"))),
        }
    }
}
