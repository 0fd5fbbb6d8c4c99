//! Pending deliveries, held one by one: they were tried before, redriven, or filed by their keys.
//! And attempts at deliveries.

use crate::engine::track::ends::Ends;
use crate::message::MessageId;
use crate::message::batch::{Batch, BatchSlice, Stamp};
use crate::pure::decide::lifecycle::Status;
use crate::pure::policy::retry::FailureKind;
use crate::pure::wheel::TimerKey;
use crate::sync::Arc;

/// Attempts that begin together, and end together.
#[derive(Clone, Copy)]
pub(crate) struct Attempts {
    /// The number of each attempt at its delivery: 1 is the first.
    pub(crate) number: u32,
    /// The deliveries have waited in the queue and nowhere else.
    pub(crate) is_first: bool,
    pub(crate) began_ns: u64,
}

/// The duration of attempts that ended together.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) ended_ns: u64,
    /// The time for each of them.
    pub(crate) each_ns: u64,
}

impl Attempts {
    /// Makes first attempts.
    pub(crate) const fn first(began_ns: u64) -> Self {
        Self {
            number: 1,
            is_first: true,
            began_ns,
        }
    }

    /// Ends `count` attempts now, which were made one after the other.
    pub(crate) fn until(self, ended_ns: u64, count: usize) -> Took {
        let all_ns = ended_ns.saturating_sub(self.began_ns);
        let each_ns = all_ns / (count as u64).max(1);
        Took { ended_ns, each_ns }
    }
}

/// One delivery of a lane that is held by itself. It was tried before or redriven, or its lane
/// files deliveries one by one. Its latest failure is kept in place, so that the common case, one
/// failure and a retry, allocates nothing.
pub(crate) struct PendingDelivery<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) first_attempt_ns: u64,
    pub(crate) timer: TimerKey,
    pub(crate) error: Option<Arc<str>>,
    /// When it last failed; or, since it was requeued, the last message before it.
    pub(crate) since: u64,
    pub(crate) earlier: Option<Box<Failure>>,
    /// Entries into the handler so far, but those that ended by a requeue or a snooze.
    pub(crate) attempts: u32,
    pub(crate) generation: u16,
    pub(crate) index: u8,
    pub(crate) past: Past,
}

/// The latest event in a delivery's life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    Nothing,
    Requeued,
    Snoozed,
    Failed(FailureKind),
}

/// Something that comes back to a lane.
pub(crate) enum Return<T> {
    /// The retry or the snooze with this tag is due, or a requeued delivery may go on.
    Due(u32),
    /// A letter was redriven.
    Redriven(Box<PendingDelivery<T>>),
    /// The deadline of a lease has come.
    Overdue,
}

/// One failed attempt, with those before it.
pub(crate) struct Failure {
    pub(crate) at_ns: u64,
    pub(crate) text: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) kind: FailureKind,
    pub(crate) previous: Option<Box<Failure>>,
}

/// The number of failures that a delivery remembers; older ones are forgotten.
const HISTORY: usize = 8;

impl Failure {
    /// Returns this failure and those before it, latest first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &Failure> {
        std::iter::successors(Some(self), |failure| failure.previous.as_deref())
    }

    /// Adds a failure to a history and forgets failures that are too old.
    pub(crate) fn push(history: &mut Option<Box<Self>>, mut latest: Self) {
        latest.previous = history.take();
        let mut latest = Box::new(latest);
        let mut last = &mut latest;
        for _ in 1..HISTORY {
            match last.previous {
                Some(ref mut previous) => last = previous,
                None => break,
            }
        }
        last.previous = None;
        *history = Some(latest);
    }
}

impl<T> PendingDelivery<T> {
    /// Makes a delivery that has just had its first attempt.
    pub(crate) fn first(batch: &Arc<Batch<T>>, index: usize, first_attempt_ns: u64) -> Self {
        Self {
            first_attempt_ns,
            ..Self::new(Arc::clone(batch), index)
        }
    }

    /// Makes a delivery that was never tried, but perhaps before its subscription resumed.
    pub(crate) fn new(batch: Arc<Batch<T>>, index: usize) -> Self {
        Self {
            attempts: batch.tried(),
            batch,
            first_attempt_ns: 0,
            timer: TimerKey::NONE,
            error: None,
            since: 0,
            earlier: None,
            generation: 0,
            index: index as u8,
            past: Past::Nothing,
        }
    }

    /// Remembers how the latest attempt failed.
    pub(crate) fn fail(&mut self, error: Arc<str>, kind: FailureKind, now_ns: u64) {
        self.remember_latest();
        self.error = Some(error);
        self.timer = TimerKey::NONE;
        self.past = Past::Failed(kind);
        self.since = now_ns;
        // The count stops where the number of the next attempt still fits.
        self.attempts = (self.attempts + 1).min(u32::MAX - 1);
    }

