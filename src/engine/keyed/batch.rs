//! Batches of deliveries that may go now, for the lane's own handler or for a member of a group.
//!
//! A slot that waits for its batch to fill is at rest. It is notified as any slot is, of each
//! delivery that arrives while it has some. The feared interleaving: it looks, then another member
//! files what arrives for it, and nobody notifies it. Whoever pushed that delivery has scheduled the
//! lane, whose turn notifies every idle member that has something. A slot that is busy looks again,
//! and marks itself idle under the lock of that look.

use crate::engine::deliver::batch::BatchPlan;
use crate::engine::deliver::turn::Progress;
use crate::engine::keyed::take::{Settlements, TakeRequest};
use crate::engine::keyed::turn::After;
use crate::engine::parts::pending::Attempts;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::{KeyedLane, RUNNER, State};
use crate::engine::state::lane::Turn;
use crate::engine::state::slots::{ConsumerSlot, Member};
use crate::engine::wait::fire::Fire;
use crate::message::batch::Stamp;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::order::sequencer::{Class, PerKey};
use crate::pure::policy::strategy::Batched;
use crate::sync::Arc;
use crate::types::duration::nanos;

/// The consumer that has a batch handler.
pub(crate) enum Batcher<'a, T> {
    /// The lane's own runner.
    Runner,
    /// A slot of this member.
    Slot(&'a Arc<ConsumerSlot<T>>, &'a Member<T>),
}

impl<T: Send + Sync + 'static> Batcher<'_, T> {
    fn owner(&self) -> u64 {
        match self {
            Self::Runner => RUNNER,
            Self::Slot(_, member) => member.id,
        }
    }

    /// Notes under the lock how many deliveries it has taken.
    fn note(&self, taken: usize, now_ns: u64) {
        if let Self::Slot(slot, member) = self {
            slot.mark_busy(taken > 0, now_ns);
            member.taken.add(taken as u64);
        }
    }

    /// Returns the task that looks again when it has lingered.
    fn task(&self, keyed: KeyedLane<'_, T>) -> Arc<dyn Fire> {
        match self {
            Self::Runner => Arc::clone(keyed.lane) as _,
            Self::Slot(slot, _) => Arc::clone(slot) as _,
        }
    }

    fn request(&self, most: usize, per_key: PerKey, only: Class) -> TakeRequest {
        TakeRequest {
            owner: self.owner(),
            most,
            per_key,
            only: Some(only),
        }
    }
}

/// The deliveries that wait for a batch handler.
struct Waits {
    /// The class of the next delivery, if any may go.
    next: Option<Class>,
    /// The oldest new delivery that may go.
    first: Option<Stamp>,
    /// The class of a delivery that could go while the new ones wait for more.
    instead: Option<Class>,
    available: usize,
    /// All waiting deliveries, including the ones that may not go.
    known: usize,
    /// Whether the limit of deliveries set aside is reached.
    is_full: bool,
    per_key: PerKey,
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Returns what the consumer could take as a batch of `size`.
    fn look(self, batcher: &Batcher<'_, T>, size: usize, now_ns: u64) -> Waits {
        let owner = batcher.owner();
        let mut state = self.keyed.state.lock();
        state.sequencer.set_now(now_ns);
        self.feed(&mut state, owner, size);
        batcher.note(0, 0);
        let sequencer = &state.sequencer;
        let first = sequencer.peek(owner, Class::New);
        Waits {
            next: sequencer.next_class(owner),
            first: first.map(PendingDelivery::stamp),
            instead: [Class::Requeued, Class::Again]
                .into_iter()
                .find(|class| sequencer.peek(owner, *class).is_some()),
            available: sequencer.available(owner, Class::New, size),
            // A delivery that has come back may free its place.
            known: match sequencer.peek(owner, Class::Again) {
                None => {
                    let waiting = self.lane.waiting.lock().len();
                    sequencer.len() + state.parked_arrivals.len() + waiting
                }
                Some(_) => 0,
            },
            is_full: state.set_aside() >= state.rules.hold as usize,
            per_key: if state.rules.blocks() {
                PerKey::One
            } else {
                PerKey::All
            },
        }
    }

    /// Delivers one batch to the lane's own handler.
    pub(crate) fn try_own_batch(
        self,
        turn: &mut Turn<T>,
        batched: Batched,
        now_ns: u64,
    ) -> Progress {
        self.try_batch(turn, &Batcher::Runner, batched, now_ns)
    }

