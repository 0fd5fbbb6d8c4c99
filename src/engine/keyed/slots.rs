//! Slots: consumers of a lane besides its own runner. A subscription with concurrency has
//! several, and so have the members of a consumer group together.
//!
//! Each slot is a task, as a lane is, and takes from its keyed lane when it is notified. A
//! thread that files deliveries notifies slots after it has released the keyed lane's lock.
//! A slot that finds nothing has looked under that lock, so one of the two sees the other.
//! A thread that changes the set of consumers notifies the lane, and the lane's turn
//! notifies the slots.
//!
//! The end of a slot: `leaving` is set, and whoever claims the slot then drops the handler
//! and never gives the slot back. The feared interleaving: a slot looks for the mark, is
//! marked, and goes to rest with its handler. It can't happen: a thread that marks a
//! running slot leaves a notice in its task state, so the slot runs once more. Model:
//! `loom-tests/tests/models/group.rs`.

use crate::engine::base::contain::{Contained, discard};
use crate::engine::base::counters::Counter;
use crate::engine::base::task_state::TaskState;
use crate::engine::deliver::turn::{SHARE_LOOKS, SHARE_NS};
use crate::engine::keyed::take::Next;
use crate::engine::parts::handler::Handler;
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::{Lane, Turn};
use crate::engine::state::slots::{ConsumerSlot, Make, Member, Shared, Work};
use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::observe::event::{EventKind, Subject};
use crate::observe::metrics::MemberMetrics;
use crate::pure::order::sequencer::Taken;
use crate::pure::words::room::Phase;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, mutant};
use std::time::Duration;

/// Returns the work of a slot that has a handler of its own.
pub(crate) fn own<T, F>(handler: F) -> Box<dyn Work<T>>
where
    T: Send + Sync + 'static,
    F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send + 'static,
{
    Box::new(Turn::new(Handler::Each(Box::new(handler))))
}

/// Returns the work of `count` slots that share a handler.
pub(crate) fn share<T, F>(handler: F, count: usize) -> Shared<T>
where
    T: Send + Sync + 'static,
    F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
{
    let calling =
        |handler: Arc<Contained<F>>| own(move |delivery: &Delivery<'_, T>| (**handler)(delivery));
    share_by(Arc::new(Contained::new(handler)), count, calling)
}

/// Returns the work of `count` slots that are `calling` a shared handler.
pub(crate) fn share_by<T, H>(
    handler: Arc<H>,
    count: usize,
    calling: impl Fn(Arc<H>) -> Box<dyn Work<T>> + Send + Sync + 'static,
) -> Shared<T>
where
    H: Send + Sync + 'static,
{
    let slots = (0..count).map(|_| calling(Arc::clone(&handler))).collect();
    let handler = Arc::downgrade(&handler);
    (slots, Box::new(move || handler.upgrade().map(&calling)))
}

impl<T: Send + Sync + 'static> ConsumerSlot<T> {
    fn new(lane: &Arc<Lane<T>>, member: &Arc<Member<T>>, work: Box<dyn Work<T>>) -> Self {
        Self {
            lane: Arc::downgrade(lane),
            member: Arc::downgrade(member),
            task: TaskState::new(),
            work: Mutex::new(Some(work)),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            busy_since_ns: AtomicU64::new(0),
        }
    }

    /// Notifies the slot that there may be something to take. Returns `true` if it was at rest.
    pub(crate) fn schedule(self: &Arc<Self>, engine: &Engine) -> bool {
        let was_idle = self.task.notify() == Then::Enqueue;
        if was_idle {
            engine.pool.submit(Arc::clone(self) as _);
        }
        was_idle
    }

    pub(crate) fn lane(&self) -> Option<Arc<Lane<T>>> {
        self.lane.upgrade()
    }

    /// Takes one delivery for the slot's member, and notifies other slots if more are left. It
    /// takes no more than one, because no delivery may wait behind a call while another
    /// consumer is free. The slot marks itself busy under the keyed lane's lock. A thread that
    /// files deliveries need not notify a busy slot, because the slot looks again after its
    /// call.
    pub(crate) fn take(
        &self,
        keyed: KeyedLane<'_, T>,
        now_ns: u64,
    ) -> Option<Taken<PendingDelivery<T>>> {
        let member = self.member.upgrade()?;
        let mut next = Next::Nobody;
        let taken = keyed.take_one(member.id, now_ns, |state, taken| {
            let since_ns = if taken > 0 { now_ns.max(1) } else { 0 };
            self.busy_since_ns.store(since_ns, Ordering::Relaxed);
            next = keyed.lane.next_of(state, member.id);
        });
        member.taken.add(u64::from(taken.is_some()));
        mutant!(
            match next {
                Next::Nobody => {}
                Next::One => member.schedule_next(keyed.lane.engine()),
                Next::Any => keyed.call_others(),
            },
            "slot.pass-on"
        );
        taken
    }

    fn is_busy(&self) -> bool {
        self.busy_since_ns.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    fn is_gone(&self) -> bool {
        // ORDERING: a thread that sees the flag sees that the handler is gone.
        self.gone.load(Ordering::Acquire)
    }

    /// Begins the slot's end, and finishes it unless a call of its handler runs.
    fn leave(self: &Arc<Self>, engine: &Engine) {
        self.leaving.store(true, Ordering::Release);
        self.look(engine);
    }

    /// Has the slot check at once what has become of its lane and itself. It does so on the
    /// calling thread, unless it runs.
    fn look(self: &Arc<Self>, engine: &Engine) {
        if !self.task.claim() {
            mutant!(
                {
                    self.schedule(engine);
                },
                "slot.notify-leave"
            );
            return;
        }
        while self.run_claimed(engine) && self.task.claim() {}
    }

    /// Whether the slot has nothing more to do than to end, or to end its call.
    fn is_ending(&self) -> bool {
        let is_cancelled = |lane: Arc<Lane<T>>| lane.phase().ends_at_once();
        self.is_leaving() || self.lane().is_some_and(is_cancelled)
    }

    /// Drops the handler. The caller has claimed the slot and keeps it.
    fn go(&self) {
        let work = self.work.lock().take();
        discard(work);
        self.gone.store(true, Ordering::Release);
        if let Some(lane) = self.lane() {
            // The deliveries that it did not try may be for other slots, or the lane may end.
            mutant!(lane.come_to_end(), "slot.notify-gone");
            lane.topic.engine.quiescence.notify();
        }
    }

    fn run_claimed(self: &Arc<Self>, engine: &Engine) -> bool {
        let _inside = Inside::enter(engine);
        let (mut more, mut is_busy) = (false, false);
        let work = self.work.lock().take();
        if let Some(mut work) = work {
            let lane = self.lane();
            if let Some(keyed) = lane.as_ref().and_then(|lane| lane.keyed()) {
                more = work.work(self, keyed);
            }
            is_busy = work.is_busy();
            if !is_busy && !more {
                self.busy_since_ns.store(0, Ordering::Relaxed);
            }
            *self.work.lock() = Some(work);
        }
        if self.is_leaving() && !is_busy {
            self.go();
            return false;
        }
        self.task.rest(more) == Then::Enqueue
    }
}

impl<T: Send + Sync + 'static> Work<T> for Turn<T> {
    fn work(&mut self, slot: &Arc<ConsumerSlot<T>>, keyed: KeyedLane<'_, T>) -> bool {
        let began_ns = keyed.lane.engine().clock.now_ns();
        let mut now_ns = began_ns;
        let mut looks = 0;
        while !slot.is_leaving() && !keyed.lane.phase().ends_at_once() {
            if now_ns.saturating_sub(began_ns) >= SHARE_NS || looks == SHARE_LOOKS {
                return true;
            }
            looks += 1;
            let Some(taken) = slot.take(keyed, now_ns) else {
                return false;
            };
            now_ns = keyed.try_single(self, taken, now_ns);
        }
        false
    }

    fn is_busy(&self) -> bool {
        false
    }
}

