//! Reading all of a log that may be damaged.
//!
//! Opening a store stops at the first damage. This goes on, and gathers what is left.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::log::fs::{Fs, read_all};
use crate::log::inspect::info::{Damage, SegmentInfo};
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::format::frame::{Frame, Link};
use crate::pure::log::format::header::{
    BadHeader, SEGMENT_HEADER, STORE_FILE, SegmentHeader, StoreFile, VERSION, seed, segment_name,
    segment_number,
};
use crate::pure::log::record::{BadRecord, Record};
use crate::pure::log::salvage::mend::{Mended, Mender};
use crate::pure::log::salvage::plan::{PLAN_FILE, Plan};
use crate::pure::log::salvage::scan::{Found, Scan};
use crate::pure::log::state::{Place, State};
use crate::types::error::store::StoreError;

/// All that can be read of a log.
pub(crate) struct Survey {
    pub(crate) store: u128,
    pub(crate) segments: Vec<SegmentInfo>,
    pub(crate) damages: Vec<Damage>,
    /// The highest lsn that there ever was, as far as one can tell.
    pub(crate) last_lsn: u64,
    /// Bytes of messages, by topic.
    pub(crate) bytes: BTreeMap<u32, u64>,
    pub(crate) mended: Mended,
}

/// Reads all of the log in a directory. Changes nothing.
pub(crate) fn survey(fs: &dyn Fs, directory: &Path) -> Result<Survey, StoreError> {
    let numbers = segment_numbers(fs, directory)?;
    let StoreFile { store, synced } = store_of(fs, directory, &numbers)?;
    let mut surveyor = Surveyor {
        store,
        segments: Vec::new(),
        damages: Vec::new(),
        unbounded: 0,
        in_checkpoint: false,
        last: None,
        checkpoint: None,
        bytes: BTreeMap::new(),
        mender: Mender::default(),
    };
    for (at, number) in numbers.iter().enumerate() {
        if let Some(before) = at.checked_sub(1).map(|at| numbers[at])
            && before + 1 != *number
        {
            surveyor.damage(before + 1, 0, 0);
        }
        let bytes = read_segment(fs, *number)?;
        surveyor.segment(*number, &bytes, at == 0, at + 1 == numbers.len())?;
    }
    Ok(surveyor.finish(synced))
}

/// Returns the numbers of the segments in a directory, in order.
pub(crate) fn segment_numbers(fs: &dyn Fs, directory: &Path) -> Result<Vec<u64>, StoreError> {
    let names = list(fs, directory)?;
    let numbers = names.iter().filter_map(|name| segment_number(name));
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(crate) fn list(fs: &dyn Fs, directory: &Path) -> Result<Vec<String>, StoreError> {
    fs.names()
        .map_err(|source| StoreError::io("list", &directory.display().to_string(), source))
}

pub(crate) fn read_segment(fs: &dyn Fs, number: u64) -> Result<Vec<u8>, StoreError> {
    read_file(fs, &segment_name(number))
}

pub(crate) fn read_file(fs: &dyn Fs, name: &str) -> Result<Vec<u8>, StoreError> {
    let file = fs
        .open(name)
        .map_err(|source| StoreError::io("open", name, source))?;
    read_all(&*file).map_err(|source| StoreError::io("read", name, source))
}

/// Returns which store it is, and how much of it was safe. Segments say which it is, too, if its file
/// can't be read.
pub(crate) fn store_of(
    fs: &dyn Fs,
    directory: &Path,
    segments: &[u64],
) -> Result<StoreFile, StoreError> {
    if list(fs, directory)?.iter().any(|name| name == STORE_FILE) {
        if let Some(store) = known(StoreFile::decode(&read_file(fs, STORE_FILE)?))? {
            return Ok(store);
        }
    } else if segments.is_empty() {
        let missing = io::ErrorKind::NotFound.into();
        return Err(StoreError::io("open", STORE_FILE, missing));
    }
    for number in segments {
        let header = SegmentHeader::decode(&read_segment(fs, *number)?);
        if let Some(header) = known(header)? {
            return Ok(StoreFile {
                store: header.store,
                synced: 0,
            });
        }
    }
    Err(StoreError::Unnamed {
        directory: directory.to_owned(),
    })
}

/// Returns the plan of a salvage that was interrupted, if there is one.
pub(crate) fn plan_in(fs: &dyn Fs, names: &[String]) -> Result<Option<Plan>, StoreError> {
    if !names.iter().any(|name| name == PLAN_FILE) {
        return Ok(None);
    }
    let plan = Plan::decode(&read_file(fs, PLAN_FILE)?);
    plan.map(Some)
        .map_err(|_| StoreError::io("read", PLAN_FILE, io::ErrorKind::InvalidData.into()))
}

/// Refuses another version. Returns `None` for what can't be read.
fn known<T>(header: Result<T, BadHeader>) -> Result<Option<T>, StoreError> {
    match header {
        Ok(header) => Ok(Some(header)),
        Err(BadHeader::Malformed) => Ok(None),
        Err(BadHeader::Version(found)) => Err(StoreError::Format {
            found,
            known: VERSION,
        }),
    }
}

/// Reads the records of a frame, all of them or none.
pub(crate) fn records<'a>(frame: &Frame<'a>) -> Result<Vec<Record<'a>>, BadRecord> {
    let mut reader = Reader::new(frame.records);
    let mut records = Vec::new();
    for _ in 0..frame.count {
        records.extend(Record::read(&mut reader)?);
    }
    match reader.is_empty() {
        true => Ok(records),
        false => Err(BadRecord::Malformed),
    }
}

