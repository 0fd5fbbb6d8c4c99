//! Keyed lanes: their order has to survive failures, or several consumers share them.
//!
//! A plain lane needs none of this: its one runner takes the next delivery. A keyed lane files
//! arrivals with a [`Sequencer`], which says which of them may be handed out. Its consumers are the
//! lane's own runner, the slots of a concurrent handler or of a group, or callers that pull. They
//! share it by a lock, held to take and to put down. It is never held while a handler runs, nor
//! over a destructor of the user's.
//!
//! Steps. *Take*: under the lock, fill up from the inbox and take the oldest that may go. If
//! nothing that was filed may go, take [straight from the inbox](crate::engine::keyed::straight).
//! The key of the delivery is now out. *Put down*: the outcome is on the books first. Then, under
//! the lock, a failure that waits for its retry holds its key, and the key is no longer out. So
//! nobody finds a key free between the two. A *retry* that is due is filed, then its hold is
//! released, in one step. Model: `loom-tests/tests/models/keys.rs`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::engine::parts::leases::Leases;
use crate::engine::parts::parked_arrivals::{FORGET_AT, ParkedArrivals};
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::state::lane::{Lane, Turn};
use crate::engine::state::slots::Member;
use crate::engine::wait::waiters::Waiters;
use crate::message::batch::{Batch, BatchSlice};
use crate::message::meta::Meta;
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::decide::lifecycle::Status;
use crate::pure::order::levels::{LevelRule, Urgency};
use crate::pure::order::rules::{Fit, Keying, Rules};
use crate::pure::order::sequencer::{Class, Key, Sequencer};
use crate::pure::protect::priority::Priority;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Mutex};
use crate::types::config::{LaneFull, OnFailure};
use crate::types::error::SettingError;
use crate::types::reason::DeadReason;

/// The state that the consumers of a lane share.
pub(crate) struct Keyed<T> {
    /// Several consumers may take at once, so keys matter even if no failure holds them.
    pub(crate) is_shared: bool,
    /// The lane numbers the slots of its one member.
    pub(crate) is_concurrent: bool,
    /// A call with a timeout was made, so some may be overdue.
    pub(crate) is_timed: AtomicBool,
    pub(crate) state: Mutex<State<T>>,
    /// Callers that wait for something to lease. The lanes of a subscription to patterns share them.
    pub(crate) receivers: Arc<Waiters>,
}

/// A lane whose deliveries are filed, with the state that its consumers share.
pub(crate) struct KeyedLane<'a, T> {
    pub(crate) lane: &'a Arc<Lane<T>>,
    pub(crate) keyed: &'a Keyed<T>,
}

impl<T> Clone for KeyedLane<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for KeyedLane<'_, T> {}

impl<T> Lane<T> {
    /// Returns the lane with its keyed state, if it has any.
    pub(crate) fn keyed(self: &Arc<Self>) -> Option<KeyedLane<'_, T>> {
        let keyed = self.keyed.get()?;
        Some(KeyedLane { lane: self, keyed })
    }
}

pub(crate) struct State<T> {
    pub(crate) rules: Rules,
    pub(crate) epoch: u32,
    pub(crate) sequencer: Sequencer<PendingDelivery<T>>,
    /// The keys that retries and snoozes on the timer wheel hold, by their tag.
    pub(crate) holding: BTreeMap<u32, Key>,
    /// Parked keys, and their names.
    pub(crate) parked: BTreeMap<Key, Box<str>>,
    pub(crate) forget_at: usize,
    pub(crate) parked_arrivals: ParkedArrivals<T>,
    /// Members that take from it besides the lane's runner.
    pub(crate) members: Vec<Arc<Member<T>>>,
    /// Members that take no more, and may still have a handler that is about to go.
    pub(crate) leaving: Vec<Arc<Member<T>>>,
    pub(crate) last_member: u64,
    pub(crate) leases: Leases<T>,
}

/// The rule by which deliveries get their keys.
#[derive(Clone, Copy)]
pub(crate) struct KeyRule {
    keying: Keying,
    epoch: u32,
}

impl KeyRule {
    pub(crate) fn key_of<T>(self, delivery: &PendingDelivery<T>) -> Option<Key> {
        self.key_at(&delivery.batch, usize::from(delivery.index))
    }

