//! A lane's turn for a handler that takes batches: accumulate, linger, hand over.

use std::time::Duration;

use super::attempts::Attempts;
use super::crew::{KeyedLane, RUNNER};
use super::crew_hands::{Settlements, TakeRequest};
use super::crew_turn::After;
use super::lane::{Lane, PendingDelivery, Turn};
use super::turn::{Progress, advance};
use crate::batch::{Part, Stamp};
use crate::pure::lifecycle::{Status, Step};
use crate::pure::room::Phase;
use crate::pure::sequencer::{Class, Each};
use crate::pure::strategy::{Backlog, Batched, Plan, Strategy};
use crate::pure::verdict::nanos;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// What a batch handler's lane does with what it has accumulated.
enum BatchPlan {
    /// Hands over so many deliveries.
    Take(usize),
    /// Waits for more, and no longer than this if there is a limit.
    Linger(Option<Duration>),
}

/// What waits for a batch handler.
struct Waits {
    /// Whose turn it is, if anything may go.
    next: Option<Class>,
    /// The oldest of those that are new and may go.
    first: Option<Stamp>,
    /// What could go while they wait for more.
    instead: Option<Class>,
    available: usize,
    /// Those that may not go included.
    known: usize,
    /// As much has been set aside as may be.
    is_full: bool,
    each: Each,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Delivers one batch, if its strategy wants it now.
    pub(super) fn deliver_batch(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        batched: Batched,
        now_ns: u64,
    ) -> Progress {
        let mut waiting: usize = turn.hand.iter().map(Part::len).sum();
        while waiting < batched.size()
            && let Some(part) = self.take(batched.size() - waiting)
        {
            waiting += part.len();
            turn.hand.push_back(part);
        }
        if !self.expire_front(turn, now_ns) {
            return Progress::Nothing;
        }
        let Some(first) = turn.hand.front().map(Part::first) else {
            return Progress::Done { now_ns };
        };
        let known = waiting + turn.waiting.len() + turn.requeued.len();
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
        let parts = take_parts(turn, take);
        let places = self.expire_within(&parts, now_ns);
        let deliveries: Vec<_> = places
            .iter()
            .map(|(part, index)| self.first_delivery(&part.batch, *index, now_ns))
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
            .call_batch(self.engine(), deliveries, &mut turn.faults);
        let after_ns = self.engine().clock.now_ns();
        let _motion = self.books.motions.begin(count);
        let accepted_ns = (0..places.len()).map(|at| stamp(at).accepted_ns);
        let took = attempts.until(after_ns, places.len());
        let acked = self.end_attempts(ids, accepted_ns, &turn.faults, attempts, took);
        let place = |at: usize| (&places[at].0.batch, places[at].1);
        let freed = self.settle_first(turn, place, now_ns, after_ns);
        self.books.end_in_flight(count);
        self.give_back(acked as u32 + freed);
        Progress::Done { now_ns: after_ns }
    }

    /// Whether to take a batch now, and of how many. So many are `waiting`; so many
    /// are `known`, those on the timer wheel included.
    fn plan_batch(
        &self,
        first: Stamp,
        batched: Batched,
        (waiting, known): (usize, usize),
        now_ns: u64,
    ) -> BatchPlan {
        let age = Duration::from_nanos(now_ns.saturating_sub(first.accepted_ns));
        let backlog = Backlog::new(waiting, age, self.capacity as usize);
        let flush_to = self.topic.flush_to.load(Ordering::Acquire);
        let room = self.room.load();
        // Who has taken a place and is not here yet rings when it comes; what has come back
        // goes first, and may leave it.
        let is_full = room.occupied >= self.capacity
            && known >= room.occupied as usize
            && !self.has_returns();
        let forced = first.id.get() <= flush_to
            || room.phase != Phase::Open
            || is_full
            || self.engine().is_ending();
        match batched.plan(&backlog) {
            Plan::Deliver { at_most } | Plan::Flush { at_most, .. } => BatchPlan::Take(at_most),
            Plan::Wait { .. } if forced => BatchPlan::Take(batched.size()),
            Plan::Wait { at_most, .. } => BatchPlan::Linger(at_most),
        }
    }