    /// Makes it wait behind this message. It has not failed.
    pub(crate) fn requeue(&mut self, behind: u64) {
        self.remember_latest();
        self.timer = TimerKey::NONE;
        self.past = Past::Requeued;
        self.since = behind;
    }

    /// Returns the tracker that counts the end of this delivery, if there is one. A redriven
    /// delivery was counted when it became a letter.
    #[inline]
    pub(crate) fn tracker(&self) -> Option<&Arc<Ends>> {
        if self.generation > 0 || !self.batch.is_watched() {
            return None;
        }
        self.batch.meta(usize::from(self.index))?.tracker()
    }

    /// Notes that it is put off. It has not failed.
    pub(crate) fn snooze(&mut self) {
        self.remember_latest();
        self.timer = TimerKey::NONE;
        self.past = Past::Snoozed;
    }

    /// Returns the last message that goes before it, if it was requeued.
    pub(crate) fn behind(&self) -> Option<u64> {
        (self.past == Past::Requeued).then_some(self.since)
    }

    /// Returns its status while it waits by a tag.
    pub(crate) fn parked_as(&self) -> Status {
        match self.past {
            Past::Requeued => Status::Queued,
            Past::Nothing | Past::Snoozed | Past::Failed(_) => Status::RetryScheduled,
        }
    }

    pub(crate) fn remember_latest(&mut self) {
        if let (Some(text), Past::Failed(kind)) = (self.error.take(), self.past) {
            let failure = Failure {
                at_ns: self.since,
                text,
                attempt: self.attempts,
                kind,
                previous: None,
            };
            Failure::push(&mut self.earlier, failure);
        }
    }

    pub(crate) fn id(&self) -> MessageId {
        self.batch.stamp(usize::from(self.index)).id
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.batch.meta(usize::from(self.index))?.key.as_deref()
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.batch.stamp(usize::from(self.index))
    }

    /// Returns a new delivery as it was before it was filed.
    pub(crate) fn into_part(self) -> BatchSlice<T> {
        let from = u32::from(self.index);
        let batch = self.batch;
        BatchSlice {
            batch,
            from,
            to: from + 1,
        }
    }

    /// Returns whether it was neither tried nor redriven.
    pub(crate) fn is_new(&self) -> bool {
        self.generation == 0 && self.is_untried()
    }

    /// Notes that the next attempt is made now.
    pub(crate) fn begin(&mut self, began_ns: u64) -> Attempts {
        let before = match self.generation {
            0 => self.batch.tried(),
            _ => 0,
        };
        if self.attempts == before {
            self.first_attempt_ns = began_ns;
        }
        self.next_attempt(began_ns)
    }

    /// Returns the attempt that was begun last, and has not been counted yet.
    pub(crate) fn next_attempt(&self, began_ns: u64) -> Attempts {
        Attempts {
            number: self.attempts + 1,
            is_first: self.is_untried(),
            began_ns,
        }
    }

    /// Returns whether no consumer has had it yet, or none since it was redriven.
    pub(crate) fn is_untried(&self) -> bool {
        self.attempts == 0 && self.past == Past::Nothing
    }

    /// Returns when it is no longer worth handling. A redrive is the user's word that it still is,
    /// so a redriven delivery has no time to live any more.
    #[inline]
    pub(crate) fn expires_ns(&self) -> Option<u64> {
        if self.generation > 0 || !self.batch.may_expire() {
            return None;
        }
        let index = usize::from(self.index);
        self.batch.expires_ns(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::chunk::Chunk;

    #[test]
    fn a_history_keeps_the_latest_eight_failures() {
        let mut history = None;
        for attempt in 1..=20 {
            let latest = Failure {
                at_ns: 0,
                text: Arc::from("x"),
                attempt,
                kind: FailureKind::Error,
                previous: None,
            };
            Failure::push(&mut history, latest);
        }
        let history = history.expect("twenty were pushed");
        let attempts: Vec<u32> = history.chain().map(|failure| failure.attempt).collect();
        assert_eq!(attempts, [20, 19, 18, 17, 16, 15, 14, 13]);
    }

    #[test]
    fn a_pending_retry_takes_64_bytes_in_its_lane() {
        assert_eq!(size_of::<PendingDelivery<[u8; 64]>>(), 64);
    }

    #[test]
    fn attempts_are_counted_as_far_as_their_number_goes_and_never_begin_anew() {
        let first = Stamp {
            id: MessageId::new(1),
            accepted_ns: 0,
        };
        let batch = Arc::new(Batch::chunk(Chunk::plain(vec![()]), first, None));
        let mut again = PendingDelivery::first(&batch, 0, 0);
        again.attempts = u32::MAX - 2;
        for _ in 0..3 {
            again.fail(Arc::from("no"), FailureKind::Error, 0);
            assert_eq!(again.attempts, u32::MAX - 1);
        }
    }
}
