//! Taking deliveries on lease, and waiting for some.
//!
//! A receiver that finds nothing waits like a blocked publisher; see [`Waiters`]. It is
//! called whenever there may be something: by the lane's turn, when something has
//! arrived or come back or the rules have changed; by whoever settles a lease, which
//! gives back a credit and perhaps a key; by a change of credits; by the end. As many are called
//! as there is something for. So who calls somebody counts what has arrived: where keys matter
//! it files it until one may go; where they don't, all that waits in the inbox may. What is new
//! is leased [straight from there](crate::engine::keyed::straight) as long as nothing that was filed may go.
//!
//! Threads that share a pull take turns of a few leases: who has had its turn lets those run
//! that can, by the system's scheduler, and those go first that wait. A thread that has the
//! pull to itself does neither.
//! Model: `loom-tests/tests/models/pull.rs`.
//!
//! [`Waiters`]: crate::engine::wait::waiters::Waiters

use crate::engine::keyed::take::Settlements;
use crate::engine::parts::leases::Leases;
use crate::engine::parts::outstanding::{Granted, RUN, Span};
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::runtime::context;
use crate::engine::state::keyed::{KeyedLane, RUNNER, State};
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::message::batch::BatchSlice;
use crate::observe::event::EventKind;
use crate::pure::decide::lifecycle::Status;
use crate::pure::decide::rules::Keying;
use crate::pure::order::sequencer::{Key, PerKey, Taken};
use crate::sync::{Instant, mutant, yield_now};
use crate::types::error::{InvalidSetting, RecvError};

/// What was taken and comes too late.
type Expired<T> = Vec<Taken<PendingDelivery<T>>>;

/// What goes from a lane in one step.
struct Going<T, F> {
    span: Span,
    /// Where leases go.
    each: F,
    count: usize,
    is_observed: bool,
    /// Leases that observers are to hear of.
    told: Vec<(MessageId, u32)>,
    expired: Expired<T>,
}

impl<T, F: FnMut(Granted<T>)> Going<T, F> {
    fn add(&mut self, granted: Granted<T>) {
        self.count += granted.len();
        if self.is_observed {
            let attempt = granted.attempt;
            self.told.extend(granted.ids().map(|id| (id, attempt)));
        }
        (self.each)(granted);
    }
}

/// Leases that may be out unless a number is asked for: enough to keep a few threads
/// busy, few enough that what a stuck process holds is little.
const CREDITS: u32 = 64;

