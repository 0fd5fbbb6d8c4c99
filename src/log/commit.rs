//! Group commit: many threads have records, one of them writes the frame.
//!
//! The *open group* collects records. A thread that waits for its group *leads* if nobody does. It
//! takes the open group, writes it as one frame, and syncs it if a record asks for that. It calls
//! the hooks, and says that the group is finished. Meanwhile the next group fills. Steps, all under the
//! lock of `pending` but the writing and the telling:
//!
//! - *submit*: add the record and the hook to the open group, whose number is the ticket.
//! - *wait*: look whether the ticket's group is finished. If it isn't, and nobody leads, lead. If
//!   somebody does, leave a slot with the group, and sleep until the slot says what to do.
//! - *lead*: take the open group. Without the lock, write it and call its hooks. Finish it, and tell
//!   its slots. Then hand over.
//! - *hand over*: tell one slot of the open group to lead. If there is none, nobody leads.
//!
//! The feared interleavings: a group that nobody leads, because its last waiting thread went to
//! sleep while the leader finished. It can't be, because a thread leaves its slot only while
//! somebody leads, and that one looks at the slots before it stops. So nobody sleeps while nobody
//! leads, whether the log has failed, closes, or goes on. And a hook that runs before an earlier
//! group's. It can't be, because one thread leads at a time, and it calls the hooks before it stops.
//!
//! The slots of a group are told before the next group is taken. So the threads that were woken are
//! back in time for it, and the groups stay large.
//!
//! Records for which nobody waits have the *flusher*, a thread that leads when they are due.

mod group;

#[cfg(feature = "async")]
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::log::commit::group::Group;
use crate::log::cursor::Cursor;
#[cfg(feature = "async")]
use crate::log::waiters::task::Watch;
use crate::log::waiters::{Ticket, Told, Waiting, Written};
use crate::log::writer::{Shared, Writer};
use crate::pure::log::format::frame::{FULL_FRAME, FrameBuffer};
use crate::pure::log::retention::{Limits, Memory};
use crate::pure::log::step;
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, unix_ms};
use crate::types::error::store::StoreError;

/// How long the ends of deliveries wait for a frame that others have to write.
const ACK_LINGER: Duration = Duration::from_millis(10);

/// The size up to which the memory of a group's frame is kept for the next.
const KEPT_BUFFER: usize = 1 << 20;

/// Called when a group is finished, with its result.
pub(crate) type Hook = Box<dyn FnOnce(&Result<(), StoreError>) + Send>;

/// When a record must be written if nobody waits for it.
#[derive(Clone, Copy)]
pub(crate) enum Due {
    /// Its submitter waits, or another's hook does it.
    Waits,
    Now,
    /// Now, and its submitter must not block. It has asked for room.
    #[cfg(feature = "async")]
    Awaited,
}

/// The log of a store, as many threads use it.
pub(crate) struct Log {
    pending: Mutex<Pending>,
    /// For the flusher.
    due: Condvar,
    writer: Mutex<Writer>,
    /// How long records may wait for a sync that none of them asks for.
    sync_every: Option<Duration>,
    pub(crate) shared: Arc<Shared>,
}

struct Pending {
    open: Group,
    /// Whether somebody leads, or is told to.
    leads: bool,
    /// The number of the last group that is finished.
    finished: u64,
    /// The number of the last group that had no room for all that its cursors had to say. The next
    /// one has the rest.
    overfull: u64,
    waiting: Waiting,
    failed: Option<Failed>,
    /// Whether something was written that is not synced.
    is_unsynced: bool,
    /// When it must be synced at the latest.
    sync_at: Option<Instant>,
    /// Whether the flusher waits until nobody leads.
    flusher_waits: bool,
    is_closing: bool,
    spare: Option<FrameBuffer>,
}

/// The end of a log that takes no more records.
struct Failed {
    /// The number of the first group that was not written.
    from: u64,
    error: StoreError,
}

impl Log {
    pub(crate) fn new(writer: Writer, sync_every: Option<Duration>) -> Self {
        Self {
            shared: writer.shared(),
            writer: Mutex::new(writer),
            sync_every,
            pending: Mutex::new(Pending {
                open: Group::new(1, FrameBuffer::new()),
                leads: false,
                finished: 0,
                overfull: 0,
                waiting: Waiting::default(),
                failed: None,
                is_unsynced: false,
                sync_at: None,
                flusher_waits: false,
                is_closing: false,
                spare: None,
            }),
            due: Condvar::new(),
        }
    }

