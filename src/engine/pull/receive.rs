//! Taking deliveries on lease, and waiting for some.
//!
//! A receiver that finds nothing waits like a blocked publisher; see [`Waiters`]. It is
//! called whenever there may be something to lease:
//!
//! - by the lane's turn, when a delivery has arrived or come back, or the rules have
//!   changed;
//! - by a thread that settles a lease, which gives back a credit and perhaps a key;
//! - by a change of credits, and by the end of the lane.
//!
//! As many receivers are called as there are deliveries for. So the caller counts the
//! arrivals. Where keys matter, it files them until one may go; where they don't, all
//! deliveries in the inbox may go. A new delivery is leased [straight from
//! there](crate::engine::keyed::straight) as long as no filed one may go.
//!
//! Threads that share a pull take turns of a few leases. A thread whose turn is over yields
//! to the system's scheduler, and lets waiting receivers go first. A thread that has the
//! pull to itself does neither. Model: `loom-tests/tests/models/pull.rs`.
//!

use crate::engine::gates::asking::Calls;
use crate::engine::keyed::take::Settlements;
use crate::engine::parts::leases::{Leases, Leasing};
use crate::engine::parts::outstanding::{Granted, RUN, Span};
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::runtime::{Engine, context};
use crate::engine::state::keyed::{KeyedLane, RUNNER, State};
use crate::engine::state::lane::Lane;
use crate::engine::wait::waiters::Waiters;
use crate::message::MessageId;
use crate::message::batch::BatchSlice;
use crate::observe::event::EventKind;
use crate::pure::decide::lifecycle::Status;
use crate::pure::order::rules::Keying;
use crate::pure::order::sequencer::{Key, PerKey, Taken};
use crate::sync::{Instant, mutant, yield_now};
use crate::types::error::SettingError;
use crate::types::error::recv::{EndedError, RecvError};

/// Deliveries that were taken and have expired.
type Expired<T> = Vec<Taken<PendingDelivery<T>>>;

/// The deliveries that leave a lane in one step.
struct Going<T, F> {
    span: Span,
    /// The function that the leases are passed to.
    each: F,
    count: usize,
    is_observed: bool,
    /// The leases that observers are to hear of.
    told: Vec<(MessageId, u32)>,
    expired: Expired<T>,
}

impl<T, F: FnMut(Granted<T>)> Going<T, F> {
    #[inline(always)]
    fn add(&mut self, granted: Granted<T>) {
        self.count += granted.len();
        if self.is_observed {
            let attempt = granted.attempt;
            self.told.extend(granted.ids().map(|id| (id, attempt)));
        }
        (self.each)(granted);
    }
}

/// The default number of leases that may be out. It keeps a few threads busy, and a stuck
/// process holds little.
const CREDITS: u32 = 64;

/// An attempt to lease deliveries, which is `None` if there were none.
pub(crate) type Attempt = Option<Result<(), EndedError>>;

/// The line in which the receivers of a pull subscription wait.
pub(crate) struct Line<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) receivers: &'a Waiters,
}

impl Line<'_> {
    /// Repeats `attempt` until it finds something, or the subscription has ended, or `until` has
    /// passed, which is `None`. Never waits inside the engine or on an engine without workers.
    /// `room` says how many receivers would find something.
    pub(crate) fn receive(
        &self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> Attempt,
        room: impl Fn() -> usize,
    ) -> Option<Result<(), RecvError>> {
        let may_wait = !self.engine.is_manual() && !context::is_inside(self.engine);
        let received = if context::is_turn_over() && may_wait {
            yield_now();
            self.receivers.wait_behind(until, attempt, room)
        } else {
            match attempt() {
                None if !may_wait => return Some(Err(RecvError::WouldBlock)),
                None => self.receivers.wait_for(until, attempt, room),
                received => received,
            }
        };
        received.map(|received| received.map_err(RecvError::from))
    }

    /// Makes an attempt. If it finds nothing, has this future woken when there may be something.
    #[cfg(feature = "async")]
    pub(crate) fn poll_receive(
        &self,
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
        mut attempt: impl FnMut() -> Attempt,
        room: impl Fn() -> usize,
    ) -> std::task::Poll<Result<(), EndedError>> {
        if let Some(received) = attempt() {
            self.receivers.leave(id, room);
            return std::task::Poll::Ready(received);
        }
        self.receivers.poll_for(id, context, attempt, room)
    }
}

