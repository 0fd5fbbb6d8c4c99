//! What came back to a lane without a crew, by turns with what is new.

use super::lane::{Lane, PendingDelivery, Return, Turn};
use super::turn::{Progress, Tried};
use crate::pure::lifecycle::{Status, Step};
use crate::sync::Arc;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Delivers one that came back or, after that, one that is new; with no more of the
    /// one kind, of the other.
    pub(super) fn deliver_by_turns(self: &Arc<Self>, turn: &mut Turn<T>, now_ns: u64) -> Progress {
        let after_a_return = std::mem::take(&mut turn.is_new_next);
        if !after_a_return && let Some(returned) = self.pop_return() {
            return self.redeliver(turn, returned, now_ns);
        }
        let most = if after_a_return { 1 } else { usize::MAX };
        match self.deliver_in_line(turn, most, now_ns) {
            Progress::Nothing if after_a_return => match self.pop_return() {
                Some(returned) => self.redeliver(turn, returned, now_ns),
                None => Progress::Nothing,
            },
            progress => progress,
        }
    }

    /// Delivers what is new, but what was requeued once those have gone that it is behind,
    /// or none of them may go now.
    fn deliver_in_line(self: &Arc<Self>, turn: &mut Turn<T>, most: usize, now_ns: u64) -> Progress {
        let Some(behind) = turn.requeued.front().and_then(PendingDelivery::behind) else {
            return self.deliver(turn, most, now_ns);
        };
        if turn.hand.is_empty() {
            turn.hand.extend(self.take(1));
        }
        let next = turn.hand.front().map(|part| part.first().id.get());
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

    /// Delivers one delivery that came back.
    fn redeliver(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        returned: Return<T>,
        now_ns: u64,
    ) -> Progress {
        let again = match returned {
            Return::Redriven(pending) => *pending,
            Return::Due(tag) => match turn.waiting.remove(tag) {
                Some(requeued) if requeued.behind().is_some() => {
                    turn.requeued.push_back(requeued);
                    return Progress::Done { now_ns };
                }
                Some(pending) => {
                    self.books.record(Status::RetryScheduled, Step::Requeue, 1);
                    pending
                }
                None => return Progress::Done { now_ns },
            },
            // Leases are of crews, which file this elsewhere.
            Return::Overdue => return Progress::Done { now_ns },
        };
        turn.is_new_next = true;
        self.deliver_again(turn, again, now_ns)
    }

    /// Delivers one delivery that was in hand before, or redriven.
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
            Tried::Failed(again, fault) => self.settle(turn, again, &fault, after_ns),
            Tried::NotCalled(again) => {
                // The lane began to be cancelled just now: its end finds it here.
                self.end_pending(again, Status::Queued);
                1
            }
        };
        self.books.end_in_flight(1);
        self.give_back(ended);
        Progress::Done { now_ns: after_ns }
    }
}
