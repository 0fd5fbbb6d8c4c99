//! Past the sequencer: new deliveries go straight from the inbox to a consumer.
//!
//! While no filed delivery may go, the next one that may is the oldest in the inbox whose
//! key nobody waits for. To file it would be to take it out again. So only a delivery that
//! has to wait is filed. And while no key is out or held, no key is even looked at. Filed
//! deliveries are always older than those in the inbox, so a delivery that goes past them
//! has another key.
//!
//! The lane's own runner takes a run of deliveries, which ends with the first that fails.
//! No other consumer takes from the keyed lane. So the rest of the run goes back to the
//! front of the inbox before the failure says which deliveries have to wait. A slot takes
//! one at a time, and its key is out: no delivery may wait behind a call while another
//! consumer is free. Callers that pull take a run where keys don't matter, and one at a
//! time otherwise. Each lease ends by itself.
//!
//! With levels of priority this is for a lane in which no message that is queued has a level of its
//! own.

use crate::engine::parts::handler::BatchRun;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::{KeyRule, KeyedLane, RUNNER, State};
use crate::engine::state::lane::{Lane, Turn};
use crate::message::batch::BatchSlice;
use crate::pure::order::sequencer::{Key, Taken};
use crate::sync::{Arc, mutant};

/// Deliveries that go straight to a consumer, and the rule that gives their keys.
pub(crate) struct Straight<T> {
    part: BatchSlice<T>,
    rule: KeyRule,
}

impl<T> Straight<T> {
    /// Marks the deliveries as out. Returns them with the key of the first; where keys matter,
    /// there is only one.
    pub(crate) fn pass(self, state: &mut State<T>) -> (BatchSlice<T>, Option<Key>) {
        let key = self.rule.key_at(&self.part.batch, self.part.from as usize);
        state.sequencer.pass(RUNNER, key);
        (self.part, key)
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Puts deliveries that were taken out of the inbox and not tried back to its front.
    fn put_back(self: &Arc<Self>, part: BatchSlice<T>) {
        if part.from == part.to {
            return;
        }
        let expires_first = self.expiry.note(part.expires_ns());
        self.unpop(part);
        if expires_first {
            self.call_at_expiry();
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Returns whether the next delivery is to be chosen by its level. While all that is queued has
    /// one level, there is no choice, and the shares of the levels stay as they are.
    fn has_choice(self, state: &State<T>) -> bool {
        state.sequencer.has_levels() && !self.lane.is_level()
    }

    /// Takes at most `most` new deliveries out of the inbox, for the lane's own runner or for
    /// callers that pull. Returns `None` if a filed delivery may go first, or no new one may.
    pub(crate) fn take_straight(self, state: &mut State<T>, most: usize) -> Option<Straight<T>> {
        if !state.sequencer.is_at_rest(RUNNER) || state.is_blocked() || self.has_choice(state) {
            return None;
        }
        let rule = self.keyed.key_rule(state);
        if self.lane.conflates() {
            let part = match most {
                0 => None,
                _ => self.pop_passing(state, RUNNER),
            };
            return part.map(|part| Straight { part, rule });
        }
        loop {
            let most = most.min(state.room_aside());
            if most == 0 {
                return None;
            }
            let mut may_go = true;
            let part = self.lane.pop_chosen(|part| {
                let most = most.min(part.len()) as u32;
                if state.waits_for_nothing() {
                    return most;
                }
                let mut each = part.from..part.from + most;
                let passes = |index| {
                    let key = rule.key_at(&part.batch, index as usize);
                    !state.is_parked(key) && state.sequencer.may_pass(RUNNER, key)
                };
                let end = each.find(|index| !passes(*index));
                let count = end.map_or(most, |end| end - part.from);
                may_go = count > 0;
                count.max(1)
            })?;
            if may_go {
                return Some(Straight { part, rule });
            }
            let waits = PendingDelivery::first(&part.batch, part.from as usize, 0);
            self.keyed.arrive(state, waits);
        }
    }

    /// Takes the oldest new delivery out of an inbox that conflates that may go to `owner`. The
    /// others stay there, where they can be replaced, and are not filed.
    pub(crate) fn pop_passing(self, state: &State<T>, owner: u64) -> Option<BatchSlice<T>> {
        let rule = self.keyed.key_rule(state);
        let passes = |one: &BatchSlice<T>| {
            let key = rule.key_at(&one.batch, one.from as usize);
            state.sequencer.may_pass(owner, key)
        };
        self.lane.pop_conflated(passes)
    }

    /// Tries these deliveries until one fails or has expired. Returns the time after that.
    pub(crate) fn deliver_straight(
        self,
        turn: &mut Turn<T>,
        straight: Straight<T>,
        now_ns: u64,
    ) -> u64 {
        let Straight { mut part, rule } = straight;
        let (from, observed) = (part.from as usize, self.lane.topic.bus().observed());
        // Observers hear of each delivery when it is made.
        let most = if observed { 1 } else { part.len() };
        let to = self.lane.unexpired(&part, from, from + most, now_ns);
        if from == to {
            let _motion = self.lane.books.motions.begin(1);
            self.lane.expire(&part.batch, from);
            part.from += 1;
            self.lane.put_back(part);
            self.lane.give_back(1);
            return now_ns;
        }
        let batch = Arc::clone(&part.batch);
        let run = BatchRun {
            until_fault: mutant!(true, "keyed.stop-run", false),
            ..self.lane.first_run(&batch, from, to, now_ns)
        };
        let (calls, after_ns) = self.lane.try_run(turn, &run);
        let _motion = self.lane.books.motions.begin(calls as u64);
        let acked = self.lane.end_run(&run, calls, &turn.failed_calls, after_ns);
        let failed_call = turn.failed_calls.pop();
        let failed = usize::from(failed_call.is_some());
        part.from += calls as u32;
        self.lane.put_back(part);
        self.lane.books.end_in_flight((to - from - failed) as u64);
        self.lane.give_back(acked as u32);
        if let Some(failed_call) = failed_call {
            let item = PendingDelivery::first(&batch, from + acked, now_ns);
            let key = rule.key_of(&item);
            self.keyed.state.lock().sequencer.pass(RUNNER, key);
            let failed = Taken { key, item };
            self.settle_failed(&mut turn.last_error, failed, &failed_call, after_ns);
        }
        after_ns
    }

    /// Takes the next new delivery that may go to `owner` out of the inbox, unless a filed one
    /// may go. Files the deliveries before it. Also returns whether the delivery can expire.
    pub(crate) fn take_one_straight(
        self,
        state: &mut State<T>,
        owner: u64,
    ) -> Option<(Taken<PendingDelivery<T>>, bool)> {
        if !state.sequencer.is_at_rest(owner) || self.has_choice(state) {
            return None;
        }
        let rule = self.keyed.key_rule(state);
        while state.room_aside() > 0 {
            let part = match self.lane.conflates() {
                false => self.lane.pop_chosen(|_| 1)?,
                true => self.pop_passing(state, owner)?,
            };
            let meta = part.batch.meta(part.from as usize);
            let (key, may_expire) = (rule.key_by(meta), part.batch.ttl_ns(meta).is_some());
            let item = PendingDelivery::new(part.batch, part.from as usize);
            if !state.is_parked(key) && state.sequencer.pass(owner, key) {
                return Some((Taken { key, item }, may_expire));
            }
            state.arrive(key, item);
        }
        None
    }
}
