//! Delayed messages of durable topics.
//!
//! Such a message is in the log twice: when it is accepted, with the time when it is due, and when it
//! is published. In between it waits on the timer wheel, and holds its ticket. Steps:
//!
//! - *accept*: as any message of the topic, but with a record of its own, in which it gets the number
//!   of its receipt. The hook of its group sets the timer.
//! - *note*: the timer has come. The message moves from the wheel to the line of those that are due,
//!   under one lock, and the task that publishes them is notified.
//! - *publish*: the task takes the line, in the order of the timers. One frame ends the delay of each
//!   and publishes it. From the hook of its group it enters the queue. The task writes the bytes that
//!   the log has kept, so no codec runs.
//! - *cancel*: whoever takes the timer back takes the message. It waits until the log says so.
//!
//! The feared interleavings. A message is cancelled and published. It can't be, because only one of
//! the two gets it off the wheel, and writes a record. Two messages are published in another order
//! than they were due. They can't be, because one thread at a time runs the task. A message that is
//! due is lost at a stop. It isn't, because the task leaves it in the line, from which the
//! dispatcher drops it. The log has it still.
//!
//! No payload is dropped in a hook, because dropping one runs the user's code, and the writer of the
//! log is locked. A worker does that.

use std::time::Duration;

use crate::engine::base::clock::Clock;
use crate::engine::base::contain::discard;
use crate::engine::journal::submitted::Job;
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::parts::delayed::Delayed;
use crate::engine::runtime::pool::{Task, Worker};
use crate::engine::state::topic::TopicCore;
use crate::log::commit::{Due, Hook};
use crate::message::MessageId;
use crate::message::batch::{Accepted, BATCH, QueueEntry, Stamp};
use crate::observe::event::{DropCause, EventKind, Subject};
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::record::Record;
use crate::pure::wheel::TimerKey;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, unix_ms};
use crate::types::duration::nanos;

/// The size of messages from which on the next that is due goes in another group.
const FULL: usize = 1 << 20;

const NS_PER_MS: u64 = 1_000_000;

/// When a message is due: by the wall clock, the timer, and the clock of latencies.
#[derive(Clone, Copy)]
pub(crate) struct Late {
    pub(crate) due_ms: u64,
    timer_ns: u64,
    accepted_ns: u64,
}

impl Late {
    /// Returns when a message is due that has this delay, if it has one.
    pub(crate) fn by(delay: Duration, clock: &Clock) -> Option<Self> {
        if delay.is_zero() {
            return None;
        }
        let delay_ns = nanos(delay);
        // The wall clock was read to the millisecond below, and the message is never early.
        let delay_ms = delay_ns.div_ceil(NS_PER_MS).saturating_add(1);
        Some(Self {
            due_ms: unix_ms().saturating_add(delay_ms),
            timer_ns: clock.timer_ns().saturating_add(delay_ns),
            accepted_ns: clock.now_ns().saturating_add(delay_ns),
        })
    }
}

/// Messages that are due, on their way to the log.
struct DueJob<T> {
    messages: Mutex<Vec<Box<Delayed<T>>>>,
    /// The number of the first, once it has one.
    first: AtomicU64,
}

/// The task that publishes what is due, on the ready queue.
struct DueTask<T>(Arc<TopicCore<T>>);

impl<T: Send + Sync + 'static> Task for DueTask<T> {
    fn run(self: Arc<Self>, _: &mut Worker<'_>) {
        let Some(stored) = self.0.stored() else {
            return;
        };
        if !stored.due_task.start() {
            return;
        }
        let more = self.0.publish_some_due(stored);
        if stored.due_task.rest(more) == Then::Enqueue {
            let pool = &self.0.engine.pool;
            pool.submit(Arc::new(Self(Arc::clone(&self.0))));
        }
    }
}

/// Messages that the log has refused, for a worker to drop.
struct Leftovers<T>(Mutex<Vec<Box<Delayed<T>>>>);

