//! The end of deliveries that have outlived their time to live.

use std::collections::VecDeque;
use std::iter;

use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::State;
use crate::engine::state::lane::{Lane, Turn};
use crate::message::batch::{Batch, BatchSlice};
use crate::observe::event::EventKind;
use crate::pure::decide::expiry::{NEVER, has_passed, next_look};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Reserved;
use crate::sync::Arc;
use crate::types::config::OnExpired;
use crate::types::reason::DeadReason;

/// The result of a look through waiting deliveries.
struct Found<T> {
    expired: Vec<PendingDelivery<T>>,
    /// When the first of the others expires.
    first_ns: u64,
    others: usize,
}

impl<T> Found<T> {
    /// Whether a delivery with this expiry is to stay where it is.
    fn passes(&mut self, expires_ns: Option<u64>, now_ns: u64) -> bool {
        if has_passed(expires_ns, now_ns) {
            return false;
        }
        self.first_ns = self.first_ns.min(expires_ns.unwrap_or(NEVER));
        self.others += 1;
        true
    }

    /// Takes the expired deliveries out of a part and puts the rest of the part into `left`.
    fn look_through(
        &mut self,
        part: BatchSlice<T>,
        now_ns: u64,
        left: &mut VecDeque<BatchSlice<T>>,
    ) {
        let mut from = part.from;
        let cut = |from: u32, to: u32| BatchSlice {
            batch: Arc::clone(&part.batch),
            from,
            to,
        };
        for index in part.from..part.to {
            let expires_ns = part.batch.expires_ns(index as usize);
            if !self.passes(expires_ns, now_ns) {
                let expired = PendingDelivery::first(&part.batch, index as usize, 0);
                self.expired.push(expired);
                if from < index {
                    left.push_back(cut(from, index));
                }
                from = index + 1;
            }
        }
        if from < part.to {
            left.push_back(cut(from, part.to));
        }
    }

