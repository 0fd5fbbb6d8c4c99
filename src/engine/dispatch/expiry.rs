//! The end of messages that outlive their time to live before they are dispatched.

use crate::engine::parts::dispatcher::{DispatcherState, Look};
use crate::engine::runtime::pool::Task;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_queue::PartitionQueue;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::engine::track::ends::Ends;
use crate::engine::wait::fire::Fire;
use crate::message::batch::BatchSlice;
use crate::observe::event::{DropCause, EventKind};
use crate::pure::decide::expiry::{NEVER, has_passed, next_look};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Phase;
use crate::pure::words::schedule::Then;
use crate::sync::Arc;
use crate::types::config::{NoSubscribers, OnExpired};
use crate::types::reason::DeadReason;

/// How many messages one step of a look goes through before other tasks have their turn.
const STEP: usize = 1_024;

impl<T> DispatcherState<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.current_batch.is_none() && self.shelf.is_empty()
    }

    /// Takes one step of a look through the waiting messages and takes out the expired ones.
    fn look(&mut self, at: &PartitionQueue<T>, now_ns: u64) -> Vec<BatchSlice<T>> {
        let mut expired = Vec::new();
        let Some(mut look) = self.shelf.look else {
            return expired;
        };
        if let Some(current) = self.current_batch.take() {
            // The current batch stays whole. An expired message behind a living one goes to the
            // lanes with it.
            let expires_ns = |at: u32| current.batch.expires_ns(at as usize);
            let lives = (current.from..current.to).find(|at| !has_passed(expires_ns(*at), now_ns));
            let first_ns = lives.and_then(expires_ns).unwrap_or(NEVER);
            look.first_ns = look.first_ns.min(first_ns);
            let dead = lives.unwrap_or(current.to) - current.from;
            let (dead, living) = current.split_front(dead);
            expired.extend(dead.unless_empty());
            self.current_batch = living.unless_empty();
        }
        let mut is_done = false;
        let mut looked_at = 0;
        while looked_at < STEP {
            if self.shelf.rest.is_empty() && !self.fill(at) {
                is_done = true;
                break;
            }
            if let Some(part) = self.shelf.rest.pop_front() {
                looked_at += part.len();
                self.sift(part, &mut look, now_ns, &mut expired);
            }
        }
        self.shelf.look = Some(look);
        if is_done {
            self.shelf.look = None;
            self.shelf.looked_ns = Some(now_ns);
            self.shelf.rest = std::mem::take(&mut self.shelf.seen);
            at.expiry
                .note(next_look(look.first_ns, look.passed, now_ns));
        }
        expired
    }

    /// Takes the expired messages out of a part that a look goes through. Files the others as
    /// seen.
    fn sift(
        &mut self,
        part: BatchSlice<T>,
        look: &mut Look,
        now_ns: u64,
        expired: &mut Vec<BatchSlice<T>>,
    ) {
        let mut rest = Some(part);
        while let Some(part) = rest {
            let expires_ns = |at: u32| part.batch.expires_ns(at as usize);
            let has_expired = |at: u32| has_passed(expires_ns(at), now_ns);
            let is_over = has_expired(part.from);
            let alike = (part.from..part.to).take_while(|at| has_expired(*at) == is_over);
            let alike = alike.count() as u32;
            let (run, others) = part.split_at_most(alike);
            if is_over {
                expired.push(run);
            } else {
                look.first_ns = look.first_ns.min(run.expires_ns());
                look.passed += run.len();
                self.shelf.seen.push_back(run);
            }
            rest = others;
        }
    }

    /// Returns when the first waiting message may expire by the topic's time to live. Counts
    /// from the oldest message, or from the last look if there was one. A change of the time to
    /// live makes the dispatcher look.
    fn expires_ns(&self, ttl_ns: u64) -> u64 {
        if let Some(looked_ns) = self.shelf.looked_ns {
            let first_ns = looked_ns.saturating_add(ttl_ns);
            return next_look(first_ns, self.shelf.len(), looked_ns);
        }
        let oldest = self.current_batch.as_ref().or_else(|| self.shelf.front());
        let oldest_ns = oldest.map(|part| part.first().accepted_ns);
        oldest_ns.map_or(NEVER, |oldest_ns| oldest_ns.saturating_add(ttl_ns))
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Ends the expired messages that wait, for the thread that runs the queue. Returns `true`
    /// if the look is to go on after other tasks have had their turn.
    pub(crate) fn end_expired_at(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
    ) -> bool {
        let Some(now_ns) = self.look_at(at, dispatcher) else {
            return false;
        };
        let expired = dispatcher.look(at, now_ns);
        if !expired.is_empty() {
            // The plan counted the expired messages, so the strategy decides anew.
            dispatcher.allowance = 0;
            self.expire(at, expired);
        }
        dispatcher.shelf.look.is_some()
    }

    /// Begins a look if its time has come. Returns the time if a look is under way.
    fn look_at(&self, at: &QueueRef<'_, T>, dispatcher: &mut DispatcherState<T>) -> Option<u64> {
        if dispatcher.shelf.look.is_none() {
            self.note_oldest(at, dispatcher);
            if !at.expiry.has_come(&self.engine) {
                return None;
            }
            at.expiry.begin_look(&self.engine);
            dispatcher.shelf.look = Some(Look {
                first_ns: NEVER,
                passed: 0,
            });
        }
        Some(self.engine.clock.now_ns())
    }

    /// Notes when the first waiting message may expire, if the topic sets a time to live.
    fn note_oldest(&self, at: &QueueRef<'_, T>, dispatcher: &mut DispatcherState<T>) {
        let Some(ttl) = self.live.ttl.get() else {
            return;
        };
        if dispatcher.is_empty() {
            dispatcher.shelf.looked_ns = None;
            dispatcher.fill(at);
        }
        at.expiry.note(dispatcher.expires_ns(ttl.get()));
    }

    /// Sets the timer at the end of a turn, as long as a message that can expire waits.
    pub(crate) fn await_expiry(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
    ) {
        self.note_oldest(at, dispatcher);
        if !at.expiry.is_known() {
            return;
        }
        if dispatcher.is_empty() {
            // A publisher of a message with its own time to live notes it after the push, so
            // the note is not lost here.
            let first_ns = at.expiry.forget();
            if !dispatcher.fill(at) {
                return at.expiry.cancel(&self.engine);
            }
            at.expiry.note(first_ns);
        }
        let target: Arc<dyn Fire> = match at {
            QueueRef::Plain(_) => Arc::clone(self) as _,
            QueueRef::Partition(_, partition) => Arc::clone(*partition) as _,
        };
        at.expiry.call(&self.engine, target);
    }

    /// Makes room for a publisher by ending expired messages. Returns `true` if there were any.
    pub(crate) fn make_room_of_expired(self: &Arc<Self>) -> bool {
        match &self.split {
            None => self.look_for_room(&QueueRef::Plain(&self.plain), || Arc::clone(self) as _),
            Some(split) => split.look_for_room(self),
        }
    }

    /// Looks through the waiting messages of one queue until there is room, unless its
    /// dispatcher is running.
    pub(crate) fn look_for_room(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        task: impl FnOnce() -> Arc<dyn Task>,
    ) -> bool {
        // A dispatcher at rest has noted when its messages expire.
        let is_noted = || {
            at.dispatcher
                .lock()
                .as_ref()
                .is_some_and(|dispatcher| !dispatcher.is_empty())
        };
        let may_have_come =
            at.expiry.has_come(&self.engine) || (self.live.ttl.get().is_some() && !is_noted());
        if !may_have_come || self.has_stopped() || !at.task.claim() {
            return false;
        }
        let dispatcher = at.dispatcher.lock().take();
        let mut dispatcher = dispatcher.unwrap_or_else(|| Box::new(DispatcherState::new()));
        let released = self.gate.released();
        while self.end_expired_at(at, &mut dispatcher) && self.gate.released() == released {}
        let has_room = self.gate.released() != released;
        if has_room {
            self.call_publishers();
        }
        self.await_expiry(at, &mut dispatcher);
        *at.dispatcher.lock() = Some(dispatcher);
        if at.task.rest(true) == Then::Enqueue {
            self.engine.pool.submit(task());
        }
        has_room
    }

    /// Ends messages that expired before they were dispatched.
    fn expire(self: &Arc<Self>, at: &QueueRef<'_, T>, expired: Vec<BatchSlice<T>>) {
        let lanes = self.lanes.load();
        for part in expired {
            let _motion = self.books.motions.begin(part.len() as u64);
            for index in part.from..part.to {
                let one = BatchSlice {
                    batch: Arc::clone(&part.batch),
                    from: index,
                    to: index + 1,
                };
                self.expire_one(&lanes, &one);
            }
            at.leave(self, part.len());
        }
    }

    /// Ends a message for every subscription that would have got it. If there is none, ends the
    /// message itself.
    fn expire_one(self: &Arc<Self>, lanes: &Lanes<T>, part: &BatchSlice<T>) {
        let id = part.first().id.get();
        let retains = self.settings.no_subscribers == NoSubscribers::Retain;
        let open = || lanes.iter().filter(|lane| lane.phase() == Phase::Open);
        let is_wanted = open().any(|lane| lane.wants(id));
        // As in fan-out, a retained message that no lane wants is for the lanes that are open.
        let mut wanting = open()
            .filter(|lane| lane.wants(id) || (retains && !is_wanted))
            .peekable();
        if wanting.peek().is_none() {
            return match retains {
                true => {
                    self.unload(part);
                    self.drop_messages(part.ids(), DropCause::Expired);
                    part.track(|tracker| tracker.end(Status::Dropped));
                }
                false => self.unroute(part),
            };
        }
        self.books.dispatched.add(1);
        for lane in wanting {
            match self.settings.on_expired {
                OnExpired::DeadLetter => {
                    let status = self.end_without_place(lane, part, Step::Bury);
                    lane.write_letters(part, DeadReason::Expired);
                    lane.note_end_without_place(part, status);
                }
                OnExpired::Drop => {
                    let status = self.end_without_place(lane, part, Step::Expire);
                    self.tell_expired(lane, part, status);
                    lane.note_end_without_place(part, status);
                }
            }
        }
        self.unload(part);
        self.release(1);
        part.track(Ends::hand_on);
        self.engine.quiescence.notify();
    }

    fn tell_expired(&self, lane: &Lane<T>, part: &BatchSlice<T>, status: Status) {
        if self.bus().observed() {
            for id in part.ids() {
                lane.tell(id, 0, status, EventKind::Expired);
            }
        }
    }
}
