//! Handing one shared batch to every lane. First places are reserved in all lanes for the
//! same messages, then the counters move, then the lanes get their parts.
//!
//! A lane gets the messages that were accepted after it joined. The topic's word `starts`
//! says whether older messages may still be there. It is set before such a lane is on the
//! list, and cleared when nothing older is left. While it is set, a batch is cut where the
//! set of lanes that want its messages changes. A lane that doesn't want a piece is skipped
//! as if it had closed. A message that no lane wants is unrouted. Under
//! `NoSubscribers::Retain` no message may be lost for want of a subscription, so it goes to
//! the lanes that are there. A lane whose [filter](crate::engine::dispatch::filter) refuses a
//! piece is skipped, too.

use crate::engine::base::counters::LaneBooks;
use crate::engine::dispatch::room::ALL_WANT;
use crate::engine::late::retained::Keeping;
use crate::engine::parts::dispatcher::{DispatcherState, Grant};
use crate::engine::runtime::pool::Worker;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::engine::track::ends::Ends;
use crate::message::batch::BatchSlice;
use crate::observe::event::{DropCause, EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::{Phase, Reserved};
use crate::pure::words::schedule::Then;
use crate::pure::words::start::{Starts, alike};
use crate::sync::{Arc, in_order};
use crate::types::config::{LaneFull, NoSubscribers};
use crate::types::reason::DeadReason;

/// Where a batch can go.
enum Places {
    /// The number of its messages, at least one, that can go to the lanes that granted places.
    For(u32),
    /// The batch can go nowhere, because there is no subscription.
    Nobody,
    /// The batch can go nowhere yet; somebody will notify.
    Later,
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Hands the current batch to every lane and returns how many messages went. With `None`
    /// the batch has to wait, and somebody will notify.
    pub(crate) fn hand_on(
        self: &Arc<Self>,
        at: &QueueRef<'_, T>,
        dispatcher: &mut DispatcherState<T>,
        lanes: &Lanes<T>,
        worker: &mut Worker<'_>,
    ) -> Option<usize> {
        let current = dispatcher.current_batch.take()?;
        #[cfg(feature = "log")]
        if self.is_stored() {
            self.let_join(lanes, current.first().id.get());
        }
        let (alike, id) = match self.starts.load() {
            Starts::NONE => (current.len(), ALL_WANT),
            starts => self.alike(&current, lanes, starts),
        };
        let list = lanes;
        let piece;
        let (alike, id, lanes, refusing) = match self.has_filters() {
            false => (alike, id, lanes, &[][..]),
            true => {
                piece = self.sift(&mut dispatcher.sieve, &current, (alike, id), lanes);
                (piece.len, piece.id, &piece.others, &piece.refusing[..])
            }
        };
        let batch = &current.batch;
        let _motion = self.books.motions.begin(alike as u64);
        let is_refused = !refusing.is_empty();
        let places = self.find_places(dispatcher, lanes, (&current, alike), id, is_refused);
        let count = match places {
            Places::For(count) => count,
            Places::Nobody => alike as u32,
            Places::Later => {
                dispatcher.current_batch = Some(current);
                self.rest_without_room(at);
                return None;
            }
        };
        let part = || BatchSlice {
            batch: Arc::clone(batch),
            from: current.from,
            to: current.from + count,
        };
        if self.retained.is_some() {
            let keeping = self.keep_retained(dispatcher, &part(), (list, lanes));
            if keeping != Keeping::HandOn {
                dispatcher.current_batch = Some(current);
                return (keeping == Keeping::ReadAgain).then_some(0);
            }
        }
        if let Places::Nobody = places {
            let (nobodys, others) = current.split_at_most(count);
            if self.has_stopped() {
                // There were subscriptions, but the end of the broker has closed them.
                self.unload(&nobodys);
                self.drop_messages(nobodys.ids(), DropCause::Shutdown);
                nobodys.track(|tracker| tracker.end(Status::Dropped));
            } else {
                self.unroute(&nobodys);
            }
            at.leave(self, alike);
            dispatcher.keep(others);
            return Some(alike);
        }
        // The messages are counted before they can be handled, so a snapshot never shows more
        // ends than beginnings.
        self.books.dispatched.add(u64::from(count));
        // Deliveries without a place end while their messages still have a ticket in the queue.
        // So nothing is counted any more once a topic seems to be at rest.
        for (lane, grant) in lanes.iter().zip(&mut dispatcher.grants) {
            self.overflow(lane, part, count, grant);
        }
        for lane in refusing {
            self.refuse(lane, &part());
        }
        // The lanes have reserved places, so the queue's tickets can be released.
        if self.weights.is_some() {
            self.unload(&part());
        }
        self.gate.release(u64::from(count));
        let mut finds_busy = true;
        in_order!(
            for (lane, grant) in lanes.iter().zip(&dispatcher.grants) {
                if let Reserved::Granted(granted) = grant.reserved {
                    let (kept, _) = split(grant.when_full, part(), granted);
                    finds_busy &= self.hand_to(lane, kept, worker) == Then::Nothing;
                }
            },
            at.leave(self, count as usize),
            "partitions.push-then-leave"
        );
        if batch.is_watched() {
            part().track(Ends::hand_on);
        }
        dispatcher.finds_busy = finds_busy;
        dispatcher.keep(current.after(count));
        Some(count as usize)
    }

    /// Returns how many messages, from the next one on, the same lanes want, and an id that
    /// stands for them.
    #[cold]
    fn alike(&self, current: &BatchSlice<T>, lanes: &Lanes<T>, starts: Starts) -> (usize, u64) {
        let left = current.len();
        let ids = || current.ids().map(|id| id.get());
        if ids().all(|id| starts.precede(id)) {
            // The order matters. If the queue held only these messages at the first look, then
            // any others that the second look counts were accepted since.
            let released = self.gate.released();
            if self.gate.issued() == released + left as u64 {
                self.starts.update(|now| now.end(starts));
            }
            return (left, ALL_WANT);
        }
        let first = current.first().id.get();
        let range = alike(first, lanes.iter().map(|lane| lane.starts_after()));
        (ids().take_while(|id| range.contains(id)).count(), first)
    }

    /// Reserves places, in the lanes that want message `id`, for up to so many messages of a part. If
    /// a filter has refused them, they may go to no lane at all.
    fn find_places(
        self: &Arc<Self>,
        dispatcher: &mut DispatcherState<T>,
        lanes: &Lanes<T>,
        (part, wanted): (&BatchSlice<T>, usize),
        id: u64,
        is_refused: bool,
    ) -> Places {
        loop {
            let is_open = |lane: &&Arc<Lane<T>>| lane.phase() == Phase::Open;
            let id = if lanes.iter().filter(is_open).any(|lane| lane.wants(id)) {
                id
            } else if is_refused || self.feeds_some(lanes) {
                dispatcher.grants.clear();
                return Places::For(wanted as u32);
            } else if self.settings.no_subscribers == NoSubscribers::Retain
                && lanes.iter().any(|lane| is_open(&lane))
            {
                ALL_WANT
            } else {
                // Those of an earlier part must not be given back once more.
                dispatcher.grants.clear();
                break;
            };
            let (fits, grants) = (dispatcher.has_room, &mut dispatcher.grants);
            let count = self.reserve_everywhere(lanes, (part, wanted as u32), id, fits, grants);
            if count == 0 {
                return Places::Later;
            }
            if dispatcher
                .grants
                .iter()
                .any(|grant| grant.reserved != Reserved::Closed)
            {
                return Places::For(count);
            }
            // The last of the lanes has closed since. A message that no lane takes must not
            // count as dispatched.
        }
        match self.settings.no_subscribers {
            NoSubscribers::Retain => Places::Later,
            NoSubscribers::Discard | NoSubscribers::Reject => Places::Nobody,
        }
    }

    /// Returns whether a lane that the dispatcher passes by gets the messages from the log.
    fn feeds_some(&self, lanes: &Lanes<T>) -> bool {
        let is_fed = |lane: &Arc<Lane<T>>| lane.phase() == Phase::Open && lane.is_behind();
        self.is_stored() && lanes.iter().any(is_fed)
    }

    /// Reserves places for the same number of messages in all lanes that want message `id`.
    /// Returns that number, at most `wanted`. With zero, a lane that the topic waits for is
    /// full, and will notify.
    ///
    /// If `fits`, the lanes had room a moment ago, and this reserves without another look.
    /// Otherwise it looks first, because a redrive misses places that are taken and given back.
    fn reserve_everywhere(
        self: &Arc<Self>,
        lanes: &Lanes<T>,
        (part, wanted): (&BatchSlice<T>, u32),
        id: u64,
        fits: bool,
        grants: &mut Vec<Grant>,
    ) -> u32 {
        let room = || {
            let room = wanted.min(self.room_for(id, lanes) as u32);
            match self.conflates() {
                false => room,
                true => self.room_by_key(id, lanes, part, room),
            }
        };
        // Where a lane conflates, the room depends on the messages.
        let fits = fits && !self.conflates();
        let mut count = if fits { wanted } else { room() };
        while count > 0 {
            grants.clear();
            let mut short = false;
            for lane in lanes.iter() {
                let when_full = lane.when_full();
                let reserved = if lane.wants(id) {
                    lane.reserve(count, false)
                } else {
                    Reserved::Closed
                };
                let reserved = match lane.conflates() {
                    false => reserved,
                    true => self.replace_for_room(lane, part, count, reserved),
                };
                let granted = match reserved {
                    Reserved::Granted(granted) => granted,
                    Reserved::Full | Reserved::Closed => 0,
                };
                // The reservation tells whether the lane was open. The next try sees a lane
                // that closes from now on.
                short =
                    when_full == LaneFull::Wait && reserved != Reserved::Closed && granted < count;
                grants.push(Grant {
                    reserved,
                    when_full,
                });
                if short {
                    // Another dispatcher may want the same places: see `partition_set`.
                    break;
                }
            }
            if !short {
                return count;
            }
            self.give_places_back(lanes, grants);
            count = room();
        }
        0
    }

    /// Gives back the places that lanes have granted.
    pub(crate) fn give_places_back(&self, lanes: &Lanes<T>, grants: &[Grant]) {
        for (lane, grant) in lanes.iter().zip(grants) {
            if let Reserved::Granted(granted) = grant.reserved
                && lane.release(granted)
            {
                lane.come_to_end();
            }
        }
    }

    /// Applies the lane's policy to the messages for which it has reserved no place. Afterwards
    /// `grant` says how many places the lane has granted in the end.
    fn overflow(
        self: &Arc<Self>,
        lane: &Arc<Lane<T>>,
        part: impl Fn() -> BatchSlice<T>,
        count: u32,
        grant: &mut Grant,
    ) {
        let mut granted = match grant.reserved {
            Reserved::Granted(granted) if granted < count => granted,
            Reserved::Full => 0,
            Reserved::Granted(_) | Reserved::Closed => return,
        };
        if let Reserved::Granted(more) = lane.reserve_expired(count - granted) {
            granted += more;
        }
        let granted = match grant.when_full {
            LaneFull::DropOldest if lane.has_levels() => {
                // They are handed over at once, because not all of them lie side by side.
                grant.reserved = Reserved::Full;
                return self.overflow_by_level(lane, &part(), granted as usize);
            }
            LaneFull::DropOldest => self.make_room(lane, granted, count),
            _ => granted,
        };
        if granted < count {
            let (_, lost) = split(grant.when_full, part(), granted);
            self.lose(lane, grant.when_full, &lost);
        }
        grant.reserved = match granted {
            0 => Reserved::Full,
            granted => Reserved::Granted(granted),
        };
    }

    /// Hands messages to one lane, which has granted places for them. Returns whether the lane
    /// had to be put on the ready queue.
    pub(crate) fn hand_to(
        self: &Arc<Self>,
        lane: &Arc<Lane<T>>,
        kept: BatchSlice<T>,
        worker: &mut Worker<'_>,
    ) -> Then {
        self.place_in(lane, kept);
        let then = lane.task.notify();
        if then == Then::Enqueue {
            worker.submit(lane.home, Arc::clone(lane) as _);
        }
        if lane.phase().ends_at_once() {
            // Its places were reserved before it was closed, and its unsubscribe may have looked
            // before the slice came. On the ready queue its end would wait for a free worker.
            lane.come_to_end();
        }
        then
    }

    /// Puts messages into a lane, which has granted places for them. Somebody notifies it.
    #[inline(always)]
    pub(crate) fn place_in(&self, lane: &Arc<Lane<T>>, kept: BatchSlice<T>) {
        let (count, first_ns) = (kept.len() as u64, kept.expires_ns());
        // Before the lane can end a delivery.
        kept.track(Ends::open);
        in_order!(
            lane.books.record(Status::Created, Step::Accept, count),
            self.push_to(lane, kept),
            "fan-out.count-then-push",
        );
        lane.expiry.note(first_ns);
    }

    /// Drops the oldest waiting deliveries of a lane, no more than needed. Stops when `wanted`
    /// places are granted or no delivery is left to drop.
    fn make_room(&self, lane: &Arc<Lane<T>>, mut granted: u32, wanted: u32) -> u32 {
        while granted < wanted {
            let oldest = lane.pop_oldest(wanted - granted);
            if oldest.is_empty() {
                break;
            }
            for part in &oldest {
                self.drop_queued(lane, part, DropCause::LaneFull);
            }
            let dropped: usize = oldest.iter().map(BatchSlice::len).sum();
            if lane.release(dropped as u32) {
                lane.come_to_end();
            }
            match lane.reserve(wanted - granted, false) {
                Reserved::Granted(more) => granted += more,
                // Another dispatcher came first, and its deliveries are queued by now.
                Reserved::Full => {}
                Reserved::Closed => break,
            }
        }
        granted
    }

    /// Ends deliveries that found no place in their lane. A delivery without a place can't keep
    /// the lane from ending, so the lane may have ended since it was asked.
    pub(crate) fn lose(&self, lane: &Arc<Lane<T>>, when_full: LaneFull, part: &BatchSlice<T>) {
        match when_full {
            LaneFull::DeadLetter => {
                let status = self.end_without_place(lane, part, Step::Bury);
                lane.write_letters(part, DeadReason::LaneFull);
                lane.note_end_without_place(part, status);
            }
            #[cfg(feature = "log")]
            LaneFull::CatchUp => self.fall_behind(lane, part),
            LaneFull::Wait | LaneFull::DropNewest | LaneFull::DropOldest => {
                let status = self.end_without_place(lane, part, Step::Drop);
                lane.note_gap(part, DropCause::LaneFull);
                self.tell_dropped(lane, part, status, DropCause::LaneFull);
                lane.note_end_without_place(part, status);
            }
        }
    }

    /// Records the end of deliveries that never had a place.
    pub(crate) fn end_without_place(
        &self,
        lane: &Arc<Lane<T>>,
        part: &BatchSlice<T>,
        step: Step,
    ) -> Status {
        let record = |books: &LaneBooks| {
            let count = part.len() as u64;
            let from = match step {
                Step::Filter => Status::Created,
                _ => books.record(Status::Created, Step::Accept, count),
            };
            books.record(from, step, count)
        };
        // The lock is held while the books are written, because a lane retires under it.
        let mut ended = self.ended.lock();
        let is_listed = |lanes: &Lanes<T>| lanes.iter().any(|other| Arc::ptr_eq(other, lane));
        if self.lanes.peek(is_listed) {
            return record(&lane.books);
        }
        let late = LaneBooks::default();
        let status = record(&late);
        **ended.get_or_insert_default() += late.read();
        status
    }

    /// Counts messages that no subscription gets, and releases their tickets.
    pub(crate) fn unroute(&self, unrouted: &BatchSlice<T>) {
        let count = unrouted.len() as u64;
        self.books.unrouted.add(count);
        if self.bus().observed() {
            for id in unrouted.ids() {
                self.tell_of(Subject::default().message(id), EventKind::Unrouted);
            }
        }
        if self.weights.is_some() {
            self.unload(unrouted);
        }
        self.gate.release(count);
        unrouted.track(Ends::unroute);
    }
}

/// Splits a part into the messages that have a place in a lane of this policy and those that have
/// none. The lane has granted `granted` places.
fn split<T>(
    when_full: LaneFull,
    part: BatchSlice<T>,
    granted: u32,
) -> (BatchSlice<T>, BatchSlice<T>) {
    match when_full {
        LaneFull::DropOldest => {
            let missing = part.to - part.from - granted;
            part.split_back(missing)
        }
        _ => part.split_front(granted),
    }
}
