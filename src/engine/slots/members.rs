//! Members: consumers of a lane with one slot or several, and how they come and go.

use std::time::Duration;

use crate::engine::base::contain::discard;
use crate::engine::base::counters::Counter;
use crate::engine::keyed::take::Next;
use crate::engine::runtime::Engine;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::engine::state::slots::{ConsumerSlot, Member, Slots};
use crate::observe::event::{EventKind, Subject};
use crate::observe::metrics::MemberMetrics;
use crate::pure::decide::expiry::NEVER;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, mutant};

impl<T: Send + Sync + 'static> Member<T> {
    /// Schedules one slot that is not busy. When that slot takes a delivery, it notifies the
    /// next slot about the rest.
    pub(crate) fn schedule_next(&self, engine: &Engine) {
        let slots = self.slots.lock();
        let next = slots
            .iter()
            .find(|slot| !slot.is_busy() && !slot.is_leaving());
        if let Some(slot) = next {
            slot.schedule(engine);
        }
    }

    fn idle_slots(&self) -> usize {
        let slots = self.slots.lock();
        slots.iter().filter(|slot| !slot.is_busy()).count()
    }

    /// Schedules slots at rest, at most `wanted` of them.
    fn schedule(&self, engine: &Engine, mut wanted: usize) {
        let slots = self.slots.lock();
        for slot in slots.iter().filter(|slot| !slot.is_busy()) {
            if wanted == 0 {
                return;
            }
            wanted -= usize::from(slot.schedule(engine));
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        self.slots.lock().iter().all(|slot| slot.is_gone())
    }

    /// Begins the end of all its slots, and drops the function that makes more.
    pub(crate) fn leave(&self, engine: &Engine) {
        // The function goes first, so that no more slots are made.
        *self.make.lock() = None;
        let slots = self.slots.lock().clone();
        slots.iter().for_each(|slot| slot.leave(engine));
    }

    fn resize(self: &Arc<Self>, lane: &Arc<Lane<T>>, count: usize) -> bool {
        let making = self.make.lock();
        let Some(make) = &*making else { return false };
        let mut slots = self.slots.lock();
        slots.retain(|slot| !slot.is_gone());
        let staying = slots.iter().filter(|slot| !slot.is_leaving());
        let surplus: Vec<_> = staying.clone().skip(count).cloned().collect();
        let there = staying.count();
        let more = (there..count).filter_map(|_| make());
        slots.extend(more.map(|work| Arc::new(ConsumerSlot::new(lane, self, work))));
        drop(slots);
        drop(making);
        for slot in surplus {
            slot.leave(&lane.topic.engine);
        }
        true
    }

    pub(crate) fn read_metrics(&self, now_ns: u64) -> MemberMetrics {
        let slots = self.slots.lock();
        let since = slots
            .iter()
            .map(|slot| slot.busy_since_ns.load(Ordering::Relaxed));
        let busy: Vec<_> = since.filter(|since_ns| *since_ns > 0).collect();
        let longest_ns = busy
            .iter()
            .min()
            .map_or(0, |since_ns| now_ns.saturating_sub(*since_ns));
        MemberMetrics {
            name: self.name.to_string(),
            concurrency: slots.iter().filter(|slot| !slot.is_leaving()).count(),
            busy: busy.len(),
            busy_for: Duration::from_nanos(longest_ns),
            taken: self.taken.get(),
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    pub(crate) fn tell_of_member(&self, kind: EventKind) {
        self.topic.tell_of(Subject::of(&self.name), kind);
    }

    /// Tells observers of the subscription, and of the members that it has.
    pub(crate) fn announce(self: &Arc<Self>) {
        self.tell_of_member(EventKind::SubscriptionAdded);
        let Some(keyed) = self.keyed().filter(|keyed| !keyed.keyed.is_concurrent) else {
            return;
        };
        let members = keyed.keyed.state.lock().members.clone();
        for member in members {
            let member = Arc::clone(&member.name);
            self.tell_of_member(EventKind::MemberJoined { member });
        }
    }
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Gives the lane's own handler its slots, before the lane is on the list.
    pub(crate) fn take_slots(self, slots: Slots<T>) {
        self.add_member(Arc::clone(&self.lane.name), slots);
    }

    /// Removes a member. Each of its keys goes to another member, once no delivery of the key
    /// is in flight. Its slots end when no call of theirs runs.
    pub(crate) fn remove_member(self, member: &Arc<Member<T>>) {
        let mut state = self.keyed.state.lock();
        let before = state.members.len();
        state.members.retain(|other| other.id != member.id);
        let was_there = state.members.len() < before;
        if was_there {
            state.leaving.retain(|other| !other.has_left());
            mutant!(state.leaving.push(Arc::clone(member)), "slot.leaving");
        }
        state.sequencer.leave(member.id);
        drop(state);
        member.leave(self.lane.engine());
        // The slots of a concurrent handler are not a group's member.
        if was_there && !self.keyed.is_concurrent {
            let member = Arc::clone(&member.name);
            self.lane.tell_of_member(EventKind::MemberLeft { member });
        }
        self.lane.schedule();
    }

    /// Changes how many calls run at once, if the lane's own handler is concurrent.
    pub(crate) fn set_concurrency(self, count: usize) -> bool {
        if !self.keyed.is_concurrent {
            return false;
        }
        let member = self.keyed.state.lock().members.first().cloned();
        member.is_some_and(|member| self.resize(&member, count))
    }

    /// Gives a member `count` slots. If it has more, the surplus slots finish the calls that
    /// run. Returns `false` if its handler is for one call at a time.
    pub(crate) fn resize(self, member: &Arc<Member<T>>, count: usize) -> bool {
        let resized = member.resize(self.lane, count);
        self.lane.schedule();
        resized
    }

    /// Adds a member with these slots, unless its name is taken, or it takes batches in a group whose
    /// calls have a timeout.
    pub(crate) fn add_member(self, name: Arc<str>, slots: Slots<T>) -> Option<Arc<Member<T>>> {
        let mut state = self.keyed.state.lock();
        let is_refused = slots.takes_batches && self.lane.timeout_ns.get() != NEVER;
        if is_refused || state.members.iter().any(|other| other.name == name) {
            drop(state);
            discard(slots);
            return None;
        }
        state.last_member += 1;
        let member = Arc::new(Member {
            id: state.last_member,
            name,
            make: Mutex::new(slots.more),
            slots: Mutex::new(Vec::new()),
            taken: Counter::default(),
            takes_batches: slots.takes_batches,
        });
        let slot = |work| Arc::new(ConsumerSlot::new(self.lane, &member, work));
        member
            .slots
            .lock()
            .extend(slots.works.into_iter().map(slot));
        state.sequencer.join(member.id);
        state.members.push(Arc::clone(&member));
        drop(state);
        self.lane.schedule();
        Some(member)
    }

    /// Notifies the slots that may have something to take. Filing may add parked arrivals for
    /// the lane's runner to judge. So the caller is that runner, or takes again. Returns `false` if
    /// there is nothing to take.
    pub(crate) fn call_others(self) -> bool {
        let mut state = self.keyed.state.lock();
        let members = state.members.clone();
        if let [only] = &members[..] {
            let next = self.lane.next_of(&state, only.id);
            drop(state);
            if next == Next::One {
                only.schedule_next(self.lane.engine());
            }
            return next == Next::One;
        }
        let wanted: Vec<_> = members
            .iter()
            .map(|member| {
                // Busy slots look again after their calls.
                let idle = member.idle_slots();
                self.feed(&mut state, member.id, idle);
                state.sequencer.wanted_consumers(member.id).min(idle)
            })
            .collect();
        drop(state);
        let is_any = wanted.iter().any(|wanted| *wanted > 0);
        for (member, wanted) in members.iter().zip(wanted) {
            member.schedule(self.lane.engine(), wanted);
        }
        is_any
    }

    /// Has all slots check at once whether they may go on.
    pub(crate) fn interrupt(self) {
        let state = self.keyed.state.lock();
        let members: Vec<_> = state
            .members
            .iter()
            .chain(&state.leaving)
            .cloned()
            .collect();
        drop(state);
        for member in &members {
            let slots = member.slots.lock().clone();
            slots.iter().for_each(|slot| slot.look(self.lane.engine()));
        }
    }

    /// Begins the end of all slots. Returns `true` if they are gone, and their handlers with
    /// them.
    pub(crate) fn dismiss(self) -> bool {
        let mut state = self.keyed.state.lock();
        let members = std::mem::take(&mut state.members);
        state.leaving.extend(members);
        let leaving = state.leaving.clone();
        drop(state);
        for member in &leaving {
            member.leave(self.lane.engine());
        }
        leaving.iter().all(|member| member.has_left())
    }
}
