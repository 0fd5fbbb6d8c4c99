//! Attempts at deliveries that a keyed lane has handed out, and the effect of a failure on
//! the deliveries behind it.

use std::collections::VecDeque;

use crate::engine::deliver::settle::{Settled, Wait};
use crate::engine::deliver::turn::{Progress, Tried};
use crate::engine::keyed::parking::ParkedBy;
use crate::engine::keyed::take::{Settlements, TakeRequest};
use crate::engine::parts::handler::{FailedCall, Handler};
use crate::engine::parts::pending::{Attempts, PendingDelivery};
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Turn;
use crate::engine::wait::fire::Tag;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::order::sequencer::{Key, PerKey, Taken};
use crate::sync::{Arc, mutant};

/// The effect of a failure on later deliveries of the same key.
pub(crate) enum After {
    GoOn,
    Hold,
    /// The later deliveries follow into the dead letters.
    Park(ParkedBy),
}

/// A delivery whose attempt has failed, and how.
type Failed<T> = (Taken<PendingDelivery<T>>, FailedCall);

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Tries the deliveries that the lane's own handler may have now.
    pub(crate) fn try_next(self, turn: &mut Turn<T>, now_ns: u64) -> Progress {
        let most = turn.stride.calls().min(turn.granted);
        let straight = self.take_straight(&mut self.keyed.state.lock(), most);
        if let Some(straight) = straight {
            let now_ns = self.deliver_straight(turn, straight, now_ns);
            return Progress::Done { now_ns };
        }
        let request = TakeRequest::own(most, PerKey::All, None);
        let taken = self.take_for(request, now_ns, |_, _| {});
        if taken.is_empty() {
            return Progress::Nothing;
        }
        let now_ns = self.try_taken(turn, taken, now_ns);
        Progress::Done { now_ns }
    }

    /// Tries deliveries one after the other and puts them down. Skips a delivery whose key is
    /// held by a failure before it. Returns the time after the last call.
    pub(crate) fn try_taken(
        self,
        turn: &mut Turn<T>,
        taken: Vec<Taken<PendingDelivery<T>>>,
        mut now_ns: u64,
    ) -> u64 {
        let began_ns = now_ns;
        let _motion = self.lane.books.motions.begin(taken.len() as u64);
        let mut settlements = Settlements::new(taken.len());
        let mut left: VecDeque<_> = taken.into();
        let mut held: Vec<Key> = Vec::new();
        let mut has_failed = false;
        let firsts = self.firsts_of(turn, &left);
        let mut failure = None;
        if firsts > 1 {
            (failure, now_ns) = self.try_firsts(turn, &mut left, firsts, now_ns, &mut settlements);
        }
        loop {
            let (failed, failed_call) = match failure.take() {
                Some(failed) => failed,
                None => {
                    let Some(Taken { key, item, .. }) = left.pop_front() else {
                        break;
                    };
                    let is_held = key.is_some_and(|key| held.contains(&key));
                    // The gate has to know of a failure before the next attempt.
                    let asks = has_failed && !self.lane.gate.holds.is_clear();
                    if mutant!(is_held, "keyed.skip-held", false)
                        || asks
                        || self.lane.phase().ends_at_once()
                    {
                        settlements.untried.push((key, item));
                        continue;
                    }
                    let (tried, after_ns) = self.lane.try_one(turn, item, now_ns);
                    now_ns = after_ns;
                    match tried {
                        Tried::Acked => {
                            settlements.end(key);
                            continue;
                        }
                        Tried::NotCalled(item) => {
                            settlements.untried.push((key, item));
                            continue;
                        }
                        Tried::Failed(item, failed_call) => (Taken { key, item }, failed_call),
                    }
                }
            };
            has_failed = true;
            let (key, error) = (failed.key, &mut turn.last_error);
            match self.settle_taken(error, failed, &failed_call, now_ns, &mut settlements) {
                After::GoOn => {}
                After::Hold => held.extend(key),
                After::Park(parked_by) => {
                    let follows = |other: &mut Taken<_>| other.key == key;
                    let followers = extract(&mut left, follows);
                    self.park(parked_by, followers, &mut settlements);
                }
            }
        }
        turn.stride = turn.stride.after(now_ns.saturating_sub(began_ns));
        self.put_down(settlements);
        now_ns
    }

    /// Returns how many deliveries can be tried between two readings of the clock: first attempts
    /// that nobody observes.
    fn firsts_of(self, turn: &Turn<T>, taken: &VecDeque<Taken<PendingDelivery<T>>>) -> usize {
        if self.lane.topic.bus().observed() || !matches!(turn.handler, Handler::Each(_)) {
            return 0;
        }
        let firsts = taken.iter().take_while(|taken| taken.item.is_new());
        firsts.count()
    }

    /// Makes so many first attempts between two readings of the clock, or until one fails. Returns
    /// that one, and the time after the calls.
    fn try_firsts(
        self,
        turn: &mut Turn<T>,
        left: &mut VecDeque<Taken<PendingDelivery<T>>>,
        most: usize,
        now_ns: u64,
        settlements: &mut Settlements<T>,
    ) -> (Option<Failed<T>>, u64) {
        let (lane, engine) = (self.lane, self.lane.engine());
        let runs = left.iter().take(most).map(|Taken { item, .. }| {
            let index = usize::from(item.index);
            lane.first_run(&item.batch, index, index + 1, now_ns)
        });
        let calls = turn
            .handler
            .call_singly(engine, runs, &mut turn.failed_calls);
        let after_ns = engine.clock.now_ns();
        let mut failed_call = turn.failed_calls.pop();
        if let Some(failed_call) = &mut failed_call {
            failed_call.at = calls - 1;
        }
        lane.books.record(Status::Queued, Step::Start, calls as u64);
        let stamps = left.iter().take(calls).map(|taken| taken.item.stamp());
        let ids = stamps.clone().map(|stamp| stamp.id);
        // Neighbors cost little to record, and deliveries of several levels are no neighbors.
        let mut accepted_ns: Vec<_> = stamps.map(|stamp| stamp.accepted_ns).collect();
        accepted_ns.sort_unstable();
        let (attempts, failed) = (Attempts::first(now_ns), failed_call.as_slice());
        let took = attempts.until(after_ns, calls);
        let acked = lane.end_attempts(ids, accepted_ns.iter().copied(), failed, attempts, took);
        for Taken { key, item } in left.drain(..acked) {
            lane.note_end_of(&item, Status::Delivered);
            settlements.end(key);
        }
        let failed = failed_call.and_then(|failed_call| {
            let mut failed = left.pop_front()?;
            failed.item.first_attempt_ns = now_ns;
            Some((failed, failed_call))
        });
        (failed, after_ns)
    }

    /// Settles an attempt that was alone in flight, an async call or a lease, and puts its
    /// delivery down.
    pub(crate) fn settle_alone(
        self,
        last_error: &mut Option<Arc<str>>,
        taken: Taken<PendingDelivery<T>>,
        failed_call: Option<FailedCall>,
        (began_ns, now_ns): (u64, u64),
    ) {
        let Taken { key, item } = taken;
        let _motion = self.lane.books.motions.begin(1);
        let attempts = item.next_attempt(began_ns);
        let tried = self.lane.conclude(item, failed_call, attempts, now_ns);
        self.put_down_tried(last_error, key, tried, now_ns);
    }

    /// Tries one delivery that is alone in flight, and puts it down. Returns the time after the
    /// call.
    #[inline(always)]
    pub(crate) fn try_single(
        self,
        turn: &mut Turn<T>,
        taken: Taken<PendingDelivery<T>>,
        now_ns: u64,
    ) -> u64 {
        let Taken { key, item } = taken;
        let _motion = self.lane.books.motions.begin(1);
        let (tried, now_ns) = self.lane.try_one(turn, item, now_ns);
        self.put_down_tried(&mut turn.last_error, key, tried, now_ns);
        now_ns
    }

    /// Settles an attempt that was alone in flight, and puts its delivery down.
    #[inline(always)]
    fn put_down_tried(
        self,
        last_error: &mut Option<Arc<str>>,
        key: Option<Key>,
        tried: Tried<T>,
        now_ns: u64,
    ) {
        match tried {
            Tried::Acked => self.put_down_ended(key),
            Tried::NotCalled(item) => {
                let mut settlements = Settlements::new(1);
                settlements.untried.push((key, item));
                self.put_down(settlements);
            }
            Tried::Failed(item, failed_call) => {
                let failed = Taken { key, item };
                self.settle_failed(last_error, failed, &failed_call, now_ns);
            }
        }
    }

    /// Settles a failed attempt that was alone in flight, and puts its delivery down.
    pub(crate) fn settle_failed(
        self,
        last_error: &mut Option<Arc<str>>,
        failed: Taken<PendingDelivery<T>>,
        failed_call: &FailedCall,
        now_ns: u64,
    ) {
        let mut settlements = Settlements::new(1);
        let after = self.settle_taken(last_error, failed, failed_call, now_ns, &mut settlements);
        if let After::Park(parked_by) = after {
            self.park(parked_by, Vec::new(), &mut settlements);
        }
        self.put_down(settlements);
    }

    /// Settles a failed attempt and returns its effect on later deliveries of the key.
    pub(crate) fn settle_taken(
        self,
        last_error: &mut Option<Arc<str>>,
        failed: Taken<PendingDelivery<T>>,
        failed_call: &FailedCall,
        now_ns: u64,
        settlements: &mut Settlements<T>,
    ) -> After {
        let Taken { key, item, .. } = failed;
        let id = item.id();
        let name = key.and_then(|_| item.key().map(Box::from));
        let settled = self.lane.judge(last_error, item, failed_call, now_ns);
        let settled = match settled {
            Settled::Waits { item, wait } => {
                settlements.lay_down(key);
                return self.come_back(key, item, Some(wait));
            }
            Settled::Requeued(item) => {
                settlements.lay_down(key);
                return self.come_back(key, item, None);
            }
            ended => ended,
        };
        settlements.end(key);
        let parks = |key: Key| {
            let state = self.keyed.state.lock();
            state.rules.parks() && key.epoch == state.epoch
        };
        match (settled, key, name) {
            (Settled::Buried, Some(key), Some(name)) if parks(key) => {
                After::Park(ParkedBy { key, name, id })
            }
            _ => After::GoOn,
        }
    }

    /// Has a delivery come back after its wait, or at once if it was requeued. Holds its key if
    /// that is the rule. On an engine without workers, a requeued delivery comes back in the next
    /// run.
    fn come_back(self, key: Option<Key>, item: PendingDelivery<T>, wait: Option<Wait>) -> After {
        let engine = self.lane.engine();
        mutant!(
            (),
            "keyed.hold-first",
            self.keyed.state.lock().sequencer.put_down(key)
        );
        let mut state = self.keyed.state.lock();
        let holds = |key: &Key| state.rules.blocks() && key.epoch == state.epoch;
        let held = key.filter(holds);
        let tag = match wait {
            Some(wait) if wait.delay_ns > 0 => self.lane.wait(item, wait),
            None if engine.is_manual() => {
                let tag = self.lane.waiting.lock().insert(item);
                engine.fire_in_next_run(Arc::clone(self.lane) as _, Tag::Parked(tag));
                tag
            }
            at_once => {
                // The delivery is filed before its key is put down. So it is the key's next
                // delivery even without a hold.
                if let Some(wait) = at_once {
                    self.lane.tell_wait(item.id(), item.attempts, wait);
                    self.lane
                        .books
                        .record(Status::RetryScheduled, Step::Requeue, 1);
                }
                let expires_first = self.lane.note_return(&item);
                self.keyed.file(&mut state, item);
                drop(state);
                if expires_first {
                    // Perhaps no consumer takes it or looks at the lane before it expires.
                    self.lane.call_at_expiry();
                }
                return held.map_or(After::GoOn, |_| After::Hold);
            }
        };
        let Some(key) = held else {
            return After::GoOn;
        };
        state.holding.insert(tag, key);
        mutant!(state.sequencer.hold(key), "keyed.hold");
        After::Hold
    }
}

/// Takes out the `chosen` items, in order.
fn extract<V>(from: &mut VecDeque<V>, chosen: impl FnMut(&mut V) -> bool) -> Vec<V> {
    let mut all: Vec<V> = std::mem::take(from).into();
    let out = all.extract_if(.., chosen).collect();
    *from = all.into();
    out
}
