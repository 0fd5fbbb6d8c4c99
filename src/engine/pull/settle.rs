//! Deliveries on lease: callers have taken them, and settle them when they are done.
//!
//! The leases that are out are [on record](crate::engine::parts::outstanding) under the
//! keyed lane's lock. A lease is settled by its holder (by an ack, a nack or a drop), by
//! its deadline, or by the end of the lane. Each of them takes the lease out of the record.
//! Only the one that took it out settles the delivery, outside of the lock. The feared
//! interleaving: an ack and the deadline both find the lease out. They can't, because
//! looking and taking out is one step. After its deadline a lease is for the deadline
//! alone. So the clock decides whether an ack is late, not the order in which they come.
//! Model: `loom-tests/tests/models/pull.rs`.
//!
//! The *alarm* is one timer for all leases. A consumer that takes a lease sets the alarm
//! only if the new deadline is earlier. A holder that settles or extends a lease leaves the
//! alarm alone while other leases are out, or a delivery waits that may soon be. So a busy
//! pull pays for no timer. An idle one has none: settling the last lease of a lane in which
//! nothing waits silences the alarm. The lane's turn that judges overdue leases sets the
//! alarm for the first deadline left. Where many leases are out it sets the alarm for
//! later, so that it doesn't look through them at every tick.

use std::iter;

use crate::engine::parts::handler::{FailedCall, FailureCause};
use crate::engine::parts::leases::{Alarm, Leases};
use crate::engine::parts::outstanding::Granted;
use crate::engine::parts::pending::Attempts;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::runtime::context::{self, Inside};
use crate::engine::state::keyed::{KeyedLane, State};
use crate::engine::state::lane::{Lane, Turn};
use crate::engine::wait::fire::Tag;
use crate::message::nack::Nack;
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::expiry::{NEVER, next_look};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::order::sequencer::Taken;
use crate::pure::words::room::Phase;
use crate::sync::{Arc, mutant};
use crate::types::error::StaleError;

/// How a holder reports that a delivery has not been handled.
pub(crate) enum Failing {
    Nack(Nack),
    Abandon,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Silences the alarm of a lane of which no lease is out any more, and none will be.
    pub(crate) fn end_leases(&self) {
        if let Some(keyed) = self.keyed.get() {
            keyed.state.lock().leases.silence_alarm(self.engine());
        }
    }

    /// Ends a delivery that is out, as the lane's phase says. Its holder has a stale lease from
    /// then on.
    pub(crate) fn end_lease(&self, mut item: PendingDelivery<T>) {
        item.remember_latest();
        item.attempts += 1;
        self.end_pending(item, Status::Delivering);
        self.books.end_in_flight(1);
    }

    /// Whether the lane will lease nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        let room = self.room.load();
        room.phase.ends_at_once() || (room.phase == Phase::Draining && room.occupied == 0)
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Records that `count` deliveries go out on lease.
    pub(crate) fn note_granted(self, leases: &mut Leases<T>, count: u64, due_ns: u64) {
        self.lane.books.begin_in_flight(count);
        self.lane.books.record(Status::Queued, Step::Start, count);
        self.set_alarm(leases, due_ns);
    }

    /// Sets the alarm for this deadline, unless it is set for an earlier time.
    pub(crate) fn set_alarm(self, leases: &mut Leases<T>, due_ns: u64) {
        if due_ns < leases.alarm.due_ns {
            let timer = &self.lane.engine().timer;
            let key = timer.insert(due_ns, Tag::Lease, Arc::clone(self.lane) as _);
            let later = std::mem::replace(&mut leases.alarm, Alarm { due_ns, key });
            timer.cancel(later.key);
        }
    }

    /// Silences the alarm if no lease is out, and no delivery waits that may soon be.
    pub(crate) fn rest_alarm(self, state: &mut State<T>) {
        if state.leases.out.len() == 0 && state.sequencer.len() == 0 && self.lane.is_inbox_empty() {
            state.leases.silence_alarm(self.lane.engine());
        }
    }

