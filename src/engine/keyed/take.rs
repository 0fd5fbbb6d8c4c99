//! What a consumer takes from a keyed lane, and puts down.

use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::{KeyedLane, RUNNER, State};
use crate::engine::state::lane::Lane;
use crate::pure::decide::lifecycle::Status;
use crate::pure::order::sequencer::{Class, Key, PerKey, Taken};
use crate::pure::words::room::Phase;
use crate::sync::{Arc, mutant};

/// What was in flight and goes back.
pub(crate) struct Settlements<T> {
    taken: usize,
    /// What was not tried.
    pub(crate) untried: Vec<(Option<Key>, PendingDelivery<T>)>,
    /// The keys of what was.
    down: Vec<Key>,
    /// Deliveries that have reached a final state.
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

    /// What has no key holds nobody up.
    pub(crate) fn lay_down(&mut self, key: Option<Key>) {
        self.down.extend(key);
    }

    pub(crate) fn end(&mut self, key: Option<Key>) {
        self.lay_down(key);
        self.ended += 1;
    }
}

/// The next deliveries that `owner` may have, at most so many.
#[derive(Clone, Copy)]
pub(crate) struct TakeRequest {
    pub(crate) owner: u64,
    pub(crate) most: usize,
    pub(crate) per_key: PerKey,
    /// Of one class only, or by turns.
    pub(crate) only: Option<Class>,
}

impl TakeRequest {
    /// Of the lane's own runner.
    pub(crate) fn own(most: usize, per_key: PerKey, only: Option<Class>) -> Self {
        Self {
            owner: RUNNER,
            most,
            per_key,
            only,
        }
    }
}

/// Who is to look, when a slot has taken something, at what is left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nobody,
    /// One more slot of the only member, which sees to the next in its turn.
    One,
    /// Slots of any member: each has keys of its own, so what is left is filed to see
    /// for whom it is.
    Any,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// So many that were in flight are no longer, and so many of them have ended.
    fn leave_flight(self: &Arc<Self>, taken: u64, ended: u32) {
        self.books.end_in_flight(taken);
        self.end_places(ended);
        if self.phase() > Phase::Draining {
            // Its end may have passed by before these were put down.
            mutant!(self.come_to_end(), "keyed.put-down-end");
        }
    }

    /// Gives back the places of deliveries that have ended, in any hands.
    pub(crate) fn end_places(self: &Arc<Self>, ended: u32) {
        if ended > 0 && self.release(ended) {
            self.come_to_end();
        }
    }

    /// Who is to look at what is left.
    pub(crate) fn next_of(&self, state: &State<T>, member: u64) -> Next {
        if state.members.len() > 1 {
            Next::Any
        } else if !state.sequencer.is_at_rest(member)
            || state.room_aside() > 0 && !self.is_inbox_empty()
        {
            Next::One
        } else {
            Next::Nobody
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Takes what is asked for; it is in flight then. `note` is told under the lock how
    /// many there are.
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

    /// Files what has arrived, until `owner` can take as much of it as it wants or as much
    /// has been set aside as may be. What has come back is beside the point: it has a
    /// turn of its own.
    pub(crate) fn feed(self, state: &mut State<T>, owner: u64, wanted: usize) {
        while state.sequencer.available(owner, Class::New, wanted) < wanted
            && state.room_aside() > 0
        {
            if state.is_blocked() {
                return;
            }
            let Some(part) = self.lane.pop_some(state.room_aside() as u32) else {
                return;
            };
            for index in part.from..part.to {
                let first = PendingDelivery::first(&part.batch, index as usize, 0);
                self.keyed.arrive(state, first);
            }
        }
    }

    /// As [`feed`](Self::feed), but if there is something new and nothing else, that goes
    /// first, so that what has arrived need not be filed.
    pub(crate) fn feed_unless_new(self, state: &mut State<T>, owner: u64, wanted: usize) {
        if !state.sequencer.has_only_new(owner) {
            self.feed(state, owner, wanted);
        }
    }

    /// Puts down what was in flight.
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

    /// Takes the next delivery that `owner` may have, and none of whose key is in other
    /// hands; it is in flight then. `note` is told under the lock whether there is one.
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

    /// Puts down one that has ended.
    pub(crate) fn put_down_ended(self, key: Option<Key>) {
        self.put_down_all_ended(key, 1);
    }

    /// Puts down so many that have ended, and the keys that some of them have.
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
