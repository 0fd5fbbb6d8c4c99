//! Messages that find their topic full, and take the place of older ones of their key.
//!
//! Steps. The publisher locks the state of the dispatcher, which is there while that rests. It moves all
//! messages of the queue onto the shelf, and looks for its key. If there is any, it gets a ticket
//! past the full queue, and takes the older messages out. Its own message goes to the place of the
//! first of them. Then it unlocks the state, and ends the older ones.
//!
//! The feared interleavings. The dispatcher hands an older message on after it was taken out, or a
//! newer one before it. It can't, because it takes its state before it takes a message. The older one has
//! gone to the lanes meanwhile, and the topic would have a message too many. It can't have, because the
//! ticket is taken under the lock. A publisher waits for a dispatcher that runs for long, in a user's
//! filter. It looks a bounded number of times, and is refused then.
//!
//! No user code runs under the lock.

use crate::engine::parts::dispatcher::{DispatcherState, ShelfPlace};
use crate::engine::publish::admit::EVICTION_TRIES;
use crate::engine::publish::ask::{Admitted, Ask, Refused};
use crate::engine::state::topic::TopicCore;
use crate::message::batch::{BatchSlice, DeferredDrops, QueueEntry};
use crate::message::meta::Meta;
use crate::observe::event::DropCause;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, MutexGuard, pause};
use crate::types::config::Overflow;

type Resting<'t, T> = MutexGuard<'t, Option<Box<DispatcherState<T>>>>;

/// The place of older messages, and the admission of the one that takes it.
pub(in crate::engine::publish) struct OlderPlace<'t, T> {
    state: Resting<'t, T>,
    place: ShelfPlace,
    older: Vec<BatchSlice<T>>,
    pub(in crate::engine::publish) admitted: Admitted,
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Takes out the messages that wait with the key of a message that finds the topic full, if the
    /// policy says so. If there are none, the message is admitted as others are.
    #[inline(always)]
    pub(in crate::engine::publish) fn take_out_older(
        self: &Arc<Self>,
        meta: Option<&Meta>,
        is_locked: bool,
    ) -> Option<OlderPlace<'_, T>> {
        let key = meta?.key.as_deref()?;
        match self.live.overflow.get() {
            Overflow::Conflate => self.take_out_of_key(key, meta, is_locked),
            _ => None,
        }
    }

    #[cold]
    fn take_out_of_key(
        self: &Arc<Self>,
        key: &str,
        meta: Option<&Meta>,
        is_locked: bool,
    ) -> Option<OlderPlace<'_, T>> {
        if self.lacks_subscribers() {
            return None;
        }
        if !is_locked && self.is_full() {
            // A topic whose capacity was lowered may be full after that, too.
            self.make_room_of_expired();
        }
        for _ in 0..EVICTION_TRIES {
            if !self.is_full() || self.is_closed_to_caller() {
                return None;
            }
            let Some(mut state) = self.resting() else {
                pause();
                continue;
            };
            let dispatcher = state.as_deref_mut()?;
            while dispatcher.fill(&self.plain) {}
            if !dispatcher.shelf.has_key(key) {
                return None;
            }
            let admitted = match self.admit_caller(Ask::one(meta), u64::MAX) {
                Ok((id, 1)) => Admitted::plainly((id, 1)),
                // The message is a duplicate, or is refused for another reason.
                _ => return None,
            };
            let (older, place) = dispatcher.shelf.take_key(key);
            return Some(OlderPlace {
                admitted: Admitted {
                    evicted: older.len() as u32,
                    ..admitted
                },
                state,
                place,
                older,
            });
        }
        None
    }

    /// Locks the state of the dispatcher, unless that is running.
    fn resting(self: &Arc<Self>) -> Option<Resting<'_, T>> {
        let state = self.plain.dispatcher.lock();
        if state.is_some() {
            return Some(state);
        }
        drop(state);
        // It has never run, or it is running.
        if self.plain.task.claim() {
            let mut state = self.plain.dispatcher.lock();
            state.get_or_insert_with(|| Box::new(DispatcherState::new()));
            drop(state);
            if self.plain.task.rest(true) == Then::Enqueue {
                self.engine.pool.submit(Arc::clone(self) as _);
            }
        }
        None
    }

    /// Puts a message, which has begun, in the place of the older ones, and ends these.
    pub(in crate::engine::publish) fn put_in_place(
        self: &Arc<Self>,
        place: OlderPlace<'_, T>,
        (payload, meta): (T, Option<Box<Meta>>),
        drops: &mut DeferredDrops<T>,
    ) -> Admitted {
        let OlderPlace {
            mut state,
            place,
            older,
            admitted,
        } = place;
        let message = self.message(admitted.first_id, payload);
        let stamp = message.stamp;
        self.tell_refused(&Refused::Full);
        if self.bus().observed() {
            self.tell_enqueued(std::iter::once(stamp.id), stamp.accepted_ns);
        }
        let newer = QueueEntry::One(message, meta).into_slice(self.live.ttl.get());
        // Those behind it may expire before it does, and were counted from the older ones.
        let expiries = older.iter().chain([&newer]).map(BatchSlice::expires_ns);
        let expires_ns = expiries.min().unwrap_or(u64::MAX);
        let is_first = self.plain.expiry.note(expires_ns);
        if let Some(dispatcher) = state.as_deref_mut() {
            dispatcher.shelf.put(place, newer);
        }
        drop(state);
        for part in older {
            if part.first().id.get() <= self.flush_to.load(Ordering::Acquire) {
                // A flush of the older one is a flush of all that wait behind its place.
                self.flush_to.fetch_max(stamp.id.get(), Ordering::AcqRel);
            }
            self.books.conflated.add(1);
            self.drop_messages(part.ids(), DropCause::Conflated);
            drops.add_part(part);
        }
        if is_first {
            self.schedule();
        }
        admitted
    }
}