struct Surveyor {
    store: u128,
    segments: Vec<SegmentInfo>,
    damages: Vec<Damage>,
    /// How many of the last damages wait for the frame behind them.
    unbounded: usize,
    /// Whether they took records of a checkpoint only.
    in_checkpoint: bool,
    /// The place of the last frame, if it is known.
    last: Option<Link>,
    /// The checkpoint at the head of a segment behind a hole.
    checkpoint: Option<State>,
    bytes: BTreeMap<u32, u64>,
    mender: Mender,
}

impl Surveyor {
    fn segment(
        &mut self,
        number: u64,
        bytes: &[u8],
        is_first: bool,
        is_last: bool,
    ) -> Result<(), StoreError> {
        let length = bytes.len() as u64;
        self.segments.push(SegmentInfo {
            number,
            bytes: length,
            ..SegmentInfo::default()
        });
        let damages_before = self.damages.len();
        match known(SegmentHeader::decode(bytes))? {
            Some(header) if (header.store, header.number) == (self.store, number) => {
                let before = header.before;
                self.follow(number, 0, before.lsn.saturating_add(1), Some(before.crc));
                self.last = Some(before);
            }
            _ => self.damage(number, 0, length.min(SEGMENT_HEADER as u64)),
        }
        let seed = seed(self.store, number);
        let after = self.last.map_or(0, |last| last.lsn);
        // What a hole in a checkpoint held is known from before it.
        let head_end = match is_first {
            true => 0,
            false => head_end(Scan::new(bytes, seed, after)),
        };
        self.checkpoint = (!is_first && self.mender.in_doubt()).then(State::default);
        let mut scan = Scan::new(bytes, seed, after);
        for (offset, found) in scan.by_ref() {
            match found {
                Found::Hole(end) => {
                    self.checkpoint = None;
                    self.damage(number, offset as u64, (end - offset) as u64);
                    self.in_checkpoint = self.unbounded == 1 && end <= head_end;
                }
                Found::Frame(frame) => {
                    let place = Place {
                        segment: number,
                        offset: u32::try_from(offset).unwrap_or(u32::MAX),
                    };
                    self.frame(&frame, place)?;
                }
            }
        }
        let end = scan.offset() as u64;
        let frames = self.segments.last().map_or(0, |segment| segment.frames);
        if is_last && frames == 0 && self.damages.len() > damages_before {
            // A crash left it in the making.
            self.unbounded -= self.damages.len() - damages_before;
            self.damages.truncate(damages_before);
            self.damage(number, 0, length);
        } else if !is_last && end < length {
            self.damage(number, end, length - end);
        }
        Ok(())
    }

    /// Notes that a part can't be used.
    fn damage(&mut self, segment: u64, offset: u64, bytes: u64) {
        let next = self.last.map_or(0, |last| last.lsn.saturating_add(1));
        self.damages.push(Damage {
            segment,
            offset,
            bytes,
            lsns: next..next,
        });
        self.unbounded += 1;
    }

