//! The ends of one message's deliveries.
//!
//! A tracked message has a tracker among the parts that its publisher added. So a message without
//! parts pays nothing. Any number of messages may have the same one. The tracker is *open* once for
//! each delivery that has yet to end. It is open once more for each message itself, from its
//! acceptance until it was handed to every lane or ended in its topic. Steps:
//!
//! - A *publisher* opens it once the message has its ticket, and before anybody can see the message.
//!   A message that is refused has never opened it.
//! - A *dispatcher* opens it for each lane before the lane gets the delivery. It closes it for the
//!   message after all lanes have theirs. A delivery without a place is counted in between.
//! - *Whoever ends* a delivery, or the message, counts the end after the books have it, and closes
//!   once.
//!
//! The feared interleavings: a lane ends its delivery while another lane has yet to get one, and the
//! tracker says that all is over. Or a message ends before its publisher has opened the tracker.
//! Neither can happen, because the message is open before it is seen, and until all lanes have it.
//!
//! A redriven delivery is a new generation. It was closed as a dead letter, and is not counted
//! again.
//!
//! The waker is the user's. It is called and dropped outside of the lock, and no end is counted
//! under a lock of the engine.

use std::fmt;
#[cfg(feature = "async")]
use std::task::{Context, Poll, Waker};

#[cfg(feature = "async")]
use crate::engine::base::contain::{contain, discard};
use crate::engine::track::replies::Replies;
use crate::pure::decide::lifecycle::Status;
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard};

/// The ends of deliveries, by their kind: the sum over all messages of a
/// [`Tracker`](crate::Tracker).
///
/// A message that never reached a subscription has no deliveries. It counts itself as `dropped` or
/// `unrouted` then, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// Deliveries that were handled: by `Ok`, or by the ack of a lease.
    pub delivered: u64,
    /// Deliveries that went to the dead letters. A redrive doesn't change that.
    pub dead_lettered: u64,
    /// Deliveries that overflowed their lane or were discarded. Or the message itself, if it was
    /// dropped in its topic, by overflow, by a shutdown, by its time to live, or by
    /// [`Topic::cancel_delayed`](crate::Topic::cancel_delayed). Or a
    /// [duplicate](crate::Receipt::is_duplicate), which makes no delivery of its own.
    pub dropped: u64,
    /// Deliveries that outlived their time to live, under
    /// [`OnExpired::Drop`](crate::OnExpired::Drop).
    pub expired: u64,
    /// Deliveries that ended by an unsubscribe or a shutdown.
    pub cancelled: u64,
    /// Messages that found no subscription.
    pub unrouted: u64,
    /// Refusals by the filter of a subscription, for which the message made no delivery.
    pub filtered: u64,
}

impl Outcome {
    /// Returns whether there were deliveries, and all of them were handled.
    pub fn is_delivered(&self) -> bool {
        self.delivered > 0 && self.delivered == self.ends()
    }

    /// Returns the number of ends. A refusal by a filter is no end.
    pub fn ends(&self) -> u64 {
        self.delivered
            + self.dead_lettered
            + self.dropped
            + self.expired
            + self.cancelled
            + self.unrouted
    }

    fn count(&mut self, end: Status) {
        match end {
            Status::Delivered => self.delivered += 1,
            Status::DeadLetter => self.dead_lettered += 1,
            Status::Dropped => self.dropped += 1,
            Status::Expired => self.expired += 1,
            Status::Cancelled => self.cancelled += 1,
            Status::Filtered => self.filtered += 1,
            _ => debug_assert!(false, "{end} is no end"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} delivered, {} dead-lettered, {} dropped, {} expired, {} cancelled, {} unrouted, {} filtered",
            self.delivered,
            self.dead_lettered,
            self.dropped,
            self.expired,
            self.cancelled,
            self.unrouted,
            self.filtered
        )
    }
}

/// The state that messages and their publisher share.
pub(crate) struct Ends {
    pub(super) state: Mutex<State>,
    pub(super) ended: Condvar,
}

