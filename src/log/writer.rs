//! The one who writes: frames at the end of the last segment, and new segments.
//!
//! A write or a sync that fails is never tried again. After a failed sync the system may have
//! dropped the pages, and a second sync would succeed without them. So the first failure stays, and
//! everything after it is refused.

use std::collections::BTreeMap;

use crate::log::fs::{Fs, write_all};
use crate::log::recover::Recovered;
use crate::log::segments::{Active, NewSegment, Segments};
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::format::header::segment_name;
use crate::pure::log::record::Record;
use crate::pure::log::retention::Limits;
use crate::pure::log::state::{Place, State};
use crate::sync::{Arc, Mutex};
use crate::types::error::store::StoreError;

/// The end of a log. One thread at a time has it.
pub(crate) struct Writer {
    fs: Arc<dyn Fs>,
    store: u128,
    segment_size: u64,
    active: Active,
    /// The lsn up to which everything is safe from a power cut.
    synced: u64,
    /// The lsn that the last frame said to be synced.
    vouched: u64,
    /// The lsn of the last frame with records.
    last_records: u64,
    failed: Option<StoreError>,
    limits: BTreeMap<u32, Limits>,
    shared: Arc<Shared>,
}

/// The part of a log that readers share with the writer.
pub(crate) struct Shared {
    pub(crate) store: u128,
    pub(crate) segments: Segments,
    /// The sum of the written records. Held for moments, never during a write.
    pub(crate) state: Mutex<State>,
}

impl Writer {
    pub(crate) fn new(fs: Arc<dyn Fs>, recovered: Recovered, segment_size: u64) -> Self {
        Self {
            fs,
            store: recovered.store,
            segment_size,
            synced: recovered.active.last.lsn,
            vouched: 0,
            last_records: recovered.active.last.lsn,
            active: recovered.active,
            failed: None,
            limits: BTreeMap::new(),
            shared: Arc::new(Shared {
                store: recovered.store,
                segments: Segments::new(recovered.files),
                state: Mutex::new(recovered.state),
            }),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Sets how much of a topic is kept.
    pub(crate) fn limit(&mut self, topic: u32, limits: Limits) {
        self.limits.insert(topic, limits);
    }

    /// Writes a frame, and syncs if asked to. The records count when it returns.
    pub(crate) fn write(
        &mut self,
        frame: &mut FrameBuffer,
        syncs: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.check()?;
        let size = (frame.len() as u64).saturating_add(FrameBuffer::OVERHEAD);
        let has_content = self.active.length > self.active.head;
        if has_content && self.active.length.saturating_add(size) > self.segment_size {
            let rolled = self.roll(now_ms);
            self.keep_failure(rolled)?;
        }
        let written = self.append(frame);
        self.keep_failure(written)?;
        if syncs { self.sync() } else { Ok(()) }
    }

    /// Returns when all records that were written are safe from a power cut.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.check()?;
        if self.synced < self.last_records {
            self.sync_all()
        } else {
            Ok(())
        }
    }

    fn sync_all(&mut self) -> Result<(), StoreError> {
        let synced = self.active.file.sync();
        let name = segment_name(self.active.number);
        self.keep_failure(synced.map_err(|source| StoreError::io("sync", &name, source)))?;
        self.synced = self.active.last.lsn;
        Ok(())
    }

    /// Vouches for what is synced, if no frame does: nobody else may come for a while.
    pub(crate) fn vouch(&mut self) -> Result<(), StoreError> {
        self.check()?;
        if self.synced < self.last_records || self.vouched >= self.last_records {
            return Ok(());
        }
        let written = self.append(&mut FrameBuffer::new());
        self.keep_failure(written)
    }

    /// Refuses everything from now on.
    pub(crate) fn close(&mut self) {
        self.failed.get_or_insert(StoreError::Closed);
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn keep_failure<R>(&mut self, result: Result<R, StoreError>) -> Result<R, StoreError> {
        if let Err(error) = &result {
            self.failed.get_or_insert(error.clone());
        }
        result
    }

    /// Appends a frame to the segment, and applies its records.
    fn append(&mut self, frame: &mut FrameBuffer) -> Result<(), StoreError> {
        let active = &mut self.active;
        let (link, bytes) = frame.seal(active.seed, active.last, self.synced);
        write_all(&*active.file, bytes, active.length)
            .map_err(|source| StoreError::io("write", &segment_name(active.number), source))?;
        let place = Place {
            segment: active.number,
            offset: u32::try_from(active.length).unwrap_or(u32::MAX),
        };
        active.length += bytes.len() as u64;
        active.last = link;
        self.vouched = self.synced;
        if !frame.is_empty() {
            self.last_records = link.lsn;
        }
        let mut state = self.shared.state.lock();
        let mut records = Reader::new(frame.records());
        while let Ok(Some(record)) = Record::read(&mut records) {
            let applied = state.apply(&record, place);
            debug_assert!(applied.is_ok(), "{record:?} can't follow");
        }
        Ok(())
    }

    /// Goes on in a new segment. Removes those that no topic needs.
    fn roll(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let mut trims = FrameBuffer::new();
        {
            let state = self.shared.state.lock();
            for (topic, limits) in &self.limits {
                let kept = state
                    .topic(*topic)
                    .and_then(|state| limits.first_kept(state, now_ms));
                if let Some(first_seq) = kept {
                    let topic = *topic;
                    Record::Trim { topic, first_seq }.put(trims.record());
                }
            }
        }
        if !trims.is_empty() {
            self.append(&mut trims)?;
        }
        // The next segment names the last frame of this one, even if that has no records.
        self.sync_all()?;
        let number = self.active.number + 1;
        let (new, oldest) = {
            let state = self.shared.state.lock();
            let new = NewSegment::with(&state, self.store, number, self.active.last);
            (new, state.oldest_needed().unwrap_or(number))
        };
        let active = new.create(&*self.fs)?;
        self.shared.segments.add(number, Arc::clone(&active.file));
        self.synced = active.last.lsn;
        self.last_records = active.last.lsn;
        self.active = active;
        self.shared.segments.remove_before(&*self.fs, oldest)
    }
}