    /// Returns whether the lease has not ended.
    pub(crate) fn holds_lease(self, lease: &Granted<T>) -> bool {
        let timer_ns = self.lane.engine().clock.timer_ns();
        let out = &mut self.keyed.state.lock().leases.out;
        out.holds(lease, timer_ns)
    }

    /// Does something that is worth doing only before the lease ends. It can't end meanwhile. `None`
    /// stands for a lease that has ended.
    #[cfg(feature = "log")]
    pub(crate) fn while_held<R>(self, lease: &Granted<T>, act: impl FnOnce() -> R) -> Option<R> {
        let timer_ns = self.lane.engine().clock.timer_ns();
        let mut state = self.keyed.state.lock();
        state.leases.out.holds(lease, timer_ns).then(act)
    }

    /// Moves the deadline of a lease to `by_ns` from now, unless it is later already.
    pub(crate) fn extend_lease(self, lease: &mut Granted<T>, by_ns: u64) -> Result<(), StaleError> {
        let mut state = self.keyed.state.lock();
        let timer_ns = self.lane.engine().clock.timer_ns();
        let due_ns = timer_ns.saturating_add(by_ns);
        if state.leases.out.extend(lease, due_ns, timer_ns) {
            return Ok(());
        }
        state.leases.stale += 1;
        drop(state);
        self.tell_stale(lease);
        Err(StaleError)
    }

    /// Acks leases that were taken at once: all of them, or none if one is stale.
    pub(crate) fn ack_leases(self, runs: &[Granted<T>]) -> Result<(), StaleError> {
        let timer_ns = self.lane.engine().clock.timer_ns();
        let count = runs.iter().map(Granted::len).sum();
        let mut state = self.keyed.state.lock();
        let out = &mut state.leases.out;
        let are_good = runs.iter().all(|run| out.holds(run, timer_ns));
        let mut state = mutant!(state, "pull.one-step", {
            drop(state);
            self.keyed.state.lock()
        });
        let leases = &mut state.leases;
        if are_good {
            runs.iter().for_each(|run| leases.out.end(run));
        } else {
            leases.stale += count as u64;
        }
        self.rest_alarm(&mut state);
        drop(state);
        // The thread's refusal is taken on success, too, so that it doesn't count against the
        // next delivery.
        context::take_refusal(self.lane.engine());
        if are_good {
            self.conclude_acks(runs, count);
            return Ok(());
        }
        runs.iter().for_each(|run| self.tell_stale(run));
        Err(StaleError)
    }

    /// Records that a run of leases was acked. Each delivery was in flight all the while.
    fn ack_run(self, run: &Granted<T>, ended_ns: u64) {
        let attempts = Attempts {
            number: run.attempt,
            is_first: run.is_first,
            began_ns: run.began_ns,
        };
        let took = attempts.until(ended_ns, 1);
        if run.len() == 1 {
            // Runs of one are the most frequent, and stretches cost more than all the rest of
            // this.
            let stamp = run.batch.stamp(run.index());
            let (ids, accepted_ns) = (iter::once(stamp.id), iter::once(stamp.accepted_ns));
            self.lane
                .end_attempts(ids, accepted_ns, &[], attempts, took);
            return;
        }
        for stretch in run.stretches() {
            self.lane
                .end_stretch(&run.batch, stretch, &[], attempts, took);
        }
    }