    /// Ends what in these parts has outlived its time; returns the places of the
    /// others.
    fn expire_within<'p>(&self, parts: &'p [Part<T>], now_ns: u64) -> Vec<(&'p Part<T>, usize)> {
        let count: usize = parts.iter().map(Part::len).sum();
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

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// What the lane's own handler could take as a batch of so many.
    fn look(self, size: usize) -> Waits {
        let mut state = self.crew.state.lock();
        self.feed(&mut state, RUNNER, size);
        let sequencer = &state.sequencer;
        let first = sequencer.peek(RUNNER, Class::New);
        Waits {
            next: sequencer.next_class(RUNNER),
            first: first.map(PendingDelivery::stamp),
            instead: [Class::Requeued, Class::Again]
                .into_iter()
                .find(|class| sequencer.peek(RUNNER, *class).is_some()),
            available: sequencer.available(RUNNER, Class::New, size),
            // What has come back may leave its place.
            known: match sequencer.peek(RUNNER, Class::Again) {
                None => sequencer.len() + state.strays.len() + state.waiting.len(),
                Some(_) => 0,
            },
            is_full: state.set_aside() >= state.rules.hold as usize,
            each: if state.rules.blocks() {
                Each::Once
            } else {
                Each::Many
            },
        }
    }

    /// Delivers one batch of what the crew says may go now. Where failures hold others
    /// up, it has one delivery of each key at most. What comes back goes alone, by turns with
    /// batches that are due: one that only lingers holds nobody up.
    pub(super) fn try_batch(self, turn: &mut Turn<T>, batched: Batched, now_ns: u64) -> Progress {
        let waits = self.look(batched.size());
        let first = match (waits.next, waits.first) {
            (Some(Class::New), Some(first)) => first,
            (Some(class), _) => return self.try_alone(turn, class, now_ns),
            (None, _) => return Progress::Nothing,
        };
        let counts = (waits.available, waits.known);
        let take = match self.lane.plan_batch(first, batched, counts, now_ns) {
            // Of a batch that was due, what had to wait for its key has lingered enough.
            _ if turn.owed > 0 => turn.owed.min(batched.size()),
            BatchPlan::Take(take) => take,
            // More won't be filed before some of this has gone.
            BatchPlan::Linger(_) if waits.is_full => batched.size(),
            BatchPlan::Linger(at_most) => {
                if let Some(class) = waits.instead {
                    return self.try_alone(turn, class, now_ns);
                }
                let delay_ns = at_most.map(nanos);
                turn.linger
                    .set(self.lane.engine(), delay_ns, Arc::clone(self.lane) as _);
                return Progress::Nothing;
            }
        };
        turn.linger.cancel(self.lane.engine());
        let request = TakeRequest::own(take, waits.each, Some(Class::New));
        let taken = self.take_for(request, now_ns, |_, _| {});
        turn.owed = take.min(waits.available).saturating_sub(taken.len());
        if taken.is_empty() {
            return Progress::Done { now_ns };
        }
        let deliveries: Vec<_> = taken
            .iter()
            .map(|taken| {
                let item = &taken.item;
                self.lane
                    .first_delivery(&item.batch, usize::from(item.index), now_ns)
            })
            .collect();
        let count = deliveries.len();
        let ids = taken.iter().map(|taken| taken.item.id());
        let attempts = Attempts::first(now_ns);
        self.lane.tell_attempts(ids.clone(), attempts);
        self.lane
            .books
            .record(Status::Queued, Step::Start, count as u64);
        turn.handler
            .call_batch(self.lane.engine(), deliveries, &mut turn.faults);
        let after_ns = self.lane.engine().clock.now_ns();
        let _motion = self.lane.books.motions.begin(count as u64);
        let accepted_ns = taken.iter().map(|taken| taken.item.stamp().accepted_ns);
        let mut faults = std::mem::take(&mut turn.faults);
        let took = attempts.until(after_ns, count);
        self.lane
            .end_attempts(ids, accepted_ns, &faults, attempts, took);
        let mut settlements = Settlements::new(count);
        let mut failed = faults.drain(..).peekable();
        let mut parks = Vec::new();
        for (at, mut taken) in taken.into_iter().enumerate() {
            let Some(fault) = failed.next_if(|fault| fault.at == at) else {
                settlements.end(taken.key);
                continue;
            };
            taken.item.first_attempt_ns = now_ns;
            let error = &mut turn.last_error;
            let after = self.settle_taken(error, taken, &fault, after_ns, &mut settlements);
            if let After::Park(head) = after {
                parks.push(head);
            }
        }
        drop(failed);
        turn.faults = faults;
        for head in parks {
            self.park(head, Vec::new(), &mut settlements);
        }
        self.put_down(settlements);
        Progress::Done { now_ns: after_ns }
    }

    /// Delivers one that came back, or was requeued.
    fn try_alone(self, turn: &mut Turn<T>, class: Class, now_ns: u64) -> Progress {
        let request = TakeRequest::own(1, Each::Once, Some(class));
        let taken = self.take_for(request, now_ns, |_, _| {});
        let now_ns = self.try_taken(turn, taken, now_ns);
        Progress::Done { now_ns }
    }
}

/// Takes the oldest `count` deliveries out of the hand.
fn take_parts<T>(turn: &mut Turn<T>, count: usize) -> Vec<Part<T>> {
    let mut taken = Vec::new();
    let mut left = count.max(1);
    while left > 0
        && let Some(front) = turn.hand.front()
    {
        let take = front.len().min(left);
        taken.push(Part {
            batch: Arc::clone(&front.batch),
            from: front.from,
            to: front.from + take as u32,
        });
        advance(turn, take);
        left -= take;
    }
    taken
}
