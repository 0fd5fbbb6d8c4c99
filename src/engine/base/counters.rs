//! The books: every counter of the conservation law, and the one place where a delivery changes its
//! status.
//!
//! Orderings. Counters of later stages are written with release. A snapshot reads them with acquire
//! and *before* those of earlier stages. So a snapshot that sees a delivery's end sees its
//! beginning too, and never shows more ends than beginnings. Model:
//! `loom-tests/tests/models/books.rs`.
//!
//! Double entry under load. A delivery is entered twice, by two independent moves: its place in the
//! room word, and its step in these books. For a message the two are its ticket, and the counter of
//! its fate. Between the two moves a snapshot finds an imbalance, and it must be able to tell that
//! from a loss.
//!
//! So both moves are made inside a *motion*. `begun` grows before the first of them, and `done`
//! after the second, each by as many as are moved. A snapshot reads `done`, then the books and the
//! words, then `begun`, and tolerates the difference. The difference bounds every imbalance that is
//! no loss:
//!
//! - Say the snapshot saw one of the moves and not the other. All reads acquire and all writes
//!   release, so a snapshot that saw a move sees the `begun` before it. Had it first seen the
//!   `done` after it, it would have seen both moves later. So the motion is in `begun` and not in
//!   `done`, with all that it moves.
//! - A delivery that has ended or waits for its retry is found twice until it leaves flight. That
//!   is within a motion, too. A delivery taken into flight after its retry is not found twice,
//!   because a snapshot reads what is in flight before what awaits a retry.
//!
//! Where nothing moves the difference is zero, and a snapshot balances exactly. Code with a new
//! pair of moves puts a motion around it; `tests/conservation.rs` sees it if not.

use std::ops::AddAssign;

use crate::pure::decide::lifecycle::{Status, Step};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::mutant;

/// A count that other threads may read while it grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`, after everything the caller did before.
    pub fn add(&self, n: u64) {
        // ORDERING: release; see the module's text.
        let order = mutant!(Ordering::Release, "counters.count-order", Ordering::Relaxed);
        self.0.fetch_add(n, order);
    }

    /// Subtracts `n`, for gauges.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Release);
    }

    /// Returns the count. The caller sees everything that happened before it was reached.
    pub fn get(&self) -> u64 {
        // ORDERING: acquire; see the module's text.
        self.0.load(mutant!(
            Ordering::Acquire,
            "counters.read-order",
            Ordering::Relaxed
        ))
    }
}

/// The entries that are being moved from one place to another; see the module's text.
#[derive(Debug, Default)]
pub struct Motions {
    begun: Counter,
    done: Counter,
}

/// One motion, which lasts until this value is dropped.
#[must_use]
pub struct Motion<'m> {
    of: &'m Motions,
    count: u64,
}

impl Motions {
    /// Begins a motion of no more than `count` entries, before the first of its two moves.
    pub fn begin(&self, count: u64) -> Motion<'_> {
        self.begun.add(count);
        Motion { of: self, count }
    }

    /// Returns how many entries have been moved. A snapshot reads this before the books.
    pub fn done(&self) -> u64 {
        self.done.get()
    }

    /// Returns how many entries may be between two moves, in a snapshot that began at `done`. A
    /// snapshot reads this after the books.
    pub fn since(&self, done: u64) -> u64 {
        self.begun.get() - done
    }
}

impl Drop for Motion<'_> {
    fn drop(&mut self) {
        self.of.done.add(self.count);
    }
}

/// The fates of one lane's deliveries.
#[derive(Debug, Default)]
pub struct LaneBooks {
    /// The moves between these books and the lane's room.
    pub motions: Motions,
    made: Counter,
    in_flight: Counter,
    awaiting_retry: Counter,
    attempts: Counter,
    delivered: Counter,
    failed: Counter,
    requeued: Counter,
    snoozed: Counter,
    retried: Counter,
    dead_lettered: Counter,
    filtered: Counter,
    dropped: Counter,
    expired: Counter,
    cancelled: Counter,
    redriven: Counter,
    illegal: Counter,
}