/// Prepares this thread for an attempt to receive.
pub(crate) fn begin_receive(engine: &Engine) {
    // A refusal of an earlier publish by this thread doesn't count against the next delivery.
    context::take_refusal(engine);
    engine.run_until_idle();
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Wakes all receivers, because the lane has ended.
    pub(crate) fn dismiss_receivers(&self) {
        if let Some(keyed) = self.keyed.get() {
            mutant!(keyed.receivers.wake_all(), "pull.wake-end");
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Sets how leases are given, before the lane is on the list.
    pub(crate) fn open_leases(self, leasing: Leasing) {
        let mut state = self.keyed.state.lock();
        self.set_checked_credits(&mut state, leasing.credits);
        state.leases.deadline_ns = leasing.deadline_ns;
    }

    /// Changes how many leases may be out.
    pub(crate) fn set_credits(self, asked: usize) -> Result<(), SettingError> {
        let _changing = self.lane.changing.lock();
        let mut state = self.keyed.state.lock();
        let fit = self.lane.fit(self.keyed.is_shared, None);
        let fit = fit.with_credits(asked)?;
        state.rules.checked(fit)?;
        self.set_checked_credits(&mut state, fit.credits);
        drop(state);
        self.keyed.receivers.wake(|| self.to_lease());
        Ok(())
    }

    fn set_checked_credits(self, state: &mut State<T>, asked: Option<u32>) {
        state.leases.asked = asked;
        state.leases.credits = asked.unwrap_or(CREDITS).min(self.lane.capacity.get());
    }

    /// Fits the default number of leases to the lane's capacity, which has changed.
    pub(crate) fn fit_credits(self) {
        let mut state = self.keyed.state.lock();
        let leases = &mut state.leases;
        if leases.asked.is_none() && leases.credits > 0 {
            leases.credits = CREDITS.min(self.lane.capacity.get());
        }
        drop(state);
        self.keyed.receivers.wake(|| self.to_lease());
    }

    /// Changes the time that leases taken from now on are good for.
    pub(crate) fn set_ack_deadline(self, deadline_ns: u64) {
        self.keyed.state.lock().leases.deadline_ns = deadline_ns;
    }

    /// Leases at most `most` deliveries that may go, and waits for the first one until `until`.
    /// Never waits inside the engine or on an engine without workers. Passes each run of them
    /// to `each`; see [`try_receive`](Self::try_receive). Returns `None` if the time is up.
    pub(crate) fn receive(
        self,
        most: usize,
        until: Option<Instant>,
        mut each: impl FnMut(Granted<T>),
    ) -> Option<Result<(), RecvError>> {
        let line = Line {
            engine: self.lane.engine(),
            receivers: &self.keyed.receivers,
        };
        let attempt = || self.try_receive(most, &mut each);
        line.receive(until, attempt, || self.to_lease())
    }

    /// Leases up to `most` deliveries, at least one, and passes each run of them on. If there is
    /// none, has this future woken when there may be one.
    #[cfg(feature = "async")]
    pub(crate) fn poll_receive(
        self,
        most: usize,
        mut each: impl FnMut(Granted<T>),
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), EndedError>> {
        let line = Line {
            engine: self.lane.engine(),
            receivers: &self.keyed.receivers,
        };
        let attempt = || self.try_receive(most, &mut each);
        line.poll_receive(id, context, attempt, || self.to_lease())
    }

    /// Withdraws a future that receives no more.
    #[cfg(feature = "async")]
    pub(crate) fn leave_receivers(self, id: &mut crate::engine::wait::wakers::WaiterId) {
        self.keyed.receivers.leave(id, || self.to_lease());
    }

    /// Leases at least one and at most `most` deliveries that may go now. Passes each run of
    /// them to `each`, under the lock. Returns `None` if there are none.
    pub(crate) fn try_receive(self, most: usize, each: &mut impl FnMut(Granted<T>)) -> Attempt {
        begin_receive(self.lane.engine());
        self.try_lease(most, each)
    }

    /// Leases as [`try_receive`](Self::try_receive) does, by a thread that is prepared for it.
    pub(crate) fn try_lease(self, most: usize, each: &mut impl FnMut(Granted<T>)) -> Attempt {
        loop {
            let (count, expired) = match self.lease(most, each) {
                Ok(leased) => leased,
                Err(ended) => return Some(Err(ended)),
            };
            if !expired.is_empty() {
                self.expire_taken(expired);
            } else if count == 0 {
                return None;
            }
            if count > 0 {
                return Some(Ok(()));
            }
        }
    }

    /// Leases neighbors in a batch, except the expired ones.
    #[inline(always)]
    fn grant_unexpired(
        self,
        leases: &mut Leases<T>,
        part: BatchSlice<T>,
        key: Option<Key>,
        going: &mut Going<T, impl FnMut(Granted<T>)>,
    ) {
        if part.batch.may_expire() {
            return self.sift_expired(leases, part, key, going);
        }
        going.add(leases.out.grant_new(part, key, going.span));
    }

    #[cold]
    fn sift_expired(
        self,
        leases: &mut Leases<T>,
        mut part: BatchSlice<T>,
        key: Option<Key>,
        going: &mut Going<T, impl FnMut(Granted<T>)>,
    ) {
        let to = part.to as usize;
        loop {
            let good = self
                .lane
                .unexpired(&part, part.from as usize, to, going.span.began_ns);
            if good == to {
                return going.add(leases.out.grant_new(part, key, going.span));
            }
            let count = good as u32 - part.from;
            let (run, others) = part.split_front(count);
            if let Some(run) = run.unless_empty() {
                going.add(leases.out.grant_new(run, key, going.span));
            }
            let item = PendingDelivery::first(&others.batch, good, 0);
            going.expired.push(Taken { key, item });
            match others.after(1) {
                Some(others) => part = others,
                None => return,
            }
        }
    }

    /// Calls receivers, because there may be something to lease.
    pub(crate) fn call_receivers(self) {
        let mut state = self.keyed.state.lock();
        if state.rules.parks() {
            // A delivery of a parked key goes to the dead letters even if nobody pulls.
            self.feed(&mut state, RUNNER, 1);
        }
        drop(state);
        mutant!(
            self.keyed.receivers.wake(|| self.to_lease()),
            "pull.wake-news"
        );
    }

    /// How many receivers may lease a delivery now. All may go on if the lane is over.
    pub(crate) fn to_lease(self) -> usize {
        let mut state = self.keyed.state.lock();
        if self.lane.is_over() {
            return usize::MAX;
        }
        if !self.lane.would_go() {
            return 0;
        }
        let free = state.leases.free();
        let arrived = mutant!(self.arrived(&mut state, free), "pull.count-arrived", 0);
        let has_parked = state.parked_arrivals.are_to_be_judged();
        let waiting = arrived + state.sequencer.wanted_consumers(RUNNER);
        drop(state);
        if has_parked {
            self.lane.schedule();
        }
        free.min(waiting)
    }

    /// Counts the arrivals that may go unfiled, at most `enough`. Files arrivals where keys
    /// matter.
    fn arrived(self, state: &mut State<T>, enough: usize) -> usize {
        if state.rules.keying(self.keyed.is_shared) == Keying::Nothing {
            return self.lane.queued(enough);
        }
        self.feed(state, RUNNER, 1);
        0
    }

    /// Takes one step: returns how many deliveries have been leased, and the expired ones,
    /// which the caller ends.
    fn lease(
        self,
        most: usize,
        each: &mut impl FnMut(Granted<T>),
    ) -> Result<(usize, Expired<T>), EndedError> {
        let clock = &self.lane.engine().clock;
        let (now_ns, timer_ns) = (clock.now_ns(), clock.timer_ns());
        let grant = self.lane.may_go(most, Calls::Each, now_ns);
        let mut state = self.keyed.state.lock();
        if self.lane.is_over() {
            return Err(EndedError);
        }
        let Some(grant) = grant else {
            return Ok((0, Expired::new()));
        };
        let due_ns = timer_ns.saturating_add(state.leases.deadline_ns);
        let most = most.min(grant.most()).min(state.leases.free());
        let mut going = Going {
            span: Span {
                began_ns: now_ns,
                due_ns,
            },
            each,
            count: 0,
            is_observed: self.lane.topic.bus().observed(),
            told: Vec::new(),
            expired: Vec::new(),
        };
        self.take_to_lease(&mut state, most, &mut going);
        let Going {
            count,
            told,
            expired,
            ..
        } = going;
        if count > 0 {
            self.note_granted(&mut state.leases, count as u64, due_ns);
            // Observers hear of the leases under the lock, so nobody can settle one before.
            for (id, attempt) in told {
                self.lane
                    .tell(id, attempt, Status::Delivering, EventKind::Delivering);
            }
            let is_shared = state.leases.note_taker(context::mark());
            context::note_taken(count as u32, is_shared);
        }
        let has_parked = state.parked_arrivals.are_to_be_judged();
        drop(state);
        self.lane.end_take(grant, count);
        if has_parked {
            self.lane.schedule();
        }
        Ok((count, expired))
    }

    /// Takes at most `most` deliveries that may go.
    fn take_to_lease(
        self,
        state: &mut State<T>,
        most: usize,
        going: &mut Going<T, impl FnMut(Granted<T>)>,
    ) {
        let minds_keys = state.rules.keying(self.keyed.is_shared) != Keying::Nothing;
        let mut left = most;
        while left > 0 {
            let run = if minds_keys { 1 } else { left.min(RUN) };
            if let Some(straight) = self.take_straight(state, run) {
                let (part, key) = straight.pass(state);
                left -= part.len();
                self.grant_unexpired(&mut state.leases, part, key, going);
                continue;
            }
            state.sequencer.set_now(going.span.began_ns);
            self.feed_unless_new(state, RUNNER, left);
            let all = state.sequencer.take(RUNNER, left, PerKey::One, None);
            if all.is_empty() {
                return;
            }
            left -= all.len();
            for taken in all {
                if self.lane.is_past(&taken.item, going.span.began_ns) {
                    going.expired.push(taken);
                } else {
                    going.add(state.leases.out.grant(taken, going.span));
                }
            }
        }
    }

    /// Ends deliveries that expired before they could be leased.
    fn expire_taken(self, expired: Expired<T>) {
        let _motion = self.lane.books.motions.begin(expired.len() as u64);
        let mut settlements = Settlements::new(0);
        for Taken { key, item } in expired {
            self.lane.expire_at(item, Status::Queued);
            settlements.end(key);
        }
        self.put_down(settlements);
        self.keyed.receivers.wake(|| self.to_lease());
        self.lane.engine().quiescence.notify();
    }
}