impl<T: Send + Sync + 'static> Lane<T> {
    /// The lane has ended, with or without anything to end in it.
    pub(crate) fn dismiss_receivers(&self) {
        if let Some(keyed) = self.keyed.get() {
            mutant!(keyed.receivers.wake_all(), "pull.wake-end");
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Changes how many leases may be out; `None` is the default.
    pub(crate) fn set_credits(self, asked: Option<usize>) -> Result<(), InvalidSetting> {
        let mut state = self.keyed.state.lock();
        let mut fit = self.lane.fit(self.keyed.is_shared, None);
        if let Some(asked) = asked {
            fit = fit.with_credits(asked)?;
            state.rules.checked(fit)?;
        }
        state.leases.asked = fit.credits;
        state.leases.credits = fit.credits.unwrap_or(CREDITS.min(self.lane.capacity));
        drop(state);
        self.keyed.receivers.wake(|| self.to_lease());
        Ok(())
    }

    /// Changes how long leases taken from now on are good for.
    pub(crate) fn set_ack_deadline(self, deadline_ns: u64) {
        self.keyed.state.lock().leases.deadline_ns = deadline_ns;
    }

    /// Leases what may go, at most so many, and waits for the first until then. Where
    /// nobody may wait it doesn't. `each` run of them is passed on; see
    /// [`try_receive`](Self::try_receive).
    pub(crate) fn receive(
        self,
        most: usize,
        until: Option<Instant>,
        mut each: impl FnMut(Granted<T>),
    ) -> Result<(), RecvError> {
        let mut attempt = || match self.try_receive(most, &mut each) {
            Err(RecvError::Empty) => None,
            received => Some(received),
        };
        let room = || self.to_lease();
        let received = if context::is_turn_over() && !self.may_not_wait() {
            yield_now();
            self.keyed.receivers.wait_behind(until, attempt, room)
        } else {
            match attempt() {
                None if self.may_not_wait() => Some(Err(RecvError::Empty)),
                None => self.keyed.receivers.wait_for(until, attempt, room),
                received => received,
            }
        };
        received.unwrap_or(Err(RecvError::TimedOut))
    }

    /// Leases the next delivery, or has this future be woken when there may
    /// be one.
    #[cfg(feature = "async")]
    pub(crate) fn poll_receive(
        self,
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<Granted<T>, RecvError>> {
        let mut lease = None;
        let mut attempt = || match self.try_receive(1, &mut |granted| lease = Some(granted)) {
            Err(RecvError::Empty) => None,
            received => Some(received),
        };
        let room = || self.to_lease();
        if let Some(received) = attempt() {
            self.keyed.receivers.leave(id, room);
            received?;
        } else {
            std::task::ready!(self.keyed.receivers.poll_for(id, context, attempt, room))?;
        }
        std::task::Poll::Ready(lease.ok_or(RecvError::Empty))
    }

    /// This future receives no more.
    #[cfg(feature = "async")]
    pub(crate) fn leave_receivers(self, id: &mut crate::engine::wait::wakers::WaiterId) {
        self.keyed.receivers.leave(id, || self.to_lease());
    }

    fn may_not_wait(self) -> bool {
        let engine = self.lane.engine();
        engine.is_manual() || context::is_inside(engine)
    }

    /// Leases what may go now, at most so many, at least one. Passes `each` run of them on,
    /// under the lock.
    pub(crate) fn try_receive(
        self,
        most: usize,
        each: &mut impl FnMut(Granted<T>),
    ) -> Result<(), RecvError> {
        // What a publish of this thread came to before is not this delivery's fault.
        context::take_refusal(self.lane.engine());
        self.lane.engine().run_until_idle();
        loop {
            let (count, expired) = self.lease(most, each)?;
            if !expired.is_empty() {
                self.expire_taken(expired);
            } else if count == 0 {
                return Err(RecvError::Empty);
            }
            if count > 0 {
                return Ok(());
            }
        }
    }

    /// Leases neighbors, but for those that come too late.
    fn grant_unexpired(
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

    /// There may be something for those who pull.
    pub(crate) fn call_receivers(self) {
        let mut state = self.keyed.state.lock();
        if state.rules.parks() {
            // What is of a parked key goes to the dead letters even if nobody pulls.
            self.feed(&mut state, RUNNER, 1);
        }
        drop(state);
        mutant!(
            self.keyed.receivers.wake(|| self.to_lease()),
            "pull.wake-news"
        );
    }

    /// How many may lease something now, or hear that nobody ever will.
    pub(crate) fn to_lease(self) -> usize {
        let mut state = self.keyed.state.lock();
        if self.lane.is_over() {
            return usize::MAX;
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

    /// How many of those that have arrived may go as they are, as far as `enough`. Files
    /// some, where they may not.
    fn arrived(self, state: &mut State<T>, enough: usize) -> usize {
        if state.rules.keying(self.keyed.is_shared) == Keying::Nothing {
            return self.lane.queued(enough);
        }
        self.feed(state, RUNNER, 1);
        0
    }

    /// One step. Returns how many have been leased, and what has expired: that is in the
    /// caller's hands.
    fn lease(
        self,
        most: usize,
        each: &mut impl FnMut(Granted<T>),
    ) -> Result<(usize, Expired<T>), RecvError> {
        let clock = &self.lane.engine().clock;
        let (now_ns, timer_ns) = (clock.now_ns(), clock.timer_ns());
        let mut state = self.keyed.state.lock();
        if self.lane.is_over() {
            return Err(RecvError::Ended);
        }
        let due_ns = timer_ns.saturating_add(state.leases.deadline_ns);
        let most = most.min(state.leases.free());
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
            // Told under the lock: nobody can settle it before.
            for (id, attempt) in told {
                self.lane
                    .tell(id, attempt, Status::Delivering, EventKind::Delivering);
            }
            let is_shared = state.leases.note_taker(context::mark());
            context::note_taken(count as u32, is_shared);
        }
        let has_parked = state.parked_arrivals.are_to_be_judged();
        drop(state);
        if has_parked {
            self.lane.schedule();
        }
        Ok((count, expired))
    }

    /// Takes what may go, at most so many.
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

    /// Ends what has outlived its time before it could be leased.
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
