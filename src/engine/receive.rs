//! Taking deliveries on lease, and waiting for some.
//!
//! A receiver that finds nothing waits like a blocked publisher; see [`Waiters`]. It is
//! called whenever there may be something: by the lane's turn, when something has
//! arrived or come back or the rules have changed; by whoever settles a lease, which
//! gives back a credit and perhaps a key; by a change of credits; by the end. As many are called
//! as there is something for. So who calls somebody counts what has arrived: where keys matter
//! it files it until one may go; where they don't, all that waits in the inbox may. What is new
//! is leased [straight from there](super::crew_straight) as long as nothing that was filed may go.
//!
//! Threads that share a pull take turns of a few leases: who has had its turn lets those run
//! that can, by the system's scheduler, and those go first that wait. A thread that has the
//! pull to itself does neither.
//! Model: `loom-tests/tests/models/pull.rs`.
//!
//! [`Waiters`]: super::waiters::Waiters

use std::iter;

use super::context;
use super::crew::{Crew, RUNNER, State};
use super::crew_hands::Tray;
use super::lane::{Lane, Redelivery};
use super::leases::{Claim, Leases};
use crate::batch::Batch;
use crate::error::{InvalidSetting, RecvError};
use crate::event::EventKind;
use crate::pure::lifecycle::Status;
use crate::pure::rules::Keying;
use crate::pure::sequencer::{Each, Taken};
use crate::sync::{Arc, Instant, breakable, yield_now};

/// A delivery for whoever has leased it.
pub(crate) struct Granted<T> {
    pub(crate) claim: Claim,
    pub(crate) due_ns: u64,
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) index: u8,
    pub(crate) attempt: u32,
    pub(crate) generation: u16,
}

/// What a receiver gets at once.
pub(crate) struct Received<T> {
    pub(crate) first: Granted<T>,
    /// Without an allocation where only one was asked for.
    pub(crate) more: Vec<Granted<T>>,
}

/// What may go from a lane, and what of it comes too late.
struct Going<T> {
    received: Option<Received<T>>,
    count: usize,
    expired: Vec<Taken<Redelivery<T>>>,
}

impl<T> Going<T> {
    fn add(&mut self, granted: Granted<T>, most: usize) {
        self.count += 1;
        match &mut self.received {
            Some(received) => received.more.push(granted),
            none => {
                *none = Some(Received {
                    first: granted,
                    more: Vec::with_capacity(most.min(CREDITS as usize) - 1),
                });
            }
        }
    }
}

