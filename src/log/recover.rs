//! Opening a log: what a process left behind becomes a state, or a typed refusal.
//!
//! A segment but the last must be whole. In the last one, [`walk`](crate::pure::log::format::walk) tells a
//! torn tail, which is cut off, from damage, which is refused. A last segment that never got its
//! checkpoint is the work of a crash in the middle of making it. It is removed, unless something in
//! it vouches for more.
//!
//! All that is kept is synced before anybody sees it. A killed process may have left it in memory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::log::fs::{Fs, LogFile, read_all, write_all};
use crate::log::segments::{Active, NewSegment};
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::format::frame::{Frame, Link};
use crate::pure::log::format::header::{
    BadHeader, NEW_STORE_FILE, SEGMENT_HEADER, STORE_FILE, SegmentHeader, VERSION, read_store_file,
    seed, segment_name, segment_number, store_file,
};
use crate::pure::log::format::walk::{End, Walk, vouched};
use crate::pure::log::record::{BadRecord, Record};
use crate::pure::log::state::{Place, State};
use crate::sync::{Arc, random_seed};
use crate::types::error::store::StoreError;

/// How far the opening of a store has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that have been read and checked.
    pub read: u64,
    /// Bytes that there are.
    pub total: u64,
}

/// The findings of a store when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// Files with records.
    pub segments: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames, each of which is one commit.
    pub frames: u64,
    /// Records in the frames: messages, ends of deliveries, and others.
    pub records: u64,
    /// The end of the log that a crash had left unfinished, and that was cut off. `None` if there
    /// was none.
    ///
    /// No receipt of [`Durability::Synced`](crate::store::Durability::Synced) was given for it.
    pub torn: Option<TornTail>,
}

/// The end of a log that a crash had left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The number of the segment, which is the name of its file.
    pub segment: u64,
    /// The byte at which the segment was cut.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
}

/// A log that was opened.
pub(crate) struct Recovered {
    pub(crate) store: u128,
    pub(crate) state: State,
    pub(crate) files: BTreeMap<u64, Arc<dyn LogFile>>,
    pub(crate) active: Active,
    pub(crate) opened: Opened,
}

/// A log that is being opened.
struct Recovery<'a> {
    fs: &'a dyn Fs,
    store: u128,
    state: State,
    files: BTreeMap<u64, Arc<dyn LogFile>>,
    active: Option<Active>,
    opened: Opened,
}