    /// Adds records to the open group. `put` writes them. The hook is called when the group is
    /// finished, on whatever thread leads it, and before any hook of a later group. It must not
    /// submit, nor wait for a group: the next one waits for it.
    ///
    /// It waits while the open group is full, unless its submitter must not block.
    ///
    /// # Errors
    ///
    /// Hands the hook back if the store has failed or was closed.
    pub(crate) fn submit(
        &self,
        syncs: bool,
        due: Due,
        put: impl FnOnce(&mut FrameBuffer),
        hook: Option<Hook>,
    ) -> Result<Ticket, (StoreError, Option<Hook>)> {
        let mut pending = self.pending.lock();
        while pending.is_full() && matches!(due, Due::Waits | Due::Now) {
            let full = Ticket(pending.open.number);
            // Whether it was written or refused, this one goes into another.
            let _ = self.join(pending, full);
            pending = self.pending.lock();
        }
        if let Some(failed) = &pending.failed {
            return Err((failed.error.clone(), hook));
        }
        let open = &mut pending.open;
        put(&mut open.frame);
        open.syncs |= syncs;
        open.hooks.extend(hook);
        let ticket = Ticket(open.number);
        let until = match due {
            Due::Waits => None,
            _ => Some(Instant::now()),
        };
        if until.is_some_and(|until| open.hasten(until)) && !pending.leads {
            // If somebody leads, it notifies when it stops.
            self.due.notify_one();
        }
        Ok(ticket)
    }

    /// Has a cursor that has moved say so in the next frame, which is written soon. Returns `false`
    /// if there is none, because the store has failed or was closed.
    pub(crate) fn ride(&self, cursor: Arc<Cursor>) -> bool {
        let mut pending = self.pending.lock();
        if pending.failed.is_some() {
            return false;
        }
        pending.open.riders.push(cursor);
        let until = Instant::now().checked_add(ACK_LINGER);
        if until.is_some_and(|until| pending.open.hasten(until)) && !pending.leads {
            self.due.notify_one();
        }
        true
    }

