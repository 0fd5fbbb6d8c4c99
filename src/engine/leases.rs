//! Deliveries on lease: callers have taken them, and settle them when they are done.
//!
//! A lease that is out is an entry of an arena under the crew's lock, with a number
//! that tells it from the next tenant of its slot. Who wants to settle it (its
//! holder by an ack, a nack or a drop; its deadline; the end of the lane) takes the
//! entry out, and only who has taken it out says what becomes of the delivery, outside of
//! the lock. The feared interleaving: an ack and the deadline both find the lease out. They
//! can't, because looking and taking out is one step. An entry whose deadline has
//! passed is for the deadline alone, so whether an ack is late is decided by the clock and not
//! by who comes first. Model: `loom-tests/tests/models/pull.rs`.

use super::context::{self, Inside};
use super::crew::Crew;
use super::handler::{Cause, Fault};
use super::lane::{Lane, Redelivery, Turn};
use super::timer::LEASE;
use crate::engine::Engine;
use crate::error::Stale;
use crate::event::EventKind;
use crate::metrics::SubscriptionMetrics;
use crate::nack::Nack;
use crate::pure::arena::Arena;
use crate::pure::lifecycle::{Status, Step};
use crate::pure::room::Phase;
use crate::pure::sequencer::Taken;
use crate::sync::{Arc, breakable};

/// The leases of a crew. At most `credits` are out, unless there were more before.
pub(super) struct Leases<T> {
    out: Arena<Leased<T>>,
    /// Slots whose deadline has come, for the lane's runner to judge.
    overdue: Vec<u32>,
    /// What the next lease is told from others by.
    next: u64,
    /// Which thread has taken the latest, and since which lease it does.
    taker: usize,
    taker_since: u64,
    pub(super) credits: u32,
    /// The same, if they were asked for and aren't the default.
    pub(super) asked: Option<u32>,
    pub(super) deadline_ns: u64,
    stale: u64,
    timed_out: u64,
    abandoned: u64,
}

/// A thread that takes so many leases while no other does has the pull to itself.
const ALONE_AFTER: u64 = 4_096;

/// A delivery that is out.
pub(super) struct Leased<T> {
    number: u64,
    /// By the clock of the timers.
    due_ns: u64,
    began_ns: u64,
    taken: Taken<Redelivery<T>>,
}

/// What the holder of a lease shows for it.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    slot: u32,
    number: u64,
}

/// How a holder settles a lease.
pub(crate) enum Settlement {
    Ack,
    Nack(Nack),
    Abandon,
}

impl<T> Leases<T> {
    /// Where nobody pulls.
    pub(super) const fn none() -> Self {
        Self {
            out: Arena::new(),
            overdue: Vec::new(),
            next: 0,
            taker: 0,
            taker_since: 0,
            credits: 0,
            asked: None,
            deadline_ns: 0,
            stale: 0,
            timed_out: 0,
            abandoned: 0,
        }
    }

    /// How many more may be out.
    pub(super) fn free(&self) -> usize {
        (self.credits as usize).saturating_sub(self.out.len())
    }

    /// This thread takes some. Answers whether others do, too, as far as can be seen.
    pub(super) fn note_taker(&mut self, thread: usize) -> bool {
        if self.taker != thread {
            self.taker = thread;
            self.taker_since = self.next;
        }
        self.taker_since > 0 && self.next - self.taker_since < ALONE_AFTER
    }

    pub(super) fn note_overdue(&mut self, slot: u32) {
        self.overdue.push(slot);
    }

    pub(super) fn drain(&mut self) -> Vec<Leased<T>> {
        self.overdue.clear();
        self.out.drain().collect()
    }

    pub(super) fn read_metrics(&self, into: &mut SubscriptionMetrics) {
        into.leased = self.out.len() as u64;
        into.stale = self.stale;
        into.timed_out = self.timed_out;
        into.abandoned = self.abandoned;
    }

    /// The lease of this claim, as long as it is the holder's.
    fn held(&mut self, claim: Claim, timer_ns: u64) -> Option<&mut Leased<T>> {
        self.out.get_mut(claim.slot).filter(|leased| {
            let is_tenant = leased.number == claim.number;
            breakable!("pull: any tenant will do", is_tenant, true) && timer_ns < leased.due_ns
        })
    }

    fn take_held(&mut self, claim: Claim, timer_ns: u64) -> Option<Leased<T>> {
        self.held(claim, timer_ns)?;
        self.out.remove(claim.slot)
    }

