//! Past the sequencer: what is new goes straight from the inbox to a consumer.
//!
//! While nothing that was filed may go, the next that may is the oldest in the inbox whose
//! key nobody waits for. To file it would be to take it out again. So only what has to wait
//! is filed, and while no key is out or held no key is even looked at. What was filed is
//! older than what is in the inbox, always, and so what goes past it is of other keys.
//!
//! The lane's own runner takes a run of them, which ends with the first that fails. Nobody
//! else takes from the keyed lane, so those behind that go back into the inbox, where they were,
//! before the failure says who has to wait. A slot takes one at a time, for none may wait
//! behind a call while another consumer is free, and its key is out. Callers that pull take a
//! run where no keys are to be minded, else one at a time, too: each lease ends by itself.

use crate::engine::parts::handler::BatchRun;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::keyed::{KeyRule, KeyedLane, RUNNER, State};
use crate::engine::state::lane::{Lane, Turn};
use crate::message::batch::BatchSlice;
use crate::pure::order::sequencer::{Key, Taken};
use crate::sync::{Arc, mutant};

/// Deliveries that go straight to a consumer, and what tells their keys.
pub(crate) struct Straight<T> {
    part: BatchSlice<T>,
    rule: KeyRule,
}

impl<T> Straight<T> {
    /// Has them be out, and returns the key of the first: where keys are minded there is one.
    pub(crate) fn pass(self, state: &mut State<T>) -> (BatchSlice<T>, Option<Key>) {
        let key = self.rule.key_at(&self.part.batch, self.part.from as usize);
        state.sequencer.pass(RUNNER, key);
        (self.part, key)
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Puts back what was taken out of the inbox and not tried.
    fn put_back(self: &Arc<Self>, part: BatchSlice<T>) {
        if part.from == part.to {
            return;
        }
        let expires_first = self
            .expiry
            .note(part.expires_ns(self.topic.settings.ttl_ns));
        self.unpop(part);
        if expires_first {
            self.call_at_expiry();
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Takes new deliveries out of the inbox for the lane's own runner or for callers, at
    /// most so many, if nothing that was filed may go.
    pub(crate) fn take_straight(self, state: &mut State<T>, most: usize) -> Option<Straight<T>> {
        if !state.sequencer.is_at_rest(RUNNER) || state.is_blocked() {
            return None;
        }
        let rule = self.keyed.key_rule(state);
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

    /// Tries such deliveries, until one fails or has outlived its time. Returns the time
    /// after it.
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

    /// Takes the next new delivery out of the inbox that may go to `owner`, if nothing that
    /// was filed may. Those before it are filed. Returns whether it can expire, too.
    pub(crate) fn take_one_straight(
        self,
        state: &mut State<T>,
        owner: u64,
    ) -> Option<(Taken<PendingDelivery<T>>, bool)> {
        if !state.sequencer.is_at_rest(owner) {
            return None;
        }
        let rule = self.keyed.key_rule(state);
        let expire_all = self.lane.topic.settings.ttl_ns.is_some();
        while state.room_aside() > 0 {
            let part = self.lane.pop_chosen(|_| 1)?;
            let meta = part.batch.meta(part.from as usize);
            let key = rule.key_by(meta);
            let may_expire = expire_all || meta.is_some_and(|meta| meta.ttl_ns.is_some());
            let item = PendingDelivery::new(part.batch, part.from as usize);
            if !state.is_parked(key) && state.sequencer.pass(owner, key) {
                return Some((Taken { key, item }, may_expire));
            }
            state.arrive(key, item);
        }
        None
    }
}