    /// Takes the expired ones out of deliveries that came back.
    fn look_through_returned(&mut self, all: &mut VecDeque<PendingDelivery<T>>, now_ns: u64) {
        for again in std::mem::take(all) {
            match self.passes(again.expires_ns(), now_ns) {
                true => all.push_back(again),
                false => self.expired.push(again),
            }
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Whether a first attempt comes too late.
    pub(crate) fn has_expired(&self, batch: &Batch<T>, index: usize, now_ns: u64) -> bool {
        has_passed(batch.expires_ns(index), now_ns)
    }

    /// Whether any attempt, first or later, comes too late.
    pub(crate) fn is_past(&self, again: &PendingDelivery<T>, now_ns: u64) -> bool {
        has_passed(again.expires_ns(), now_ns)
    }

    /// Ends a queued delivery that was never tried.
    pub(crate) fn expire(&self, batch: &Arc<Batch<T>>, index: usize) {
        self.expire_at(PendingDelivery::first(batch, index, 0), Status::Queued);
    }

    /// Ends an expired delivery whose status is `from`, tried before or not.
    pub(crate) fn expire_at(&self, late: PendingDelivery<T>, from: Status) {
        match self.topic.settings.on_expired {
            OnExpired::DeadLetter => {
                self.bury(late, from, DeadReason::Expired);
            }
            OnExpired::Drop => {
                let status = self.books.record(from, Step::Expire, 1);
                self.tell(late.id(), late.attempts, status, EventKind::Expired);
                self.note_end_of(&late, status);
            }
        }
    }

    /// Notes when a delivery that comes back expires. Returns `true` if it is the first to
    /// expire.
    pub(crate) fn note_return(&self, again: &PendingDelivery<T>) -> bool {
        let expires_ns = again.expires_ns();
        self.expiry.note(expires_ns.unwrap_or(NEVER))
    }

    /// Ends the expired deliveries that wait in the lane, for a caller that needs their places.
    /// Returns `true` if there were any.
    pub(crate) fn end_expired(self: &Arc<Self>) -> bool {
        if !self.expiry.has_come(self.engine()) {
            return false;
        }
        let mut turn = self.turn.lock();
        let expired = self.find_expired(turn.as_deref_mut());
        drop(turn);
        // The lane's runner may be in a handler for long.
        self.call_at_expiry();
        if expired.is_empty() {
            return false;
        }
        let _motion = self.books.motions.begin(expired.len() as u64);
        let ended = self.expire_all(expired);
        self.end_places(ended);
        // A lingering batch may have lost the deliveries it lingered for. In a keyed lane the
        // next ones are filed.
        self.schedule();
        self.engine().quiescence.notify();
        true
    }

    /// As [`end_expired`](Self::end_expired), for the runner, whose turn it is.
    pub(crate) fn end_expired_in(self: &Arc<Self>, turn: &mut Turn<T>) {
        if self.expiry.has_come(self.engine()) {
            let expired = self.find_expired(Some(turn));
            let _motion = self.books.motions.begin(expired.len() as u64);
            let ended = self.expire_all(expired);
            self.give_back(ended);
        }
    }

    fn expire_all(&self, expired: Vec<PendingDelivery<T>>) -> u32 {
        let count = expired.len() as u32;
        for late in expired {
            self.expire_at(late, Status::Queued);
        }
        count
    }

    /// Takes out the expired deliveries, in one look through everything the lane holds. That
    /// includes what belongs to the turn, if the caller has it.
    fn find_expired(&self, turn: Option<&mut Turn<T>>) -> Vec<PendingDelivery<T>> {
        self.expiry.begin_look(self.engine());
        let now_ns = self.engine().clock.now_ns();
        let mut found = Found {
            expired: Vec::new(),
            first_ns: NEVER,
            others: 0,
        };
        if let Some(turn) = turn {
            let mut parts = std::mem::take(&mut turn.prefetched);
            if self.has_own_inbox() {
                parts.extend(iter::from_fn(|| self.pop()));
            }
            for part in parts {
                found.look_through(part, now_ns, &mut turn.prefetched);
            }
            for came_back in [&mut turn.returned, &mut turn.requeued] {
                found.look_through_returned(came_back, now_ns);
            }
        }
        self.look_through_inbox(|part, left| {
            found.look_through(part, now_ns, left);
        });
        if let Some(keyed) = self.keyed.get() {
            let mut state = keyed.state.lock();
            let State {
                sequencer,
                parked_arrivals,
                ..
            } = &mut *state;
            let mut is_late = |late: &PendingDelivery<T>| !found.passes(late.expires_ns(), now_ns);
            let mut late = sequencer.extract(&mut is_late);
            late.extend(parked_arrivals.extract(is_late));
            found.expired.append(&mut late);
        }
        let waiting = found.others;
        self.expiry.note(next_look(found.first_ns, waiting, now_ns));
        found.expired
    }

    /// Sets the timer at the end of a turn, as long as a delivery that can expire waits here.
    /// The turn must be back in its place.
    pub(crate) fn await_expiry(self: &Arc<Self>, prefetched_expires_ns: u64) {
        self.expiry.note(prefetched_expires_ns);
        if !self.expiry.is_known() {
            return;
        }
        let engine = self.engine();
        let first_ns = self.expiry.forget();
        // A delivery that was pushed since holds its place, and its note stays.
        if self.room.load().occupied == 0 {
            return self.expiry.cancel(engine);
        }
        self.expiry.note(first_ns);
        self.call_at_expiry();
    }

    /// Sets the timer for the time at which the first waiting delivery expires.
    pub(crate) fn call_at_expiry(self: &Arc<Self>) {
        if self.expiry.is_known() {
            self.expiry.call(self.engine(), Arc::clone(self) as _);
        }
    }

    /// When the first of the runner's prefetched deliveries expires.
    pub(crate) fn prefetched_expires_ns(&self, turn: &Turn<T>) -> u64 {
        let firsts = turn.prefetched.iter().map(|part| part.expires_ns());
        firsts.min().unwrap_or(NEVER)
    }

    /// Reserves up to `wanted` places that expired deliveries free.
    pub(crate) fn reserve_expired(self: &Arc<Self>, wanted: u32) -> Reserved {
        match self.end_expired() {
            true => self.reserve(wanted, false),
            false => Reserved::Full,
        }
    }
}
