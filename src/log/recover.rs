//! Opening a log: what a process left behind becomes a state, or a typed refusal.
//!
//! A segment but the last must be whole. In the last one, [`walk`](crate::pure::log::format::walk) tells a
//! torn tail, which is cut off, from damage, which is refused. A last segment without its checkpoint
//! is the work of a crash in the middle of making it, unless something in it vouches for more. It is
//! removed.
//!
//! All that is kept is synced before anybody sees it. A killed process may have left it in memory.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use crate::log::fs::{Fs, LogFile, read_all, write_all};
use crate::log::inspect::report::Salvage;
use crate::log::segments::{Active, NewSegment, name_store};
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::format::frame::{Frame, Link};
use crate::pure::log::format::header::{
    BadHeader, NEW_STORE_FILE, SEGMENT_HEADER, STORE_FILE, SegmentHeader, StoreFile, VERSION, seed,
    segment_name, segment_number,
};
use crate::pure::log::format::walk::{End, Walk, vouched};
use crate::pure::log::record::{BadRecord, Record};
use crate::pure::log::state::{Place, State};
use crate::pure::log::step;
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

/// The content that a store found when it was opened.
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
    /// All that is lost, if the store was damaged and
    /// [`salvage`](crate::store::StoreBuilder::salvage) opened what is left. `None` otherwise.
    pub salvage: Option<Salvage>,
}

/// The end of a log that a crash had left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The number of the segment, which is the name of its file.
    pub segment: u64,
    /// The byte at which the segment was cut.
    pub offset: u64,
    /// Bytes that were cut off, without the zeros that were written ahead.
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
    /// An lsn that was safe, as the store's file says.
    synced: u64,
    state: State,
    files: BTreeMap<u64, Arc<dyn LogFile>>,
    active: Option<Active>,
    opened: Opened,
    mending: Mending,
}

/// The work that a crash has left. It is done when all was read. So a log that is refused stays as
/// it is.
#[derive(Default)]
struct Mending {
    /// A segment in the making, which is to be removed.
    unmade: Option<u64>,
    /// Whether something lies behind the end of the last segment.
    cuts: bool,
    /// The end of the last segment for which nobody vouches, and where it starts.
    tail: Vec<u8>,
    tail_at: u64,
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
    let StoreFile { store, synced } = store_of(fs, directory, &names, numbers.is_empty())?;
    let mut recovery = Recovery {
        fs,
        store,
        synced,
        state: State::default(),
        files: BTreeMap::new(),
        active: None,
        opened: Opened::default(),
        mending: Mending::default(),
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
) -> Result<StoreFile, StoreError> {
    let error = |operation, name| move |source| StoreError::io(operation, name, source);
    let has = |file: &str| names.iter().any(|name| name == file);
    let unnamed = || StoreError::Unnamed {
        directory: directory.to_owned(),
    };
    if has(NEW_STORE_FILE) {
        // A crash left it.
        fs.remove(NEW_STORE_FILE)
            .map_err(error("remove", NEW_STORE_FILE))?;
    }
    if has(STORE_FILE) {
        let file = fs.open(STORE_FILE).map_err(error("open", STORE_FILE))?;
        let bytes = read_all(&*file).map_err(error("read", STORE_FILE))?;
        return StoreFile::decode(&bytes).map_err(|bad| match bad {
            BadHeader::Version(found) => StoreError::Format {
                found,
                known: VERSION,
            },
            BadHeader::Malformed => unnamed(),
        });
    }
    if !is_empty {
        return Err(unnamed());
    }
    let store = u128::from(random_seed()) << 64 | u128::from(random_seed());
    name_store(fs, store, 0)?;
    Ok(StoreFile { store, synced: 0 })
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
                    && step!(
                        "chain the segments",
                        before.is_none_or(|before| before == header.before),
                        true
                    )
                    && self.follows_in_number(number) =>
            {
                header
            }
            // A crash leaves the whole of a header, or nothing of it.
            Ok(_) => return Err(damaged(0, reached)),
            Err(BadHeader::Malformed) => {
                let frames = bytes.get(SEGMENT_HEADER..).unwrap_or_default();
                let is_unmade = may_be_unmade
                    && self.follows_in_number(number)
                    && vouched(frames, seed, reached.lsn).max(self.synced) <= reached.lsn;
                return match is_unmade {
                    true => Ok(self.unmake(number, length)),
                    false => Err(damaged(0, reached)),
                };
            }
        };