    /// Delivers one batch of deliveries that may go now. Where failures hold their keys, a
    /// batch has at most one delivery of each key. A delivery that came back goes alone and
    /// alternates with batches that are due. A batch that only lingers holds no delivery up.
    pub(crate) fn try_batch(
        self,
        turn: &mut Turn<T>,
        batcher: &Batcher<'_, T>,
        batched: Batched,
        now_ns: u64,
    ) -> Progress {
        let waits = self.look(batcher, batched.size(), now_ns);
        let first = match (waits.next, waits.first) {
            (Some(Class::New), Some(first)) => first,
            (Some(class), _) => return self.try_alone(turn, batcher, class, now_ns),
            (None, _) => return Progress::Nothing,
        };
        let counts = (waits.available, waits.known);
        let take = match self.lane.plan_batch(first, batched, counts, now_ns) {
            // These are left of a batch that was due. They had to wait for their keys, and have
            // lingered enough.
            _ if turn.carried_over > 0 => turn.carried_over.min(batched.size()),
            BatchPlan::Take(take) => take,
            // No more deliveries are filed before some of these have gone.
            BatchPlan::Linger(_) if waits.is_full => batched.size(),
            BatchPlan::Linger(at_most) => {
                if let Some(class) = waits.instead {
                    return self.try_alone(turn, batcher, class, now_ns);
                }
                let delay_ns = at_most.map(nanos);
                turn.linger
                    .set(self.lane.engine(), delay_ns, batcher.task(self));
                return Progress::Nothing;
            }
        };
        turn.linger.cancel(self.lane.engine());
        let take = take.min(turn.granted);
        let request = batcher.request(take, waits.per_key, Class::New);
        let note = |_: &State<T>, taken| batcher.note(taken, now_ns);
        let taken = self.take_for(request, now_ns, note);
        turn.carried_over = take.min(waits.available).saturating_sub(taken.len());
        turn.granted -= taken.len();
        if taken.is_empty() {
            return Progress::Done { now_ns };
        }
        let deliveries: Vec<_> = taken
            .iter()
            .map(|taken| {
                let item = &taken.item;
                self.lane
                    .called_delivery(&item.batch, usize::from(item.index), now_ns)
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
            .call_batch(self.lane.engine(), deliveries, &mut turn.failed_calls);
        let after_ns = self.lane.engine().clock.now_ns();
        let _motion = self.lane.books.motions.begin(count as u64);
        let accepted_ns = taken.iter().map(|taken| taken.item.stamp().accepted_ns);
        let mut failed_calls = std::mem::take(&mut turn.failed_calls);
        let took = attempts.until(after_ns, count);
        self.lane
            .end_attempts(ids, accepted_ns, &failed_calls, attempts, took);
        let mut settlements = Settlements::new(count);
        let mut failed = failed_calls.drain(..).peekable();
        let mut parks = Vec::new();
        for (at, mut taken) in taken.into_iter().enumerate() {
            let Some(failed_call) = failed.next_if(|failed_call| failed_call.at == at) else {
                self.lane.note_end_of(&taken.item, Status::Delivered);
                settlements.end(taken.key);
                continue;
            };
            taken.item.first_attempt_ns = now_ns;
            let error = &mut turn.last_error;
            let after = self.settle_taken(error, taken, &failed_call, after_ns, &mut settlements);
            if let After::Park(parked_by) = after {
                parks.push(parked_by);
            }
        }
        drop(failed);
        turn.failed_calls = failed_calls;
        for parked_by in parks {
            self.park(parked_by, Vec::new(), &mut settlements);
        }
        self.put_down(settlements);
        Progress::Done { now_ns: after_ns }
    }

    /// Delivers one delivery that came back or was requeued.
    fn try_alone(
        self,
        turn: &mut Turn<T>,
        batcher: &Batcher<'_, T>,
        class: Class,
        now_ns: u64,
    ) -> Progress {
        let request = batcher.request(1, PerKey::One, class);
        let note = |_: &State<T>, taken| batcher.note(taken, now_ns);
        let taken = self.take_for(request, now_ns, note);
        turn.granted -= taken.len();
        let now_ns = self.try_taken(turn, taken, now_ns);
        Progress::Done { now_ns }
    }
}
