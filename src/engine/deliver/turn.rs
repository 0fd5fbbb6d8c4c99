//! A lane's turn. First attempts and deliveries that came back alternate, one for one, for
//! as long as the lane's share of the worker lasts.

use std::iter;
use std::ops::Range;

use crate::engine::base::contain::discard;
use crate::engine::deliver::attempts::successes;
use crate::engine::gates::asking::Calls;
use crate::engine::parts::handler::{BatchRun, FailedCall, Handler};
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::parts::pending::{Attempts, Took};
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::{Lane, Turn};
use crate::message::batch::{Batch, BatchSlice, Messages};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Phase;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, in_order, mutant};

/// A lane's share of a worker: a lane that has run this long goes to the back of the queue.
/// One handler call may exceed the share; a second call then waits for the next turn.
pub(crate) const SHARE_NS: u64 = 500_000;

impl<T: Send + Sync + 'static> Task for Lane<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if !self.task.start() || !self.run_claimed() {
            return;
        }
        if self.phase().ends_at_once() {
            // Its end was begun while it ran. On the ready queue it would wait for a free worker,
            // and the handlers of other lanes may keep all of them.
            self.end(worker.engine);
        } else {
            worker.requeue(self);
        }
    }

    fn is_brisk(&self) -> bool {
        self.is_brisk.load(Ordering::Relaxed)
    }
}

/// The most looks for work in one turn. The limit ends a turn whose clock stands still.
pub(crate) const SHARE_LOOKS: usize = 1_024;

/// The longest turn that counts as brisk: about the time it takes to wake another worker.
/// So waiting until a brisk lane's worker comes back delays nobody.
const BRISK_NS: u64 = 20_000;

/// The result of one look for work.
pub(crate) enum Progress {
    /// Something was done. The time is the one after it.
    Done { now_ns: u64 },
    /// There is nothing to do until somebody notifies.
    Nothing,
}

/// The result of an attempt.
pub(crate) enum Tried<T> {
    Acked,
    Failed(PendingDelivery<T>, FailedCall),
    /// The handler was not called, because the lane is being cancelled.
    NotCalled(PendingDelivery<T>),
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Runs a turn for the thread that has claimed the lane, and gives it back. Returns `true`
    /// if the lane must go back on the ready queue.
    pub(crate) fn run_claimed(self: &Arc<Self>) -> bool {
        let mut more = false;
        let turn = self.turn.lock().take();
        if let Some(mut turn) = turn {
            self.share_if_asked();
            self.end_expired_in(&mut turn);
            more = self.work(&mut turn);
            let room = self.room.load();
            let is_over = room.phase != Phase::Open && room.occupied == 0;
            let dismissed =
                |keyed: KeyedLane<'_, T>| mutant!(keyed.dismiss(), "slot.dismiss", true);
            if is_over && self.keyed().is_none_or(dismissed) {
                // The handler and its captures are dropped before anybody hears that the
                // subscription has ended.
                in_order!(
                    discard(turn),
                    self.topic.retire(self),
                    "lane.drop-then-retire"
                );
            } else {
                let prefetched_expires_ns = self.prefetched_expires_ns(&turn);
                *self.turn.lock() = Some(turn);
                self.await_expiry(prefetched_expires_ns);
            }
            if !more {
                self.tell_if_dry();
            }
        }
        self.task.rest(more) == Then::Enqueue
    }

    /// Works until there is nothing to do or the share is used up. Returns `true` in the second
    /// case.
    fn work(self: &Arc<Self>, turn: &mut Turn<T>) -> bool {
        let began_ns = self.engine().clock.now_ns();
        let mut now_ns = began_ns;
        let mut looks = 0;
        while !self.phase().ends_at_once() {
            let ran_ns = now_ns.saturating_sub(began_ns);
            if ran_ns >= SHARE_NS || looks == SHARE_LOOKS {
                self.was_brisk(false);
                return true;
            }
            looks += 1;
            let progress = if let Some(keyed) = self.keyed() {
                keyed.deliver_keyed(turn, now_ns)
            } else {
                self.deliver_plain(turn, now_ns)
            };
            match progress {
                Progress::Nothing => {
                    self.was_brisk(ran_ns <= BRISK_NS);
                    return false;
                }
                Progress::Done { now_ns: after_ns } => now_ns = after_ns,
            }
        }
        self.end_all(turn);
        false
    }