    /// Takes out what has outlived its deadline. Of the slots whose timer has fired,
    /// some have another tenant by now, or one whose deadline was extended.
    fn take_overdue(&mut self, timer_ns: u64) -> Vec<Leased<T>> {
        let mut late = Vec::new();
        for slot in std::mem::take(&mut self.overdue) {
            let is_late = |leased: &Leased<T>| timer_ns >= leased.due_ns;
            let is_late = self.out.get(slot).is_some_and(is_late);
            if breakable!("pull: a timer ends whom it finds", is_late, true) {
                late.extend(self.out.remove(slot));
            }
        }
        self.timed_out += late.len() as u64;
        late
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Has a delivery be out on lease; answers what to show for it, and until when it
    /// is good.
    pub(super) fn grant(
        self: &Arc<Self>,
        leases: &mut Leases<T>,
        mut taken: Taken<Redelivery<T>>,
        (now_ns, timer_ns): (u64, u64),
    ) -> (Claim, u64) {
        let item = &mut taken.item;
        if item.attempts == 0 {
            item.first_attempt_ns = now_ns;
        }
        self.books.take_in_hand(1);
        let status = self.books.record(Status::Queued, Step::Start, 1);
        // Told under the lock: nobody can settle it before.
        self.tell(item.id(), item.attempts + 1, status, EventKind::Delivering);
        let due_ns = timer_ns.saturating_add(leases.deadline_ns);
        let number = leases.next;
        leases.next += 1;
        let slot = leases.out.insert(Leased {
            number,
            due_ns,
            began_ns: now_ns,
            taken,
        });
        self.set_deadline(leases, slot, due_ns);
        (Claim { slot, number }, due_ns)
    }

    fn set_deadline(self: &Arc<Self>, leases: &mut Leases<T>, slot: u32, due_ns: u64) {
        let timer = &self.topic.engine.timer;
        if let Some(leased) = leases.out.get_mut(slot) {
            leased.due_ns = due_ns;
            leased.taken.item.timer = timer.insert(due_ns, LEASE + slot, Arc::clone(self) as _);
        }
    }

    /// Sets the deadline of a lease anew; answers it.
    pub(crate) fn extend_lease(self: &Arc<Self>, claim: Claim, by_ns: u64) -> Result<u64, Stale> {
        let crew = self.crew.get().ok_or(Stale)?;
        let engine = &self.topic.engine;
        let mut state = crew.state.lock();
        let timer_ns = engine.clock.timer_ns();
        let Some(leased) = state.leases.held(claim, timer_ns) else {
            state.leases.stale += 1;
            return Err(Stale);
        };
        let due_ns = timer_ns.saturating_add(by_ns);
        if due_ns <= leased.due_ns {
            return Ok(leased.due_ns);
        }
        engine.timer.cancel(leased.taken.item.timer);
        self.set_deadline(&mut state.leases, claim.slot, due_ns);
        Ok(due_ns)
    }

    /// Settles a lease for its holder.
    pub(crate) fn settle_lease(
        self: &Arc<Self>,
        claim: Claim,
        settlement: Settlement,
    ) -> Result<(), Stale> {
        let crew = self.crew.get().ok_or(Stale)?;
        let timer_ns = self.topic.engine.clock.timer_ns();
        let is_abandoned = matches!(settlement, Settlement::Abandon);
        let mut state = crew.state.lock();
        let leases = &mut state.leases;
        let leased = leases.take_held(claim, timer_ns);
        match leased {
            Some(_) => leases.abandoned += u64::from(is_abandoned),
            None => leases.stale += u64::from(!is_abandoned),
        }
        drop(state);
        let cause = match settlement {
            Settlement::Ack => None,
            Settlement::Nack(nack) => Some(Cause::Nack(nack)),
            Settlement::Abandon => Some(Cause::Abandoned),
        };
        // Taken also if it is acked: what it ignored is not the fault of the next.
        let by_shutdown = context::take_refusal(&self.topic.engine);
        let fault = cause.map(|cause| Fault::new(0, cause, by_shutdown));
        let leased = leased.ok_or(Stale)?;
        self.settle_leased(crew, leased, fault, &mut None);
        Ok(())
    }

    /// Says what becomes of leases that have outlived their deadline.
    pub(super) fn judge_overdue(self: &Arc<Self>, crew: &Crew<T>, turn: &mut Turn<T>) {
        let timer_ns = self.topic.engine.clock.timer_ns();
        let late = crew.state.lock().leases.take_overdue(timer_ns);
        for leased in late {
            let fault = Fault::new(0, Cause::Overdue, false);
            self.settle_leased(crew, leased, Some(fault), &mut turn.last_error);
        }
    }

    /// Says what becomes of a delivery that was out.
    fn settle_leased(
        self: &Arc<Self>,
        crew: &Crew<T>,
        leased: Leased<T>,
        fault: Option<Fault>,
        last_error: &mut Option<Arc<str>>,
    ) {
        let engine = &self.topic.engine;
        let _inside = Inside::enter(engine);
        let Leased {
            began_ns, taken, ..
        } = leased;
        engine.timer.cancel(taken.item.timer);
        let now_ns = engine.clock.now_ns();
        self.settle_alone(crew, last_error, taken, fault, (began_ns, now_ns));
        breakable!(
            "pull: room that no receiver hears of",
            crew.receivers.wake(|| self.to_lease(crew))
        );
        engine.stillness.look();
        if engine.has_stopped() {
            // The end may have passed by while it was in hand.
            self.end(engine);
        }
    }

    /// Ends a delivery that is out, as the lane's phase says: whoever has it holds a
    /// stale lease from here on.
    pub(super) fn end_lease(&self, leased: Leased<T>, engine: &Engine) {
        let mut item = leased.taken.item;
        engine.timer.cancel(item.timer);
        item.remember_latest();
        item.attempts += 1;
        self.end_redelivery(item, Status::Delivering);
        self.books.put_down(1);
    }

    /// Whether nothing will be leased any more.
    pub(super) fn is_over(&self) -> bool {
        let room = self.room.load();
        room.phase > Phase::Draining || (room.phase == Phase::Draining && room.occupied == 0)
    }
}
