//! Carrying out what becomes of a delivery. Nothing is decided here: the verdict
//! comes from [`crate::pure::verdict`], the legal steps from
//! [`crate::pure::lifecycle`].

use std::time::Duration;

use super::contain::contain;
use super::dead_letter_store::{Failure, Letter};
use super::handler::Fault;
use super::lane::{Lane, Past, PendingDelivery, Return, Turn};
use crate::batch::{Batch, Part};
use crate::dead_letters::DeadReason;
use crate::event::{DropCause, EventKind, Hook};
use crate::message::MessageId;
use crate::pure::arena::Arena;
use crate::pure::lifecycle::{Status, Step};
use crate::pure::retry::{FailedAttempt, FailureKind, random};
use crate::pure::room::Phase;
use crate::pure::verdict::{Verdict, Wish, judge};
use crate::pure::wheel::TimerKey;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// What becomes of a failed delivery.
pub(super) enum Sentence<T> {
    /// It gets another attempt.
    Retry {
        failed: PendingDelivery<T>,
        due_ns: u64,
    },
    /// It goes back to the end of the line.
    Requeued(PendingDelivery<T>),
    /// It is in the dead-letter store.
    Buried,
    /// It has ended otherwise.
    Ended,
}

impl<T> PendingDelivery<T> {
    /// A delivery that has just had its first attempt.
    pub(crate) fn first(batch: &Arc<Batch<T>>, index: usize, first_attempt_ns: u64) -> Self {
        Self {
            first_attempt_ns,
            ..Self::new(Arc::clone(batch), index)
        }
    }

    /// One that was never tried.
    pub(super) fn new(batch: Arc<Batch<T>>, index: usize) -> Self {
        Self {
            batch,
            first_attempt_ns: 0,
            timer: TimerKey::NONE,
            error: None,
            since: 0,
            earlier: None,
            attempts: 0,
            generation: 0,
            index: index as u8,
            past: Past::Nothing,
        }
    }

    /// Remembers how the latest attempt failed.
    pub(super) fn fail(&mut self, error: Arc<str>, kind: FailureKind, now_ns: u64) {
        self.remember_latest();
        self.error = Some(error);
        self.timer = TimerKey::NONE;
        self.past = Past::Failed(kind);
        self.since = now_ns;
        // It stops where the number of the attempt to come still fits.
        self.attempts = (self.attempts + 1).min(u32::MAX - 1);
    }

    /// Is to wait behind this message; has not failed.
    fn requeue(&mut self, behind: u64) {
        self.remember_latest();
        self.timer = TimerKey::NONE;
        self.past = Past::Requeued;
        self.since = behind;
    }

    /// The last message that goes before it, if it was requeued.
    pub(super) fn behind(&self) -> Option<u64> {
        (self.past == Past::Requeued).then_some(self.since)
    }

    /// Where it stands while it waits by a tag.
    pub(super) fn parked_as(&self) -> Status {
        match self.past {
            Past::Requeued => Status::Queued,
            Past::Nothing | Past::Failed(_) => Status::RetryScheduled,
        }
    }

