//! Carrying out verdicts on deliveries. Nothing is decided here: the verdict comes from
//! [`crate::pure::policy::verdict`], the legal steps from
//! [`crate::pure::decide::lifecycle`].

use crate::engine::parts::handler::FailedCall;
use crate::engine::parts::pending::{PendingDelivery, Return};
use crate::engine::state::lane::{Lane, Turn};
use crate::engine::wait::fire::Tag;
use crate::message::MessageId;
use crate::message::batch::{Batch, BatchSlice};
use crate::observe::event::{DropCause, EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::policy::verdict::{NackAction, Verdict, put_off};
use crate::pure::words::room::Phase;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::reason::DeadReason;
use std::time::Duration;

/// The result of settling a failed delivery.
pub(crate) enum Settled<T> {
    /// The delivery gets another attempt: it has failed, or was put off.
    Waits {
        item: PendingDelivery<T>,
        wait: Wait,
    },
    /// The delivery goes back to the end of the line.
    Requeued(PendingDelivery<T>),
    /// The delivery is in the dead-letter store.
    Buried,
    /// The delivery has ended otherwise.
    Ended,
}

/// A wait for the next attempt.
pub(crate) struct Wait {
    pub(crate) delay_ns: u64,
    /// The reason of a snooze; none for a retry.
    pub(crate) snoozed: Option<Arc<str>>,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Settles the failed first attempts of a run. `place` returns the batch and the index of
    /// each. Returns how many of the lane's places that frees.
    pub(crate) fn settle_first<'b>(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        place: impl Fn(usize) -> (&'b Arc<Batch<T>>, usize),
        began_ns: u64,
        now_ns: u64,
    ) -> u32 {
        if turn.failed_calls.is_empty() {
            return 0;
        }
        let mut failed_calls = std::mem::take(&mut turn.failed_calls);
        let mut freed = 0;
        for failed_call in failed_calls.drain(..) {
            let (batch, index) = place(failed_call.at);
            let failed = PendingDelivery::first(batch, index, began_ns);
            freed += self.settle(turn, failed, &failed_call, now_ns);
        }
        turn.failed_calls = failed_calls;
        freed
    }

    /// Settles a failed attempt. Returns how many places that frees: one, or none if the
    /// delivery keeps its place until its retry.
    pub(crate) fn settle(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        failed: PendingDelivery<T>,
        failed_call: &FailedCall,
        now_ns: u64,
    ) -> u32 {
        match self.judge(&mut turn.last_error, failed, failed_call, now_ns) {
            Settled::Waits { item, wait } => {
                if wait.delay_ns == 0 {
                    // No timer is needed. The runner that settles it looks for it next.
                    let (id, attempts) = (item.id(), item.attempts);
                    let tag = self.waiting.lock().insert(item);
                    self.push_return(Return::Due(tag));
                    self.tell_wait(id, attempts, wait);
                } else {
                    self.wait(item, wait);
                }
                0
            }
            Settled::Requeued(item) if self.engine().is_manual() => {
                let tag = self.waiting.lock().insert(item);
                self.engine()
                    .fire_in_next_run(Arc::clone(self) as _, Tag::Parked(tag));
                0
            }
            Settled::Requeued(item) => {
                turn.requeued.push_back(item);
                0
            }
            Settled::Buried | Settled::Ended => 1,
        }
    }

    /// Settles a failed attempt and carries out the verdict. The caller carries out a retry or
    /// a requeue.
    pub(crate) fn judge(
        &self,
        last_error: &mut Option<Arc<str>>,
        mut failed: PendingDelivery<T>,
        failed_call: &FailedCall,
        now_ns: u64,
    ) -> Settled<T> {
        let id = failed.id();
        self.roll_back(id);
        let attempt = failed.attempts + 1;
        let is_caused_by_end = failed_call.by_shutdown && !failed_call.cause.action().is_final();
        if is_caused_by_end && self.engine().is_ending() {
            // The count precedes the books: a drain that misses the delivery in the books finds
            // it in the count.
            let count = &self.engine().cancelled_by_end;
            count.fetch_add(1, Ordering::AcqRel);
            let status = self.books.record(Status::Delivering, Step::Cancel, 1);
            self.tell(id, attempt, status, EventKind::Cancelled);
            self.note_end_of(&failed, status);
            return Settled::Ended;
        }
        let text = shared(last_error, failed_call.cause.text());
        match failed_call.cause.action() {
            NackAction::Requeue => {
                failed.requeue(self.topic.last_id());
                let status = self.books.record(Status::Delivering, Step::Requeue, 1);
                self.tell(id, attempt, status, EventKind::Requeued { reason: text });
                return Settled::Requeued(failed);
            }
            NackAction::Snooze(delay) => return self.snooze(failed, delay, text, now_ns),
            _ => {}
        }
        let kind = failed_call.cause.kind();
        let status = self.books.record(Status::Delivering, Step::Fail, 1);
        let error = Arc::clone(&text);
        self.tell(id, attempt, status, EventKind::Failed { kind, error });

        failed.fail(Arc::clone(&text), kind, now_ns);
        match self.verdict(&failed, failed_call, &text, now_ns) {
            Verdict::Retry { due_ns } => {
                self.books.record(Status::Failed, Step::Retry, 1);
                self.note_failed(&failed);
                let delay_ns = due_ns.saturating_sub(now_ns);
                let snoozed = None;
                let wait = Wait { delay_ns, snoozed };
                return Settled::Waits { item: failed, wait };
            }
            Verdict::DeadLetter(reason) => {
                if self.bury(failed, Status::Failed, reason) {
                    return Settled::Buried;
                }
            }
            Verdict::Discard => {
                let status = self.books.record(Status::Failed, Step::Drop, 1);
                let cause = DropCause::Discarded;
                self.tell(id, attempt, status, EventKind::Dropped { cause });
                self.note_end_of(&failed, status);
            }
            Verdict::Expire => self.expire_at(failed, Status::Failed),
        }
        Settled::Ended
    }

    /// Puts a delivery off that has not failed, unless its time to live ends before.
    fn snooze(
        &self,
        mut item: PendingDelivery<T>,
        delay: Duration,
        reason: Arc<str>,
        now_ns: u64,
    ) -> Settled<T> {
        let expires_ns = item.expires_ns();
        let Verdict::Retry { due_ns } = put_off(delay, now_ns, expires_ns) else {
            self.expire_at(item, Status::Delivering);
            return Settled::Ended;
        };
        item.snooze();
        self.books.record(Status::Delivering, Step::Snooze, 1);
        let wait = Wait {
            delay_ns: due_ns.saturating_sub(now_ns),
            snoozed: Some(reason),
        };
        Settled::Waits { item, wait }
    }

    /// Ends everything the lane still has, as its phase says.
    pub(crate) fn end_all(self: &Arc<Self>, turn: &mut Turn<T>) {
        turn.linger.cancel(self.engine());
        // Everything that ends here holds a place, and no new place is granted.
        let _motion = self
            .books
            .motions
            .begin(u64::from(self.room.load().occupied));
        if let Some(keyed) = self.keyed() {
            keyed.end_keyed();
        }
        let mut ended = 0;
        while let Some(part) = turn.prefetched.pop_front().or_else(|| self.pop()) {
            ended += part.to - part.from;
            if self.phase() == Phase::DeadLettering {
                self.bury_part(&part, DeadReason::Unsubscribed);
            } else {
                self.cancel_part(&part);
            }
        }
        let waiting: Vec<_> = self.waiting.lock().drain().collect();
        for pending in waiting {
            // If the timer fires all the same, its tag finds nothing.
            self.engine().timer.cancel_parked(pending.timer);
            let from = pending.parked_as();
            self.end_pending(pending, from);
            ended += 1;
        }
        for again in turn.returned.drain(..).chain(turn.requeued.drain(..)) {
            self.end_pending(again, Status::Queued);
            ended += 1;
        }
        while let Some(returned) = self.pop_return() {
            if let Return::Redriven(pending) = returned {
                self.end_pending(*pending, Status::Queued);
                ended += 1;
            }
        }
        self.give_back(ended);
    }

    fn cancel_part(&self, part: &BatchSlice<T>) {
        let count = part.len() as u64;
        let status = self.books.record(Status::Queued, Step::Cancel, count);
        for id in part.ids() {
            self.tell(id, 0, status, EventKind::Cancelled);
        }
        self.note_end(part, status);
    }

    /// Ends one delivery that was tried or redriven before, as the lane's phase says.
    pub(crate) fn end_pending(&self, pending: PendingDelivery<T>, from: Status) {
        if from == Status::Delivering {
            self.roll_back(pending.id());
        }
        if self.phase() == Phase::DeadLettering {
            self.bury(pending, from, DeadReason::Unsubscribed);
            return;
        }
        let (id, attempt) = (pending.id(), pending.attempts);
        let status = self.books.record(from, Step::Cancel, 1);
        self.tell(id, attempt, status, EventKind::Cancelled);
        self.note_end_of(&pending, status);
    }

    /// Tells observers of an event of one of the lane's deliveries.
    pub(crate) fn tell(&self, id: MessageId, attempt: u32, status: Status, kind: EventKind) {
        self.topic.tell_of(
            Subject::of(&self.name)
                .message(id)
                .attempt(attempt)
                .status(status),
            kind,
        );
    }
}

/// Returns the text as a shared string: the last one again if it has the same text.
fn shared(last: &mut Option<Arc<str>>, text: String) -> Arc<str> {
    match last {
        Some(last) if **last == *text => Arc::clone(last),
        last => Arc::clone(last.insert(Arc::from(text))),
    }
}