pub(super) struct State {
    pub(super) open: u64,
    pub(super) outcome: Outcome,
    /// The replies, if the message is a request.
    pub(super) replies: Option<Box<Replies>>,
    #[cfg(feature = "async")]
    waker: Option<Waker>,
}

impl Ends {
    /// Makes a tracker that is not open.
    pub(crate) fn new() -> Arc<Self> {
        Self::with(None)
    }

    /// Makes a tracker that is not open, with room for replies if it is a request's.
    pub(super) fn with(replies: Option<Box<Replies>>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                open: 0,
                outcome: Outcome::default(),
                replies,
                #[cfg(feature = "async")]
                waker: None,
            }),
            ended: Condvar::new(),
        })
    }

    /// Opens it for a message that was accepted, or for a delivery.
    pub(crate) fn open(&self) {
        self.state.lock().open += 1;
    }

    /// Counts the end of a delivery that had no place, and was not opened.
    pub(crate) fn count(&self, end: Status) {
        self.state.lock().outcome.count(end);
    }

    /// Counts the end of a delivery, or of the message, and closes once.
    pub(crate) fn end(&self, end: Status) {
        self.close(|outcome| outcome.count(end));
    }

    /// Counts that the message found no subscription, and closes once.
    pub(crate) fn unroute(&self) {
        self.close(|outcome| outcome.unrouted += 1);
    }

    /// Closes once, because the message was handed to every lane.
    pub(crate) fn hand_on(&self) {
        self.close(|_| {});
    }

    fn close(&self, count: impl FnOnce(&mut Outcome)) {
        let mut state = self.state.lock();
        count(&mut state.outcome);
        state.open -= 1;
        if state.open > 0 {
            return;
        }
        self.wake(state);
    }

    /// Wakes whoever waits, after the lock is released.
    #[cfg_attr(
        not(feature = "async"),
        allow(unused_mut, reason = "only wakers are taken out")
    )]
    pub(super) fn wake(&self, mut state: MutexGuard<'_, State>) {
        #[cfg(feature = "async")]
        let waker = state.waker.take();
        drop(state);
        self.ended.notify_all();
        #[cfg(feature = "async")]
        if let Some(waker) = waker {
            let _ = contain(|| waker.wake());
        }
    }

    /// Returns the outcome, if all that was accepted has ended.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.state.lock().outcome()
    }

    /// Waits until all has ended, or until then.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Option<Outcome> {
        let mut state = self.state.lock();
        while state.open > 0 && until.is_none_or(|until| Instant::now() < until) {
            self.ended.wait(&mut state, until);
        }
        state.outcome()
    }

    /// Returns the outcome if all has ended, or has this task woken then.
    #[cfg(feature = "async")]
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Outcome> {
        self.poll_by(context, |state| state.outcome())
    }

    /// Returns what `look` finds, or has this task woken at the next change.
    #[cfg(feature = "async")]
    pub(super) fn poll_by<R>(
        &self,
        context: &Context<'_>,
        look: impl FnOnce(&mut State) -> Option<R>,
    ) -> Poll<R> {
        // Cloned before the lock, and dropped after it: both run the user's code.
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        if let Some(found) = look(&mut state) {
            return Poll::Ready(found);
        }
        let before = state.waker.replace(waker);
        drop(state);
        discard(before);
        Poll::Pending
    }

    /// Forgets the task that was to be woken.
    #[cfg(feature = "async")]
    pub(crate) fn forget_waker(&self) {
        let waker = self.state.lock().waker.take();
        discard(waker);
    }
}

impl State {
    fn outcome(&self) -> Option<Outcome> {
        (self.open == 0).then_some(self.outcome)
    }
}

/// The tracker of a message, among the parts that its publisher added.
#[derive(Clone)]
pub(crate) struct Track(pub(crate) Arc<Ends>);

impl PartialEq for Track {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Track {}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Track").finish_non_exhaustive()
    }
}
