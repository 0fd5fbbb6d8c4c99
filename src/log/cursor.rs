//! The cursor of a durable subscription: which messages it is done with, which of them are dead
//! letters, and how often others have failed.
//!
//! Ends of deliveries cost no sync, and no frame of their own where others write. They are
//! collected here, and go with the next frame, or after a few milliseconds. A crash before that
//! brings the deliveries again.

use std::collections::BTreeMap;

use crate::log::commit::Log;
use crate::pure::log::format::frame::{FULL_FRAME, FrameBuffer};
use crate::pure::log::ranges::put_ranges;
use crate::pure::log::record::Record;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The most bytes of an error that are stored with a dead letter.
const MOST_ERROR: usize = 64 << 10;

/// The cursor of a durable subscription.
pub(crate) struct Cursor {
    log: Arc<Log>,
    subscription: u32,
    news: Mutex<News>,
}

/// The ends that the log has not been told yet.
#[derive(Default)]
struct News {
    /// Ranges of numbers, in any order.
    done: Vec<(u64, u64)>,
    letters: Vec<NewLetter>,
    /// Messages that are to be tried again, and how often their handler was called.
    failed: BTreeMap<u64, u32>,
    /// The cursor is among those that go with the next frame.
    rides: bool,
}

/// A delivery that has become a dead letter. Its message is in the log already.
pub(crate) struct NewLetter {
    pub(crate) seq: u64,
    pub(crate) attempts: u32,
    pub(crate) time_ms: u64,
    pub(crate) reason: u8,
    pub(crate) error: Box<str>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.done.is_empty() && self.letters.is_empty() && self.failed.is_empty()
    }

    fn add_done(&mut self, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            match self.done.last_mut() {
                Some((_, to)) if *to == number => *to += 1,
                _ => self.done.push((number, number + 1)),
            }
        }
    }
}

impl Cursor {
    pub(crate) fn new(log: Arc<Log>, subscription: u32) -> Arc<Self> {
        Arc::new(Self {
            log,
            subscription,
            news: Mutex::default(),
        })
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Notes that the subscription is done with these messages. Letters among them are gone.
    pub(crate) fn done(self: &Arc<Self>, numbers: impl Iterator<Item = u64>) {
        let mut news = self.news.lock();
        news.add_done(numbers);
        self.ride(news);
    }

    /// Writes that the subscription is done with these messages, after all that was noted before.
    pub(crate) fn put_done(&self, numbers: impl Iterator<Item = u64>, frame: &mut FrameBuffer) {
        let mut news = self.news.lock();
        news.add_done(numbers);
        // All of it goes at once: an end of the deliveries counts with what was published by them.
        self.put_news(&mut news, usize::MAX, frame);
    }

    /// Notes a dead letter, before anybody else can see it. So its end is noted later.
    pub(crate) fn letter(self: &Arc<Self>, letter: NewLetter) {
        let mut news = self.news.lock();
        news.letters.push(letter);
        self.ride(news);
    }

    /// Notes that a message is to be tried again after so many calls of the handler.
    pub(crate) fn failed(self: &Arc<Self>, seq: u64, attempts: u32) {
        let mut news = self.news.lock();
        news.failed.insert(seq, attempts);
        self.ride(news);
    }

    fn ride(self: &Arc<Self>, mut news: MutexGuard<'_, News>) {
        if news.is_empty() || news.rides {
            return;
        }
        news.rides = true;
        // The log's lock comes before this one.
        drop(news);
        if !self.log.ride(Arc::clone(self)) {
            // Nobody will take it, so it would be kept without bound.
            *self.news.lock() = News::default();
        }
    }

    /// Writes what the log has not been told yet, as far as the frame takes it. Returns whether
    /// something is left, which is to go with the next frame.
    pub(crate) fn put(&self, frame: &mut FrameBuffer) -> bool {
        self.put_news(&mut self.news.lock(), FULL_FRAME, frame)
    }

    /// Writes the news until the frame has this size. Returns whether something is left.
    fn put_news(&self, news: &mut News, full: usize, frame: &mut FrameBuffer) -> bool {
        let subscription = self.subscription;
        // They are forgotten with what follows, if that is the end.
        for (seq, attempts) in std::mem::take(&mut news.failed) {
            Record::Failed {
                subscription,
                seq,
                attempts,
            }
            .put(frame.record());
        }
        let mut put = 0;
        while frame.len() < full
            && let Some(letter) = news.letters.get(put)
        {
            self.put_letter(letter, frame);
            put += 1;
        }
        news.letters.drain(..put);
        // A letter comes before its end, which may be among what is done.
        if !news.letters.is_empty() {
            return true;
        }
        let mut done = std::mem::take(news).done;
        done.sort_unstable();
        done.dedup_by(|later, earlier| {
            let touches = later.0 <= earlier.1;
            if touches {
                earlier.1 = earlier.1.max(later.1);
            }
            touches
        });
        if let Some(&(base, _)) = done.first() {
            let mut ranges = Vec::new();
            put_ranges(&mut ranges, base, done.into_iter());
            Record::Done {
                subscription,
                base,
                ranges: &ranges,
            }
            .put(frame.record());
        }
        false
    }

    fn put_letter(&self, letter: &NewLetter, frame: &mut FrameBuffer) {
        let mut most = letter.error.len().min(MOST_ERROR);
        while !letter.error.is_char_boundary(most) {
            most -= 1;
        }
        Record::Letter {
            subscription: self.subscription,
            seq: letter.seq,
            attempts: letter.attempts,
            time_ms: letter.time_ms,
            reason: letter.reason,
            error: &letter.error[..most],
            message: &[],
        }
        .put(frame.record());
    }

    /// Returns how many ends the log has not been told yet.
    #[cfg(test)]
    pub(crate) fn untold(&self) -> usize {
        let news = self.news.lock();
        news.done.len() + news.letters.len() + news.failed.len()
    }
}