    /// Returns the key of the message at this place of the batch.
    pub(crate) fn key_at<T>(self, batch: &Batch<T>, index: usize) -> Option<Key> {
        match self.keying {
            Keying::Key => self.key_by(batch.meta(index)),
            Keying::Nothing | Keying::Everything => self.key_by(None),
        }
    }

    /// Returns the key of a message with this metadata of its publisher.
    pub(crate) fn key_by(self, meta: Option<&Meta>) -> Option<Key> {
        match self.keying {
            Keying::Nothing => None,
            Keying::Everything => Some(Key {
                hash: 0,
                epoch: self.epoch,
            }),
            Keying::Key => Some(self.key_named(meta?.key.as_deref()?)),
        }
    }

    pub(crate) fn key_named(self, name: &str) -> Key {
        Key {
            hash: identity(name),
            epoch: self.epoch,
        }
    }
}

/// The consumers of a keyed lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumers {
    /// The lane's own runner.
    Runner,
    /// Callers that pull.
    Callers,
    /// The one slot of the subscription's own handler, whose calls have a timeout.
    Slot,
    /// The slots of the subscription's own handler.
    Slots,
    /// The members of a consumer group. Each has so many calls at once, unless it says otherwise.
    Members(u16),
}

impl Consumers {
    /// Returns whether callers take the deliveries, and no handler.
    pub(crate) fn pull(self) -> bool {
        self == Self::Callers
    }

    /// Returns whether slots take the deliveries, and not the lane's own runner or callers.
    pub(crate) fn have_slots(self) -> bool {
        matches!(self, Self::Slot | Self::Slots | Self::Members(_))
    }

    /// Returns whether several of them may take at once, each for itself.
    pub(crate) fn share(self) -> bool {
        matches!(self, Self::Slots | Self::Members(_))
    }
}

/// A change of a lane's rules, which fails if they make no sense for it.
pub(crate) type ChangeRules = dyn Fn(Rules, Fit) -> Result<Rules, SettingError>;

/// The id of the lane's own runner among the owners.
pub(crate) const RUNNER: u64 = 0;

