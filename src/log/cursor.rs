//! The cursor of a durable subscription: which messages it is done with.
//!
//! Ends of deliveries cost no sync, and no frame of their own where others write. They are
//! collected here, and go with the next frame, or after a few milliseconds. A crash before that
//! brings the deliveries again.

use crate::log::commit::Log;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::ranges::put_ranges;
use crate::pure::log::record::Record;
use crate::sync::{Arc, Mutex};

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
    /// The cursor is among those that go with the next frame.
    rides: bool,
}

impl Cursor {
    pub(crate) fn new(log: Arc<Log>, subscription: u32) -> Arc<Self> {
        Arc::new(Self {
            log,
            subscription,
            news: Mutex::default(),
        })
    }

    /// Notes that the subscription is done with these messages.
    pub(crate) fn done(self: &Arc<Self>, numbers: impl Iterator<Item = u64>) {
        let mut news = self.news.lock();
        for number in numbers {
            match news.done.last_mut() {
                Some((_, to)) if *to == number => *to += 1,
                _ => news.done.push((number, number + 1)),
            }
        }
        if news.done.is_empty() || news.rides {
            return;
        }
        news.rides = true;
        // The log's lock comes before this one.
        drop(news);
        self.log.ride(Arc::clone(self));
    }

    /// Writes what the log has not been told yet.
    pub(crate) fn put(&self, frame: &mut FrameBuffer) {
        let mut done = {
            let mut news = self.news.lock();
            news.rides = false;
            std::mem::take(&mut news.done)
        };
        done.sort_unstable();
        done.dedup_by(|later, earlier| {
            let touches = later.0 <= earlier.1;
            if touches {
                earlier.1 = earlier.1.max(later.1);
            }
            touches
        });
        let Some(&(base, _)) = done.first() else {
            return;
        };
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
}