impl<T: Send + Sync + 'static> Task for Leftovers<T> {
    fn run(self: Arc<Self>, _: &mut Worker<'_>) {
        let refused = std::mem::take(&mut *self.0.lock());
        refused.into_iter().for_each(discard);
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Sets the timer of a delayed message that has reached the topic's level.
    pub(crate) fn arm_stored(self: &Arc<Self>, job: &Job<T>, late: Late) {
        let Some(chunk) = job.chunk.lock().take() else {
            return;
        };
        let id = job.first.load(Ordering::Relaxed);
        self.settle_claims(&chunk, Some(id));
        let accepted_ns = late.accepted_ns;
        for (payload, meta) in chunk.into_each() {
            let id = MessageId::new(id);
            let stamp = Stamp { id, accepted_ns };
            let entry = Delayed {
                message: Accepted { stamp, payload },
                meta,
                timer: TimerKey::NONE,
                route: None,
            };
            let delay_ns = late.timer_ns.saturating_sub(self.engine.clock.timer_ns());
            self.park(Box::new(entry), delay_ns);
        }
    }

    /// Notes that the message with this tag is due.
    pub(crate) fn note_due(self: &Arc<Self>, stored: &TopicLog<T>, tag: u32) {
        let mut delayed = self.delayed().lock();
        let Some(due) = delayed.take(tag) else {
            return;
        };
        delayed.due.push_back(due);
        drop(delayed);
        self.books.delayed.sub(1);
        self.notify_due(stored);
    }

    fn notify_due(self: &Arc<Self>, stored: &TopicLog<T>) {
        if stored.due_task.notify() == Then::Enqueue {
            let task = Arc::new(DueTask(Arc::clone(self)));
            self.engine.pool.submit(task);
        }
    }

    /// Publishes messages that are due, in the log. Returns whether there may be more.
    fn publish_some_due(self: &Arc<Self>, stored: &TopicLog<T>) -> bool {
        if self.has_stopped() {
            self.schedule();
            return false;
        }
        let some: Vec<_> = {
            let due = &mut self.delayed().lock().due;
            let count = due.len().min(BATCH);
            due.drain(..count).collect()
        };
        let more = some.len() == BATCH;
        let bytes = stored.bytes_of(some.iter().map(|due| due.message.stamp.id.get()));
        let (mut size, mut messages, mut records) = (0, Vec::new(), Vec::new());
        for (due, bytes) in some.into_iter().zip(bytes) {
            if size >= FULL {
                self.submit_due(stored, &mut messages, &mut records);
                size = 0;
            }
            size += bytes.len();
            records.push((due.message.stamp.id.get(), bytes));
            messages.push(due);
        }
        self.submit_due(stored, &mut messages, &mut records);
        more
    }

    /// Submits messages that are due, with their records, and leaves none.
    fn submit_due(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        messages: &mut Vec<Box<Delayed<T>>>,
        records: &mut Vec<(u64, Box<[u8]>)>,
    ) {
        if messages.is_empty() {
            return;
        }
        let job = Arc::new(DueJob {
            messages: Mutex::new(std::mem::take(messages)),
            first: AtomicU64::new(0),
        });
        let records = std::mem::take(records);
        let put = |frame: &mut _| {
            let first = stored.put_due(&records, frame);
            // ORDERING: relaxed, because the lock of the log's groups publishes it.
            job.first.store(first, Ordering::Relaxed);
        };
        let hook: Hook = {
            let (topic, job) = (Arc::clone(self), Arc::clone(&job));
            Box::new(move |result| match result {
                Ok(()) => topic.take_in_due(&job),
                Err(_) => topic.refuse_due(&job),
            })
        };
        let submitted = stored
            .log()
            .submit(stored.syncs(), Due::Now, put, Some(hook));
        match submitted {
            // Nobody else would do anything meanwhile, and a run ends when nothing is left to do.
            Ok(ticket) if self.engine.is_manual() => drop(stored.log().wait(ticket)),
            Ok(_) => {}
            Err(_) => self.refuse_due(&job),
        }
    }

    /// Lets messages into the queue that were due, and are published in the log.
    fn take_in_due(self: &Arc<Self>, job: &DueJob<T>) {
        let messages = std::mem::take(&mut *job.messages.lock());
        let first = job.first.load(Ordering::Relaxed);
        if let Some(stored) = self.stored() {
            stored.show_before(first + messages.len() as u64);
        }
        for (seq, due) in (first..).zip(messages) {
            let Delayed {
                mut message, meta, ..
            } = *due;
            let id = MessageId::new(seq);
            message.stamp.id = id;
            if self.bus().observed() {
                self.tell_enqueued(std::iter::once(id), message.stamp.accepted_ns);
            }
            self.enqueue(QueueEntry::One(message, meta), 0, None);
        }
        // The dispatcher may wait for higher numbers than these tickets have.
        self.schedule();
    }

    /// Drops and counts messages that the log has refused to publish. It has them still, if nothing
    /// else.
    fn refuse_due(&self, job: &DueJob<T>) {
        let refused = std::mem::take(&mut *job.messages.lock());
        for due in &refused {
            let (id, meta) = (due.message.stamp.id, due.meta.as_deref());
            self.drop_delayed_one(id, meta, DropCause::NotStored);
        }
        let task = Leftovers(Mutex::new(refused));
        self.engine.pool.submit(Arc::new(task));
    }

    /// Puts the messages back onto the timer wheel that an earlier process has left, when the topic
    /// is open. Overdue messages are due at once, in the order of their times.
    ///
    /// They take tickets beyond the capacity, if there are more. One that can't be decoded stays in
    /// the log.
    pub(crate) fn restore_delayed(self: &Arc<Self>) {
        let Some(stored) = self.stored() else {
            return;
        };
        let now_ns = self.engine.clock.now_ns();
        let mut restored = Vec::new();
        for (id, due_ms, bytes) in stored.delayed_left() {
            let id = MessageId::new(id);
            let (payload, meta) = match stored.decode(&bytes) {
                Ok(decoded) => decoded,
                Err(error) => {
                    let error = error.to_string().into();
                    let kind = EventKind::Undecodable { error };
                    self.tell_of(Subject::default().message(id), kind);
                    continue;
                }
            };
            let mut meta = self.weigh(&payload, meta).unwrap_or_default();
            meta.is_logged = true;
            let (route, timer) = (None, TimerKey::NONE);
            let stamp = Stamp {
                id,
                accepted_ns: now_ns,
            };
            let message = Accepted { stamp, payload };
            let meta = Some(meta);
            let entry = Delayed {
                message,
                meta,
                timer,
                route,
            };
            restored.push((due_ms, Box::new(entry)));
        }
        let count = restored.len() as u64;
        if count == 0 || self.at_gate(|gate| gate.admit(count, u64::MAX)).is_err() {
            // After a close they stay in the log, for the next time.
            return;
        }
        self.load_restored(&mut restored);
        let now_ms = unix_ms();
        for (due_ms, mut entry) in restored {
            let delay_ms = due_ms.saturating_sub(now_ms);
            let delay_ns = delay_ms.saturating_mul(NS_PER_MS);
            entry.message.stamp.accepted_ns = now_ns.saturating_add(delay_ns);
            if delay_ms == 0 {
                self.delayed().lock().due.push_back(entry);
                self.notify_due(stored);
            } else {
                self.park(entry, delay_ns);
            }
        }
    }

    /// Adds the weight of restored messages, whether there is room for it or not.
    fn load_restored(&self, restored: &mut [(u64, Box<Delayed<T>>)]) {
        let Some(weights) = &self.weights else {
            return;
        };
        let mut load = weights.load();
        let limit = load.limit();
        for (_, entry) in restored {
            if let Some(weight) = entry.meta.as_mut().and_then(|meta| meta.weight.as_mut()) {
                // The limit may be lower than it was.
                *weight = limit.min(*weight);
                load.add(*weight);
            }
        }
    }
}