/// The books of a lane, or a sum of several, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryCounts {
    /// Deliveries that entered the lane, and those that its filter refused.
    pub made: u64,
    /// Deliveries that a handler has, or that are on lease.
    pub in_flight: u64,
    /// Deliveries that wait on the timer wheel for their retry, or for the end of their snooze.
    pub awaiting_retry: u64,
    /// Entries into the handler, and leases; requeued and snoozed ones included.
    pub attempts: u64,
    /// Deliveries that ended by `Ok`, or by the ack of a lease.
    pub delivered: u64,
    /// Attempts that ended by an error, a panic, or a lease that was nacked, dropped or timed out.
    pub failed: u64,
    /// Entries and leases that ended by [`Nack::requeue`](crate::Nack::requeue).
    pub requeued: u64,
    /// Entries and leases that ended by [`Nack::snooze`](crate::Nack::snooze).
    pub snoozed: u64,
    /// Retries granted.
    pub retried: u64,
    /// Deliveries that ended in the dead-letter store.
    pub dead_lettered: u64,
    /// Messages that the subscription's filter refused: deliveries that never entered the lane.
    pub filtered: u64,
    /// Deliveries that ended by overflow or were discarded.
    pub dropped: u64,
    /// Deliveries that ended by their time to live, under
    /// [`OnExpired::Drop`](crate::OnExpired::Drop).
    pub expired: u64,
    /// Deliveries that ended by an unsubscribe or a shutdown.
    pub cancelled: u64,
    /// Deliveries that entered from the dead-letter store; part of `made`.
    pub redriven: u64,
    /// Steps that were refused as illegal: zero, or the engine has a bug.
    pub illegal: u64,
}

impl LaneBooks {
    /// Takes `step` with `count` deliveries that stand at `from`, and returns their new status. A
    /// step that no delivery may take is refused and counted, and `from` is returned.
    pub fn record(&self, from: Status, step: Step, count: u64) -> Status {
        let Ok(to) = from.step(step) else {
            debug_assert!(false, "illegal step {step:?} from {from}");
            self.illegal.add(count);
            return from;
        };
        match from {
            Status::Created => self.made.add(count),
            Status::DeadLetter => {
                self.redriven.add(count);
                self.made.add(count);
            }
            _ => {}
        }
        match to {
            Status::Delivering => self.attempts.add(count),
            Status::Delivered => self.delivered.add(count),
            Status::Failed => self.failed.add(count),
            Status::RetryScheduled => {
                match from {
                    Status::Delivering => self.snoozed.add(count),
                    _ => self.retried.add(count),
                }
                self.awaiting_retry.add(count);
            }
            Status::DeadLetter => self.dead_lettered.add(count),
            Status::Filtered => self.filtered.add(count),
            Status::Dropped => self.dropped.add(count),
            Status::Expired => self.expired.add(count),
            Status::Cancelled => self.cancelled.add(count),
            Status::Queued if from == Status::Delivering => self.requeued.add(count),
            Status::Created | Status::Queued => {}
        }
        if from == Status::RetryScheduled {
            self.awaiting_retry.sub(count);
        }
        to
    }

    /// Notes that `count` deliveries go to a handler or on lease. From here until
    /// [`end_in_flight`](Self::end_in_flight) they are no longer queued.
    pub fn begin_in_flight(&self, count: u64) {
        self.in_flight.add(count);
    }

    /// Notes that the outcome of `count` deliveries in flight has been recorded.
    pub fn end_in_flight(&self, count: u64) {
        self.in_flight.sub(count);
    }

    /// Returns how many attempts were made.
    pub fn attempts(&self) -> u64 {
        self.attempts.get()
    }

