//! The publish half of the route: gate, overflow policy, queue.

use std::time::Duration;

use super::contain::discard;
use super::context;
use super::table::Source;
use super::topic::{Delayed, TopicCore};
use crate::batch::{Message, Meta, Parcel, Stamp, Waste};
use crate::config::{NoSubscribers, Overflow};
use crate::error::PublishError;
use crate::event::{DropCause, EventKind};
use crate::message::{MessageId, Receipt};
use crate::pure::lifecycle::Status;
use crate::pure::tickets::Refusal;
use crate::pure::verdict::nanos;
use crate::pure::wheel::TimerKey;
use crate::sync::{Arc, Instant, pause};

/// How often a publisher looks for something to drop before it gives up. It
/// finds nothing only while others are between their ticket and their push.
const EVICTION_TRIES: u32 = 1_000;

/// How long a publisher waits for room, and what has been said of it.
#[derive(Default)]
pub(crate) struct Patience {
    /// When a wait that has begun must end; it is set by the first.
    until: Option<Instant>,
    /// Observers know that it waits.
    told: bool,
    /// It holds a lock, under which no code of the user's may run.
    is_locked: bool,
}

impl Patience {
    /// Of a worker that publishes what a buffer holds, under its lock, again or for the
    /// first time.
    pub(super) fn locked(told: bool) -> Self {
        Self {
            until: None,
            told,
            is_locked: true,
        }
    }
}

/// What became of an admission.
pub(super) struct Admitted {
    pub(super) first_id: u64,
    pub(super) count: u64,
    pub(super) evicted: u32,
    /// There was no room, and the policy is to drop the newest.
    pub(super) dropped: bool,
}

impl Admitted {
    /// Into a queue that had room: the first id, and how many.
    pub(super) fn plainly((first_id, count): (u64, u64)) -> Self {
        Self {
            first_id,
            count,
            evicted: 0,
            dropped: false,
        }
    }

    /// What the publisher of the first of these messages gets.
    pub(super) fn receipt(&self) -> Receipt {
        Receipt {
            id: MessageId::new(self.first_id),
            evicted: self.evicted,
            dropped: self.dropped,
        }
    }
}

/// Why nothing was admitted.
#[derive(Clone, Copy)]
pub(crate) enum Refused {
    Full,
    TimedOut,
    Closed,
    NoSubscribers,
}