/// Leases that may be out unless a number is asked for: enough to keep a few threads
/// busy, few enough that what a stuck process holds is little.
const CREDITS: u32 = 64;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Changes how many leases may be out; `None` is the default.
    pub(crate) fn set_credits(
        self: &Arc<Self>,
        asked: Option<usize>,
    ) -> Result<(), InvalidSetting> {
        let Some(crew) = self.crew.get() else {
            return Ok(());
        };
        let mut state = crew.state.lock();
        let mut fit = self.fit(crew.is_shared, None);
        if let Some(asked) = asked {
            fit = fit.with_credits(asked)?;
            state.rules.checked(fit)?;
        }
        state.leases.asked = fit.credits;
        state.leases.credits = fit.credits.unwrap_or(CREDITS.min(self.capacity));
        drop(state);
        crew.receivers.wake(|| self.to_lease(crew));
        Ok(())
    }

    /// Changes how long leases taken from now on are good for.
    pub(crate) fn set_ack_deadline(&self, deadline_ns: u64) {
        if let Some(crew) = self.crew.get() {
            crew.state.lock().leases.deadline_ns = deadline_ns;
        }
    }

    /// There may be something for those who pull.
    pub(super) fn call_receivers(self: &Arc<Self>, crew: &Crew<T>) {
        let mut state = crew.state.lock();
        if state.rules.parks() {
            // What is of a parked key goes to the dead letters even if nobody pulls.
            self.feed(crew, &mut state, RUNNER, 1);
        }
        drop(state);
        breakable!(
            "pull: news that no receiver hears of",
            crew.receivers.wake(|| self.to_lease(crew))
        );
    }

    /// The lane has ended, with or without anything to end in it.
    pub(super) fn dismiss_receivers(&self) {
        if let Some(crew) = self.crew.get() {
            breakable!(
                "pull: an end that no receiver hears of",
                crew.receivers.wake_all()
            );
        }
    }

    /// Leases what may go, at most so many, and waits for the first until then. Where
    /// nobody may wait it doesn't.
    pub(crate) fn receive(
        self: &Arc<Self>,
        most: usize,
        until: Option<Instant>,
    ) -> Result<Received<T>, RecvError> {
        let attempt = || match self.try_receive(most) {
            Err(RecvError::Empty) => None,
            received => Some(received),
        };
        let crew = self.crew.get().ok_or(RecvError::Ended)?;
        let room = || self.to_lease(crew);
        let received = if context::is_turn_over() && !self.may_not_wait() {
            yield_now();
            crew.receivers.wait_behind(until, attempt, room)
        } else {
            match attempt() {
                None if self.may_not_wait() => Some(Err(RecvError::Empty)),
                None => crew.receivers.wait_for(until, attempt, room),
                received => received,
            }
        };
        received.unwrap_or(Err(RecvError::TimedOut))
    }

    /// Leases the next delivery, or has the future of this seat be woken when there may
    /// be one.
    #[cfg(feature = "async")]
    pub(crate) fn poll_receive(
        self: &Arc<Self>,
        seat: &mut super::wakers::Seat,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<Granted<T>, RecvError>> {
        let attempt = || match self.try_receive(1) {
            Err(RecvError::Empty) => None,
            received => Some(received.map(|received| received.first)),
        };
        let Some(crew) = self.crew.get() else {
            return std::task::Poll::Ready(Err(RecvError::Ended));
        };
        if let Some(received) = attempt() {
            self.leave_receivers(seat);
            return std::task::Poll::Ready(received);
        }
        let room = || self.to_lease(crew);
        crew.receivers.poll_for(seat, context, attempt, room)
    }

    /// The future of this seat receives no more.
    #[cfg(feature = "async")]
    pub(crate) fn leave_receivers(self: &Arc<Self>, seat: &mut super::wakers::Seat) {
        if let Some(crew) = self.crew.get() {
            crew.receivers.leave(seat, || self.to_lease(crew));
        }
    }

    fn may_not_wait(&self) -> bool {
        let engine = &self.topic.engine;
        engine.is_manual() || context::is_inside(engine)
    }

    /// How many may lease something now, or hear that nobody ever will.
    pub(super) fn to_lease(self: &Arc<Self>, crew: &Crew<T>) -> usize {
        let mut state = crew.state.lock();
        if self.is_over() {
            return usize::MAX;
        }
        let free = state.leases.free();
        let arrived = breakable!(
            "pull: what has arrived is not counted",
            self.arrived(crew, &mut state, free),
            0
        );
        let has_strays = state.strays.are_to_be_judged();
        let waiting = arrived + state.sequencer.wanted_hands(RUNNER);
        drop(state);
        if has_strays {
            self.ring();
        }
        free.min(waiting)
    }

    /// How many of those that have arrived may go as they are, as far as `enough`. Files
    /// some, where they may not.
    fn arrived(&self, crew: &Crew<T>, state: &mut State<T>, enough: usize) -> usize {
        if state.rules.keying(crew.is_shared) == Keying::Nothing {
            return self.queued(enough);
        }
        self.feed(crew, state, RUNNER, 1);
        0
    }

    /// Leases what may go now, at most so many.
    pub(crate) fn try_receive(self: &Arc<Self>, most: usize) -> Result<Received<T>, RecvError> {
        // What a publish of this thread came to before is not this delivery's fault.
        context::take_refusal(&self.topic.engine);
        self.topic.engine.run_until_idle();
        let crew = self.crew.get().ok_or(RecvError::Ended)?;
        loop {
            let Going {
                received, expired, ..
            } = self.lease(crew, most)?;
            let is_to_go_on = received.is_none() && !expired.is_empty();
            self.expire_taken(crew, expired);
            if !is_to_go_on {
                return received.ok_or(RecvError::Empty);
            }
        }
    }

    /// One step: what may go is out, and what has expired is in the caller's hands.
    fn lease(self: &Arc<Self>, crew: &Crew<T>, most: usize) -> Result<Going<T>, RecvError> {
        let clock = &self.topic.engine.clock;
        let (now_ns, timer_ns) = (clock.now_ns(), clock.timer_ns());
        let mut state = crew.state.lock();
        if self.is_over() {
            return Err(RecvError::Ended);
        }
        let due_ns = timer_ns.saturating_add(state.leases.deadline_ns);
        let most = most.min(state.leases.free());
        let mut going = Going {
            received: None,
            count: 0,
            expired: Vec::new(),
        };
        self.take_to_lease(crew, &mut state, most, |leases, taken| {
            if self.is_past(&taken.item, now_ns) {
                going.expired.push(taken);
            } else {
                going.add(leases.grant(taken, now_ns, due_ns), most);
            }
        });
        if let Some(received) = &going.received {
            self.note_granted(&mut state.leases, going.count as u64, due_ns);
            // Told under the lock: nobody can settle it before.
            self.tell_granted(received);
            let is_shared = state.leases.note_taker(context::mark());
            context::note_taken(going.count as u32, is_shared);
        }
        let has_strays = state.strays.are_to_be_judged();
        drop(state);
        if has_strays {
            self.ring();
        }
        Ok(going)
    }

    /// Passes what may go to `each`, at most so many.
    fn take_to_lease(
        &self,
        crew: &Crew<T>,
        state: &mut State<T>,
        most: usize,
        mut each: impl FnMut(&mut Leases<T>, Taken<Redelivery<T>>),
    ) {
        let minds_keys = state.rules.keying(crew.is_shared) != Keying::Nothing;
        let mut left = most;
        while left > 0 {
            let run = if minds_keys { 1 } else { left };
            if let Some(straight) = self.take_straight(crew, state, run) {
                straight.pass_each(state, |state, taken| {
                    left -= 1;
                    each(&mut state.leases, taken);
                });
                continue;
            }
            self.feed_unless_new(crew, state, RUNNER, left);
            let taken = state.sequencer.take(RUNNER, left, Each::Once, None);
            if taken.is_empty() {
                return;
            }
            left -= taken.len();
            taken
                .into_iter()
                .for_each(|taken| each(&mut state.leases, taken));
        }
    }

    fn tell_granted(&self, received: &Received<T>) {
        for granted in iter::once(&received.first).chain(&received.more) {
            let id = granted.batch.stamp(usize::from(granted.index)).id;
            self.tell(
                id,
                granted.attempt,
                Status::Delivering,
                EventKind::Delivering,
            );
        }
    }

    /// Ends what has outlived its time before it could be leased.
    fn expire_taken(self: &Arc<Self>, crew: &Crew<T>, expired: Vec<Taken<Redelivery<T>>>) {
        if expired.is_empty() {
            return;
        }
        let _motion = self.books.motions.begin(expired.len() as u64);
        let mut tray = Tray::new(0);
        for Taken { key, item } in expired {
            self.expire_at(item, Status::Queued);
            tray.end(key);
        }
        self.put_down(crew, tray);
        crew.receivers.wake(|| self.to_lease(crew));
        self.topic.engine.stillness.look();
    }
}
