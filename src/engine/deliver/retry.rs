//! Retries: whether one follows, when it is due, and how retries alternate with new
//! deliveries.

use crate::engine::base::contain::contain;
use crate::engine::deliver::settle::Wait;
use crate::engine::deliver::turn::{Progress, Tried};
use crate::engine::parts::handler::FailedCall;
use crate::engine::parts::pending::{PendingDelivery, Return};
use crate::engine::state::lane::{Lane, Turn};
use crate::engine::wait::fire::Tag;
use crate::message::MessageId;
use crate::observe::event::EventKind;
use crate::observe::event::Hook;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::policy::retry::{FailedAttempt, random};
use crate::pure::policy::verdict::{Verdict, judge};
use crate::sync::Arc;
use std::time::Duration;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Asks the subscription's retry policy, or else the topic's, for a verdict.
    pub(crate) fn verdict(
        &self,
        failed: &PendingDelivery<T>,
        failed_call: &FailedCall,
        text: &str,
        now_ns: u64,
    ) -> Verdict {
        let id = failed.id();
        let attempt = FailedAttempt {
            attempt: failed.attempts,
            elapsed: Duration::from_nanos(now_ns.saturating_sub(failed.first_attempt_ns)),
            kind: failed_call.cause.kind(),
            text,
            error: failed_call.cause.error(),
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
        let expires_ns = failed.expires_ns();
        judge(failed_call.cause.action(), decide, now_ns, expires_ns)
    }

    /// Tells observers of a delivery that is to come again. No later event of it can overtake this
    /// one: it comes back to this runner, or needs a lock that the caller holds.
    pub(crate) fn tell_wait(&self, id: MessageId, attempts: u32, wait: Wait) {
        let delay = Duration::from_nanos(wait.delay_ns);
        let (attempt, kind) = match wait.snoozed {
            Some(reason) => (attempts + 1, EventKind::Snoozed { delay, reason }),
            None => (attempts, EventKind::RetryScheduled { delay }),
        };
        self.tell(id, attempt, Status::RetryScheduled, kind);
    }

    /// Puts a delivery on the timer wheel and returns its tag.
    pub(crate) fn wait(self: &Arc<Self>, item: PendingDelivery<T>, wait: Wait) -> u32 {
        let (id, attempts) = (item.id(), item.attempts);
        let mut waiting = self.waiting.lock();
        let tag = waiting.insert(item);
        let target = Arc::clone(self) as _;
        let key = self
            .engine()
            .set_timer(wait.delay_ns, Tag::Parked(tag), target);
        if let Some(item) = waiting.get_mut(tag) {
            item.timer = key;
        }
        self.tell_wait(id, attempts, wait);
        tag
    }

    /// Has deliveries that wait on the timer wheel come back now, in the order of their messages:
    /// this one, or all. Returns their number.
    ///
    /// The feared interleaving: the time of one comes meanwhile, and it comes back twice, or in
    /// place of the next tenant of its tag. It can't. The wheel gives each deadline either to the
    /// timer or to the one that takes it back. Only that one sends the tag.
    pub(crate) fn retry_now(self: &Arc<Self>, only: Option<MessageId>) -> usize {
        let waiting = self.waiting.lock();
        let is_meant = |item: &PendingDelivery<T>| only.is_none_or(|id| id == item.id());
        let mut chosen: Vec<_> = waiting
            .entries()
            .filter(|(_, item)| is_meant(item) && self.engine().timer.cancel_parked(item.timer))
            .map(|(tag, item)| (item.id(), tag, item.attempts))
            .collect();
        chosen.sort_unstable();
        for &(id, tag, attempts) in &chosen {
            let status = Status::RetryScheduled;
            self.tell(id, attempts, status, EventKind::RetriedNow);
            self.push_return(Return::Due(tag));
        }
        drop(waiting);
        if !chosen.is_empty() {
            self.schedule_for_return();
        }
        chosen.len()
    }

    /// Delivers one that came back or, after one of those, one that is new. If there is none of
    /// the one kind, delivers one of the other.
    pub(crate) fn deliver_by_turns(self: &Arc<Self>, turn: &mut Turn<T>, now_ns: u64) -> Progress {
        let after_a_return = std::mem::take(&mut turn.is_new_next);
        if !after_a_return && let Some(progress) = self.redeliver_next(turn, now_ns) {
            return progress;
        }
        let most = if after_a_return { 1 } else { usize::MAX };
        match self.deliver_in_line(turn, most, now_ns) {
            Progress::Nothing if after_a_return => {
                let progress = self.redeliver_next(turn, now_ns);
                progress.unwrap_or(Progress::Nothing)
            }
            progress => progress,
        }
    }

    /// Delivers what is new. A requeued delivery goes once the messages before it have gone, or
    /// if none of them may go now.
    fn deliver_in_line(self: &Arc<Self>, turn: &mut Turn<T>, most: usize, now_ns: u64) -> Progress {
        let Some(behind) = turn.requeued.front().and_then(PendingDelivery::behind) else {
            return self.deliver(turn, most, now_ns);
        };
        if turn.prefetched.is_empty() {
            self.prefetch(turn, 1);
        }
        let next = turn.prefetched.front().map(|part| part.first().id.get());
        if next.is_some_and(|next| next <= behind)
            && let Progress::Done { now_ns } = self.deliver(turn, 1, now_ns)
        {
            return Progress::Done { now_ns };
        }
        match turn.requeued.pop_front() {
            Some(requeued) => self.deliver_again(turn, requeued, now_ns),
            None => Progress::Nothing,
        }
    }

    /// Delivers the next one that came back. Returns `None` if there is none.
    #[inline(always)]
    fn redeliver_next(self: &Arc<Self>, turn: &mut Turn<T>, now_ns: u64) -> Option<Progress> {
        let again = match turn.returned.pop_front() {
            None => {
                let returned = self.pop_return()?;
                self.take_returned(turn, returned)
            }
            kept => kept,
        };
        let Some(again) = again else {
            return Some(Progress::Done { now_ns });
        };
        turn.is_new_next = true;
        Some(self.deliver_again(turn, again, now_ns))
    }

    /// Keeps what has come back to a plain lane whose gate is closed. So it ends when it expires.
    #[cold]
    pub(crate) fn keep_returned(self: &Arc<Self>, turn: &mut Turn<T>) {
        while let Some(returned) = self.pop_return() {
            if let Some(again) = self.take_returned(turn, returned) {
                self.note_return(&again);
                turn.returned.push_back(again);
            }
        }
    }

    /// Takes out a delivery that came back, unless it has to wait for others.
    fn take_returned(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        returned: Return<T>,
    ) -> Option<PendingDelivery<T>> {
        match returned {
            Return::Redriven(pending) => Some(*pending),
            Return::Due(tag) if self.is_put_off(tag) => None,
            Return::Due(tag) => {
                let again = self.take_waiting(tag)?;
                if again.behind().is_some() {
                    self.note_return(&again);
                    turn.requeued.push_back(again);
                    return None;
                }
                self.books.record(Status::RetryScheduled, Step::Requeue, 1);
                Some(again)
            }
            // Only keyed lanes have leases, and they file this return elsewhere.
            Return::Overdue => None,
        }
    }

    /// Takes one out that waits by this tag. The lock is not held while it is delivered.
    fn take_waiting(&self, tag: u32) -> Option<PendingDelivery<T>> {
        self.waiting.lock().remove(tag)
    }

    /// Delivers one that was in flight before, or was redriven.
    fn deliver_again(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        again: PendingDelivery<T>,
        now_ns: u64,
    ) -> Progress {
        let _motion = self.books.motions.begin(1);
        if self.is_past(&again, now_ns) {
            self.expire_at(again, Status::Queued);
            self.give_back(1);
            return Progress::Done { now_ns };
        }
        self.books.begin_in_flight(1);
        let (tried, after_ns) = self.try_one(turn, again, now_ns);
        let ended = match tried {
            Tried::Acked => 1,
            Tried::Failed(again, failed_call) => self.settle(turn, again, &failed_call, after_ns),
            Tried::NotCalled(again) => {
                // The lane began to be cancelled just now. Its end can't find this delivery, so
                // it ends here.
                self.end_pending(again, Status::Queued);
                1
            }
        };
        self.books.end_in_flight(1);
        self.give_back(ended);
        Progress::Done { now_ns: after_ns }
    }
}
