//! How a consumer takes deliveries from a keyed lane, and puts them down.

use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::{KeyedLane, RUNNER, State};
use crate::engine::state::lane::Lane;
use crate::pure::decide::lifecycle::Status;
use crate::pure::order::sequencer::{Class, Key, PerKey, Taken};
use crate::sync::{Arc, mutant};

/// Deliveries that were in flight and go back.
pub(crate) struct Settlements<T> {
    taken: usize,
    /// The deliveries that were not tried.
    pub(crate) untried: Vec<(Option<Key>, PendingDelivery<T>)>,
    /// The keys of the deliveries that were tried.
    down: Vec<Key>,
    /// The number of deliveries that have reached a final state.
    ended: u32,
}

impl<T> Settlements<T> {
    pub(crate) fn new(taken: usize) -> Self {
        Self {
            taken,
            untried: Vec::new(),
            down: Vec::new(),
            ended: 0,
        }
    }

    /// Notes the key of a delivery. A delivery without a key holds nobody up.
    pub(crate) fn lay_down(&mut self, key: Option<Key>) {
        self.down.extend(key);
    }

    pub(crate) fn end(&mut self, key: Option<Key>) {
        self.lay_down(key);
        self.ended += 1;
    }
}

/// A request for the next deliveries that `owner` may have, at most `most`.
#[derive(Clone, Copy)]
pub(crate) struct TakeRequest {
    pub(crate) owner: u64,
    pub(crate) most: usize,
    pub(crate) per_key: PerKey,
    /// The only class to take from. With `None` the classes alternate.
    pub(crate) only: Option<Class>,
}

impl TakeRequest {
    /// Returns a request of the lane's own runner.
    pub(crate) fn own(most: usize, per_key: PerKey, only: Option<Class>) -> Self {
        Self {
            owner: RUNNER,
            most,
            per_key,
            only,
        }
    }
}