/// Opens the log in a directory, or makes one in an empty directory.
pub(crate) fn recover(
    fs: &dyn Fs,
    directory: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Recovered, StoreError> {
    let names = fs
        .names()
        .map_err(|source| StoreError::io("list", &directory.display().to_string(), source))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    let mut recovery = Recovery {
        fs,
        store: store_of(fs, directory, &names, numbers.is_empty())?,
        state: State::default(),
        files: BTreeMap::new(),
        active: None,
        opened: Opened::default(),
    };
    let mut total = 0;
    for number in &numbers {
        total += recovery.open(*number)?;
    }
    let mut read = 0;
    progress(Progress { read, total });
    for (at, number) in numbers.iter().enumerate() {
        let is_first = at == 0;
        let is_last = at + 1 == numbers.len();
        read += recovery.read_segment(*number, is_first, is_last)?;
        progress(Progress { read, total });
    }
    recovery.finish()
}

/// Returns which store is in the directory. Names a new one if there is none.
fn store_of(
    fs: &dyn Fs,
    directory: &Path,
    names: &[String],
    is_empty: bool,
) -> Result<u128, StoreError> {
    let error = |operation| move |source| StoreError::io(operation, STORE_FILE, source);
    if names.iter().any(|name| name == STORE_FILE) {
        let file = fs.open(STORE_FILE).map_err(error("open"))?;
        let bytes = read_all(&*file).map_err(error("read"))?;
        return read_store_file(&bytes).map_err(|bad| match bad {
            BadHeader::Version(found) => StoreError::Format {
                found,
                known: VERSION,
            },
            BadHeader::Malformed => StoreError::Unnamed {
                directory: directory.to_owned(),
            },
        });
    }
    if !is_empty {
        return Err(StoreError::Unnamed {
            directory: directory.to_owned(),
        });
    }
    if names.iter().any(|name| name == NEW_STORE_FILE) {
        fs.remove(NEW_STORE_FILE).map_err(error("remove"))?;
    }
    let store = u128::from(random_seed()) << 64 | u128::from(random_seed());
    let file = fs.create(NEW_STORE_FILE).map_err(error("create"))?;
    write_all(&*file, &store_file(store), 0).map_err(error("write"))?;
    file.sync().map_err(error("sync"))?;
    fs.rename(NEW_STORE_FILE, STORE_FILE)
        .map_err(error("rename"))?;
    fs.sync_names().map_err(error("sync the name of"))?;
    Ok(store)
}

impl Recovery<'_> {
    /// Opens the file of a segment, and returns its length.
    fn open(&mut self, number: u64) -> Result<u64, StoreError> {
        let name = segment_name(number);
        let error = |source| StoreError::io("open", &name, source);
        let file = self.fs.open(&name).map_err(error)?;
        let length = file.len().map_err(error)?;
        self.files.insert(number, file);
        Ok(length)
    }

    /// Reads a segment, and returns its length.
    fn read_segment(
        &mut self,
        number: u64,
        is_first: bool,
        is_last: bool,
    ) -> Result<u64, StoreError> {
        let name = segment_name(number);
        let file = Arc::clone(&self.files[&number]);
        let bytes = read_all(&*file).map_err(|source| StoreError::io("read", &name, source))?;
        let length = bytes.len() as u64;
        let seed = seed(self.store, number);
        let before = self.active.as_ref().map(|active| active.last);
        let reached = before.unwrap_or(Link { lsn: 0, crc: 0 });
        let damaged = |offset: usize, last: Link| StoreError::Damaged {
            segment: number,
            offset: offset as u64,
            lsn: last.lsn + 1,
        };
        // Only the first segment of all may lack what came before it.
        let may_be_unmade = is_last && (!is_first || number == FIRST);
        let header = match SegmentHeader::decode(&bytes) {
            Err(BadHeader::Version(found)) => {
                return Err(StoreError::Format {
                    found,
                    known: VERSION,
                });
            }
            Ok(header)
                if header.store == self.store
                    && header.number == number
                    && before.is_none_or(|before| before == header.before)
                    && self.follows_in_number(number) =>
            {
                header
            }
            _ => {
                let frames = bytes.get(SEGMENT_HEADER..).unwrap_or_default();
                let is_unmade = may_be_unmade
                    && self.follows_in_number(number)
                    && vouched(frames, seed, reached.lsn) <= reached.lsn;
                return if is_unmade {
                    self.unmake(number, length)
                } else {
                    Err(damaged(0, reached))
                };
            }
        };

        let mut walk = Walk::new(&bytes, seed, header.before);
        let mut head = None;
        let mut frames = 0;
        while let Some((offset, frame)) = walk.next() {
            let place = Place {
                segment: number,
                offset: u32::try_from(offset).map_err(|_| damaged(offset, walk.reached()))?,
            };
            let applies = is_first || head.is_some();
            let is_end = self.apply(&frame, place, applies)?;
            if is_end && head.is_none() {
                head = Some(walk.offset() as u64);
            }
            frames += 1;
        }
        let end = walk.end();
        let last = walk.reached();
        if end == End::Damaged || (end == End::Torn && !is_last) {
            return Err(damaged(walk.offset(), last));
        }
        let Some(head) = head else {
            return if may_be_unmade {
                self.unmake(number, length)
            } else {
                Err(damaged(walk.offset(), last))
            };
        };
        let offset = walk.offset() as u64;
        if offset < length {
            if !is_last {
                return Err(damaged(walk.offset(), last));
            }
            if end == End::Torn {
                self.opened.torn = Some(TornTail {
                    segment: number,
                    offset,
                    bytes: length - offset,
                });
            }
            file.truncate(offset)
                .map_err(|source| StoreError::io("truncate", &name, source))?;
        }
        self.opened.segments += 1;
        self.opened.bytes += offset;
        self.opened.frames += frames;
        self.active = Some(Active {
            number,
            file,
            length: offset,
            head,
            seed,
            last,
        });
        Ok(length)
    }

    /// Returns whether a segment of this number may be the next.
    fn follows_in_number(&self, number: u64) -> bool {
        let before = self.active.as_ref().map(|active| active.number);
        before.is_none_or(|before| before.checked_add(1) == Some(number))
    }

    /// Applies the records of a frame. Returns whether it ends a checkpoint.
    fn apply(
        &mut self,
        frame: &Frame<'_>,
        place: Place,
        applies: bool,
    ) -> Result<bool, StoreError> {
        let mut is_end = false;
        let mut records = Reader::new(frame.records);
        let damaged = StoreError::Damaged {
            segment: place.segment,
            offset: place.offset.into(),
            lsn: frame.link.lsn,
        };
        for _ in 0..frame.count {
            let record = match Record::read(&mut records) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(BadRecord::Unknown(kind)) => {
                    return Err(StoreError::UnknownRecord {
                        kind,
                        lsn: frame.link.lsn,
                    });
                }
                Err(BadRecord::Malformed) => return Err(damaged),
            };
            is_end |= record == Record::Checkpointed;
            if applies && self.state.apply(&record, place).is_err() {
                return Err(damaged);
            }
            self.opened.records += 1;
        }
        if records.is_empty() {
            Ok(is_end)
        } else {
            Err(damaged)
        }
    }

    /// Removes a segment that a crash had left in the making.
    fn unmake(&mut self, number: u64, length: u64) -> Result<u64, StoreError> {
        let name = segment_name(number);
        let file = self.files.remove(&number);
        drop(file);
        self.fs
            .remove(&name)
            .map_err(|source| StoreError::io("remove", &name, source))?;
        self.opened.torn = Some(TornTail {
            segment: number,
            offset: 0,
            bytes: length,
        });
        Ok(length)
    }

    /// Makes the first segment if there is none, and syncs what was read.
    fn finish(mut self) -> Result<Recovered, StoreError> {
        let active = match self.active {
            Some(active) => {
                let name = segment_name(active.number);
                let error = |source| StoreError::io("sync", &name, source);
                active.file.sync().map_err(error)?;
                self.fs.sync_names().map_err(error)?;
                active
            }
            None => {
                self.fs
                    .sync_names()
                    .map_err(|source| StoreError::io("sync", STORE_FILE, source))?;
                let start = Link { lsn: 0, crc: 0 };
                let new = NewSegment::with(&self.state, self.store, FIRST, start);
                let active = new.create(self.fs)?;
                self.files.insert(FIRST, Arc::clone(&active.file));
                self.opened.segments = 1;
                self.opened.bytes = active.length;
                active
            }
        };
        Ok(Recovered {
            store: self.store,
            state: self.state,
            files: self.files,
            active,
            opened: self.opened,
        })
    }
}

/// The number of a store's first segment.
const FIRST: u64 = 1;