    pub(super) fn remember_latest(&mut self) {
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
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Settles the first attempts of a run that failed, found by their `place`;
    /// returns how many places that sets free.
    pub(super) fn settle_first<'b>(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        place: impl Fn(usize) -> (&'b Arc<Batch<T>>, usize),
        began_ns: u64,
        now_ns: u64,
    ) -> u32 {
        if turn.faults.is_empty() {
            return 0;
        }
        let mut faults = std::mem::take(&mut turn.faults);
        let mut freed = 0;
        for fault in faults.drain(..) {
            let (batch, index) = place(fault.at);
            let failed = PendingDelivery::first(batch, index, began_ns);
            freed += self.settle(turn, failed, &fault, now_ns);
        }
        turn.faults = faults;
        freed
    }

    /// Settles a failed attempt; returns how many places it sets free: one, or
    /// none if the delivery keeps its place until its retry.
    pub(super) fn settle(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        failed: PendingDelivery<T>,
        fault: &Fault,
        now_ns: u64,
    ) -> u32 {
        match self.judge(&mut turn.last_error, failed, fault, now_ns) {
            Sentence::Retry { failed, due_ns } => {
                let delay_ns = due_ns.saturating_sub(now_ns);
                let (id, attempt) = (failed.id(), failed.attempts);
                self.books.record(Status::Failed, Step::Retry, 1);
                if delay_ns == 0 {
                    // Without a timer; whoever settles looks for it next.
                    let tag = turn.waiting.insert(failed);
                    self.push_return(Return::Due(tag));
                } else {
                    self.schedule_retry(&mut turn.waiting, failed, delay_ns);
                }
                self.tell_retry(id, attempt, delay_ns);
                0
            }
            Sentence::Requeued(item) if self.engine().is_manual() => {
                let tag = turn.waiting.insert(item);
                self.engine().fire_in_next_run(Arc::clone(self) as _, tag);
                0
            }
            Sentence::Requeued(item) => {
                turn.requeued.push_back(item);
                0
            }
            Sentence::Buried | Sentence::Ended => 1,
        }
    }

    /// Says what becomes of a failed attempt, and carries it out, but for what comes back.
    pub(super) fn judge(
        &self,
        last_error: &mut Option<Arc<str>>,
        mut failed: PendingDelivery<T>,
        fault: &Fault,
        now_ns: u64,
    ) -> Sentence<T> {
        let id = failed.id();
        let attempt = failed.attempts + 1;
        let is_caused_by_end = fault.by_shutdown && !fault.cause.wish().is_final();
        if is_caused_by_end && self.engine().is_ending() {
            // Before the books: a drain that misses it there finds it here.
            let count = &self.engine().cancelled_by_end;
            count.fetch_add(1, Ordering::AcqRel);
            let status = self.books.record(Status::Delivering, Step::Cancel, 1);
            self.tell(id, attempt, status, EventKind::Cancelled);
            return Sentence::Ended;
        }
        let text = shared(last_error, fault.cause.text());
        if fault.cause.wish() == Wish::Requeue {
            failed.requeue(self.topic.gate.issued());
            let status = self.books.record(Status::Delivering, Step::Requeue, 1);
            self.tell(id, attempt, status, EventKind::Requeued { reason: text });
            return Sentence::Requeued(failed);
        }
        let kind = fault.cause.kind();
        let status = self.books.record(Status::Delivering, Step::Fail, 1);
        let error = Arc::clone(&text);
        self.tell(id, attempt, status, EventKind::Failed { kind, error });

        failed.fail(Arc::clone(&text), kind, now_ns);
        match self.verdict(&failed, fault, &text, now_ns) {
            Verdict::Retry { due_ns } => return Sentence::Retry { failed, due_ns },
            Verdict::DeadLetter(reason) => {
                if self.bury(failed, Status::Failed, reason) {
                    return Sentence::Buried;
                }
            }
            Verdict::Discard => {
                let status = self.books.record(Status::Failed, Step::Drop, 1);
                let cause = DropCause::Discarded;
                self.tell(id, attempt, status, EventKind::Dropped { cause });
            }
            Verdict::Expire => self.expire_at(failed, Status::Failed),
        }
        Sentence::Ended
    }

    /// Asks the subscription's policy, or else the topic's.
    fn verdict(
        &self,
        failed: &PendingDelivery<T>,
        fault: &Fault,
        text: &str,
        now_ns: u64,
    ) -> Verdict {
        let id = failed.id();
        let attempt = FailedAttempt {
            attempt: failed.attempts,
            elapsed: Duration::from_nanos(now_ns.saturating_sub(failed.first_attempt_ns)),
            kind: fault.cause.kind(),
            text,
            error: fault.cause.error(),
            random: random(self.salt, id.get(), failed.generation, failed.attempts),
        };
        let own = self.retry.load();
        let policy = match &*own {
            Some(policy) => Arc::clone(policy),
            None => self.topic.retry.load(),
        };
        let decide = |requested| {
            let decided = contain(|| match requested {
                None => policy.decide(&attempt),
                Some(delay) => policy.decide_requested(&attempt, delay),
            });
            decided
                .inspect_err(|_| {
                    let hook = Hook::RetryPolicy;
                    self.topic.tell(EventKind::HookPanicked { hook });
                })
                .ok()
        };
        let expires_ns = failed.expires_ns(self.topic.settings.ttl_ns);
        judge(fault.cause.wish(), decide, now_ns, expires_ns)
    }

    /// Tells observers of a retry, once it is on its way: it comes back to whoever is
    /// here, or has the lock that is held here.
    pub(super) fn tell_retry(&self, id: MessageId, attempt: u32, delay_ns: u64) {
        let delay = Duration::from_nanos(delay_ns);
        let kind = EventKind::RetryScheduled { delay };
        self.tell(id, attempt, Status::RetryScheduled, kind);
    }

    /// Puts a failed delivery on the timer wheel; returns its tag.
    pub(super) fn schedule_retry(
        self: &Arc<Self>,
        waiting: &mut Arena<PendingDelivery<T>>,
        failed: PendingDelivery<T>,
        delay_ns: u64,
    ) -> u32 {
        let tag = waiting.insert(failed);
        let key = self
            .engine()
            .set_timer(delay_ns, tag, Arc::clone(self) as _);
        if let Some(waiting) = waiting.get_mut(tag) {
            waiting.timer = key;
        }
        tag
    }

    /// Sends a delivery that stands at `from` to the dead letters. `false`: the store
    /// did not keep it.
    pub(super) fn bury(&self, dead: PendingDelivery<T>, from: Status, reason: DeadReason) -> bool {
        self.books.record(from, Step::Bury, 1);
        self.write_letter(dead, reason)
    }

    fn write_letter(&self, dead: PendingDelivery<T>, reason: DeadReason) -> bool {
        let parks = self.crew.get().is_some_and(|crew| crew.parks(reason));
        self.topic.bury(self.letter(dead, reason, parks))
    }

    pub(super) fn letter(
        &self,
        mut dead: PendingDelivery<T>,
        reason: DeadReason,
        parks: bool,
    ) -> Letter<T> {
        dead.remember_latest();
        Letter {
            parks,
            arrival: 0,
            batch: dead.batch,
            index: dead.index,
            generation: dead.generation,
            attempts: dead.attempts,
            subscription: Arc::clone(&self.name),
            reason,
            history: dead.earlier,
            buried_ns: self.engine().clock.now_ns(),
        }
    }

    /// Sends queued first attempts to the dead letters.
    pub(super) fn bury_part(&self, part: &Part<T>, reason: DeadReason) {
        self.books
            .record(Status::Queued, Step::Bury, part.len() as u64);
        self.write_letters(part, reason);
    }

    /// Makes letters of first attempts whose end is on the books.
    pub(super) fn write_letters(&self, part: &Part<T>, reason: DeadReason) {
        for index in part.from..part.to {
            let dead = PendingDelivery::first(&part.batch, index as usize, 0);
            self.write_letter(dead, reason);
        }
    }

    /// Ends everything the lane still has, as its phase says.
    pub(super) fn end_all(self: &Arc<Self>, turn: &mut Turn<T>) {
        turn.linger.cancel(self.engine());
        // All that it ends has its place; nothing more gets one.
        let _motion = self
            .books
            .motions
            .begin(u64::from(self.room.load().occupied));
        if let Some(keyed) = self.keyed() {
            keyed.end_crew();
        }
        let mut ended = 0;
        while let Some(part) = turn.hand.pop_front().or_else(|| self.pop()) {
            ended += part.to - part.from;
            if self.phase() == Phase::DeadLettering {
                self.bury_part(&part, DeadReason::Unsubscribed);
            } else {
                self.cancel_part(&part);
            }
        }
        let waiting: Vec<_> = turn.waiting.drain().collect();
        for pending in waiting {
            // If it fires all the same, its tag will find nothing.
            self.engine().timer.cancel_parked(pending.timer);
            let from = pending.parked_as();
            self.end_pending(pending, from);
            ended += 1;
        }
        while let Some(requeued) = turn.requeued.pop_front() {
            self.end_pending(requeued, Status::Queued);
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

    fn cancel_part(&self, part: &Part<T>) {
        let count = part.len() as u64;
        let status = self.books.record(Status::Queued, Step::Cancel, count);
        for id in part.ids() {
            self.tell(id, 0, status, EventKind::Cancelled);
        }
    }

    /// Ends one delivery that was tried before, as the lane's phase says.
    pub(super) fn end_pending(&self, pending: PendingDelivery<T>, from: Status) {
        if self.phase() == Phase::DeadLettering {
            self.bury(pending, from, DeadReason::Unsubscribed);
            return;
        }
        let (id, attempt) = (pending.id(), pending.attempts);
        let status = self.books.record(from, Step::Cancel, 1);
        self.tell(id, attempt, status, EventKind::Cancelled);
    }

    /// Tells observers of something that happened to one of the lane's
    /// deliveries.
    pub(super) fn tell(&self, id: MessageId, attempt: u32, status: Status, kind: EventKind) {
        self.topic
            .tell_of(Some(&self.name), Some(id), attempt, Some(status), kind);
    }
}

/// The text as a shared string: the last one again if it reads the same.
fn shared(last: &mut Option<Arc<str>>, text: String) -> Arc<str> {
    match last {
        Some(last) if **last == *text => Arc::clone(last),
        last => Arc::clone(last.insert(Arc::from(text))),
    }
}