        let mut walk = Walk::new(&bytes, seed, header.before);
        let mut head = None;
        let mut frames = 0;
        // The frames that nobody vouches for.
        let mut fresh = VecDeque::new();
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
            fresh.push_back((frame.link.lsn, offset));
            while fresh.front().is_some_and(|(lsn, _)| *lsn <= walk.synced()) {
                fresh.pop_front();
            }
            frames += 1;
        }
        let end = walk.end();
        let last = walk.reached();
        let lacks_some = is_last && step!("look at the note", last.lsn < self.synced, false);
        if end == End::Damaged || (end == End::Torn && !is_last) || lacks_some {
            return Err(damaged(walk.offset(), last));
        }
        let Some(head) = head else {
            return match may_be_unmade && reached.lsn >= self.synced {
                true => Ok(self.unmake(number, length)),
                false => Err(damaged(walk.offset(), last)),
            };
        };
        let offset = walk.offset() as u64;
        if offset < length {
            if !is_last {
                return Err(damaged(walk.offset(), last));
            }
            if end == End::Torn {
                // Zeros were written ahead, and are no part of it.
                let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
                self.opened.torn = Some(TornTail {
                    segment: number,
                    offset,
                    bytes: length - offset - zeros as u64,
                });
            }
            self.mending.cuts = true;
        }
        if is_last {
            let from = match fresh.front() {
                Some((_, at)) if *at as u64 >= head => *at,
                Some(_) => 0,
                None => walk.offset(),
            };
            self.mending.tail = bytes[from..walk.offset()].to_vec();
            self.mending.tail_at = from as u64;
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

    /// Leaves out a segment that a crash had left in the making.
    fn unmake(&mut self, number: u64, length: u64) -> u64 {
        self.files.remove(&number);
        self.mending.unmade = Some(number);
        self.opened.torn = Some(TornTail {
            segment: number,
            offset: 0,
            bytes: length,
        });
        length
    }

    /// Mends what a crash has left, and syncs what was read. Makes the first segment if there is
    /// none.
    fn finish(mut self) -> Result<Recovered, StoreError> {
        let first = self.files.keys().next().copied();
        if step!("look for lost messages", !self.state.is_whole(), false) {
            return Err(StoreError::Damaged {
                segment: first.unwrap_or(FIRST).saturating_sub(1),
                offset: 0,
                lsn: 0,
            });
        }
        if let Some(number) = self.mending.unmade {
            let name = segment_name(number);
            self.fs
                .remove(&name)
                .map_err(|source| StoreError::io("remove", &name, source))?;
        }
        let active = match self.active {
            Some(active) => {
                let name = segment_name(active.number);
                let error = |operation| {
                    let name = &name;
                    move |source| StoreError::io(operation, name, source)
                };
                let file = &*active.file;
                if step!("cut the torn tail", self.mending.cuts, false) {
                    file.truncate(active.length).map_err(error("truncate"))?;
                }
                // If a sync of it has failed, the system takes it for clean, though it is not on
                // the disk. Another sync would do nothing. So it is written again.
                let Mending { tail, tail_at, .. } = &self.mending;
                step!(
                    "write the tail again",
                    write_all(file, tail, *tail_at).map_err(error("write"))?
                );
                step!("sync what was read", file.sync().map_err(error("sync"))?);
                step!(
                    "sync the names",
                    self.fs.sync_names().map_err(error("sync"))?
                );
                active
            }
            None if self.synced > 0 => {
                return Err(StoreError::Damaged {
                    segment: FIRST,
                    offset: 0,
                    lsn: 1,
                });
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
