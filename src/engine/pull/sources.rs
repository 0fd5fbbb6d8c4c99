//! Receiving from several lanes: those of a subscription to patterns, one for each topic.
//!
//! All lanes call the same line of receivers, and a receiver looks at every lane that has a
//! delivery. The feared interleaving: a receiver has looked at a lane, which then gets a delivery,
//! and sleeps. It can't happen. The receiver is in the line before its last look, so the lane finds
//! it there; see [`Waiters`]. A new lane is on the list before its topic can be published to. The
//! list is complete before `is_complete` is set, and receivers read the two in the other order. So
//! a receiver that finds all lanes over and the list complete has missed none.

use crate::engine::parts::outstanding::Granted;
use crate::engine::pull::receive::{Attempt, Line, begin_receive};
use crate::engine::runtime::Engine;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::engine::wait::waiters::Waiters;
use crate::pure::words::room::Phase;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, Instant, Slot};
use crate::types::error::recv::{EndedError, RecvError};

/// The lanes of a pull subscription to patterns.
pub(crate) struct Sources<T> {
    engine: Arc<Engine>,
    lanes: Slot<Vec<Arc<Lane<T>>>>,
    pub(crate) receivers: Arc<Waiters>,
    /// The place of the lane that the next look begins with, so that all lanes get their turn.
    next: AtomicUsize,
    /// No more lanes will come.
    is_complete: AtomicBool,
}

impl<T: Send + Sync + 'static> Sources<T> {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            lanes: Slot::new(Arc::default()),
            receivers: Arc::default(),
            next: AtomicUsize::new(0),
            is_complete: AtomicBool::new(false),
        }
    }

    /// Replaces the list of lanes. Callers hold a lock that keeps two of them apart.
    pub(crate) fn set_lanes(&self, lanes: Vec<Arc<Lane<T>>>) {
        drop(self.lanes.swap(Arc::new(lanes)));
    }

    /// Ends the wait of all receivers once the lanes are over.
    pub(crate) fn complete(&self) {
        // ORDERING: a thread that sees the mark sees the last list of lanes.
        self.is_complete.store(true, Ordering::Release);
        self.receivers.wake_all();
    }

    /// Leases at most `most` deliveries of one lane, and waits for the first one until `until`.
    /// Passes each run of them to `each`. Returns `None` if the time is up.
    pub(crate) fn receive(
        &self,
        most: usize,
        until: Option<Instant>,
        mut each: impl FnMut(&Arc<Lane<T>>, Granted<T>),
    ) -> Option<Result<(), RecvError>> {
        let attempt = || self.try_receive(most, &mut each);
        self.line().receive(until, attempt, || self.to_lease())
    }

    /// Leases as [`receive`](Self::receive) does, and has a future woken in place of the wait.
    #[cfg(feature = "async")]
    pub(crate) fn poll_receive(
        &self,
        most: usize,
        mut each: impl FnMut(&Arc<Lane<T>>, Granted<T>),
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), EndedError>> {
        let attempt = || self.try_receive(most, &mut each);
        self.line()
            .poll_receive(id, context, attempt, || self.to_lease())
    }

    /// Withdraws a future that receives no more.
    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, id: &mut crate::engine::wait::wakers::WaiterId) {
        self.receivers.leave(id, || self.to_lease());
    }

    /// Leases at least one and at most `most` deliveries of one lane that may go now.
    pub(crate) fn try_receive(
        &self,
        most: usize,
        each: &mut impl FnMut(&Arc<Lane<T>>, Granted<T>),
    ) -> Attempt {
        begin_receive(&self.engine);
        let mut may_come = !self.is_complete.load(Ordering::Acquire);
        let lanes = self.lanes.load();
        let first = self.next.load(Ordering::Relaxed);
        for step in 0..lanes.len() {
            let at = first.wrapping_add(step) % lanes.len();
            let lane = &lanes[at];
            let Some(keyed) = lane.keyed() else {
                continue;
            };
            if !has_any(keyed) {
                may_come = true;
                continue;
            }
            match keyed.try_lease(most, &mut |granted| each(lane, granted)) {
                Some(Err(EndedError)) => {}
                None => may_come = true,
                leased => {
                    self.next.store(at + 1, Ordering::Relaxed);
                    return leased;
                }
            }
        }
        (!may_come).then_some(Err(EndedError))
    }

    /// How many receivers may lease a delivery now. All may go on if the subscription is over.
    fn to_lease(&self) -> usize {
        let is_complete = self.is_complete.load(Ordering::Acquire);
        let lanes = self.lanes.load();
        if is_complete && lanes.iter().all(|lane| lane.is_over()) {
            return usize::MAX;
        }
        let open = lanes.iter().filter(|lane| !lane.is_over());
        let open = open.filter_map(|lane| lane.keyed());
        let each = open.filter(|keyed| has_any(*keyed));
        each.fold(0, |sum, keyed| sum.saturating_add(keyed.to_lease()))
    }

    fn line(&self) -> Line<'_> {
        Line {
            engine: &self.engine,
            receivers: &self.receivers,
        }
    }
}

/// Returns whether a look at the lane may find a delivery, or its end.
fn has_any<T>(keyed: KeyedLane<'_, T>) -> bool {
    let room = keyed.lane.room.load();
    room.occupied > 0 || room.phase != Phase::Open
}
