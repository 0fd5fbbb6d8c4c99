//! A topic whose lanes all lag leaves its newest messages where they were written.
//!
//! A message that is published alone and dispatched at once travels in a batch of its own.
//! Where no handler is ready for it that gains nothing, and memory for every message that
//! waits. So the dispatcher leaves the open batch where it is while every lane has deliveries
//! enough that nobody has begun with: then it is taken when it is full, or when one of the
//! lanes has nothing left.
//!
//! Steps. The *dispatcher* says in the queue that it wants to be notified when the open batch is
//! full, sets `awaited_dry` in every lane, fences, and looks into their inboxes: only if
//! something is in each of them does it go to rest. Otherwise it takes the open batch, and
//! with it what it has said. A *lane* whose turn has emptied its inbox fences, and looks at
//! `awaited_dry`: if that is set it notifies the topic. The feared interleaving: the dispatcher sees something in the inbox, the lane takes it and
//! comes to rest, and the topic rests, too, with a message that nobody will look at. It can't
//! be: whichever of the two fences comes first, what was done before it is seen after the
//! other. A lane that was full of what is not its runner's to take at any time (of keys, of
//! several consumers, of batches that linger) never lags by this reckoning.
//!
//! Who joins has an empty lane, and notifies; so do a flush, a close, and a new strategy.
//! Model: `loom-tests/tests/models/lag.rs`.

use crate::engine::base::contain::StrategyInUse;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::message::batch::BATCH;
use crate::pure::words::room::Phase;
use crate::sync::atomic::Ordering;
use crate::sync::{fence, mutant};
use crate::types::config::Overflow;

/// Deliveries without which a lane does not lag. A lane with fewer has its next message in
/// time, and memory is no matter.
const MANY: u32 = if cfg!(millstream_loom) {
    1
} else {
    BATCH as u32
};

/// A topic must have so many places that an open batch can't fill it.
const LEAST_CAPACITY: u64 = 4 * BATCH as u64;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Whether the open batch is to be left where it is: somebody will notify.
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
        self.settings.capacity >= LEAST_CAPACITY
            && self.settings.overflow != Overflow::DropOldest
            && !self.gate.is_closed()
            // ORDERING: pairs with the flush, which notifies.
            && self.flush_to.load(Ordering::Acquire) <= self.gate.released()
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    fn lags(&self) -> bool {
        let room = self.room.load();
        self.lag.may_be
            && room.phase == Phase::Open
            && room.occupied >= MANY
            && self.keyed.get().is_none()
            && !self.is_sifted()
            && !self.is_inbox_empty()
    }

    /// Lets the topic know, at the end of a turn, that there may be nothing left here.
    pub(crate) fn tell_if_dry(&self) {
        // ORDERING: pairs with the dispatcher's. The queue that was found empty has a fence of
        // its own, as it is today.
        fence(Ordering::SeqCst);
        if self.lag.awaited_dry.load(Ordering::Relaxed)
            && (self.is_inbox_empty() || self.phase() != Phase::Open)
        {
            self.lag.awaited_dry.store(false, Ordering::Relaxed);
            mutant!(self.topic.schedule(), "lag.notify-dry");
        }
    }

    /// Lets the topic know that it need not wait for this lane any more, whatever is left
    /// here: it is closed now, or follows rules of its own.
    pub(crate) fn stop_lagging(&self) {
        fence(Ordering::SeqCst);
        if self.lag.awaited_dry.swap(false, Ordering::Relaxed) {
            self.topic.schedule();
        }
    }
}