    /// Writes all that was submitted so far, and syncs it.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.finish(true)
    }

    /// Writes all that was submitted so far, and all that cursors have to say.
    pub(crate) fn write_out(&self) -> Result<(), StoreError> {
        self.finish(false)
    }

    /// Returns when the open group is finished, and those that have the rest of it.
    fn finish(&self, syncs: bool) -> Result<(), StoreError> {
        let mut pending = self.pending.lock();
        loop {
            pending.open.syncs |= syncs;
            let open = Ticket(pending.open.number);
            let written = self.join(pending, open);
            pending = self.pending.lock();
            if written.is_err() || pending.overfull < open.0 {
                return written;
            }
        }
    }

    /// Returns when the group is finished, with its result. The calling thread may write it.
    pub(crate) fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.join(self.pending.lock(), ticket)
    }

    /// Returns the result of the group if it is finished. Otherwise it wakes the task when it is.
    #[cfg(feature = "async")]
    pub(crate) fn poll(
        &self,
        watch: &mut Watch,
        context: &Context<'_>,
    ) -> Poll<Result<(), StoreError>> {
        if let Some(slot) = &watch.slot {
            return slot.poll(context);
        }
        let ticket = watch.ticket;
        let waker = context.waker().clone();
        let mut pending = self.pending.lock();
        if pending.finished >= ticket.0 {
            return Poll::Ready(pending.result(ticket));
        }
        let waiters = pending.waiting.of(ticket.0);
        watch.slot = Some(waiters.add_task(waker));
        Poll::Pending
    }

    /// Waits until the awaited group is finished, and then until the open one has room. There may be
    /// less of it when the caller submits. So a group may get larger, by as much as the threads that
    /// poll have.
    #[cfg(feature = "async")]
    pub(crate) fn poll_room(&self, awaited: &mut Option<Watch>, context: &Context<'_>) -> Poll<()> {
        loop {
            if let Some(watch) = awaited {
                // A submit reports the failure.
                let _ = ready!(self.poll(watch, context));
                *awaited = None;
            }
            let mut pending = self.pending.lock();
            if !pending.is_full() {
                return Poll::Ready(());
            }
            if pending.open.hasten(Instant::now()) && !pending.leads {
                self.due.notify_one();
            }
            *awaited = Some(Watch::new(Ticket(pending.open.number)));
        }
    }

    /// Leads, or waits until the ticket's group is finished. Returns its result.
    fn join<'a>(&'a self, mut pending: MutexGuard<'a, Pending>, ticket: Ticket) -> Written {
        if pending.finished >= ticket.0 {
            return pending.result(ticket);
        }
        if !pending.leads {
            // Nobody writes, so the group that is not finished is the open one.
            return self.lead(pending);
        }
        step!("look and sleep at once", {}, {
            drop(pending);
            pending = self.pending.lock();
        });
        let sleeper = pending.waiting.of(ticket.0).add_sleeper();
        drop(pending);
        match sleeper.wait() {
            Told::Finished(result) => result,
            Told::Leads => self.lead(self.pending.lock()),
        }
    }

    /// Writes the open group, and finishes it. Returns its result.
    fn lead(&self, mut pending: MutexGuard<'_, Pending>) -> Written {
        pending.leads = true;
        let number = pending.open.number;
        let frame = pending.spare.take().unwrap_or_else(FrameBuffer::new);
        let next = Group::new(number + 1, frame);
        let mut group = std::mem::replace(&mut pending.open, next);
        drop(pending);

        let result = self.write(&mut group);
        for hook in group.hooks.drain(..) {
            hook(&result);
        }
        let mut pending = self.pending.lock();
        pending.finished = number;
        if !group.riders.is_empty() {
            pending.overfull = number;
            pending.open.riders.append(&mut group.riders);
            pending.open.hasten(Instant::now());
        }
        match result {
            Ok(()) if group.syncs => pending.is_synced(),
            Ok(()) if group.frame.is_empty() => {}
            Ok(()) => self.is_unsynced(&mut pending),
            Err(error) => pending.fail(number, error),
        }
        let result = pending.result(Ticket(number));
        if group.frame.len() <= KEPT_BUFFER {
            group.frame.clear();
            pending.spare = Some(group.frame);
        }
        let mut waiters = std::mem::take(pending.waiting.of(number));
        drop(pending);
        waiters.finish(&result);

        let mut pending = self.pending.lock();
        if group.syncs && pending.open.is_empty() && pending.failed.is_none() {
            // The log may rest here for a while, and somebody has to vouch for its end.
            drop(pending);
            let vouched = self.writer.lock().vouch();
            pending = self.pending.lock();
            if let Err(error) = vouched {
                pending.fail(number + 1, error);
            }
        }
        self.hand_over(pending);
        result
    }

    /// Writes a group, as a leader.
    fn write(&self, group: &mut Group) -> Written {
        let mut writer = self.writer.lock();
        group.riders.retain(|rider| rider.put(&mut group.frame));
        if group.frame.is_empty() {
            return match group.syncs {
                true => step!("sync without records", writer.sync(), Ok(())),
                false => Ok(()),
            };
        }
        let syncs = step!("sync, then tell", group.syncs, false);
        step!("write, then tell", {}, {
            group.hooks.drain(..).for_each(|hook| hook(&Ok(())));
        });
        writer.write(&mut group.frame, syncs, unix_ms())
    }

    /// Notes that something was written without a sync.
    fn is_unsynced(&self, pending: &mut Pending) {
        pending.is_unsynced = true;
        if pending.sync_at.is_none()
            && let Some(every) = self.sync_every
        {
            pending.sync_at = Instant::now().checked_add(every);
            self.due.notify_one();
        }
    }

    /// Stops leading. Tells somebody who waits for the open group to lead it.
    fn hand_over(&self, mut pending: MutexGuard<'_, Pending>) {
        let open = pending.open.number;
        let next = pending.waiting.of(open).take_sleeper();
        pending.leads = next.is_some();
        if let Some(next) = next {
            drop(pending);
            step!("tell the next leader", next.tell(Told::Leads));
        } else if pending.open.due.is_some() || pending.flusher_waits {
            step!("wake the flusher", self.due.notify_one());
        }
    }

    /// Leads whenever records are due for which nobody waits. Syncs now and then what was written
    /// without a sync. Returns when the store is closed or has failed.
    pub(crate) fn flush_when_due(&self) {
        let mut pending = self.pending.lock();
        loop {
            let now = Instant::now();
            let syncs = pending.sync_at.is_some_and(|at| at <= now);
            if pending.leads {
                if syncs {
                    // Others may lead one after the other. The next one does it.
                    pending.sync_at = None;
                    pending.open.syncs = true;
                    pending.open.hasten(now);
                }
                pending.flusher_waits = true;
                let until = pending.sync_at;
                self.due.wait(&mut pending, until);
                pending.flusher_waits = false;
                continue;
            }
            let ends = pending.is_closing || pending.failed.is_some();
            let is_due = pending.open.due.is_some_and(|due| due <= now);
            if is_due || (ends && pending.open.due.is_some()) {
                // Whoever submitted the records hears of it.
                let _ = self.lead(pending);
                pending = self.pending.lock();
                continue;
            }
            if ends {
                let closes = pending.is_closing;
                drop(pending);
                if closes {
                    self.close();
                }
                return;
            }
            if syncs {
                self.sync(pending);
                pending = self.pending.lock();
                continue;
            }
            let until = [pending.open.due, pending.sync_at];
            let until = until.into_iter().flatten().min();
            self.due.wait(&mut pending, until);
        }
    }

    /// Syncs what was written, as a leader.
    fn sync(&self, mut pending: MutexGuard<'_, Pending>) {
        pending.leads = true;
        drop(pending);
        let mut writer = self.writer.lock();
        let synced = writer.sync().and_then(|()| writer.vouch());
        drop(writer);
        let mut pending = self.pending.lock();
        pending.is_synced();
        if let Err(error) = synced {
            let open = pending.open.number;
            pending.fail(open, error);
        }
        self.hand_over(pending);
    }

    /// Writes and syncs all there is, and refuses everything from then on.
    pub(crate) fn close(&self) {
        let mut pending = self.pending.lock();
        pending.is_closing = true;
        self.due.notify_one();
        loop {
            let has_records = !pending.open.is_empty() || pending.open.due.is_some();
            if pending.leads || has_records {
                let open = Ticket(pending.open.number);
                // Whoever submitted the records hears of it.
                let _ = self.join(pending, open);
            } else if pending.is_unsynced && pending.failed.is_none() {
                self.sync(pending);
            } else {
                break;
            }
            pending = self.pending.lock();
        }
        let open = pending.open.number;
        pending.fail(open, StoreError::Closed);
        drop(pending);
        self.writer.lock().close();
    }

    /// Lets the flusher close: for one of its hooks, which must not wait for a group.
    pub(crate) fn close_soon(&self) {
        self.pending.lock().is_closing = true;
        self.due.notify_one();
    }

    /// Sets how much of a topic is kept.
    pub(crate) fn limit(&self, topic: u32, limits: Limits) {
        self.writer.lock().limit(topic, limits);
    }

    /// Sets how many dedup ids of a topic are kept, and for how long.
    pub(crate) fn remember(&self, topic: u32, memory: Memory) {
        self.writer.lock().remember(topic, memory);
    }

    /// Returns the reason why the store refuses everything, if it does.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        let pending = self.pending.lock();
        pending.failed.as_ref().map(|failed| failed.error.clone())
    }
}

impl Pending {
    /// Whether records have to wait for the next group.
    fn is_full(&self) -> bool {
        self.open.frame.len() >= FULL_FRAME && self.failed.is_none()
    }

    fn is_synced(&mut self) {
        self.is_unsynced = false;
        self.sync_at = None;
    }

    /// Refuses the groups from this one on, unless they are refused already.
    fn fail(&mut self, from: u64, error: StoreError) {
        self.failed.get_or_insert(Failed { from, error });
    }

    /// Returns the result of a group that is finished.
    fn result(&self, ticket: Ticket) -> Result<(), StoreError> {
        match &self.failed {
            Some(failed) if failed.from <= ticket.0 => Err(failed.error.clone()),
            _ => Ok(()),
        }
    }
}