    /// Delivers what the lane's gate lets go.
    #[inline(always)]
    fn deliver_plain(self: &Arc<Self>, turn: &mut Turn<T>, now_ns: u64) -> Progress {
        let Some(grant) = self.may_go(usize::MAX, Calls::One, now_ns) else {
            self.keep_returned(turn);
            return Progress::Nothing;
        };
        turn.granted = grant.most();
        let progress = self.deliver_by_turns(turn, now_ns);
        self.end_turn_step(grant);
        progress
    }

    /// Remembers whether a turn was brisk, for the worker that lends its topic during the next
    /// one.
    fn was_brisk(&self, is_brisk: bool) {
        if self.is_brisk.load(Ordering::Relaxed) != is_brisk {
            self.is_brisk.store(is_brisk, Ordering::Relaxed);
        }
    }

    /// Delivers waiting first attempts: a batch, or at most `most` of them.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        most: usize,
        now_ns: u64,
    ) -> Progress {
        match &turn.handler {
            Handler::Each(_) => self.deliver_run(turn, most, now_ns),
            Handler::Batch(_, batched) => {
                let batched = *batched;
                self.deliver_batch(turn, batched, now_ns)
            }
            Handler::External => Progress::Nothing,
        }
    }

    /// Delivers a few messages one by one between two readings of the clock.
    fn deliver_run(self: &Arc<Self>, turn: &mut Turn<T>, most: usize, now_ns: u64) -> Progress {
        if turn.prefetched.is_empty() {
            self.prefetch(turn, turn.stride.calls().min(most));
        }
        if !self.expire_front(turn, now_ns) {
            return Progress::Nothing;
        }
        let Some(part) = turn.prefetched.front() else {
            return Progress::Done { now_ns };
        };
        let (batch, from) = (Arc::clone(&part.batch), part.from as usize);
        let most = turn.stride.calls().min(part.len()).min(most);
        let most = most.min(turn.granted);
        let to = self.unexpired(part, from, from + most, now_ns);
        let run = self.first_run(&batch, from, to, now_ns);
        let (calls, after_ns) = self.try_run(turn, &run);
        let _motion = self.books.motions.begin(calls as u64);
        let acked = self.end_run(&run, calls, &turn.failed_calls, after_ns);
        let place = |at: usize| (&batch, from + at);
        let freed = self.settle_first(turn, place, now_ns, after_ns);
        self.books.end_in_flight((to - from) as u64);
        advance(turn, calls);
        self.give_back(acked as u32 + freed);
        Progress::Done { now_ns: after_ns }
    }

    /// Describes first attempts at adjacent messages of a batch.
    pub(crate) fn first_run<'a>(
        &'a self,
        batch: &'a Batch<T>,
        from: usize,
        to: usize,
        now_ns: u64,
    ) -> BatchRun<'a, T> {
        BatchRun {
            batch,
            from,
            to,
            attempt: batch.tried() + 1,
            generation: 0,
            address: self.call_address(),
            now_ns,
            room: &self.room,
            until_fault: false,
            holds: &self.gate.holds,
        }
    }

    /// Calls the handler for a run, all of which is in flight from then on. Returns how many
    /// calls were made, and the time after them.
    pub(crate) fn try_run(&self, turn: &mut Turn<T>, run: &BatchRun<'_, T>) -> (usize, u64) {
        self.books.begin_in_flight((run.to - run.from) as u64);
        self.tell_attempts(run.batch.ids(run.from, run.to), run.attempts());
        let calls = turn
            .handler
            .call(self.engine(), run, &mut turn.failed_calls);
        let after_ns = self.engine().clock.now_ns();
        turn.stride = turn.stride.after(after_ns.saturating_sub(run.now_ns));
        self.books.record(Status::Queued, Step::Start, calls as u64);
        (calls, after_ns)
    }

    /// Records how the first `calls` calls of a run have ended. Returns how many succeeded.
    pub(crate) fn end_run(
        self: &Arc<Self>,
        run: &BatchRun<'_, T>,
        calls: usize,
        failed_calls: &[FailedCall],
        after_ns: u64,
    ) -> usize {
        let (from, attempts) = (run.from, run.attempts());
        let took = attempts.until(after_ns, calls);
        let places = from..from + calls;
        let acked = self.end_stretch(run.batch, places, failed_calls, attempts, took);
        if run.batch.is_watched() {
            let acked = successes(calls, failed_calls).map(|at| from + at);
            self.note_ends(run.batch, acked, 0, Status::Delivered);
        }
        acked
    }

    /// Records the ends of attempts at adjacent messages of a batch. Returns how many succeeded.
    #[inline(always)]
    pub(crate) fn end_stretch(
        self: &Arc<Self>,
        batch: &Batch<T>,
        places: Range<usize>,
        failed_calls: &[FailedCall],
        attempts: Attempts,
        took: Took,
    ) -> usize {
        let ids = batch.ids(places.start, places.end);
        match &batch.messages {
            Messages::Chunk(_, first) => {
                let accepted_ns = iter::repeat_n(first.accepted_ns, places.len());
                self.end_attempts(ids, accepted_ns, failed_calls, attempts, took)
            }
            Messages::Each(messages) => match messages.get(places.clone()) {
                Some(messages) => {
                    let accepted_ns = messages.iter().map(|message| message.stamp.accepted_ns);
                    self.end_attempts(ids, accepted_ns, failed_calls, attempts, took)
                }
                None => self.end_retained(batch, places, failed_calls, attempts, took),
            },
        }
    }

    /// Records the ends of calls for messages that are in other batches.
    #[cold]
    #[inline(never)]
    fn end_retained(
        self: &Arc<Self>,
        batch: &Batch<T>,
        places: Range<usize>,
        failed_calls: &[FailedCall],
        attempts: Attempts,
        took: Took,
    ) -> usize {
        let ids = batch.ids(places.start, places.end);
        let accepted_ns = places.map(|place| batch.stamp(place).accepted_ns);
        self.end_attempts(ids, accepted_ns, failed_calls, attempts, took)
    }

    /// Takes the next deliveries of the lane, if there are any, for this turn.
    #[inline(always)]
    pub(crate) fn prefetch(&self, turn: &mut Turn<T>, most: usize) {
        if let Some(part) = self.take(most) {
            turn.prefetched.push_back(part);
        }
    }

    /// Takes the next deliveries of the lane. Where waiting deliveries may be dropped or
    /// expire, takes no more than are about to be delivered.
    pub(crate) fn take(&self, most: usize) -> Option<BatchSlice<T>> {
        if self.is_sifted() {
            self.pop_some(most as u32)
        } else {
            self.pop()
        }
    }

    /// Calls the handler for one delivery. Returns the result and the time after the call.
    pub(crate) fn try_one(
        self: &Arc<Self>,
        turn: &mut Turn<T>,
        mut again: PendingDelivery<T>,
        now_ns: u64,
    ) -> (Tried<T>, u64) {
        let attempts = again.begin(now_ns);
        let index = usize::from(again.index);
        let run = BatchRun {
            batch: &again.batch,
            from: index,
            to: index + 1,
            attempt: attempts.number,
            generation: again.generation,
            address: self.call_address(),
            now_ns,
            room: &self.room,
            until_fault: false,
            holds: &self.gate.holds,
        };
        self.tell_attempts(iter::once(again.id()), attempts);
        let calls = turn
            .handler
            .call(self.engine(), &run, &mut turn.failed_calls);
        let after_ns = self.engine().clock.now_ns();
        if calls == 0 {
            return (Tried::NotCalled(again), after_ns);
        }
        self.books.record(Status::Queued, Step::Start, 1);
        let tried = self.conclude(again, turn.failed_calls.pop(), attempts, after_ns);
        (tried, after_ns)
    }

    /// Records how an attempt has ended.
    #[inline(always)]
    pub(crate) fn conclude(
        self: &Arc<Self>,
        again: PendingDelivery<T>,
        failed_call: Option<FailedCall>,
        attempts: Attempts,
        ended_ns: u64,
    ) -> Tried<T> {
        let stamp = again.stamp();
        let (ids, accepted_ns) = (iter::once(stamp.id), iter::once(stamp.accepted_ns));
        let took = attempts.until(ended_ns, 1);
        self.end_attempts(ids, accepted_ns, failed_call.as_slice(), attempts, took);
        match failed_call {
            None => {
                self.note_end_of(&again, Status::Delivered);
                Tried::Acked
            }
            Some(failed_call) => Tried::Failed(again, failed_call),
        }
    }

    /// Ends the expired deliveries at the front. Returns `false` if none was prefetched.
    pub(crate) fn expire_front(&self, turn: &mut Turn<T>, now_ns: u64) -> bool {
        if turn.prefetched.is_empty() {
            return false;
        }
        while let Some(part) = turn.prefetched.front() {
            let index = part.from as usize;
            if !self.has_expired(&part.batch, index, now_ns) {
                break;
            }
            let _motion = self.books.motions.begin(1);
            self.expire(&part.batch, index);
            advance(turn, 1);
            self.give_back(1);
        }
        true
    }

    /// The position of the first expired message of `from..to`, or `to`.
    #[inline(always)]
    pub(crate) fn unexpired(
        &self,
        part: &BatchSlice<T>,
        from: usize,
        to: usize,
        now_ns: u64,
    ) -> usize {
        if !part.batch.may_expire() {
            return to;
        }
        let expired = |index: &usize| self.has_expired(&part.batch, *index, now_ns);
        (from..to).find(expired).unwrap_or(to)
    }

    /// Gives back the places of deliveries that have ended. The end of the turn sees whether
    /// the lane has ended with them.
    pub(crate) fn give_back(&self, ended: u32) {
        if ended > 0 {
            let _ = self.release(ended);
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Files a delivery that came back, or delivers what may go now.
    fn deliver_keyed(self, turn: &mut Turn<T>, now_ns: u64) -> Progress {
        self.adopt(turn);
        if self.file_next_return(now_ns) {
            return Progress::Done { now_ns };
        }
        let progress = match &turn.handler {
            Handler::Each(_) | Handler::Batch(..) => self.deliver_own(turn, now_ns),
            Handler::External if self.lane.consumers.have_slots() => {
                if self.keyed.is_timed.load(Ordering::Relaxed) {
                    self.judge_overdue(turn);
                }
                // No consumer comes for a permit that the lane was offered.
                if self.lane.may_call(now_ns) && !self.call_others() {
                    self.lane.leave_line();
                }
                Progress::Nothing
            }
            Handler::External => {
                self.judge_overdue(turn);
                if self.lane.may_call(now_ns) {
                    self.call_receivers();
                }
                Progress::Nothing
            }
        };
        match progress {
            Progress::Nothing if self.judge_parked() => Progress::Done { now_ns },
            progress => progress,
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Delivers what the lane's gate lets go to its own handler.
    fn deliver_own(self, turn: &mut Turn<T>, now_ns: u64) -> Progress {
        let Some(grant) = self.lane.may_go(usize::MAX, Calls::One, now_ns) else {
            return Progress::Nothing;
        };
        turn.granted = grant.most();
        let progress = match turn.handler {
            Handler::Batch(_, batched) => self.try_own_batch(turn, batched, now_ns),
            _ => self.try_next(turn, now_ns),
        };
        self.lane.end_turn_step(grant);
        progress
    }
}

/// Advances the prefetched deliveries by `count` messages of the first part.
pub(crate) fn advance<T>(turn: &mut Turn<T>, count: usize) {
    if let Some(part) = turn.prefetched.front_mut() {
        part.from += count as u32;
        if part.from == part.to {
            turn.prefetched.pop_front();
        }
    }
}