    /// Returns the counts now. Later stages are read first.
    pub fn read(&self) -> DeliveryCounts {
        let cancelled = self.cancelled.get();
        let expired = self.expired.get();
        let dropped = self.dropped.get();
        let filtered = self.filtered.get();
        let dead_lettered = self.dead_lettered.get();
        let delivered = self.delivered.get();
        // In this order, so that no delivery is found in both; see the module's text.
        let in_flight = self.in_flight.get();
        let awaiting_retry = self.awaiting_retry.get();
        let retried = self.retried.get();
        let failed = self.failed.get();
        let requeued = self.requeued.get();
        let snoozed = self.snoozed.get();
        let attempts = self.attempts.get();
        let redriven = self.redriven.get();
        DeliveryCounts {
            made: self.made.get(),
            in_flight,
            awaiting_retry,
            attempts,
            delivered,
            failed,
            requeued,
            snoozed,
            retried,
            dead_lettered,
            filtered,
            dropped,
            expired,
            cancelled,
            redriven,
            illegal: self.illegal.get(),
        }
    }
}

impl DeliveryCounts {
    /// Returns the number of deliveries that reached a final state.
    pub fn ended(&self) -> u64 {
        let handled = self.delivered + self.dead_lettered;
        handled + self.filtered + self.dropped + self.expired + self.cancelled
    }

    /// Returns the number of deliveries that have not ended yet.
    pub fn open(&self) -> u64 {
        self.made.saturating_sub(self.ended())
    }
}

/// Adds the counts of another lane.
impl AddAssign for DeliveryCounts {
    fn add_assign(&mut self, other: Self) {
        self.made += other.made;
        self.in_flight += other.in_flight;
        self.awaiting_retry += other.awaiting_retry;
        self.attempts += other.attempts;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.requeued += other.requeued;
        self.snoozed += other.snoozed;
        self.retried += other.retried;
        self.dead_lettered += other.dead_lettered;
        self.filtered += other.filtered;
        self.dropped += other.dropped;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
        self.redriven += other.redriven;
        self.illegal += other.illegal;
    }
}

/// The fates of one topic's messages, beside the tickets of its gate.
#[derive(Debug, Default)]
pub struct TopicBooks {
    /// The moves between these books and the gate, and between the rooms and the books of lanes.
    pub motions: Motions,
    /// Publishes refused for want of room, time or subscribers.
    pub rejected: Counter,
    /// Publishes that repeated the dedup id of an accepted message.
    pub duplicates: Counter,
    /// Replies to requests that were over, and were dropped.
    pub late_replies: Counter,
    /// Ticks of schedules for which no message was published.
    pub ticks_skipped: Counter,
    /// Messages dropped by overflow or by shutdown, cancelled while they were delayed, or expired
    /// for want of subscribers.
    pub dropped: Counter,
    /// The part of the dropped ones whose place a newer one of their key has taken.
    pub conflated: Counter,
    /// Messages to which nobody subscribed.
    pub unrouted: Counter,
    /// Messages that were handed to every lane.
    pub dispatched: Counter,
    /// Messages that wait on the timer wheel, by `publish_after`.
    pub delayed: Counter,
    /// Delayed messages among the dropped ones that stay in the log.
    pub kept: Counter,
    /// Messages and deliveries that drains of the topic have cut off.
    pub cut_off: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_with_one_retry_balances_at_every_step() {
        let books = LaneBooks::default();
        let mut status = Status::Created;
        for (step, awaiting) in [
            (Step::Accept, 0),
            (Step::Start, 0),
            (Step::Fail, 0),
            (Step::Retry, 1),
            (Step::Requeue, 0),
            (Step::Start, 0),
            (Step::Ack, 0),
        ] {
            status = books.record(status, step, 1);
            let counts = books.read();
            assert_eq!(counts.awaiting_retry, awaiting);
            assert_eq!(counts.made, counts.ended() + counts.open());
        }
        let counts = books.read();
        assert_eq!(
            (counts.attempts, counts.failed, counts.delivered),
            (2, 1, 1)
        );
        assert_eq!(counts.open(), 0);
    }

    #[test]
    fn a_redrive_opens_a_new_generation_and_keeps_the_old_end() {
        let books = LaneBooks::default();
        let queued = books.record(Status::Created, Step::Accept, 1);
        let dead = books.record(queued, Step::Bury, 1);
        assert_eq!(books.record(dead, Step::Redrive, 1), Status::Queued);
        let counts = books.read();
        assert_eq!(
            (counts.made, counts.dead_lettered, counts.redriven),
            (2, 1, 1)
        );
        assert_eq!(counts.open(), 1);
    }
}
