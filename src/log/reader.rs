//! Reading messages of a topic back, in order.

use crate::log::fs::read_up_to;
use crate::log::segments::Segment;
use crate::log::writer::Shared;
use crate::pure::log::format::bytes::Reader;
use crate::pure::log::format::frame::{self, Frame, HEADER};
use crate::pure::log::format::header::{SEGMENT_HEADER, seed, segment_name};
use crate::pure::log::record::Record;
use crate::pure::log::state::Place;
use crate::sync::Arc;
use crate::types::error::store::StoreError;

/// How much is read from a file at once.
const READ: usize = 256 * 1024;

/// A message as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read<'a> {
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    /// The bytes of a [`StoredMessage`](crate::pure::log::message::StoredMessage).
    pub(crate) message: &'a [u8],
}

/// Reads the messages of a topic from a number on.
pub(crate) struct TopicReader {
    shared: Arc<Shared>,
    topic: u32,
    next: u64,
    at: Option<At>,
    buffer: Vec<u8>,
    /// How many bytes of the buffer were read. The others are left from earlier.
    filled: usize,
    /// Where the buffer starts in the file.
    start: u64,
}

/// A place in a file.
struct At {
    segment: u64,
    file: Arc<Segment>,
    seed: u32,
    offset: u64,
}

impl TopicReader {
    pub(crate) fn new(shared: Arc<Shared>, topic: u32, next: u64) -> Self {
        Self {
            shared,
            topic,
            next,
            at: None,
            buffer: Vec::new(),
            filled: 0,
            start: 0,
        }
    }

    /// Returns the number of the next message.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Calls `take` with the messages before `until` in the next frame that has any. Returns
    /// whether there was one.
    ///
    /// Messages before `until` were written. Numbers may be missing where retention has taken
    /// messages.
    ///
    /// # Errors
    ///
    /// Returns an error if the file can't be read, or isn't what was written.
    pub(crate) fn read_frame(
        &mut self,
        until: u64,
        mut take: impl FnMut(Read<'_>),
    ) -> Result<bool, StoreError> {
        while self.next < until {
            let Some(mut at) = self.at.take().or_else(|| self.find()) else {
                return Ok(false);
            };
            if self.next >= until {
                // Retention has taken all that was asked for, and this frame has what follows.
                self.at = Some(at);
                return Ok(false);
            }
            let taken = match self.fill(&mut at)? {
                Some(size) => self.take_frame(&mut at, size, until, &mut take)?,
                None => {
                    // The segment ends here.
                    let Some(segment) = self.shared.segments.after(at.segment) else {
                        return Ok(false);
                    };
                    self.at = self.open(Place {
                        segment,
                        offset: SEGMENT_HEADER as u32,
                    });
                    continue;
                }
            };
            self.at = Some(at);
            if taken {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds the frame from which on the next message is to be looked for. It may be a later
    /// message, if retention has taken some.
    fn find(&mut self) -> Option<At> {
        loop {
            let place = {
                let state = self.shared.state.lock();
                let topic = state.topic(self.topic)?;
                self.next = self.next.max(topic.first_seq);
                topic.find(self.next)?
            };
            // Otherwise retention has just taken the segment, and the topic starts later.
            if let Some(at) = self.open(place) {
                return Some(at);
            }
        }
    }

    fn open(&mut self, place: Place) -> Option<At> {
        self.filled = 0;
        self.start = place.offset.into();
        Some(At {
            segment: place.segment,
            file: self.shared.segments.get(place.segment)?,
            seed: seed(self.shared.store, place.segment),
            offset: place.offset.into(),
        })
    }

    /// Gets the next frame into the buffer, and returns its size. `None` at the end of the file.
    ///
    /// More frames were written than the caller wants. So a file that ends inside one is damaged.
    fn fill(&mut self, at: &mut At) -> Result<Option<usize>, StoreError> {
        let mut needed = HEADER;
        loop {
            let from = (at.offset - self.start) as usize;
            let held = self.filled.saturating_sub(from);
            if held < needed {
                self.buffer.copy_within(self.filled - held..self.filled, 0);
                self.start = at.offset;
                let error = |source| StoreError::io("read", &segment_name(at.segment), source);
                // A length that is damaged asks for no more memory than there is to read.
                let left = at.file.end().map_err(error)?.saturating_sub(at.offset);
                if left == 0 {
                    return Ok(None);
                }
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                let wanted = needed.max(READ).min(left);
                if self.buffer.len() < wanted {
                    self.buffer.resize(wanted, 0);
                }
                let rest = &mut self.buffer[held.min(wanted)..wanted];
                let read =
                    read_up_to(&*at.file.file, rest, at.offset + held as u64).map_err(error)?;
                self.filled = held + read;
                if self.filled < needed {
                    return Err(StoreError::Damaged {
                        segment: at.segment,
                        offset: at.offset,
                        lsn: frame::lsn(&self.buffer[..self.filled]),
                    });
                }
            }
            let from = (at.offset - self.start) as usize;
            let size = frame::size(&self.buffer[from..]);
            if size <= needed {
                return Ok(Some(needed));
            }
            needed = size;
        }
    }

    fn take_frame(
        &mut self,
        at: &mut At,
        size: usize,
        until: u64,
        take: &mut impl FnMut(Read<'_>),
    ) -> Result<bool, StoreError> {
        let from = (at.offset - self.start) as usize;
        let bytes = &self.buffer[from..from + size];
        let damaged = |lsn| StoreError::Damaged {
            segment: at.segment,
            offset: at.offset,
            lsn,
        };
        let Frame { link, records, .. } =
            frame::read(at.seed, bytes, 0).map_err(|_| damaged(frame::lsn(bytes)))?;
        let mut records = Reader::new(records);
        let mut taken = false;
        while !records.is_empty() {
            let record = Record::read(&mut records).map_err(|_| damaged(link.lsn))?;
            let Some(Record::Publish {
                topic,
                seq,
                time_ms,
                message,
            }) = record
            else {
                continue;
            };
            if topic != self.topic || seq < self.next {
                continue;
            }
            if seq >= until {
                if !taken {
                    // Retention has taken those before it.
                    self.next = seq;
                }
                break;
            }
            self.next = seq + 1;
            taken = true;
            take(Read {
                seq,
                time_ms,
                message,
            });
        }
        // What lies behind `until` is read later, with the rest of this frame.
        if self.next < until {
            at.offset += size as u64;
        }
        Ok(taken)
    }
}