impl<T: Send + Sync + 'static> Keyed<T> {
    pub(crate) fn new(
        rules: Rules,
        consumers: Consumers,
        when_full: LaneFull,
        receivers: Arc<Waiters>,
    ) -> Self {
        let is_shared = consumers.share();
        let mut sequencer = Sequencer::new();
        if when_full == LaneFull::DropOldest {
            sequencer.may_drop();
        }
        if !consumers.have_slots() {
            sequencer.join(RUNNER);
        }
        sequencer.set_levels(levels(rules));
        Self {
            is_shared,
            is_concurrent: matches!(consumers, Consumers::Slot | Consumers::Slots),
            is_timed: AtomicBool::new(false),
            state: Mutex::new(State {
                rules,
                epoch: 0,
                sequencer,
                holding: BTreeMap::new(),
                parked: BTreeMap::new(),
                forget_at: FORGET_AT,
                parked_arrivals: ParkedArrivals::none(),
                members: Vec::new(),
                leaving: Vec::new(),
                last_member: RUNNER,
                leases: Leases::none(),
            }),
            receivers,
        }
    }

    /// Returns whether letters for this reason park their key.
    pub(crate) fn parks(&self, reason: DeadReason) -> bool {
        reason.parks() && self.state.lock().rules.parks()
    }

    pub(crate) fn read_metrics(&self, lane: &Lane<T>, into: &mut SubscriptionMetrics) {
        let state = self.state.lock();
        let (held, blocked_keys) = state.sequencer.held();
        into.held = (held + state.parked_arrivals.len()) as u64;
        into.queued_by_priority = self.queued_by_priority(lane, &state);
        into.blocked_keys = blocked_keys as u64;
        into.parked_keys = lane.parked_keys(&state) as u64;
        state.leases.read_metrics(into);
        let members = state.members.clone();
        drop(state);
        let now_ns = lane.topic.engine.clock.now_ns();
        let members = members.iter().map(|member| member.read_metrics(now_ns));
        into.members = members.collect();
    }

    /// Returns how many deliveries of each level wait, if it has levels.
    fn queued_by_priority(&self, lane: &Lane<T>, state: &State<T>) -> Option<[u64; LEVELS]> {
        let mut counts = state.sequencer.waiting_by_level()?;
        for parked in state.parked_arrivals.iter() {
            counts[urgency(parked).level as usize] += 1;
        }
        lane.look_through_inbox(|part, left| {
            for index in part.from..part.to {
                counts[part.batch.priority(index as usize) as usize] += 1;
            }
            left.push_back(part);
        });
        Some(counts)
    }

    /// Files all that is queued.
    #[inline(never)]
    pub(crate) fn file_all(&self, lane: &Lane<T>, state: &mut State<T>) {
        lane.take_levels();
        while state.room_aside() > 0
            && let Some(part) = lane.pop_some(state.room_aside() as u32)
        {
            self.file_part(state, &part);
        }
        lane.leave_levels();
    }

    /// Files first attempts that were queued.
    pub(crate) fn file_part(&self, state: &mut State<T>, part: &BatchSlice<T>) {
        for index in part.from..part.to {
            let first = PendingDelivery::first(&part.batch, index as usize, 0);
            self.arrive(state, first);
        }
    }

    /// Returns the rule by which its deliveries get their keys now.
    pub(crate) fn key_rule(&self, state: &State<T>) -> KeyRule {
        KeyRule {
            keying: state.rules.keying(self.is_shared),
            epoch: state.epoch,
        }
    }

    pub(crate) fn key_of(&self, state: &State<T>, delivery: &PendingDelivery<T>) -> Option<Key> {
        self.key_rule(state).key_of(delivery)
    }

    pub(crate) fn file(&self, state: &mut State<T>, delivery: PendingDelivery<T>) {
        let key = self.key_of(state, &delivery);
        state.file(key, delivery);
    }

    /// Files a first attempt, unless its key is parked.
    pub(crate) fn arrive(&self, state: &mut State<T>, delivery: PendingDelivery<T>) {
        let key = self.key_of(state, &delivery);
        state.arrive(key, delivery);
    }

    /// Files a redriven delivery, unless an earlier one of its key waits for the dead letters.
    pub(crate) fn rejoin(&self, state: &mut State<T>, delivery: PendingDelivery<T>) {
        let id = delivery.id().get();
        match self.key_of(state, &delivery) {
            Some(key) if state.parked_arrivals.precede(key, id) => {
                state.parked_arrivals.add(key, delivery)
            }
            key => state.file(key, delivery),
        }
    }

    /// Changes the rules. They apply at once to deliveries that wait. Deliveries that are in flight
    /// or await a retry hold up no others than before.
    pub(crate) fn set_rules(
        &self,
        change: impl FnOnce(Rules, Option<u32>) -> Result<Rules, SettingError>,
    ) -> Result<(), SettingError> {
        let mut state = self.state.lock();
        let before = state.rules;
        let rules = change(before, state.leases.asked)?;
        state.rules = rules;
        let is_new_line = before.keying(self.is_shared) != rules.keying(self.is_shared);
        let waiting = if is_new_line {
            state.epoch = state.epoch.wrapping_add(1);
            state.holding.clear();
            state.sequencer.begin_again()
        } else if before.priorities.is_some() != rules.priorities.is_some() {
            state.sequencer.drain()
        } else {
            Vec::new()
        };
        if before.priorities != rules.priorities {
            state.sequencer.set_levels(levels(rules));
        }
        for delivery in waiting {
            self.file(&mut state, delivery);
        }
        if !is_new_line && !rules.blocks() {
            state.holding.clear();
            state.sequencer.release_all();
        }
        if !rules.parks() {
            state.parked.clear();
            for arrival in state.parked_arrivals.drain() {
                self.file(&mut state, arrival);
            }
        }
        Ok(())
    }
}

impl<T> State<T> {
    /// Returns how many deliveries are set aside before their first attempt. Deliveries that have
    /// come back don't count: the lane's places bound them.
    pub(crate) fn set_aside(&self) -> usize {
        self.sequencer.len_new() + self.parked_arrivals.len()
    }

    /// Returns how many more may be set aside.
    pub(crate) fn room_aside(&self) -> usize {
        (self.rules.hold as usize).saturating_sub(self.set_aside())
    }

    pub(crate) fn is_parked(&self, key: Option<Key>) -> bool {
        key.is_some_and(|key| self.parked.contains_key(&key))
    }

    /// Returns whether no key is parked, waits, is out or is held.
    pub(crate) fn waits_for_nothing(&self) -> bool {
        self.parked.is_empty() && self.sequencer.has_no_lines()
    }

    pub(crate) fn arrive(&mut self, key: Option<Key>, delivery: PendingDelivery<T>) {
        match key {
            Some(key) if self.is_parked(Some(key)) => self.parked_arrivals.add(key, delivery),
            key => self.file(key, delivery),
        }
    }

