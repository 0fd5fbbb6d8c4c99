//! The files of a log, and how a new one is made.

use std::collections::BTreeMap;
use std::io;

use crate::log::fs::{Fs, LogFile, write_all};
use crate::pure::log::format::frame::{FrameBuffer, Link};
use crate::pure::log::format::header::{
    NEW_STORE_FILE, SEGMENT_HEADER, STORE_FILE, SegmentHeader, StoreFile, seed, segment_name,
};
use crate::pure::log::state::State;
use crate::pure::log::step;
use crate::sync::{Arc, Mutex, Word};
use crate::types::error::store::StoreError;

/// The size from which on a checkpoint goes on in another frame.
const CHECKPOINT_FRAME: usize = if cfg!(test) { 200 } else { 1 << 20 };

/// The files of a log by their numbers. Its writer adds and removes, its readers look.
pub(crate) struct Segments {
    files: Mutex<BTreeMap<u64, Arc<Segment>>>,
}

/// A file of a log.
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn LogFile>,
    /// Where the frames end that are written. Readers must not look behind them.
    end: Word,
}

impl Segment {
    /// A segment whose frames reach to the end of its file.
    pub(crate) fn whole(file: Arc<dyn LogFile>) -> Arc<Self> {
        let end = Word::new(u64::MAX);
        Arc::new(Self { file, end })
    }

    /// Says where the frames end.
    pub(crate) fn ends_at(&self, end: u64) {
        self.end.store(end);
    }

    /// Returns where the frames end, or the file if that is sooner.
    pub(crate) fn end(&self) -> io::Result<u64> {
        Ok(self.file.len()?.min(self.end.load()))
    }
}

impl Segments {
    pub(crate) fn new(files: BTreeMap<u64, Arc<dyn LogFile>>) -> Self {
        let whole = |(number, file)| (number, Segment::whole(file));
        Self {
            files: Mutex::new(files.into_iter().map(whole).collect()),
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<Segment>> {
        self.files.lock().get(&number).cloned()
    }

    /// Returns the first segment after this one.
    pub(crate) fn after(&self, number: u64) -> Option<u64> {
        let files = self.files.lock();
        let mut later = files.range(number.checked_add(1)?..);
        later.next().map(|(number, _)| *number)
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.files.lock().len()
    }

    pub(crate) fn add(&self, number: u64, segment: Arc<Segment>) {
        self.files.lock().insert(number, segment);
    }

    /// Removes the segments before this one, the oldest first. A power cut in between leaves no
    /// gap, because each name is gone for good before the next goes.
    pub(crate) fn remove_before(&self, fs: &dyn Fs, number: u64) -> Result<(), StoreError> {
        let old: Vec<u64> = {
            let files = self.files.lock();
            files.range(..number).map(|(number, _)| *number).collect()
        };
        for number in old {
            let name = segment_name(number);
            let error = |source| StoreError::io("remove", &name, source);
            fs.remove(&name).map_err(error)?;
            step!("remove one by one", fs.sync_names().map_err(error)?);
            // Readers that are in it keep it open.
            let file = self.files.lock().remove(&number);
            drop(file);
        }
        Ok(())
    }
}

/// The segment that is being written.
pub(crate) struct Active {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn LogFile>,
    pub(crate) length: u64,
    /// The length of the header and the checkpoint.
    pub(crate) head: u64,
    pub(crate) seed: u32,
    /// The place of the last frame.
    pub(crate) last: Link,
}

/// Writes the file that names a store, in place of the one before. It is safe from a power cut when
/// this returns, and one of the two is there at any time.
///
/// It says how much of the log is safe, too. So a log that lost its end is not taken for a shorter
/// one.
pub(crate) fn name_store(fs: &dyn Fs, store: u128, synced: u64) -> Result<(), StoreError> {
    let error = |operation| move |source| StoreError::io(operation, NEW_STORE_FILE, source);
    let file = fs.create(NEW_STORE_FILE).map_err(error("create"))?;
    let bytes = StoreFile { store, synced }.encode();
    write_all(&*file, &bytes, 0).map_err(error("write"))?;
    step!("sync the store's file", file.sync().map_err(error("sync"))?);
    fs.rename(NEW_STORE_FILE, STORE_FILE)
        .map_err(error("rename"))?;
    fs.sync_names().map_err(error("sync the name of"))
}

/// The content of a segment that holds nothing but a checkpoint.
pub(crate) struct NewSegment {
    store: u128,
    number: u64,
    bytes: Vec<u8>,
    last: Link,
}

impl NewSegment {
    /// Prepares a segment after that frame, with a checkpoint of this state.
    pub(crate) fn with(state: &State, store: u128, number: u64, before: Link) -> Self {
        let seed = seed(store, number);
        let header = SegmentHeader {
            store,
            number,
            before,
        };
        let mut bytes = header.encode();
        debug_assert_eq!(bytes.len(), SEGMENT_HEADER);
        let mut last = before;
        let mut frame = FrameBuffer::new();
        state.checkpoint(|record| {
            if frame.len() >= CHECKPOINT_FRAME {
                last = append(&mut frame, &mut bytes, seed, last, before.lsn);
            }
            record.put(frame.record());
        });
        last = append(&mut frame, &mut bytes, seed, last, before.lsn);
        Self {
            store,
            number,
            bytes,
            last,
        }
    }

    /// Makes the file. It is safe from a power cut when this returns.
    ///
    /// Everything before it is on the disk already. Otherwise a power cut could leave a hole
    /// between two segments.
    pub(crate) fn create(self, fs: &dyn Fs) -> Result<Active, StoreError> {
        let name = segment_name(self.number);
        let error = |operation| {
            let name = &name;
            move |source| StoreError::io(operation, name, source)
        };
        let file = fs.create(&name).map_err(error("create"))?;
        write_all(&*file, &self.bytes, 0).map_err(error("write"))?;
        step!("sync the segment", file.sync().map_err(error("sync"))?);
        step!(
            "sync its name",
            fs.sync_names().map_err(error("sync the name of"))?
        );
        let length = self.bytes.len() as u64;
        Ok(Active {
            number: self.number,
            file,
            length,
            head: length,
            seed: seed(self.store, self.number),
            last: self.last,
        })
    }
}

fn append(
    frame: &mut FrameBuffer,
    bytes: &mut Vec<u8>,
    seed: u32,
    after: Link,
    synced: u64,
) -> Link {
    let (link, sealed) = frame.seal(seed, after, synced);
    bytes.extend_from_slice(sealed);
    frame.clear();
    link
}
