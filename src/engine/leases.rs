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
//!
//! The *alarm* is one timer for all of them, never set for later than the first deadline. Who
//! takes a lease sets it only if the new deadline is earlier; who settles or extends one
//! leaves it alone, as long as others are out or something waits that may soon be. So a busy
//! pull pays for no timer, and an idle one has none: who settles the last lease of a lane in
//! which nothing waits takes the alarm back. Whoever judges what is overdue sets it for the
//! first deadline that is left, or later where many are out, so that it doesn't look through
//! them at every tick.

use super::context::{self, Inside};
use super::crew::Crew;
use super::handler::{Cause, Fault};
use super::lane::{Lane, Redelivery, Turn};
use super::receive::Granted;
use super::timer::LEASE;
use crate::error::Stale;
use crate::metrics::SubscriptionMetrics;
use crate::nack::Nack;
use crate::pure::arena::Arena;
use crate::pure::expiry::{NEVER, next_look};
use crate::pure::lifecycle::{Status, Step};
use crate::pure::room::Phase;
use crate::pure::sequencer::Taken;
use crate::pure::wheel::TimerKey;
use crate::sync::{Arc, breakable};

/// The leases of a crew. At most `credits` are out, unless there were more before.
pub(super) struct Leases<T> {
    out: Arena<Leased<T>>,
    /// No deadline is earlier than this one's time, once set.
    alarm: Alarm,
    /// The alarm has rung, for the lane's runner to judge.
    is_overdue: bool,
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

/// A timer for the first of several deadlines.
struct Alarm {
    due_ns: u64,
    key: TimerKey,
}

impl Alarm {
    const UNSET: Self = Self {
        due_ns: NEVER,
        key: TimerKey::NONE,
    };
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
            alarm: Alarm::UNSET,
            is_overdue: false,
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

    pub(super) fn note_overdue(&mut self) {
        self.is_overdue = true;
    }

    pub(super) fn drain(&mut self) -> Vec<Leased<T>> {
        self.out.drain().collect()
    }

    pub(super) fn read_metrics(&self, into: &mut SubscriptionMetrics) {
        into.leased = self.out.len() as u64;
        into.stale = self.stale;
        into.timed_out = self.timed_out;
        into.abandoned = self.abandoned;
    }

    /// Has a delivery be out until then; answers what to show for it.
    pub(super) fn grant(
        &mut self,
        mut taken: Taken<Redelivery<T>>,
        now_ns: u64,
        due_ns: u64,
    ) -> Granted<T> {
        let item = &mut taken.item;
        if item.attempts == 0 {
            item.first_attempt_ns = now_ns;
        }
        let (batch, index) = (Arc::clone(&item.batch), item.index);
        let (attempt, generation) = (item.attempts + 1, item.generation);
        let number = self.next;
        self.next += 1;
        let slot = self.out.insert(Leased {
            number,
            due_ns,
            began_ns: now_ns,
            taken,
        });
        Granted {
            claim: Claim { slot, number },
            due_ns,
            batch,
            index,
            attempt,
            generation,
        }
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

    /// Takes out what has outlived its deadline.
    fn take_overdue(&mut self, timer_ns: u64) -> Vec<Leased<T>> {
        let is_late = |leased: &Leased<T>| {
            let is_late = timer_ns >= leased.due_ns;
            breakable!("pull: an alarm ends whom it finds", is_late, true)
        };
        let late = self.out.extract(is_late);
        self.timed_out += late.len() as u64;
        late
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Writes down that so many deliveries go out on lease.
    pub(super) fn note_granted(self: &Arc<Self>, leases: &mut Leases<T>, count: u64, due_ns: u64) {
        self.books.take_in_hand(count);
        self.books.record(Status::Queued, Step::Start, count);
        self.set_alarm(leases, due_ns);
    }

    /// Has the wheel call when this deadline comes, unless it calls before.
    fn set_alarm(self: &Arc<Self>, leases: &mut Leases<T>, due_ns: u64) {
        if due_ns < leases.alarm.due_ns {
            let timer = &self.topic.engine.timer;
            let key = timer.insert(due_ns, LEASE, Arc::clone(self) as _);
            let later = std::mem::replace(&mut leases.alarm, Alarm { due_ns, key });
            timer.cancel(later.key);
        }
    }

    /// No lease is out that it would have to end.
    fn silence_alarm(&self, leases: &mut Leases<T>) {
        let alarm = std::mem::replace(&mut leases.alarm, Alarm::UNSET);
        self.topic.engine.timer.cancel(alarm.key);
    }

    /// No lease is out any more, and none will be.
    pub(super) fn end_leases(&self) {
        if let Some(crew) = self.crew.get() {
            self.silence_alarm(&mut crew.state.lock().leases);
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
        leased.due_ns = leased.due_ns.max(timer_ns.saturating_add(by_ns));
        Ok(leased.due_ns)
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
        if leases.out.is_empty() && state.sequencer.len() == 0 && self.is_inbox_empty() {
            self.silence_alarm(&mut state.leases);
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
        let mut state = crew.state.lock();
        let leases = &mut state.leases;
        if !std::mem::take(&mut leases.is_overdue) {
            return;
        }
        let late = leases.take_overdue(timer_ns);
        let first_ns = leases.out.values().map(|leased| leased.due_ns).min();
        let first_ns = first_ns.unwrap_or(NEVER);
        // It has rung, unless it was taken back and set anew meanwhile.
        self.silence_alarm(leases);
        self.set_alarm(leases, next_look(first_ns, leases.out.len(), timer_ns));
        drop(state);
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
    pub(super) fn end_lease(&self, leased: Leased<T>) {
        let mut item = leased.taken.item;
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
