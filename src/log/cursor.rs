//! The cursor of a durable subscription: which messages it is done with, and which of them are dead
//! letters.
//!
//! Ends of deliveries cost no sync, and no frame of their own where others write. They are
//! collected here, and go with the next frame, or after a few milliseconds. A crash before that
//! brings the deliveries again.

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

impl Cursor {
    pub(crate) fn new(log: Arc<Log>, subscription: u32) -> Arc<Self> {
        Arc::new(Self {
            log,
            subscription,
            news: Mutex::default(),
        })
    }

    /// Notes that the subscription is done with these messages. Letters among them are gone.
    pub(crate) fn done(self: &Arc<Self>, numbers: impl Iterator<Item = u64>) {
        let mut news = self.news.lock();
        for number in numbers {
            match news.done.last_mut() {
                Some((_, to)) if *to == number => *to += 1,
                _ => news.done.push((number, number + 1)),
            }
        }
        self.ride(news);
    }

    /// Notes a dead letter, before anybody else can see it. So its end is noted later.
    pub(crate) fn letter(self: &Arc<Self>, letter: NewLetter) {
        let mut news = self.news.lock();
        news.letters.push(letter);
        self.ride(news);
    }

    fn ride(self: &Arc<Self>, mut news: MutexGuard<'_, News>) {
        if (news.done.is_empty() && news.letters.is_empty()) || news.rides {
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
        let mut news = self.news.lock();
        let mut put = 0;
        while frame.len() < FULL_FRAME
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
        let mut done = std::mem::take(&mut *news).done;
        drop(news);
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
            let subscription = self.subscription;
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
        news.done.len() + news.letters.len()
    }
}