    /// Settles a lease for its holder as a failed attempt.
    pub(crate) fn fail_lease(self, lease: &Granted<T>, failing: Failing) -> Result<(), StaleError> {
        let timer_ns = self.lane.engine().clock.timer_ns();
        let is_abandoned = matches!(failing, Failing::Abandon);
        let mut state = self.keyed.state.lock();
        let leases = &mut state.leases;
        let taken = leases.out.take(lease, timer_ns);
        match taken {
            Some(_) => leases.abandoned += u64::from(is_abandoned),
            None => leases.stale += u64::from(!is_abandoned),
        }
        self.rest_alarm(&mut state);
        drop(state);
        let cause = match failing {
            Failing::Nack(nack) => FailureCause::Nack(nack),
            Failing::Abandon => FailureCause::Abandoned,
        };
        let by_shutdown = context::take_refusal(self.lane.engine());
        let failed_call = FailedCall::new(0, cause, by_shutdown);
        let Some(taken) = taken else {
            if !is_abandoned {
                self.tell_stale(lease);
            }
            return Err(StaleError);
        };
        self.settle_leased(taken, lease.began_ns, failed_call, &mut None);
        Ok(())
    }

    /// Tells observers of leases that were settled too late, or of a call that ended too late.
    pub(crate) fn tell_stale(self, run: &Granted<T>) {
        for id in run.ids() {
            let kind = EventKind::StaleSettlement;
            self.lane.topic.tell_of(
                Subject::of(&self.lane.name)
                    .message(id)
                    .attempt(run.attempt),
                kind,
            );
        }
    }

    /// Records that these `count` deliveries have been delivered, and puts them down.
    fn conclude_acks(self, runs: &[Granted<T>], count: usize) {
        let motion = self.lane.books.motions.begin(count as u64);
        let ended_ns = self.lane.engine().clock.now_ns();
        for run in runs {
            self.ack_run(run, ended_ns);
            if run.batch.is_watched() {
                let (batch, places) = (&run.batch, run.indices());
                self.lane
                    .note_ends(batch, places, run.generation, Status::Delivered);
            }
        }
        let keys = runs.iter().filter_map(|run| run.key);
        self.put_down_all_ended(keys, count as u32);
        drop(motion);
        self.follow_up();
    }

    /// Settles the leases that have outlived their deadline, or the calls that have.
    pub(crate) fn judge_overdue(self, turn: &mut Turn<T>) {
        let timer_ns = self.lane.engine().clock.timer_ns();
        let mut state = self.keyed.state.lock();
        let leases = &mut state.leases;
        if !std::mem::take(&mut leases.is_overdue) {
            return;
        }
        let late = leases.out.take_overdue(timer_ns);
        leases.timed_out += late.len() as u64;
        let first_ns = leases.out.first_due_ns().unwrap_or(NEVER);
        // The alarm has fired, unless it was silenced and set anew meanwhile.
        leases.silence_alarm(self.lane.engine());
        self.set_alarm(leases, next_look(first_ns, leases.out.len(), timer_ns));
        drop(state);
        for (taken, began_ns) in late {
            let cause = match self.lane.consumers.have_slots() {
                true => FailureCause::TimedOut,
                false => FailureCause::Overdue,
            };
            let failed_call = FailedCall::new(0, cause, false);
            self.settle_leased(taken, began_ns, failed_call, &mut turn.last_error);
        }
    }

    /// Settles a failed delivery that was out on lease, or in a call.
    fn settle_leased(
        self,
        taken: Taken<PendingDelivery<T>>,
        began_ns: u64,
        failed_call: FailedCall,
        last_error: &mut Option<Arc<str>>,
    ) {
        let engine = self.lane.engine();
        let _inside = Inside::enter(engine);
        let now_ns = engine.clock.now_ns();
        self.settle_alone(last_error, taken, Some(failed_call), (began_ns, now_ns));
        self.follow_up();
    }

    /// Calls the threads that wait for a delivery to be put down.
    fn follow_up(self) {
        let engine = self.lane.engine();
        mutant!(
            self.keyed.receivers.wake(|| self.to_lease()),
            "pull.wake-room"
        );
        engine.quiescence.notify_fenced();
        if engine.has_stopped() {
            // The end of the lane may have passed by while the delivery was in flight.
            self.lane.end(engine);
        }
    }
}
