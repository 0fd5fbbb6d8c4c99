//! A topic whose lanes all lag leaves its newest messages where they were written.
//!
//! A message that is published alone and dispatched at once travels in a batch of its own.
//! Where no handler is ready for it, that gains nothing and costs memory for every waiting
//! message. So the dispatcher leaves the open batch in the queue while every lane has
//! enough deliveries that no handler has begun. It takes the batch when the batch is full,
//! or when one of the lanes has run dry.
//!
//! Steps. The *dispatcher* asks the queue to notify it when the open batch is full. Then it
//! sets `awaited_dry` in every lane, fences, and looks into the lanes' inboxes. It goes to
//! rest only if every inbox holds something. Otherwise it takes the open batch, which also
//! withdraws its request. A *lane* whose turn has emptied its inbox fences and looks at
//! `awaited_dry`. If the flag is set, the lane notifies the topic.
//!
//! The feared interleaving: the dispatcher sees a delivery in the inbox, the lane takes it
//! and comes to rest, and the topic rests, too. Then nobody would look at a message in the
//! open batch. It can't happen, because one of the two fences comes first. The side that
//! fences second sees all that was done before the first fence.
//!
//! A lane never counts as lagging if its runner can't always take its deliveries. That is so
//! with keys, with several consumers, with a batch handler, and where deliveries may be
//! dropped or expire in the inbox.
//!
//! A subscription that joins has an empty lane, and notifies. So do a flush, a close, and a
//! new strategy. Model: `loom-tests/tests/models/lag.rs`.

use crate::engine::base::contain::StrategyInUse;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::message::batch::BATCH;
use crate::pure::words::room::Phase;
use crate::sync::atomic::Ordering;
use crate::sync::{fence, mutant};
use crate::types::config::{LaneFull, Overflow};

/// The least number of occupied places of a lane that lags. A lane with fewer gets its next
/// message in time, and the memory doesn't matter.
const MANY: u32 = if cfg!(millstream_loom) {
    1
} else {
    BATCH as u32
};

/// The least capacity of a topic that may leave its open batch: the batch can't fill it.
const LEAST_CAPACITY: u64 = 4 * BATCH as u64;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Whether the dispatcher is to leave the open batch in the queue. If so, somebody will
    /// notify it.
    pub(crate) fn leaves_open(
        &self,
        at: &QueueRef<'_, T>,
        strategy: &StrategyInUse,
        lanes: &Lanes<T>,
    ) -> bool {
        if !matches!(at, QueueRef::Plain(_)) || !strategy.is_immediate || lanes.is_empty() {
            return false;
        }
        let all_lag = || lanes.iter().all(|lane| lane.lags());
        if !all_lag() || !self.may_leave_open() || !at.be_notified_when_full() {
            return false;
        }
        for lane in lanes {
            // ORDERING: the fence that follows pairs with the one of a lane at rest.
            lane.lag.awaited_dry.store(true, Ordering::Relaxed);
        }
        mutant!(fence(Ordering::SeqCst), "lag.rest-fence");
        all_lag()
    }

    fn may_leave_open(&self) -> bool {
        self.live.capacity.get() >= LEAST_CAPACITY
            && self.live.overflow.get() != Overflow::DropOldest
            // The open batch may hold all the weight that there is room for.
            && self.weights.is_none()
            && !self.gate.is_closed()
            // ORDERING: pairs with the flush, which notifies.
            && self.flush_to.load(Ordering::Acquire) <= self.gate.released()
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    fn lags(&self) -> bool {
        let room = self.room.load();
        self.lag.may_be
            && self.when_full() == LaneFull::Wait
            && room.phase == Phase::Open
            && room.occupied >= MANY
            && self.keyed.get().is_none()
            && !self.is_sifted()
            && !self.is_inbox_empty()
    }

    /// Notifies the topic at the end of a turn, if it waits for the lane to run dry and the
    /// lane has.
    pub(crate) fn tell_if_dry(&self) {
        // ORDERING: pairs with the dispatcher's fence. An empty crossbeam queue fences on its
        // own today; this fence doesn't rely on that.
        fence(Ordering::SeqCst);
        if self.lag.awaited_dry.load(Ordering::Relaxed)
            && (self.is_inbox_empty() || self.phase() != Phase::Open)
        {
            self.lag.awaited_dry.store(false, Ordering::Relaxed);
            mutant!(self.topic.schedule(), "lag.notify-dry");
        }
    }

    /// Notifies the topic that it need not wait for this lane any more, whatever is left in it.
    /// The lane has been closed, or its rules or its policy have changed.
    pub(crate) fn stop_lagging(&self) {
        fence(Ordering::SeqCst);
        if self.lag.awaited_dry.swap(false, Ordering::Relaxed) {
            self.topic.schedule();
        }
    }
}