impl<T: Send + Sync + 'static> TopicLog<T> {
    /// Returns the bytes of delayed messages.
    fn bytes_of(&self, ids: impl Iterator<Item = u64>) -> Vec<Box<[u8]>> {
        self.look(|topic| {
            let find = |id| topic.delayed.get(&id);
            let each = ids.map(|id| find(id).expect("it is there until its end is written"));
            each.map(|one| one.message.clone()).collect()
        })
    }

    /// Returns the delayed messages that the log has: their numbers, when they are due, and their
    /// bytes. The first one that is due comes first.
    fn delayed_left(&self) -> Vec<(u64, u64, Box<[u8]>)> {
        let mut left: Vec<_> = self.look(|topic| {
            let each = topic.delayed.iter();
            each.map(|(id, one)| (*id, one.due_ms, one.message.clone()))
                .collect()
        });
        left.sort_by_key(|(id, due_ms, _)| (*due_ms, *id));
        left
    }

    /// Cancels a delayed message in the log. Returns whether that has reached the topic's level.
    pub(crate) fn end_delay(&self, id: u64) -> bool {
        let (topic, seq) = (self.topic, 0);
        let put = |frame: &mut FrameBuffer| {
            Record::DelayedGone { topic, id, seq }.put(frame.record());
        };
        let submitted = self.log().submit(self.syncs(), Due::Waits, put, None);
        submitted.is_ok_and(|ticket| self.log().wait(ticket).is_ok())
    }
}
