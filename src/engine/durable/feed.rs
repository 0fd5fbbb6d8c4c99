//! Feeding a subscription from the log while it is behind.
//!
//! The feeder is a task of its own, so reading the disk holds up neither the topic nor the lane. It
//! reads, asks the filter, takes places in the lane, and hands over.
//! [`Feed`](crate::pure::log::feed) says how it and the dispatcher divide the messages. When the
//! lane is full, the feeder rests. The lane notifies its topic of room, and the topic's next turn
//! wakes the feeder.

use std::collections::VecDeque;
use std::iter::Peekable;

use crate::engine::journal::lane_log::{Feeder, Held, LaneLog, Past};
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::log::cursor::NewLetter;
use crate::message::MessageId;
use crate::message::batch::{Accepted, BATCH, Batch, BatchSlice, Stamp};
use crate::message::meta::Meta;
use crate::observe::event::{EventKind, Subject};
use crate::pure::words::room::{Phase, Reserved};
use crate::pure::words::schedule::Then;
use crate::sync::{Arc, unix_ms};
use crate::types::durable::earlier::Earlier;
use crate::types::error::store::StoreError;
use crate::types::reason::DeadReason;

/// The most batches that a feeder hands over before other tasks have their turn.
const QUANTUM: usize = 16;

/// Why a feeder stops for now.
enum Pause {
    /// Until somebody wakes it.
    Rest,
    /// Until other tasks have had their turn.
    Yield,
}

/// A message that was read from the log, with the parts that its publisher added.
type ReadMessage<T> = (Accepted<T>, Option<Box<Meta>>);

/// The feeder of a lane, on the ready queue.
struct FeederTask<T>(Arc<Lane<T>>);

