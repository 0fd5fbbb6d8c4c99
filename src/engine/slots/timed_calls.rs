//! Calls that have to end within a time, of handlers that block.
//!
//! A call can't be stopped. So a slot registers its delivery with the leases of the lane before it
//! calls the handler. The lane's turn takes out what is overdue and settles it as failed, while the
//! slot is still in the call. Its retry goes on in another slot, or after the call.
//!
//! The feared interleaving: the call returns at its deadline, and both the slot and the lane's turn
//! settle the delivery, or neither does. They can't, because each takes the delivery out of the
//! register under the lane's lock, and only who took it out settles it. The clock decides what the
//! result is worth, not the order in which they come. A result at the deadline or after it is
//! stale. If the lane's turn has not come yet, the slot settles the delivery as failed. The slot is
//! busy until the call returns, so it gets no second delivery meanwhile. The register of a lane that
//! ends is left to the slots, which put down what they have. Scenario: `tests/shuttle/timed.rs`.

use crate::engine::base::cell::Cell;
use crate::engine::keyed::take::Settlements;
#[cfg(feature = "log")]
use crate::engine::outbox::lane_outbox::CallOutbox;
use crate::engine::parts::handler::{BatchRun, FailedCall, FailureCause};
use crate::engine::parts::outstanding::{Granted, Span};
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::{Lane, Turn};
use crate::message::Address;
use crate::observe::event::EventKind;
use crate::pure::decide::expiry::NEVER;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::order::sequencer::Taken;
use crate::pure::words::room::Room;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::error::SettingError;

/// Why a handler that takes batches has no timeout.
pub(crate) const NO_TIMED_BATCHES: &str = "can't be used with a handler that takes batches";

/// How a registered call has ended.
struct Ended {
    failed_call: Option<FailedCall>,
    began_ns: u64,
    now_ns: u64,
}

impl<'l, T: Send + Sync + 'static> KeyedLane<'l, T> {
    /// Tries one delivery, whose call has to end within this time. Returns the time after the call.
    #[inline(never)]
    pub(crate) fn try_timed(
        self,
        turn: &mut Turn<T>,
        taken: Taken<PendingDelivery<T>>,
        timeout_ns: u64,
        now_ns: u64,
    ) -> u64 {
        let (lane, engine) = (self.lane, self.lane.engine());
        if lane.phase().ends_at_once() {
            let Taken { key, item } = taken;
            let mut settlements = Settlements::new(1);
            settlements.untried.push((key, item));
            self.put_down(settlements);
            return now_ns;
        }
        // From here on the call is an attempt on the books. So it is made even if the lane begins
        // to end.
        let open = Cell::new(Room::EMPTY);
        let address = self.address_of(&taken.item);
        let call = self.register(taken, timeout_ns, now_ns);
        let index = call.index();
        let run = BatchRun {
            batch: &call.batch,
            from: index,
            to: index + 1,
            attempt: call.attempt,
            generation: call.generation,
            address,
            now_ns,
            room: &open,
            until_fault: false,
            holds: &lane.gate.holds,
        };
        turn.handler.call(engine, &run, &mut turn.failed_calls);
        let ended = Ended {
            failed_call: turn.failed_calls.pop(),
            began_ns: now_ns,
            now_ns: engine.clock.now_ns(),
        };
        let after_ns = ended.now_ns;
        self.end_call(&mut turn.last_error, &call, ended);
        after_ns
    }

    /// Returns the address of a call that may outlive its attempt. The messages that it publishes
    /// with its ack have the number of the call, which it gets before the attempt can end.
    fn address_of(self, item: &PendingDelivery<T>) -> Address<'l> {
        let address = self.lane.call_address();
        #[cfg(feature = "log")]
        let address = Address {
            outbox: address.outbox.map(|outbox| CallOutbox {
                call: Some(outbox.lane.begin(item.id().get())),
                ..outbox
            }),
            ..address
        };
        #[cfg(not(feature = "log"))]
        let _ = item;
        address
    }

    /// Registers a call that is about to begin.
    fn register(
        self,
        taken: Taken<PendingDelivery<T>>,
        timeout_ns: u64,
        began_ns: u64,
    ) -> Granted<T> {
        let lane = self.lane;
        let due_ns = lane.engine().clock.timer_ns().saturating_add(timeout_ns);
        // ORDERING: relaxed. The turn that has to see it runs after the alarm, which is set under the
        // lock of the timer below.
        self.keyed.is_timed.store(true, Ordering::Relaxed);
        let mut state = self.keyed.state.lock();
        let call = state.leases.out.grant(taken, Span { began_ns, due_ns });
        lane.books.record(Status::Queued, Step::Start, 1);
        self.set_alarm(&mut state.leases, due_ns);
        if lane.topic.bus().observed() {
            // Under the lock, so nobody can settle it before observers hear of it.
            for id in call.ids() {
                lane.tell(id, call.attempt, Status::Delivering, EventKind::Delivering);
            }
        }
        call
    }

    /// Takes a call that has returned out of the register, and settles it unless the lane's turn
    /// did.
    fn end_call(self, last_error: &mut Option<Arc<str>>, call: &Granted<T>, ended: Ended) {
        let timer_ns = self.lane.engine().clock.timer_ns();
        let mut state = self.keyed.state.lock();
        let leases = &mut state.leases;
        let in_time = leases.out.take(call, timer_ns);
        let is_late = in_time.is_none();
        let taken = in_time.or_else(|| leases.out.take_late(call));
        if is_late {
            leases.stale += 1;
            leases.timed_out += u64::from(taken.is_some());
        }
        self.rest_alarm(&mut state);
        drop(state);
        let Ended {
            failed_call,
            began_ns,
            now_ns,
        } = ended;
        match taken {
            Some(taken) if is_late => {
                let late = FailedCall::new(0, FailureCause::TimedOut, false);
                self.settle_alone(last_error, taken, Some(late), (began_ns, now_ns));
            }
            Some(taken) => self.settle_alone(last_error, taken, failed_call, (began_ns, now_ns)),
            None => {}
        }
        if is_late {
            self.tell_stale(call);
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Changes the longest time of calls that begin from now on, if they can have one.
    pub(crate) fn set_timeout(self: &Arc<Self>, timeout_ns: u64) -> Result<(), SettingError> {
        let Some(keyed) = self.keyed().filter(|_| self.consumers.have_slots()) else {
            let takes_batches = self.batch_size.is_some();
            return check_timeout(timeout_ns, takes_batches, false);
        };
        let state = keyed.keyed.state.lock();
        let takes_batches = state.members.iter().any(|member| member.takes_batches);
        check_timeout(timeout_ns, takes_batches, true)?;
        self.timeout_ns.set(timeout_ns);
        Ok(())
    }
}

/// Refuses a timeout where calls can't have one: in batches, or without slots.
pub(crate) fn check_timeout(
    timeout_ns: u64,
    takes_batches: bool,
    has_slots: bool,
) -> Result<(), SettingError> {
    let rule = match (timeout_ns, takes_batches, has_slots) {
        (NEVER, ..) | (_, false, true) => return Ok(()),
        (_, true, _) => NO_TIMED_BATCHES,
        (_, _, false) => "needs a subscription that was made with one, or whose calls are shared",
    };
    Err(SettingError::new("handler_timeout", "set", rule))
}