/// The consumers that must look at what is left after a slot has taken a delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nobody,
    /// One more slot of the only member. It notifies the next one in its turn.
    One,
    /// Slots of any member. Each member has keys of its own, so the deliveries are filed to see
    /// whom they are for.
    Any,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Ends the flight of `taken` deliveries, of which `ended` have reached a final state.
    fn leave_flight(self: &Arc<Self>, taken: u64, ended: u32) {
        self.books.end_in_flight(taken);
        self.end_permits(taken);
        self.end_places(ended);
        if self.phase().ends_at_once() {
            // The lane's end may have passed by before these deliveries were put down.
            mutant!(self.come_to_end(), "keyed.put-down-end");
        }
    }

    /// Gives back the places of deliveries that have ended, for any consumer.
    #[inline(always)]
    pub(crate) fn end_places(self: &Arc<Self>, ended: u32) {
        if ended > 0 && self.release(ended) {
            self.come_to_end();
        }
    }

    /// Returns whether the inbox has a delivery to take or to file.
    #[inline(always)]
    fn has_new_for(&self, state: &State<T>, member: u64) -> bool {
        match self.conflates() {
            true => self.has_newest_for(state, member),
            false => !self.is_inbox_empty(),
        }
    }

    /// As [`has_new_for`](Self::has_new_for), where newer deliveries may replace those that wait.
    /// Deliveries that may not go are not filed, and no consumer has to look at them.
    #[cold]
    fn has_newest_for(&self, state: &State<T>, member: u64) -> bool {
        let Some(keyed) = self.keyed.get() else {
            return false;
        };
        let rule = keyed.key_rule(state);
        self.has_conflated(|one| {
            let key = rule.key_at(&one.batch, one.from as usize);
            state.sequencer.may_pass(member, key)
        })
    }

    /// Decides which consumers must look at what is left.
    pub(crate) fn next_of(&self, state: &State<T>, member: u64) -> Next {
        if state.members.len() > 1 {
            Next::Any
        } else if !state.sequencer.is_at_rest(member)
            || state.room_aside() > 0 && self.has_new_for(state, member)
        {
            Next::One
        } else {
            Next::Nobody
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Takes the requested deliveries, which are in flight from then on. Calls `note` under the
    /// lock with their number.
    pub(crate) fn take_for(
        self,
        request: TakeRequest,
        now_ns: u64,
        mut note: impl FnMut(&State<T>, usize),
    ) -> Vec<Taken<PendingDelivery<T>>> {
        let TakeRequest {
            owner,
            most,
            per_key,
            only,
        } = request;
        loop {
            let mut state = self.keyed.state.lock();
            state.sequencer.set_now(now_ns);
            self.feed_unless_new(&mut state, owner, most);
            let mut taken = state.sequencer.take(owner, most, per_key, only);
            note(&state, taken.len());
            let has_parked = state.parked_arrivals.are_to_be_judged();
            drop(state);
            if has_parked && owner != RUNNER {
                self.lane.schedule();
            }
            let expired = |taken: &mut Taken<_>| self.lane.is_past(&taken.item, now_ns);
            let dead: Vec<_> = taken.extract_if(.., expired).collect();
            if dead.is_empty() {
                self.lane.books.begin_in_flight(taken.len() as u64);
                return taken;
            }
            let _motion = self.lane.books.motions.begin(dead.len() as u64);
            let mut settlements = Settlements::new(0);
            for dead in dead {
                self.lane.expire_at(dead.item, Status::Queued);
                settlements.end(dead.key);
            }
            settlements.untried = taken
                .into_iter()
                .map(|taken| (taken.key, taken.item))
                .collect();
            self.put_down(settlements);
        }
    }

    /// Files arrivals until `owner` can take `wanted` new deliveries or the limit of deliveries
    /// set aside is reached. Deliveries that came back don't count here, because they have
    /// turns of their own. With levels of priority it files all arrivals: any of them may be the
    /// next.
    pub(crate) fn feed(self, state: &mut State<T>, owner: u64, wanted: usize) {
        if state.sequencer.has_levels() {
            return self.keyed.file_all(self.lane, state);
        }
        while state.sequencer.available(owner, Class::New, wanted) < wanted
            && state.room_aside() > 0
        {
            if state.is_blocked() {
                return;
            }
            let part = match self.lane.conflates() {
                false => self.lane.pop_some(state.room_aside() as u32),
                true => self.pop_passing(state, owner),
            };
            let Some(part) = part else {
                return;
            };
            self.keyed.file_part(state, &part);
        }
    }

    /// Files arrivals as [`feed`](Self::feed) does, unless `owner` may take filed deliveries
    /// and all of them are new. The filed ones go first then, so arrivals need not be filed.
    pub(crate) fn feed_unless_new(self, state: &mut State<T>, owner: u64, wanted: usize) {
        if state.sequencer.has_levels() || !state.sequencer.has_only_new(owner) {
            self.feed(state, owner, wanted);
        }
    }

    /// Puts down deliveries that were in flight.
    pub(crate) fn put_down(self, settlements: Settlements<T>) {
        let mut expires_first = false;
        if !(settlements.untried.is_empty() && settlements.down.is_empty()) {
            let mut state = self.keyed.state.lock();
            for (key, item) in settlements.untried {
                expires_first |= self.lane.note_return(&item);
                self.keyed.file(&mut state, item);
                state.sequencer.put_down(key);
            }
            for key in settlements.down {
                state.sequencer.put_down(Some(key));
            }
        }
        if expires_first {
            self.lane.call_at_expiry();
        }
        self.lane
            .leave_flight(settlements.taken as u64, settlements.ended);
    }

    /// Takes the next delivery that `owner` may have, with no other of its key in flight. It is
    /// in flight from then on. Calls `note` under the lock with the number taken.
    pub(crate) fn take_one(
        self,
        owner: u64,
        now_ns: u64,
        mut note: impl FnMut(&State<T>, usize),
    ) -> Option<Taken<PendingDelivery<T>>> {
        loop {
            let mut state = self.keyed.state.lock();
            let Some((taken, may_expire)) = self.take_one_straight(&mut state, owner) else {
                drop(state);
                let request = TakeRequest {
                    owner,
                    most: 1,
                    per_key: PerKey::One,
                    only: None,
                };
                return self.take_for(request, now_ns, note).pop();
            };
            note(&state, 1);
            let has_parked = state.parked_arrivals.are_to_be_judged();
            drop(state);
            if has_parked {
                self.lane.schedule();
            }
            if !may_expire || !self.lane.is_past(&taken.item, now_ns) {
                self.lane.books.begin_in_flight(1);
                return Some(taken);
            }
            let _motion = self.lane.books.motions.begin(1);
            self.lane.expire_at(taken.item, Status::Queued);
            let mut settlements = Settlements::new(0);
            settlements.end(taken.key);
            self.put_down(settlements);
        }
    }

    /// Puts down one delivery that has ended.
    #[inline(always)]
    pub(crate) fn put_down_ended(self, key: Option<Key>) {
        if key.is_some() {
            self.keyed.state.lock().sequencer.put_down(key);
        }
        self.lane.leave_flight(1, 1);
    }

    /// Puts down `count` deliveries that have ended, and their keys if they have any.
    #[inline]
    pub(crate) fn put_down_all_ended(self, keys: impl IntoIterator<Item = Key>, count: u32) {
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_some() {
            let mut state = self.keyed.state.lock();
            keys.for_each(|key| state.sequencer.put_down(Some(key)));
        }
        self.lane.leave_flight(u64::from(count), count);
    }
}