    /// Returns whether a failure holds up all deliveries.
    pub(crate) fn is_blocked(&self) -> bool {
        self.rules.on_failure == OnFailure::BlockSubscription && self.sequencer.holds_any()
    }

    fn file(&mut self, key: Option<Key>, delivery: PendingDelivery<T>) {
        let id = delivery.id().get();
        match delivery.behind() {
            // Where failures hold others up, it stays before the others of its key.
            Some(behind) if self.rules.blocks() => {
                self.sequencer.file_behind(behind, id, key, delivery);
            }
            Some(behind) => self.sequencer.file_behind(behind, behind, key, delivery),
            None if delivery.is_new() => self.sequencer.file(id, key, Class::New, delivery),
            None => self.sequencer.file(id, key, Class::Again, delivery),
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Returns the facts that its rules have to fit, with the leases that were asked for.
    pub(crate) fn fit(&self, is_shared: bool, credits: Option<u32>) -> Fit {
        Fit {
            when_full: self.when_full.get(),
            capacity: self.capacity.get(),
            is_shared,
            credits,
        }
    }

    /// Returns the rules that it has as long as it is plain.
    pub(crate) fn plain_rules(&self) -> Rules {
        Rules::plain(self.capacity.get(), self.nature)
    }

    /// Changes the rules of a keyed lane; a plain one is keyed from its next turn on.
    pub(crate) fn set_rules(self: &Arc<Self>, change: &ChangeRules) -> Result<(), SettingError> {
        let changing = self.changing.lock();
        let plain = self.plain_rules();
        if self.keyed.get().is_none() && change(plain, self.fit(false, None))? == plain {
            return Ok(());
        }
        let keyed = self.keyed.get_or_init(|| {
            Box::new(Keyed::new(
                plain,
                Consumers::Runner,
                self.when_full.get(),
                Arc::default(),
            ))
        });
        self.stop_lagging();
        keyed.set_rules(|rules, credits| change(rules, self.fit(keyed.is_shared, credits)))?;
        drop(changing);
        KeyedLane { lane: self, keyed }.park_by_letters();
        self.schedule();
        Ok(())
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Takes over the deliveries that a plain lane had begun with.
    pub(crate) fn adopt(self, turn: &mut Turn<T>) {
        let comes_back = !turn.returned.is_empty() || !turn.requeued.is_empty();
        if turn.prefetched.is_empty() && !comes_back {
            return;
        }
        let mut state = self.keyed.state.lock();
        let parts: Vec<_> = turn.prefetched.drain(..).collect();
        for part in &parts {
            self.keyed.file_part(&mut state, part);
        }
        for again in turn.returned.drain(..).chain(turn.requeued.drain(..)) {
            self.keyed.file(&mut state, again);
        }
    }

    /// Ends everything that waits here, as the lane's phase says.
    pub(crate) fn end_keyed(self) {
        self.interrupt();
        let mut state = self.keyed.state.lock();
        let mut queued = state.sequencer.drain();
        queued.extend(state.parked_arrivals.drain());
        // A call of a slot ends by itself.
        let leased = match self.lane.consumers.have_slots() {
            true => Vec::new(),
            false => state.leases.out.drain(),
        };
        for key in std::mem::take(&mut state.holding).into_values() {
            state.sequencer.release(key);
        }
        drop(state);
        let ended = (queued.len() + leased.len()) as u32;
        for leased in leased {
            self.lane.end_lease(leased);
        }
        for delivery in queued {
            self.lane.end_pending(delivery, Status::Queued);
        }
        self.lane.give_back(ended);
    }
}

/// The number of levels of priority.
const LEVELS: usize = Priority::ALL.len();

/// Returns the levels of a lane with these rules.
fn levels<T>(rules: Rules) -> Option<LevelRule<PendingDelivery<T>>> {
    Some((rules.priorities?, urgency))
}

fn urgency<T>(delivery: &PendingDelivery<T>) -> Urgency {
    let index = usize::from(delivery.index);
    Urgency {
        level: delivery.batch.priority(index),
        since_ns: delivery.batch.stamp(index).accepted_ns,
    }
}

/// Tells keys apart within a lane, and nowhere else. It uses SipHash, so that keys don't collide by
/// accident, and nobody easily makes one up that collides.
fn identity(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
