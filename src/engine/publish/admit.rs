//! Admission of messages: the gate, the overflow policy, the push into the queue.

mod conflate;

use crate::engine::base::gate::Gate;
use crate::engine::publish::ask::{Admitted, Ask, Patience, Refused, Wait};
use crate::engine::runtime::context;
use crate::engine::state::partition_queue::Tail;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::TopicCore;
use crate::message::batch::{Accepted, DeferredDrops, QueueEntry, Stamp};
use crate::message::meta::Meta;
use crate::message::{Fate, MessageId, Receipt};
use crate::observe::event::{DropCause, EventKind};
use crate::observe::note::Note;
use crate::pure::decide::lifecycle::Status;
use crate::pure::words::schedule::Then;
use crate::pure::words::tickets::Refusal;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Instant, MutexGuard, mutant, pause};
use crate::types::config::{NoSubscribers, Overflow};
use crate::types::error::PublishError;

/// How often a publisher looks for a message to drop before it gives up. A look finds
/// nothing while the tickets belong to delayed messages, to publishers that have not pushed
/// yet, or to a dispatcher in its turn.
const EVICTION_TRIES: u32 = 1_000;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Accepts one message without a dedup id or hands the payload back.
    #[inline(always)]
    pub(crate) fn publish(
        self: &Arc<Self>,
        payload: T,
        meta: Option<Box<Meta>>,
        wait: Wait,
    ) -> Result<Receipt, PublishError<T>> {
        if let Some((accepted_ns, mut tail)) = self.short_way()
            && let Ok(granted) = self.gate.admit_alone(1, self.live.capacity.get())
        {
            let admitted = Admitted::plainly(granted);
            let id = MessageId::new(admitted.first_id);
            let stamp = Stamp { id, accepted_ns };
            let own_expires_ns = meta.as_deref().and_then(|meta| {
                meta.begin();
                meta.expires_ns(stamp)
            });
            let message = Accepted { stamp, payload };
            self.plain.write(&mut tail, message, meta);
            self.notify_after(tail, id.get(), own_expires_ns);
            return Ok(Receipt {
                duplicate: false,
                ..admitted.receipt()
            });
        }
        if self.weights.is_some() {
            return self.publish_weighed(payload, meta, wait);
        }
        let published = self.publish_to(None, payload, meta, wait);
        published.map_err(|(refused, payload, _)| refused.error(payload))
    }

    /// Returns the time and the queue's lock, if a message may get its ticket and be written in
    /// one step.
    #[inline(always)]
    pub(crate) fn short_way(&self) -> Option<(u64, MutexGuard<'_, Tail<T>>)> {
        if !self.is_plain.load(Ordering::Acquire) && self.takes_detour() || self.bus().observed() {
            return None;
        }
        Some((self.engine.clock.now_ns(), self.plain.tail()))
    }

    /// Unlocks the queue after the message with this number was written. Schedules the
    /// dispatcher if it asked for that.
    #[inline(always)]
    pub(crate) fn notify_after(
        self: &Arc<Self>,
        mut tail: MutexGuard<'_, Tail<T>>,
        number: u64,
        own_expires_ns: Option<u64>,
    ) {
        let notifies = tail.notifies(number);
        drop(tail);
        if self.plain.after_push(notifies, own_expires_ns) == Then::Enqueue {
            self.engine.pool.submit(Arc::clone(self) as _);
        }
    }

    /// Publishes as [`publish`](Self::publish) does, to the partition that `route` names, if it
    /// names one. A refusal hands back the message.
    #[inline(always)]
    pub(crate) fn publish_to(
        self: &Arc<Self>,
        route: Option<u64>,
        payload: T,
        meta: Option<Box<Meta>>,
        wait: Wait,
    ) -> Result<Receipt, (Refused, T, Option<Box<Meta>>)> {
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            return self.publish_one_stored(stored, payload, meta, wait);
        }
        let mut drops = DeferredDrops::new();
        if let Some(place) = self.take_out_older(meta.as_deref(), false) {
            meta.iter().for_each(|meta| meta.begin());
            return Ok(self
                .put_in_place(place, (payload, meta), &mut drops)
                .receipt());
        }
        let admitted = match self.admit_one(wait, &mut drops, route, meta.as_deref()) {
            Ok(admitted) => admitted,
            Err(refused) => return Err((refused, payload, meta)),
        };
        self.take_in_one(payload, meta, &admitted, &mut drops, route);
        Ok(admitted.receipt())
    }

    /// Gets one ticket, or counts the refusal.
    #[inline(always)]
    pub(crate) fn admit_one(
        self: &Arc<Self>,
        wait: Wait,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
    ) -> Result<Admitted, Refused> {
        let ask = Ask::one(meta);
        let admitted = self.admit(ask, &mut Patience::of(wait), drops, route);
        admitted.inspect_err(|refused| self.note_refused(refused, 1))
    }

    /// Counts `count` messages as rejected, unless they made no sense.
    pub(crate) fn note_refused(&self, refused: &Refused, count: u64) {
        match refused {
            Refused::ZeroTtl | Refused::NoDedup | Refused::TooHeavy | Refused::Claimed => {}
            // Those that had tickets are counted as dropped.
            #[cfg(feature = "log")]
            Refused::NotStored(_) => {}
            Refused::RateLimited(_) => {
                self.books.rejected.add(count);
                self.note_rate_limited(count);
            }
            Refused::Full | Refused::TimedOut | Refused::Closed | Refused::NoSubscribers => {
                self.books.rejected.add(count);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn message(&self, id: u64, payload: T) -> Accepted<T> {
        Accepted {
            stamp: Stamp {
                id: MessageId::new(id),
                accepted_ns: self.engine.clock.now_ns(),
            },
            payload,
        }
    }

    /// Enqueues an admitted entry, or drops it if its admission says so. A duplicate makes an entry
    /// of its own.
    #[inline(always)]
    pub(crate) fn admitted(
        self: &Arc<Self>,
        entry: QueueEntry<T>,
        admitted: &Admitted,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) {
        match admitted.fate {
            _ if admitted.is_duplicate() => {
                self.note_duplicate(entry.first().id);
                return drops.add_entry(entry);
            }
            Fate::Queued => {}
            Fate::Dropped => {
                self.drop_messages(entry.ids(), DropCause::Overflow);
                return drops.add_entry(entry);
            }
            Fate::Lettered => return self.letter_overflow(&entry.into_slice(self.live.ttl.get())),
        }
        if self.bus().observed() {
            // Observers hear of the messages before the push, so that no later event of these
            // messages can overtake this one.
            self.tell_enqueued(entry.ids(), entry.first().accepted_ns);
        }
        self.enqueue(entry, admitted.last_id(), route);
    }

    pub(crate) fn tell_enqueued(
        &self,
        mut ids: impl ExactSizeIterator<Item = MessageId>,
        at_ns: u64,
    ) {
        let depth = self.waiting();
        if ids.len() == 1
            && let Some(id) = ids.next()
        {
            return self.bus().send_numbered(1, |sequence| Note::Enqueued {
                sequence,
                at_ns,
                topic: Arc::clone(&self.name),
                id,
                depth,
            });
        }
        let kind = EventKind::MessageEnqueued { depth };
        self.tell_each(ids, Status::Queued, at_ns, kind);
    }

    /// Gets tickets for at least one and at most as many messages as are wanted. If there is no
    /// room, the topic's overflow policy decides; the messages that it evicts go to `drops`.
    /// `route`, or else the parts of the message, names the partition.
    #[inline(always)]
    pub(crate) fn admit(
        self: &Arc<Self>,
        ask: Ask<'_>,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) -> Result<Admitted, Refused> {
        if self.lacks_subscribers() {
            // A duplicate needs none.
            let known = self.by_terms(ask, |_| Err(Refusal::Full));
            let known = known.map_err(|refused| match refused {
                Refused::Claimed => refused,
                _ => Refused::NoSubscribers,
            });
            return known.map(Admitted::plainly);
        }
        match self.admit_outside(ask) {
            Ok(granted) => Ok(Admitted::plainly(granted)),
            Err(refusal) => self.admit_by_policy(ask, refusal, patience, drops, route),
        }
    }

    /// Returns whether a publisher has to look at more than the gate and the queue.
    fn takes_detour(&self) -> bool {
        let is_other = self.split.is_some() || self.weights.is_some() || self.is_stored();
        is_other || self.rate.get().is_some() || self.lacks_subscribers()
    }

    #[inline(always)]
    pub(crate) fn lacks_subscribers(&self) -> bool {
        self.settings.no_subscribers == NoSubscribers::Reject
            && !self.has_subscribers()
            && !self.is_closed_to_caller()
    }

    /// Whether the topic accepts nothing from this thread. During a drain by stages it still
    /// accepts messages from handlers.
    pub(crate) fn is_closed_to_caller(&self) -> bool {
        self.gate.is_closed() && (self.gate.is_sealed() || !context::is_handling(&self.engine))
    }

    /// Takes a step at the gate. In a topic that isn't split, every step is taken under the
    /// lock of its queue, which most publishers hold anyway.
    pub(crate) fn at_gate<R>(&self, step: impl FnOnce(&Gate) -> R) -> R {
        let alone = || self.split.is_none().then(|| self.plain.tail());
        let _alone = mutant!(alone(), "gate.lock", None);
        step(&self.gate)
    }

    /// Gets tickets within the capacity, unless the topic is closed to publishers outside of
    /// handlers.
    #[inline(always)]
    pub(crate) fn admit_outside(self: &Arc<Self>, ask: Ask<'_>) -> Result<(u64, u64), Refused> {
        self.by_terms(ask, |wanted| {
            self.at_gate(|gate| gate.admit(wanted, self.live.capacity.get()))
        })
    }

    /// Gets tickets as [`admit_outside`](Self::admit_outside) does. A handler still gets them
    /// while the topic is closed to others only.
    pub(crate) fn admit_caller(
        self: &Arc<Self>,
        ask: Ask<'_>,
        capacity: u64,
    ) -> Result<(u64, u64), Refused> {
        self.by_terms(ask, |wanted| {
            match self.at_gate(|gate| gate.admit(wanted, capacity)) {
                Err(Refusal::Closed) if context::is_handling(&self.engine) => {
                    self.at_gate(|gate| gate.admit_handler(wanted, capacity))
                }
                admitted => admitted,
            }
        })
    }

    /// Returns whether it has a subscription that takes messages.
    pub(crate) fn has_subscribers(&self) -> bool {
        use crate::pure::words::room::Phase;
        self.lanes
            .peek(|lanes| lanes.iter().any(|lane| lane.phase() == Phase::Open))
    }

    #[cold]
    fn admit_by_policy(
        self: &Arc<Self>,
        ask: Ask<'_>,
        refusal: Refused,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) -> Result<Admitted, Refused> {
        let mut refusal = refusal;
        let may_have_room = match &refusal {
            Refused::Full if patience.is_locked => {
                // Ending an expired message drops its payload, which is user code. The
                // dispatcher does that.
                self.schedule();
                false
            }
            Refused::Full => self.make_room_of_expired(),
            _ => matches!(refusal, Refused::Closed),
        };
        if may_have_room {
            match self.admit_caller(ask, self.live.capacity.get()) {
                Ok(granted) => return Ok(Admitted::plainly(granted)),
                Err(still) => refusal = still,
            }
        }
        if refusal.may_wait() && !std::mem::replace(&mut patience.told, true) {
            self.tell_refused(&refusal);
        }
        let admitted = match (refusal, self.live.overflow.get()) {
            // A message that conflates with none is one too many.
            (
                refusal,
                overflow @ (Overflow::Reject | Overflow::Block { .. } | Overflow::Conflate),
            ) if refusal.may_wait() => match patience.until(overflow) {
                Some(until) => self.admit_after_wait(ask, refusal, until),
                None => Err(refusal),
            },
            (Refused::Full, Overflow::DropOldest) => {
                self.pay_first(ask, |ask| self.admit_by_eviction(ask, drops, route))
            }
            (Refused::Full, Overflow::DropNewest) => {
                // Its id is not remembered, so that it may be published again.
                let forced = self.admit_caller(Ask::any(ask.wanted), u64::MAX);
                forced.map(|granted| Admitted {
                    fate: Fate::Dropped,
                    ..Admitted::plainly(granted)
                })
            }
            // Letters run user code, and the publisher holds a lock.
            (Refused::Full, Overflow::DeadLetter) if patience.is_locked => Err(Refused::Full),
            (Refused::Full, Overflow::DeadLetter) => self.admit_to_letters(ask),
            (refusal, _) => Err(refusal),
        };
        patience.told &= admitted.is_err();
        if let Err(Refused::Closed) = admitted {
            context::note_refusal(&self.engine);
        }
        admitted
    }

    /// Gets tickets for messages that go to the dead letters, past the full queue. Without
    /// subscriptions they have nobody to be letters of, and are dropped.
    fn admit_to_letters(self: &Arc<Self>, ask: Ask<'_>) -> Result<Admitted, Refused> {
        let (fate, ask) = match self.has_subscribers() {
            true => (Fate::Lettered, ask.past_the_queue()),
            false => (Fate::Dropped, Ask::any(ask.wanted)),
        };
        let admitted = Admitted::plainly(self.admit_caller(ask, u64::MAX)?);
        Ok(match admitted.is_duplicate() {
            true => admitted,
            false => Admitted { fate, ..admitted },
        })
    }

    /// Whether a refused publisher should try again: there is room, or the topic has closed.
    pub(crate) fn may_admit(&self) -> bool {
        let may_pass = || !self.lacks_subscribers() && self.held_by_rate().is_none();
        self.gate.is_closed() || !self.is_full() && may_pass()
    }

    /// Tells observers of a publish that is refused, or waits.
    pub(crate) fn tell_refused(&self, refusal: &Refused) {
        self.tell(match refusal {
            Refused::RateLimited(retry_after) => EventKind::RateLimited {
                retry_after: *retry_after,
            },
            _ => EventKind::Backpressure {
                depth: self.waiting(),
                overflow: self.live.overflow.get(),
            },
        });
    }

    fn admit_after_wait(
        self: &Arc<Self>,
        ask: Ask<'_>,
        refusal: Refused,
        until: Option<Instant>,
    ) -> Result<Admitted, Refused> {
        if context::is_inside(&self.engine) {
            return Err(refusal);
        }
        // The queued messages must be on their way before this publisher waits for their room.
        self.schedule();
        let mut last = refusal;
        let attempt = || match self.admit_outside(ask) {
            Err(Refused::Full) => {
                last = Refused::TimedOut;
                None
            }
            Err(Refused::RateLimited(retry_after)) if self.waits_for_rate(retry_after, until) => {
                last = Refused::RateLimited(retry_after);
                None
            }
            admitted => Some(admitted),
        };
        let admitted = self.waiters.wait_for(until, attempt, || self.room());
        let granted = admitted.ok_or(last)??;
        Ok(Admitted::plainly(granted))
    }

    fn admit_by_eviction(
        self: &Arc<Self>,
        ask: Ask<'_>,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) -> Result<Admitted, Refused> {
        // Where messages are weighed, one may be enough.
        let most = self.weights.as_ref().map_or(ask.wanted, |_| 1);
        let (mut evicted, mut tries) = (0, 0);
        while tries < EVICTION_TRIES {
            if self.is_closed_to_caller() {
                return Err(Refused::Closed);
            }
            let oldest = match &self.split {
                None => self.drop_oldest(&QueueRef::Plain(&self.plain), most as u32),
                Some(split) => split.drop_oldest(self, route, ask.alone, most),
            };
            match oldest {
                Some(dropped) => {
                    evicted += dropped.len() as u32;
                    drops.add_part(dropped);
                    // A heavy message may need the room of very many.
                    tries += u32::from(self.weights.is_none());
                }
                None => {
                    tries += 1;
                    pause();
                }
            }
            match self.admit_caller(ask, self.live.capacity.get()) {
                Ok(granted) => {
                    return Ok(Admitted {
                        evicted,
                        ..Admitted::plainly(granted)
                    });
                }
                Err(Refused::Full) => {}
                Err(refused) => return Err(refused),
            }
        }
        Err(Refused::Full)
    }
}