impl Refused {
    pub(super) fn error<P>(self, payload: P) -> PublishError<P> {
        match self {
            Self::Full => PublishError::Full(payload),
            Self::TimedOut => PublishError::TimedOut(payload),
            Self::Closed => PublishError::Closed(payload),
            Self::NoSubscribers => PublishError::NoSubscribers(payload),
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Accepts one message or hands the payload back.
    #[inline(always)]
    pub(crate) fn publish(
        self: &Arc<Self>,
        payload: T,
        meta: Option<Meta>,
    ) -> Result<Receipt, PublishError<T>> {
        self.publish_to(None, payload, meta)
    }

    /// As [`publish`](Self::publish), to where `route` says if it says anything.
    #[inline(always)]
    pub(super) fn publish_to(
        self: &Arc<Self>,
        route: Option<u64>,
        payload: T,
        meta: Option<Meta>,
    ) -> Result<Receipt, PublishError<T>> {
        let mut waste = Waste::new();
        let admitted = match self.admit_one(&mut waste, route, meta.as_ref()) {
            Ok(admitted) => admitted,
            Err(refused) => return Err(refused.error(payload)),
        };
        let message = self.message(admitted.first_id, payload);
        let has_meta = meta.is_some();
        let parcel = Parcel::of(message, meta);
        self.admitted(parcel, &admitted, &mut waste, route, has_meta);
        Ok(admitted.receipt())
    }

    /// Accepts one message now and puts it into the queue after `delay`. It
    /// holds its place meanwhile, so it can be neither rejected nor dropped then.
    pub(crate) fn publish_after(
        self: &Arc<Self>,
        delay: Duration,
        payload: T,
        meta: Option<Meta>,
    ) -> Result<Receipt, PublishError<T>> {
        if delay.is_zero() {
            return self.publish(payload, meta);
        }
        let mut waste = Waste::new();
        let route = self
            .split
            .as_ref()
            .and_then(|split| split.route(meta.as_ref(), 1, 1));
        let admitted = match self.admit_one(&mut waste, route, None) {
            Ok(admitted) => admitted,
            Err(refused) => return Err(refused.error(payload)),
        };
        let mut message = self.message(admitted.first_id, payload);
        if admitted.dropped {
            self.admitted(Parcel::One(message), &admitted, &mut waste, route, false);
            return Ok(admitted.receipt());
        }
        let delay_ns = nanos(delay);
        self.tell_enqueued(std::iter::once(message.stamp.id), message.stamp.accepted_ns);
        // Latency counts from when it is due.
        let accepted_ns = &mut message.stamp.accepted_ns;
        *accepted_ns = accepted_ns.saturating_add(delay_ns);
        self.books.delayed.add(1);
        let entry = Box::new(Delayed {
            message,
            meta,
            timer: TimerKey::NONE,
            route,
        });
        // The lock is held over the timer so that the deadline can't come before
        // the entry knows its key.
        let mut delayed = self.delayed.lock();
        let tag = delayed.insert(entry);
        let key = self.engine.set_timer(delay_ns, tag, Arc::clone(self) as _);
        if let Some(entry) = delayed.get_mut(tag) {
            entry.timer = key;
        }
        drop(delayed);
        // It may have taken the last place of a topic whose strategy waits; and
        // after a stop somebody must drop it.
        self.ring();
        Ok(admitted.receipt())
    }

    /// A delayed message is due.
    pub(super) fn publish_due(self: &Arc<Self>, due: Delayed<T>) {
        let Delayed {
            message,
            meta,
            route,
            ..
        } = due;
        let last_id = message.stamp.id.get();
        self.books.delayed.sub(1);
        let has_meta = meta.is_some();
        self.enqueue(Parcel::of(message, meta), last_id, route, has_meta);
        // The dispatcher may wait for a ticket that is already out.
        self.ring();
    }

    /// The broker has stopped: what was delayed is dropped, and counted.
    pub(super) fn drop_delayed(&self) {
        let delayed: Vec<_> = self.delayed.lock().drain().collect();
        for entry in delayed {
            self.engine.timer.cancel_parked(entry.timer);
            self.books.delayed.sub(1);
            self.drop_messages(std::iter::once(entry.message.stamp.id), DropCause::Shutdown);
            discard(entry);
        }
    }

    /// Gets one ticket, or counts the refusal.
    #[inline(always)]
    fn admit_one(
        self: &Arc<Self>,
        waste: &mut Waste<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
    ) -> Result<Admitted, Refused> {
        let admitted = self.admit(1, &mut Patience::default(), waste, route, meta);
        admitted.inspect_err(|_| self.books.rejected.add(1))
    }

    #[inline(always)]
    pub(super) fn message(&self, id: u64, payload: T) -> Message<T> {
        Message {
            stamp: Stamp {
                id: MessageId::new(id),
                accepted_ns: self.engine.clock.now_ns(),
            },
            payload,
        }
    }

    /// An admitted parcel goes where its admission says.
    #[inline(always)]
    pub(super) fn admitted(
        self: &Arc<Self>,
        parcel: Parcel<T>,
        admitted: &Admitted,
        waste: &mut Waste<T>,
        route: Option<u64>,
        has_meta: bool,
    ) {
        if admitted.dropped {
            self.drop_messages(parcel.ids(), DropCause::Overflow);
            return waste.add(parcel);
        }
        if self.bus().observed() {
            // Told before the push, so that no later event of these messages
            // can overtake it.
            self.tell_enqueued(parcel.ids(), parcel.first().accepted_ns);
        }
        let last_id = admitted.first_id + admitted.count - 1;
        self.enqueue(parcel, last_id, route, has_meta);
    }

    fn tell_enqueued(&self, ids: impl ExactSizeIterator<Item = MessageId>, now_ns: u64) {
        let depth = self.waiting();
        let kind = EventKind::MessageEnqueued { depth };
        self.tell_each(None, ids, Status::Queued, now_ns, kind);
    }

    /// Gets tickets for at least one and at most `wanted` messages, by the
    /// topic's overflow policy if there is no room; what that drops goes to
    /// `waste`. `route`, or else `meta`, says where they would go.
    #[inline(always)]
    pub(super) fn admit(
        self: &Arc<Self>,
        wanted: u64,
        patience: &mut Patience,
        waste: &mut Waste<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
    ) -> Result<Admitted, Refused> {
        if self.lacks_subscribers() {
            return Err(Refused::NoSubscribers);
        }
        match self.gate.admit(wanted, self.settings.capacity) {
            Ok(granted) => Ok(Admitted::plainly(granted)),
            Err(refusal) => self.admit_by_policy(wanted, refusal, patience, waste, route, meta),
        }
    }

    #[inline(always)]
    pub(super) fn lacks_subscribers(&self) -> bool {
        self.settings.no_subscribers == NoSubscribers::Reject
            && !self.has_subscribers()
            && !self.is_closed_to_caller()
    }

    /// Whether it accepts nothing from this thread: while a drain by stages runs,
    /// handlers may still publish.
    fn is_closed_to_caller(&self) -> bool {
        self.gate.is_closed() && (self.gate.is_sealed() || !context::is_handling(&self.engine))
    }

    /// As the gate admits, or lets handlers in though it is closed to others.
    pub(super) fn admit_caller(&self, wanted: u64, capacity: u64) -> Result<(u64, u64), Refusal> {
        match self.gate.admit(wanted, capacity) {
            Err(Refusal::Closed) if context::is_handling(&self.engine) => {
                self.gate.admit_handler(wanted, capacity)
            }
            admitted => admitted,
        }
    }

    fn has_subscribers(&self) -> bool {
        use crate::pure::room::Phase;
        self.lanes
            .peek(|lanes| lanes.iter().any(|lane| lane.phase() == Phase::Open))
    }

    #[cold]
    fn admit_by_policy(
        self: &Arc<Self>,
        wanted: u64,
        refusal: Refusal,
        patience: &mut Patience,
        waste: &mut Waste<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
    ) -> Result<Admitted, Refused> {
        let mut refusal = refusal;
        let may_have_room = match refusal {
            Refusal::Closed => true,
            Refusal::Full if patience.is_locked => {
                // Ending what has expired drops it: that is left to the dispatcher.
                self.ring();
                false
            }
            Refusal::Full => self.make_room_of_expired(),
        };
        if may_have_room {
            match self.admit_caller(wanted, self.settings.capacity) {
                Ok(granted) => return Ok(Admitted::plainly(granted)),
                Err(still) => refusal = still,
            }
        }
        if refusal == Refusal::Full && !std::mem::replace(&mut patience.told, true) {
            self.tell(EventKind::Backpressure {
                depth: self.waiting(),
                overflow: self.settings.overflow,
            });
        }
        let admitted = match (refusal, self.settings.overflow) {
            (Refusal::Closed, _) => Err(Refused::Closed),
            (Refusal::Full, Overflow::Reject) => Err(Refused::Full),
            (Refusal::Full, Overflow::Block { timeout }) => {
                if patience.until.is_none() {
                    patience.until = Instant::now().checked_add(timeout);
                }
                self.admit_after_wait(wanted, patience.until)
            }
            (Refusal::Full, Overflow::DropOldest) => {
                self.admit_by_eviction(wanted, waste, route, meta)
            }
            (Refusal::Full, Overflow::DropNewest) => {
                let forced = self.admit_caller(wanted, u64::MAX);
                forced.map_err(refused).map(|granted| Admitted {
                    dropped: true,
                    ..Admitted::plainly(granted)
                })
            }
        };
        patience.told &= admitted.is_err();
        if let Err(Refused::Closed) = admitted {
            context::note_refusal(&self.engine);
        }
        admitted
    }

    /// Whether a publisher that was refused would not be now, or never will be accepted.
    pub(super) fn may_admit(&self) -> bool {
        self.gate.is_closed() || !self.is_full() && !self.lacks_subscribers()
    }

    fn admit_after_wait(
        self: &Arc<Self>,
        wanted: u64,
        until: Option<Instant>,
    ) -> Result<Admitted, Refused> {
        if context::is_inside(&self.engine) {
            return Err(Refused::Full);
        }
        // What is waiting must be on its way before we wait for its room.
        self.ring();
        let attempt = || match self.gate.admit(wanted, self.settings.capacity) {
            Err(Refusal::Full) => None,
            admitted => Some(admitted),
        };
        let admitted = self.waiters.wait_for(until, attempt, || self.room());
        let granted = admitted.ok_or(Refused::TimedOut)?.map_err(refused)?;
        Ok(Admitted::plainly(granted))
    }

    fn admit_by_eviction(
        self: &Arc<Self>,
        wanted: u64,
        waste: &mut Waste<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
    ) -> Result<Admitted, Refused> {
        let mut evicted = 0;
        for _ in 0..EVICTION_TRIES {
            if self.is_closed_to_caller() {
                return Err(Refused::Closed);
            }
            let oldest = match &self.split {
                None => self.drop_oldest(&Source::Plain(&self.plain), None, DropCause::Overflow),
                Some(split) => split.drop_oldest(self, route, meta, wanted),
            };
            match oldest {
                Some((dropped, parcel)) => {
                    evicted += dropped;
                    waste.add(parcel);
                }
                None => pause(),
            }
            match self.admit_caller(wanted, self.settings.capacity) {
                Ok(granted) => {
                    return Ok(Admitted {
                        evicted,
                        ..Admitted::plainly(granted)
                    });
                }
                Err(Refusal::Closed) => return Err(Refused::Closed),
                Err(Refusal::Full) => {}
            }
        }
        Err(Refused::Full)
    }
}

pub(super) fn refused(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Full => Refused::Full,
        Refusal::Closed => Refused::Closed,
    }
}