impl<T: Send + Sync + 'static> Task for FeederTask<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        let Some(stored) = &self.0.stored else {
            return;
        };
        if !stored.task.start() {
            return;
        }
        let pause = self.0.feed(stored, worker);
        if stored.task.rest(matches!(pause, Pause::Yield)) == Then::Enqueue {
            let lane = Arc::clone(&self.0);
            lane.engine().pool.submit(self as _);
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Lets lanes join that were fed up to the message in the dispatcher's hand. Wakes the feeders
    /// of the others.
    pub(crate) fn let_join(&self, lanes: &Lanes<T>, first: u64) {
        for lane in lanes.iter() {
            let Some(stored) = &lane.stored else {
                continue;
            };
            let mut feed = stored.feed.lock();
            let (next, joined) = feed.join(first);
            *feed = next;
            drop(feed);
            match joined {
                Some(after) => {
                    lane.start_after(after);
                    let kind = EventKind::CaughtUp;
                    self.tell_of(Subject::of(&lane.name), kind);
                }
                None => self.wake_feeder(lane, stored),
            }
        }
    }

    /// Wakes the feeders that have messages to hand over, and room for them.
    pub(crate) fn wake_feeders(&self, lanes: &Lanes<T>) {
        for lane in lanes.iter() {
            if let Some(stored) = &lane.stored {
                self.wake_feeder(lane, stored);
            }
        }
    }

    fn wake_feeder(&self, lane: &Arc<Lane<T>>, stored: &LaneLog<T>) {
        let next = stored.feed.lock().next();
        let visible = self.stored().map_or(0, TopicLog::visible);
        // A feeder that has found the lane full is called when there is room.
        let is_called = lane.room.load().awaited && lane.free() == 0;
        if next.is_some_and(|next| next < visible) && !is_called {
            lane.schedule_feeder(stored);
        }
    }

    /// Lets a lane without room for these messages read them from the log later.
    pub(crate) fn fall_behind(&self, lane: &Arc<Lane<T>>, part: &BatchSlice<T>) {
        let Some(stored) = &lane.stored else {
            return;
        };
        let next = part.first().id.get();
        let mut feed = stored.feed.lock();
        *feed = feed.fall_behind(next);
        drop(feed);
        self.pass_by(lane);
        self.tell_of(Subject::of(&lane.name), EventKind::FellBehind);
        self.wake_feeder(lane, stored);
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Puts the feeder on the ready queue unless somebody is bound to run it.
    pub(crate) fn schedule_feeder(self: &Arc<Self>, stored: &LaneLog<T>) {
        if stored.task.notify() == Then::Enqueue {
            let task = Arc::new(FeederTask(Arc::clone(self)));
            self.engine().pool.submit(task);
        }
    }

    /// Hands over messages from the log, as long as there are any, and room.
    fn feed(self: &Arc<Self>, stored: &LaneLog<T>, worker: &mut Worker<'_>) -> Pause {
        // It is taken out, because codecs are the user's, and so are payloads that are let go.
        let feeder = stored.feeder.lock().take();
        let (Some(mut feeder), Some(topic_log)) = (feeder, self.topic.stored()) else {
            return Pause::Rest;
        };
        let pause = self.feed_some(stored, topic_log, &mut feeder, worker);
        *stored.feeder.lock() = Some(feeder);
        // It may have passed over the last messages, and nothing is left to do.
        self.engine().quiescence.notify();
        pause
    }

    fn feed_some(
        self: &Arc<Self>,
        stored: &LaneLog<T>,
        topic_log: &TopicLog<T>,
        feeder: &mut Feeder<T>,
        worker: &mut Worker<'_>,
    ) -> Pause {
        for _ in 0..QUANTUM {
            let next = stored.feed.lock().next();
            let (Some(next), Phase::Open) = (next, self.phase()) else {
                feeder.discard();
                return Pause::Rest;
            };
            // After a close the messages stay in the log, for the next time.
            if self.topic.gate.is_closed() {
                return Pause::Rest;
            }
            if feeder.next != next {
                // The dispatcher has handed over some in its place.
                feeder.discard();
                feeder.next = next;
            }
            if feeder.held.is_empty() {
                match self.read(stored, topic_log, feeder, next) {
                    Ok(true) => {}
                    Ok(false) => return Pause::Rest,
                    Err(error) => {
                        let kind = EventKind::ReadFailed {
                            error: error.to_string().into(),
                        };
                        self.topic.tell_of(Subject::of(&self.name), kind);
                        return Pause::Rest;
                    }
                }
            }
            if !self.hand_over(stored, feeder, worker) {
                return Pause::Rest;
            }
        }
        Pause::Yield
    }

    /// Reads the next messages. Returns `false` if there are none.
    fn read(
        &self,
        stored: &LaneLog<T>,
        topic_log: &TopicLog<T>,
        feeder: &mut Feeder<T>,
        next: u64,
    ) -> Result<bool, StoreError> {
        let visible = topic_log.visible();
        if next >= visible {
            return Ok(false);
        }
        let Feeder {
            reader, held, past, ..
        } = &mut *feeder;
        let reader = match reader {
            Some(reader) if reader.next() == next => reader,
            reader => reader.insert(topic_log.reader(next)),
        };
        let (now_ns, now_ms) = (self.engine().clock.now_ns(), unix_ms());
        let mut each = Vec::new();
        let found = reader.read_frame(visible, |read| {
            if past.done.contains(read.seq) {
                return;
            }
            match topic_log.decode(read.message) {
                Ok((payload, mut meta)) => {
                    let age_ms = now_ms.saturating_sub(read.time_ms);
                    let age_ns = age_ms.saturating_mul(1_000_000);
                    if let Some(ttl_ns) = meta.as_mut().and_then(|meta| meta.ttl_ns.as_mut()) {
                        // It may be older than the broker's clock.
                        let late_ns = age_ns.saturating_sub(now_ns);
                        *ttl_ns = ttl_ns.saturating_sub(late_ns);
                    }
                    let stamp = Stamp {
                        id: MessageId::new(read.seq),
                        accepted_ns: now_ns.saturating_sub(age_ns),
                    };
                    each.push((Accepted { stamp, payload }, meta));
                }
                Err(error) => self.note_undecodable(read.seq, &error),
            }
        })?;
        let mut each = each.into_iter().peekable();
        while each.peek().is_some() {
            let (some, earlier) = take_alike(&mut each, past);
            let before = match each.peek() {
                Some((later, _)) => later.stamp.id.get(),
                None => reader.next(),
            };
            let batch = Batch::replayed(some, self.topic.live.ttl.get(), earlier);
            self.hold(held, BatchSlice::whole(Arc::new(batch)), before);
        }
        if held.is_empty() {
            // It was done with all of them.
            let to = reader.next();
            let mut feed = stored.feed.lock();
            let (fed, is_next) = feed.feed(next, to);
            *feed = fed;
            drop(feed);
            feeder.next = if is_next { to } else { next };
        }
        Ok(found)
    }

    /// Keeps messages that were read, in pieces that the filter refuses or wants as a whole. It is
    /// asked here, once, because the messages may wait for room.
    fn hold(&self, held: &mut VecDeque<Held<T>>, mut part: BatchSlice<T>, before: u64) {
        let filter = self.filter.lock().clone();
        let now_ns = self.engine().clock.now_ns();
        let refused: Vec<bool> = (part.from..part.to)
            .map(|index| {
                let ask = |filter| self.topic.ask(self, filter, &part, index as usize, now_ns);
                filter.as_ref().is_some_and(ask)
            })
            .collect();
        for alike in refused.chunk_by(|one, other| one == other) {
            let (piece, rest) = part.split_front(alike.len() as u32);
            let after = match rest.len() {
                0 => before,
                _ => rest.first().id.get(),
            };
            held.push_back(Held {
                part: piece,
                before: after,
                is_refused: alike[0],
            });
            part = rest;
        }
    }

    /// Hands over the first of the messages that were read, as far as there is room. Returns
    /// `false` if there was none.
    fn hand_over(
        self: &Arc<Self>,
        stored: &LaneLog<T>,
        feeder: &mut Feeder<T>,
        worker: &mut Worker<'_>,
    ) -> bool {
        let Some(held) = feeder.held.pop_front() else {
            return true;
        };
        let Held { part, before, .. } = held;
        let count = part.len() as u32;
        let _motion = self.books.motions.begin(u64::from(count));
        let mut feed = stored.feed.lock();
        if feed.next() != Some(feeder.next) {
            drop(feed);
            feeder.discard();
            return true;
        }
        if held.is_refused {
            *feed = feed.feed(feeder.next, before).0;
            drop(feed);
            feeder.next = before;
            self.topic.refuse(self, &part);
            return true;
        }
        let granted = match self.reserve(count, true) {
            Reserved::Granted(granted) => granted,
            Reserved::Full => 0,
            Reserved::Closed => {
                drop(feed);
                feeder.discard();
                return false;
            }
        };
        if granted == 0 {
            feeder.held.push_front(Held { part, ..held });
            return false;
        }
        let (kept, rest) = part.split_front(granted);
        let rest = rest.unless_empty();
        let fed = rest.as_ref().map(|rest| rest.first().id.get());
        let _ = self.topic.hand_to(self, kept, worker);
        let to = fed.unwrap_or(before);
        *feed = feed.feed(feeder.next, to).0;
        drop(feed);
        feeder.next = to;
        let rest = rest.map(|part| Held { part, ..held });
        rest.into_iter()
            .for_each(|rest| feeder.held.push_front(rest));
        true
    }

    /// Notes that a message can't be decoded, and observers hear of it. For a durable subscription it
    /// is a dead letter in the log, with its bytes. It comes up when a later codec can read it.
    fn note_undecodable(&self, seq: u64, error: &StoreError) {
        if let Some(cursor) = self.cursor() {
            cursor.letter(NewLetter {
                seq,
                attempts: 0,
                time_ms: unix_ms(),
                reason: DeadReason::Rejected.number(),
                error: error.to_string().into(),
            });
        }
        let kind = EventKind::Undecodable {
            error: error.to_string().into(),
        };
        let subject = Subject::of(&self.name).message(MessageId::new(seq));
        self.topic.tell_of(subject, kind);
    }
}

/// Takes the next messages, with which a subscription has done the same before. One that it has tried
/// goes alone, with its count.
fn take_alike<T>(
    each: &mut Peekable<impl Iterator<Item = ReadMessage<T>>>,
    past: &Past,
) -> (Vec<ReadMessage<T>>, Earlier) {
    let of = |(message, _): &ReadMessage<T>| past.of(message.stamp.id.get());
    let earlier = each.peek().map_or(Earlier::NOTHING, of);
    let most = if earlier.tried > 0 { 1 } else { BATCH };
    let mut some = Vec::new();
    while some.len() < most
        && let Some(next) = each.next_if(|next| of(next) == earlier)
    {
        some.push(next);
    }
    (some, earlier)
}

impl<T> Feeder<T> {
    /// Lets go of what was read.
    fn discard(&mut self) {
        self.reader = None;
        let held: VecDeque<_> = std::mem::take(&mut self.held);
        drop(held);
    }
}
