//! The one who writes: frames at the end of the last segment, and new segments.
//!
//! A write or a sync that fails is never tried again. After a failed sync the system may have
//! dropped the pages, and a second sync would succeed without them. So the first failure stays, and
//! everything after it is refused.

use std::collections::BTreeMap;

use crate::log::fs::{Fs, write_all};
use crate::log::reader::TopicReader;
use crate::log::recover::Recovered;
use crate::log::segments::{Active, NewSegment, Segments, name_store};
use crate::pure::log::format::frame::{FULL_FRAME, FrameBuffer, MOST_RECORDS};
use crate::pure::log::format::header::segment_name;
use crate::pure::log::record::Record;
use crate::pure::log::retention::{Limits, Memory};
use crate::pure::log::state::{Inconsistent, Place, State};
use crate::pure::log::step;
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
    memories: BTreeMap<u32, Memory>,
    shared: Arc<Shared>,
}

/// The part of a log that readers share with the writer.
pub(crate) struct Shared {
    pub(crate) store: u128,
    pub(crate) segments: Segments,
    /// The state to which the written records add up. Held for moments, never during a write.
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
            memories: BTreeMap::new(),
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

    /// Sets how many dedup ids of a topic are kept, and for how long.
    pub(crate) fn remember(&mut self, topic: u32, memory: Memory) {
        self.memories.insert(topic, memory);
    }

    /// Writes a frame, and syncs if asked to. The records count when it returns.
    pub(crate) fn write(
        &mut self,
        frame: &mut FrameBuffer,
        syncs: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.check()?;
        if frame.len() > MOST_RECORDS {
            return self.keep_failure(Err(StoreError::TooLarge {
                bytes: frame.len() as u64,
                most: MOST_RECORDS as u64,
            }));
        }
        let size = (frame.len() as u64).saturating_add(FrameBuffer::OVERHEAD);
        let has_content = self.active.length > self.active.head;
        // With a large checkpoint, or there would be one for each commit.
        let full = self.segment_size.max(self.active.head.saturating_mul(2));
        if has_content && self.active.length.saturating_add(size) > full {
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
        let synced = step!("sync the frames", self.active.file.sync(), Ok(()));
        let synced = step!(
            "sync once",
            synced,
            synced.or_else(|_| self.active.file.sync())
        );
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
        let vouched = step!("vouch", self.append(&mut FrameBuffer::new()), Ok(()));
        self.keep_failure(vouched)
    }

    /// Notes how much is safe, and refuses everything from now on.
    pub(crate) fn close(&mut self) {
        if self.failed.is_none() {
            // What was promised is safe without it.
            step!("note the end", {
                let _ = self.note();
            });
        }
        self.failed.get_or_insert(StoreError::Closed);
    }

    /// Notes in the store's file how much is safe.
    fn note(&self) -> Result<(), StoreError> {
        name_store(&*self.fs, self.store, self.synced)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn keep_failure<R>(&mut self, result: Result<R, StoreError>) -> Result<R, StoreError> {
        if let Err(error) = &result {
            step!("keep the failure", {
                self.failed.get_or_insert(error.clone());
            });
        }
        result
    }

    /// Appends a frame to the segment, and applies its records.
    fn append(&mut self, frame: &mut FrameBuffer) -> Result<(), StoreError> {
        let active = &mut self.active;
        let start = active.length;
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
        let applied = self.shared.state.lock().apply_all(frame.records(), place);
        applied.map_err(|Inconsistent| {
            // Nobody was told of the frame, and a store that opens would refuse it.
            let _ = active.file.truncate(start);
            StoreError::Inconsistent { lsn: link.lsn }
        })
    }

    /// Writes the letters once more whose messages retention is about to take, with their messages.
    /// The frame has the last of them.
    fn save_letters(
        &mut self,
        trims: &[(u32, u64)],
        frame: &mut FrameBuffer,
    ) -> Result<(), StoreError> {
        let mut bare = Vec::new();
        {
            let state = self.shared.state.lock();
            for (subscription, one) in state.subscriptions() {
                let trim = trims.iter().find(|(topic, _)| *topic == one.topic);
                let Some((topic, first_seq)) = trim else {
                    continue;
                };
                let going = one.letters.range(..first_seq);
                let going = going.filter(|(_, letter)| letter.message.is_empty());
                bare.extend(
                    going.map(|(seq, letter)| (*topic, subscription, *seq, letter.clone())),
                );
            }
        }
        for (topic, subscription, seq, letter) in bare {
            let mut reader = TopicReader::new(Arc::clone(&self.shared), topic, seq);
            reader.read_frame(seq + 1, |read| {
                Record::Letter {
                    subscription,
                    seq,
                    attempts: letter.attempts,
                    time_ms: letter.time_ms,
                    reason: letter.reason,
                    error: &letter.error,
                    message: read.message,
                }
                .put(frame.record());
            })?;
            if frame.len() >= FULL_FRAME {
                self.append(frame)?;
                frame.clear();
            }
        }
        Ok(())
    }

    /// Goes on in a new segment. Removes those that no topic needs.
    fn roll(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let trims: Vec<(u32, u64)> = {
            let state = self.shared.state.lock();
            let each = self.limits.iter();
            each.filter_map(|(topic, limits)| {
                let first_seq = limits.first_kept(state.topic(*topic)?, now_ms)?;
                Some((*topic, first_seq))
            })
            .collect()
        };
        let mut frame = FrameBuffer::new();
        self.save_letters(&trims, &mut frame)?;
        for (topic, first_seq) in trims {
            Record::Trim { topic, first_seq }.put(frame.record());
        }
        if !frame.is_empty() {
            self.append(&mut frame)?;
        }
        // The next segment names the last frame of this one, even if that has no records.
        step!("sync before the roll", self.sync_all()?);
        let number = self.active.number + 1;
        let (new, oldest) = {
            let mut state = self.shared.state.lock();
            for (id, topic) in state.topics_mut() {
                let memory = self.memories.get(&id).copied();
                memory.unwrap_or_default().forget(topic, now_ms);
            }
            let new = NewSegment::with(&state, self.store, number, self.active.last);
            (new, state.oldest_needed().unwrap_or(number))
        };
        step!(
            "create, then remove",
            {},
            self.shared.segments.remove_before(&*self.fs, oldest)?
        );
        let active = new.create(&*self.fs)?;
        self.shared.segments.add(number, Arc::clone(&active.file));
        self.synced = active.last.lsn;
        self.last_records = active.last.lsn;
        self.active = active;
        self.note()?;
        self.shared.segments.remove_before(&*self.fs, oldest)
    }
}
