//! A lane's turn for a handler that takes batches: accumulate, linger, deliver.

use std::iter;
use std::time::Duration;

use crate::engine::deliver::attempts::successes;
use crate::engine::deliver::turn::{Progress, advance};
use crate::engine::parts::pending::Attempts;
use crate::engine::state::lane::{Lane, Turn};
use crate::message::batch::{BatchSlice, Stamp};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::policy::strategy::{Backlog, Batched, Plan, Strategy};
use crate::pure::words::room::Phase;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::duration::nanos;

/// The decision about the deliveries that the lane of a batch handler has accumulated.
pub(crate) enum BatchPlan {
    /// Take a batch of this many deliveries.
    Take(usize),
    /// Wait for more deliveries, at most for this time if there is a limit.
    Linger(Option<Duration>),
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Delivers one batch, if its strategy wants one now.
    pub(crate) fn deliver_batch(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        batched: Batched,
        now_ns: u64,
    ) -> Progress {
        let mut waiting: usize = turn.prefetched.iter().map(BatchSlice::len).sum();
        while waiting < batched.size()
            && let Some(part) = self.take(batched.size() - waiting)
        {
            waiting += part.len();
            turn.prefetched.push_back(part);
        }
        if !self.expire_front(turn, now_ns) {
            return Progress::Nothing;
        }
        let Some(first) = turn.prefetched.front().map(BatchSlice::first) else {
            return Progress::Done { now_ns };
        };
        let known = waiting + self.waiting.lock().len() + turn.requeued.len();
        let take = match self.plan_batch(first, batched, (waiting, known), now_ns) {
            BatchPlan::Take(take) => take,
            BatchPlan::Linger(at_most) => {
                let delay_ns = at_most.map(nanos);
                turn.linger
                    .set(self.engine(), delay_ns, Arc::clone(self) as _);
                return Progress::Nothing;
            }
        };
        turn.linger.cancel(self.engine());
        let parts = take_parts(turn, take.min(turn.granted));
        let places = self.expire_within(&parts, now_ns);
        let deliveries: Vec<_> = places
            .iter()
            .map(|(part, index)| self.called_delivery(&part.batch, *index, now_ns))
            .collect();
        if deliveries.is_empty() {
            return Progress::Done { now_ns };
        }
        let count = deliveries.len() as u64;
        self.books.begin_in_flight(count);
        let stamp = |at: usize| {
            let (part, index) = places[at];
            part.batch.stamp(index)
        };
        let ids = (0..places.len()).map(|at| stamp(at).id);
        let attempts = Attempts::first(now_ns);
        self.tell_attempts(ids.clone(), attempts);
        self.books.record(Status::Queued, Step::Start, count);
        turn.handler
            .call_batch(self.engine(), deliveries, &mut turn.failed_calls);
        let after_ns = self.engine().clock.now_ns();
        let _motion = self.books.motions.begin(count);
        let accepted_ns = (0..places.len()).map(|at| stamp(at).accepted_ns);
        let took = attempts.until(after_ns, places.len());
        let acked = self.end_attempts(ids, accepted_ns, &turn.failed_calls, attempts, took);
        let place = |at: usize| (&places[at].0.batch, places[at].1);
        if parts.iter().any(|part| part.batch.is_watched()) {
            for at in successes(places.len(), &turn.failed_calls) {
                let (batch, index) = place(at);
                self.note_ends(batch, iter::once(index), 0, Status::Delivered);
            }
        }
        let freed = self.settle_first(turn, place, now_ns, after_ns);
        self.books.end_in_flight(count);
        self.give_back(acked as u32 + freed);
        Progress::Done { now_ns: after_ns }
    }

    /// Decides whether to take a batch now, and of how many deliveries. `waiting` counts the
    /// deliveries at hand, and `known` also counts those on the timer wheel.
    pub(crate) fn plan_batch(
        &self,
        first: Stamp,
        batched: Batched,
        (waiting, known): (usize, usize),
        now_ns: u64,
    ) -> BatchPlan {
        let age = Duration::from_nanos(now_ns.saturating_sub(first.accepted_ns));
        let backlog = Backlog::new(waiting, age, self.capacity.get() as usize);
        let flush_to = self.topic.flush_to.load(Ordering::Acquire);
        let room = self.room.load();
        // A delivery that holds a place and has not arrived yet notifies when it does.
        // Deliveries that have come back go first, and may free their places.
        let is_full = room.occupied >= self.capacity.get()
            && known >= room.occupied as usize
            && !self.has_returns();
        let forced = first.id.get() <= flush_to
            || room.phase != Phase::Open
            || is_full
            || self.topic.gate.is_closed()
            || self.engine().is_ending();
        match batched.plan(&backlog) {
            Plan::Deliver { at_most } | Plan::Flush { at_most, .. } => BatchPlan::Take(at_most),
            Plan::Wait { .. } if forced => BatchPlan::Take(batched.size()),
            Plan::Wait { at_most, .. } => BatchPlan::Linger(at_most),
        }
    }

    /// Ends the expired deliveries of these parts and returns the positions of the others.
    fn expire_within<'p>(
        &self,
        parts: &'p [BatchSlice<T>],
        now_ns: u64,
    ) -> Vec<(&'p BatchSlice<T>, usize)> {
        let count: usize = parts.iter().map(BatchSlice::len).sum();
        let _motion = self.books.motions.begin(count as u64);
        let mut live = Vec::new();
        let mut expired = 0;
        for part in parts {
            for index in part.from as usize..part.to as usize {
                if self.has_expired(&part.batch, index, now_ns) {
                    self.expire(&part.batch, index);
                    expired += 1;
                } else {
                    live.push((part, index));
                }
            }
        }
        self.give_back(expired);
        live
    }
}

/// Takes the oldest `count` prefetched deliveries.
fn take_parts<T>(turn: &mut Turn<T>, count: usize) -> Vec<BatchSlice<T>> {
    let mut taken = Vec::new();
    let mut left = count.max(1);
    while left > 0
        && let Some(front) = turn.prefetched.front()
    {
        let take = front.len().min(left);
        taken.push(BatchSlice {
            batch: Arc::clone(&front.batch),
            from: front.from,
            to: front.from + take as u32,
        });
        advance(turn, take);
        left -= take;
    }
    taken
}