impl<T: Send + Sync + 'static> Task for ConsumerSlot<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if !self.task.start() || !self.run_claimed(worker.engine) {
            return;
        }
        if self.is_ending() {
            // As in a lane, the end doesn't wait for a free worker.
            self.look(worker.engine);
        } else {
            worker.requeue(self);
        }
    }
}

impl<T: Send + Sync + 'static> Member<T> {
    /// Schedules one slot that is not busy. When that slot takes a delivery, it notifies the
    /// next slot about the rest.
    fn schedule_next(&self, engine: &Engine) {
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
}

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Gives the lane's own handler its slots.
    pub(crate) fn take_slots(self, slots: Vec<Box<dyn Work<T>>>, make: Make<T>) {
        let member = self.add_member(Arc::clone(&self.lane.name), slots, Some(make));
        if let Some(member) = member
            && self.lane.phase() != Phase::Open
        {
            // The lane's end may have passed by before the slots were there.
            self.remove_member(&member);
        }
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

    /// Adds a member with these slots, unless its name is taken.
    pub(crate) fn add_member(
        self,
        name: Arc<str>,
        slots: Vec<Box<dyn Work<T>>>,
        make: Option<Make<T>>,
    ) -> Option<Arc<Member<T>>> {
        let mut state = self.keyed.state.lock();
        if state.members.iter().any(|other| other.name == name) {
            drop(state);
            discard((slots, make));
            return None;
        }
        state.last_member += 1;
        let member = Arc::new(Member {
            id: state.last_member,
            name,
            make: Mutex::new(make),
            slots: Mutex::new(Vec::new()),
            taken: Counter::default(),
        });
        let slot = |work| Arc::new(ConsumerSlot::new(self.lane, &member, work));
        member.slots.lock().extend(slots.into_iter().map(slot));
        state.sequencer.join(member.id);
        state.members.push(Arc::clone(&member));
        drop(state);
        self.lane.schedule();
        Some(member)
    }

    /// Notifies the slots that may have something to take. Filing may add parked arrivals for
    /// the lane's runner to judge. So the caller is that runner, or takes again.
    pub(crate) fn call_others(self) {
        let mut state = self.keyed.state.lock();
        let members = state.members.clone();
        if let [only] = &members[..] {
            let next = self.lane.next_of(&state, only.id);
            drop(state);
            if next == Next::One {
                only.schedule_next(self.lane.engine());
            }
            return;
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
        for (member, wanted) in members.iter().zip(wanted) {
            member.schedule(self.lane.engine(), wanted);
        }
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
