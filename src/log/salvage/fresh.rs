//! Writing a fresh log from what is left of a damaged one.
//!
//! It begins with the topics as they were before the first message that is left. Then come the
//! messages, frame by frame and segment by segment, each with its number, and between them records
//! of those that are lost. The subscriptions, letters and delayed messages come last, as they were.

use std::path::Path;

use crate::log::fs::{Fs, write_all};
use crate::log::inspect::survey::{Survey, read_segment, records};
use crate::log::segments::{Active, NewSegment};
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::format::frame::{Frame, FrameBuffer, Link};
use crate::pure::log::format::header::{seed, segment_name};
use crate::pure::log::record::Record;
use crate::pure::log::salvage::scan::{Found, Scan};
use crate::pure::log::state::{Place, State};
use crate::types::error::store::StoreError;

/// The size from which on the last records go on in another frame.
const FULL_FRAME: usize = 1 << 20;

/// A log that is being written.
struct Fresh<'a> {
    fs: &'a dyn Fs,
    survey: &'a Survey,
    active: Active,
    state: State,
}

/// Writes what is left into new segments from this number on. They are synced when it returns.
/// Returns the state that they add up to.
pub(crate) fn write(
    fs: &dyn Fs,
    directory: &Path,
    survey: &Survey,
    first: u64,
) -> Result<State, StoreError> {
    let inconsistent = || StoreError::Unnamed {
        directory: directory.to_owned(),
    };
    let state = beginning(survey).ok_or_else(inconsistent)?;
    let before = Link {
        lsn: survey.last_lsn,
        crc: 0,
    };
    let mut fresh = Fresh {
        fs,
        survey,
        active: NewSegment::with(&state, survey.store, first, before).create(fs)?,
        state,
    };
    for segment in &survey.segments {
        fresh.copy(segment.number)?;
    }
    fresh.end()?;
    fresh.sync()?;
    Ok(fresh.state)
}

/// Returns the state before the first message that is left.
fn beginning(survey: &Survey) -> Option<State> {
    let place = Place {
        segment: 0,
        offset: 0,
    };
    let mut state = State::default();
    for (topic, left) in survey.mended.state.topics() {
        let named = Record::Topic {
            topic,
            first_seq: left.first_seq,
            next_seq: left.first_seq,
            name: &left.name,
        };
        state.apply(&named, place).ok()?;
        // The ids of lost messages are forgotten: whoever publishes one again is not refused.
        let before = left.remembered.iter().filter(|id| id.seq < left.first_seq);
        for id in before {
            let remembered = Record::Remembered {
                topic,
                seq: id.seq,
                time_ms: id.time_ms,
                dedup_id: &id.dedup_id,
            };
            state.apply(&remembered, place).ok()?;
        }
    }
    Some(state)
}

impl Fresh<'_> {
    /// Copies the messages of a damaged segment into one of its own.
    fn copy(&mut self, number: u64) -> Result<(), StoreError> {
        let bytes = read_segment(self.fs, number)?;
        let seed = seed(self.survey.store, number);
        let mut out = FrameBuffer::new();
        let mut is_started = false;
        for (_, found) in Scan::new(&bytes, seed, 0) {
            let Found::Frame(frame) = found else {
                continue;
            };
            self.take(&frame, &mut out);
            if out.is_empty() {
                continue;
            }
            if !is_started && self.active.length > self.active.head {
                self.roll()?;
            }
            is_started = true;
            self.append(&mut out)?;
        }
        Ok(())
    }

    /// Puts the messages of a frame that are left.
    fn take(&self, frame: &Frame<'_>, out: &mut FrameBuffer) {
        // The numbers that are given by records of this very frame.
        let mut given = std::collections::BTreeMap::new();
        for record in records(frame).unwrap_or_default() {
            let Record::Publish { topic, seq, .. } = record else {
                continue;
            };
            let (Some(state), Some(gaps)) = (
                self.state.topic(topic),
                self.survey.mended.topics.get(&topic),
            ) else {
                continue;
            };
            let next = given.entry(topic).or_insert(state.next_seq);
            if seq < *next || !gaps.present.contains(seq) {
                continue;
            }
            let from = *next;
            if from < seq {
                Record::Lost {
                    topic,
                    from,
                    to: seq,
                }
                .put(out.record());
            }
            record.put(out.record());
            *next = seq + 1;
        }
    }

    /// Writes all but the messages.
    fn end(&mut self) -> Result<(), StoreError> {
        let survey = self.survey;
        let left = &survey.mended.state;
        let mut out = FrameBuffer::new();
        for (topic, left) in left.topics() {
            let from = self
                .state
                .topic(topic)
                .map_or(left.first_seq, |topic| topic.next_seq);
            let to = left.next_seq;
            if from < to {
                Record::Lost { topic, from, to }.put(out.record());
            }
        }
        let mut full = Vec::new();
        let mut given = FrameBuffer::new();
        left.checkpoint(|record| {
            // It comes last. So the delayed messages are new, and remembered by their dedup ids.
            if matches!(record, Record::DelayedNext { .. }) {
                return record.put(given.record());
            }
            let is_there = matches!(
                record,
                Record::Topic { .. }
                    | Record::Lost { .. }
                    | Record::Remembered { .. }
                    | Record::Checkpointed
            );
            if is_there {
                return;
            }
            record.put(out.record());
            if out.len() >= FULL_FRAME {
                full.push(std::mem::replace(&mut out, FrameBuffer::new()));
            }
        });
        full.extend([out, given]);
        for frame in full.iter_mut().filter(|frame| !frame.is_empty()) {
            self.append(frame)?;
        }
        Ok(())
    }

    /// Appends a frame, applies its records, and empties it.
    fn append(&mut self, frame: &mut FrameBuffer) -> Result<(), StoreError> {
        let active = &mut self.active;
        // The head of the segment is safe.
        let (link, bytes) = frame.seal(active.seed, active.last, self.survey.last_lsn);
        write_all(&*active.file, bytes, active.length)
            .map_err(|source| StoreError::io("write", &segment_name(active.number), source))?;
        let place = Place {
            segment: active.number,
            offset: u32::try_from(active.length).unwrap_or(u32::MAX),
        };
        active.length += bytes.len() as u64;
        active.last = link;
        let mut records = Reader::new(frame.records());
        while let Ok(Some(record)) = Record::read(&mut records) {
            // If one can't follow, the log that is read back differs.
            let _ = self.state.apply(&record, place);
        }
        frame.clear();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let name = segment_name(self.active.number);
        let synced = self.active.file.sync();
        synced.map_err(|source| StoreError::io("sync", &name, source))
    }

    /// Goes on in a new segment.
    fn roll(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let number = self.active.number + 1;
        let new = NewSegment::with(&self.state, self.survey.store, number, self.active.last);
        self.active = new.create(self.fs)?;
        Ok(())
    }
}