    /// Compares the next lsn with the last, and the checksum that the last frame should have.
    fn follow(&mut self, segment: u64, offset: u64, lsn: u64, chain: Option<u32>) {
        // The first frame that is left may be any.
        let expected = self.last.map_or(lsn, |last| last.lsn.saturating_add(1));
        let is_chained = match (chain, self.last) {
            (Some(chain), Some(last)) => chain == last.crc,
            _ => true,
        };
        if self.unbounded == 0 && (lsn != expected || !is_chained) {
            self.damage(segment, offset, 0);
        }
        let first = self.damages.len().saturating_sub(self.unbounded);
        let damages = &mut self.damages[first..];
        self.unbounded = 0;
        let in_checkpoint = std::mem::take(&mut self.in_checkpoint);
        if lsn > expected && !damages.is_empty() {
            damages[0].lsns = expected..lsn;
            if in_checkpoint {
                return;
            }
            let is_known = damages.iter().all(|damage| damage.bytes > 0);
            let bytes = damages.iter().map(|damage| damage.bytes).sum();
            self.mender.lose(if is_known { bytes } else { 0 });
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, place: Place) -> Result<(), StoreError> {
        let (segment, offset) = (place.segment, u64::from(place.offset));
        let lsn = frame.link.lsn;
        self.follow(segment, offset, lsn, Some(frame.chain));
        self.last = Some(frame.link);
        let records = match records(frame) {
            Ok(records) => records,
            Err(BadRecord::Unknown(kind)) => return Err(StoreError::UnknownRecord { kind, lsn }),
            Err(BadRecord::Malformed) => {
                let bytes = frame.size() as u64;
                self.damages.push(Damage {
                    segment,
                    offset,
                    bytes,
                    lsns: lsn..lsn.saturating_add(1),
                });
                self.mender.lose(bytes);
                self.checkpoint = None;
                return Ok(());
            }
        };
        let info = self.segments.last_mut().expect("it is in a segment");
        if info.frames == 0 {
            info.lsns.start = lsn;
        }
        info.lsns.end = lsn.saturating_add(1);
        info.frames += 1;
        info.records += records.len() as u64;
        info.synced = info.synced.max(frame.synced);
        let mut is_expected = true;
        for record in &records {
            if let Some(built) = &mut self.checkpoint
                && built.apply(record, place).is_err()
            {
                self.checkpoint = None;
            }
            is_expected &= self.mender.add(record, place) || self.mender.in_doubt();
            match record {
                Record::Checkpointed => {
                    let complete = self.checkpoint.take();
                    complete
                        .into_iter()
                        .for_each(|state| self.mender.replace(state));
                }
                Record::Publish { topic, message, .. } => {
                    *self.bytes.entry(*topic).or_default() += message.len() as u64;
                }
                _ => {}
            }
        }
        if !is_expected {
            self.damages.push(Damage {
                segment,
                offset,
                bytes: 0,
                lsns: lsn..lsn,
            });
        }
        Ok(())
    }

    /// Ends the survey of a log that was safe up to this lsn.
    fn finish(mut self, synced: u64) -> Survey {
        let reached = self.last.map_or(0, |last| last.lsn);
        if reached < synced {
            let end = self
                .segments
                .last()
                .map_or((1, 0), |it| (it.number, it.bytes));
            // It ends too early, whether or not more can be read of it.
            self.damage(end.0, end.1, 0);
            self.follow(end.0, end.1, synced.saturating_add(1), None);
        }
        // Nobody was told that the end of the log is safe. If it can't be read, it is torn.
        let last = self.segments.last();
        let is_last = |damage: &mut Damage| last.is_some_and(|it| it.number == damage.segment);
        if self.unbounded > 0 && self.damages.pop_if(is_last).is_some() {
            self.unbounded -= 1;
        }
        if self.unbounded > 0 {
            self.mender.lose(0);
        }
        Survey {
            store: self.store,
            segments: self.segments,
            damages: self.damages,
            last_lsn: reached.max(synced),
            bytes: self.bytes,
            mended: self.mender.finish(),
        }
    }
}

/// Returns the offset of the frame that completes the checkpoint at the head of a segment, or zero
/// if there is none.
fn head_end(mut scan: Scan<'_>) -> usize {
    let end = scan.find_map(|(offset, found)| match found {
        Found::Frame(frame) => {
            let records = records(&frame).unwrap_or_default();
            records.contains(&Record::Checkpointed).then_some(offset)
        }
        Found::Hole(_) => None,
    });
    end.unwrap_or(0)
}
