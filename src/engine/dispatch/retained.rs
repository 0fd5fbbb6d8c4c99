//! Keeping messages for subscriptions that come late, and giving them to one that has come.
//!
//! The kept messages are the first in its lane. They are deliveries of their own, which share the
//! payloads. The filter is asked about each on the thread that subscribes. Messages that have expired
//! are passed over. If the lane has room for fewer, it gets the newest.

use crate::engine::dispatch::room::ALL_WANT;
use crate::engine::late::retained::{Keeping, KeptMessages};
use crate::engine::parts::dispatcher::{DispatcherState, Sieve};
use crate::engine::runtime::context::Inside;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::message::batch::{Batch, BatchSlice};
use crate::pure::words::room::Reserved;
use crate::sync::Arc;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Keeps messages that are about to go to the lanes that granted places. If they may not go now,
    /// gives the places back.
    ///
    /// `list` is the list of lanes as it was read. `lanes` are those of the list that were asked.
    #[inline(never)]
    pub(crate) fn keep_retained(
        self: &Arc<Self>,
        dispatcher: &mut DispatcherState<T>,
        part: &BatchSlice<T>,
        (list, lanes): (&Lanes<T>, &Lanes<T>),
    ) -> Keeping {
        let Some(retained) = &self.retained else {
            return Keeping::HandOn;
        };
        // The caller holds the list, so another one has another address.
        let is_current = || self.lanes.peek(|now| std::ptr::eq(now, list));
        let keeping = retained.keep(part, is_current);
        if keeping != Keeping::HandOn {
            self.give_places_back(lanes, &dispatcher.grants);
            dispatcher.has_room = false;
        }
        keeping
    }

    /// Gives a subscription that has just joined the messages that were kept. Dispatchers hand on
    /// nothing meanwhile.
    ///
    /// No lock may be held, because a filter is the user's.
    #[inline]
    pub(crate) fn welcome(self: &Arc<Self>, lane: &Arc<Lane<T>>) {
        if self.retained.is_some() {
            self.welcome_late(lane);
        }
    }

    #[cold]
    fn welcome_late(self: &Arc<Self>, lane: &Arc<Lane<T>>) {
        let address = Arc::as_ptr(lane).addr();
        let Some(retained) = &self.retained else {
            return;
        };
        let Some(kept) = retained.take(address) else {
            return;
        };
        self.give_retained(lane, kept);
        retained.arrived(address);
        self.schedule();
    }

    fn give_retained(self: &Arc<Self>, lane: &Arc<Lane<T>>, kept: KeptMessages<T>) {
        // The filter may publish here, and must not wait for a dispatcher that waits for it.
        let _inside = Inside::enter(&self.engine);
        let now_ns = self.engine.clock.now_ns();
        let is_fresh = |(batch, index): &(Arc<Batch<T>>, u32)| {
            let expires_ns = batch.expires_ns(*index as usize);
            expires_ns.is_none_or(|expires_ns| now_ns < expires_ns)
        };
        let batches = Batch::retained(kept.into_iter().filter(is_fresh));
        let mut parts = Vec::new();
        for batch in batches {
            self.sift_retained(lane, BatchSlice::whole(Arc::new(batch)), &mut parts);
        }
        let count: usize = parts.iter().map(BatchSlice::len).sum();
        let most = lane.capacity.get().min(count as u32);
        let _motion = self.books.motions.begin(u64::from(most));
        // The lane may have been closed since it joined.
        let Reserved::Granted(granted) = lane.reserve(most, false) else {
            return;
        };
        let mut surplus = count as u32 - granted;
        for part in parts {
            let older = surplus.min(part.len() as u32);
            surplus -= older;
            if let Some(part) = part.after(older) {
                self.place_in(lane, part);
            }
        }
        lane.schedule();
        if lane.phase().ends_at_once() {
            lane.come_to_end();
        }
    }

    /// Adds the parts of a batch that the lane's filter wants, and counts the others.
    fn sift_retained(
        &self,
        lane: &Arc<Lane<T>>,
        whole: BatchSlice<T>,
        wanted: &mut Vec<BatchSlice<T>>,
    ) {
        let lanes = vec![Arc::clone(lane)];
        let mut sieve = Sieve::new();
        let mut left = Some(whole);
        while let Some(part) = left {
            let piece = self.sift(&mut sieve, &part, (part.len(), ALL_WANT), &lanes);
            let (front, rest) = part.split_at_most(piece.len as u32);
            match piece.refusing.is_empty() {
                true => wanted.push(front),
                false => self.refuse(lane, &front),
            }
            left = rest;
        }
    }
}
