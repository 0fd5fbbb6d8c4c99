//! Group commit: many threads have records, one of them writes the frame.
//!
//! The *open group* collects records. A thread that waits for its group *leads* if nobody does. It
//! takes the open group, writes it as one frame, and syncs it if a record asks for that. It calls
//! the hooks, and says that the group is finished. Meanwhile the next group fills. Steps, all under the
//! lock of `pending` but the writing itself:
//!
//! - *submit*: add the record and the hook to the open group, whose number is the ticket.
//! - *wait*: until the ticket's group is finished; or lead, if nobody does.
//! - *lead*: take the open group. Without the lock, write it and call its hooks. Finish it, wake its
//!   threads, and wake one of the next group to lead.
//!
//! The feared interleavings: a group that nobody leads, because its last waiting thread went to
//! sleep while the leader finished. It can't be, because a thread goes to sleep only while somebody
//! leads, and that one looks at the next group before it stops. And a hook that runs before an
//! earlier group's. It can't be, because one thread leads at a time, and it calls the hooks before
//! it stops.
//!
//! Records for which nobody waits have the *flusher*, a thread that leads when they are due.

#[cfg(feature = "async")]
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::log::cursor::Cursor;
use crate::log::writer::{Shared, Writer};
use crate::pure::log::format::frame::{FULL_FRAME, FrameBuffer};
use crate::pure::log::retention::{Limits, Memory};
use crate::pure::log::step;
#[cfg(feature = "async")]
use crate::sync::catch_panic;
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
}

/// The group that a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// The log of a store, as many threads use it.
pub(crate) struct Log {
    pending: Mutex<Pending>,
    /// For the waiters of groups with even and odd numbers. Only two groups have waiters.
    finished: [Condvar; 2],
    /// For the flusher.
    due: Condvar,
    writer: Mutex<Writer>,
    /// How long records may wait for a sync that none of them asks for.
    sync_every: Option<Duration>,
    pub(crate) shared: Arc<Shared>,
}

struct Pending {
    open: Group,
    leads: bool,
    /// The number of the last group that is finished.
    finished: u64,
    /// The number of the last group that had no room for all that its cursors had to say. The next
    /// one has the rest.
    overfull: u64,
    /// Threads that wait for the group that is being written and for the open one, by parity.
    waiting: [usize; 2],
    failed: Option<Failed>,
    /// Whether something was written that is not synced.
    is_unsynced: bool,
    /// Whether the flusher waits until nobody leads.
    flusher_waits: bool,
    is_closing: bool,
    spare: Option<FrameBuffer>,
    /// Tasks that wait, by the groups that they wait for.
    #[cfg(feature = "async")]
    wakers: Vec<(u64, Waker)>,
}

/// The end of a log that takes no more records.
struct Failed {
    /// The number of the first group that was not written.
    from: u64,
    error: StoreError,
}

struct Group {
    number: u64,
    frame: FrameBuffer,
    syncs: bool,
    hooks: Vec<Hook>,
    /// Cursors that have moved, and say how far when the group is written.
    riders: Vec<Arc<Cursor>>,
    due: Option<Instant>,
}

impl Group {
    fn new(number: u64, frame: FrameBuffer) -> Self {
        Self {
            number,
            frame,
            syncs: false,
            hooks: Vec::new(),
            riders: Vec::new(),
            due: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.frame.is_empty() && self.riders.is_empty()
    }

    /// Has it written by then. Returns whether that is earlier than before.
    fn hasten(&mut self, until: Instant) -> bool {
        let hastens = self.due.is_none_or(|due| until < due);
        if hastens {
            self.due = Some(until);
        }
        hastens
    }
}

fn parity(group: u64) -> usize {
    (group % 2) as usize
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
                waiting: [0, 0],
                failed: None,
                is_unsynced: false,
                flusher_waits: false,
                is_closing: false,
                spare: None,
                #[cfg(feature = "async")]
                wakers: Vec::new(),
            }),
            finished: [Condvar::new(), Condvar::new()],
            due: Condvar::new(),
        }
    }

    /// Adds records to the open group. `put` writes them. The hook is called when the group is
    /// finished, on whatever thread leads it, and before any hook of a later group. It must not
    /// submit, nor wait for a group: the next one waits for it.
    ///
    /// It waits while a full group is being written.
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
        while pending.open.frame.len() >= FULL_FRAME && pending.failed.is_none() {
            let full = Ticket(pending.open.number);
            pending = self.step(pending, full);
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
            Due::Now => Some(Instant::now()),
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
        let mut pending = self.pending.lock();
        pending.open.syncs = true;
        self.finish(pending)
    }

    /// Writes all that was submitted so far, and all that cursors have to say.
    pub(crate) fn write_out(&self) -> Result<(), StoreError> {
        self.finish(self.pending.lock())
    }

    /// Returns when the open group is finished, and those that have the rest of it.
    fn finish<'a>(&'a self, mut pending: MutexGuard<'a, Pending>) -> Result<(), StoreError> {
        let mut open = Ticket(pending.open.number);
        loop {
            while pending.finished < open.0 {
                pending = self.step(pending, open);
            }
            if pending.overfull < open.0 {
                return pending.result(open);
            }
            open = Ticket(pending.overfull + 1);
        }
    }

    /// Returns when the group is finished, with its result. The calling thread may write it.
    pub(crate) fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        let mut pending = self.pending.lock();
        while pending.finished < ticket.0 {
            pending = self.step(pending, ticket);
        }
        pending.result(ticket)
    }

    /// Returns the result of the group if it is finished. Otherwise it wakes the task when it is.
    #[cfg(feature = "async")]
    pub(crate) fn poll(
        &self,
        ticket: Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), StoreError>> {
        let mut pending = self.pending.lock();
        if pending.finished >= ticket.0 {
            return Poll::Ready(pending.result(ticket));
        }
        let waker = context.waker().clone();
        pending.wakers.push((ticket.0, waker));
        Poll::Pending
    }

    /// Leads, or waits until the ticket's group may be finished.
    fn step<'a>(
        &'a self,
        mut pending: MutexGuard<'a, Pending>,
        ticket: Ticket,
    ) -> MutexGuard<'a, Pending> {
        if !pending.leads {
            return self.lead(pending);
        }
        let parity = parity(ticket.0);
        pending.waiting[parity] += 1;
        self.finished[parity].wait(&mut pending, None);
        pending.waiting[parity] -= 1;
        pending
    }

    /// Writes the open group, and finishes it.
    fn lead<'a>(&'a self, mut pending: MutexGuard<'a, Pending>) -> MutexGuard<'a, Pending> {
        pending.leads = true;
        let number = pending.open.number;
        let frame = pending.spare.take().unwrap_or_else(FrameBuffer::new);
        let next = Group::new(number + 1, frame);
        let mut group = std::mem::replace(&mut pending.open, next);
        drop(pending);

        let mut writer = self.writer.lock();
        group.riders.retain(|rider| rider.put(&mut group.frame));
        let is_empty = group.frame.is_empty();
        let result = match is_empty {
            true if group.syncs => step!("sync without records", writer.sync(), Ok(())),
            true => Ok(()),
            false => {
                let syncs = step!("sync, then tell", group.syncs, false);
                step!("write, then tell", {}, {
                    group.hooks.drain(..).for_each(|hook| hook(&Ok(())));
                });
                writer.write(&mut group.frame, syncs, unix_ms())
            }
        };
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
            Ok(()) if group.syncs => pending.is_unsynced = false,
            Ok(()) => pending.is_unsynced |= !is_empty,
            Err(error) => pending.fail(number, error),
        }
        self.finished[parity(number)].notify_all();
        pending = self.wake_tasks(pending);
        if group.frame.len() <= KEPT_BUFFER {
            group.frame.clear();
            pending.spare = Some(group.frame);
        }
        if group.syncs && pending.open.is_empty() && pending.failed.is_none() {
            // The log may rest here for a while, and somebody has to vouch for its end.
            drop(pending);
            let vouched = writer.vouch();
            pending = self.pending.lock();
            if let Err(error) = vouched {
                pending.fail(number + 1, error);
            }
        }
        drop(writer);
        self.hand_over(pending)
    }

    /// Wakes the tasks that wait for finished groups.
    #[cfg(feature = "async")]
    fn wake_tasks<'a>(&'a self, mut pending: MutexGuard<'a, Pending>) -> MutexGuard<'a, Pending> {
        let finished = pending.finished;
        let done = |entry: &mut (u64, Waker)| entry.0 <= finished;
        let woken: Vec<_> = pending.wakers.extract_if(.., done).collect();
        if woken.is_empty() {
            return pending;
        }
        // A waker is the user's.
        drop(pending);
        for (_, waker) in woken {
            // The panic hook has reported it.
            let _ = catch_panic(|| waker.wake());
        }
        self.pending.lock()
    }

    #[cfg(not(feature = "async"))]
    fn wake_tasks<'a>(&'a self, pending: MutexGuard<'a, Pending>) -> MutexGuard<'a, Pending> {
        pending
    }

    /// Stops leading. Wakes whoever may lead the next group.
    fn hand_over<'a>(&'a self, mut pending: MutexGuard<'a, Pending>) -> MutexGuard<'a, Pending> {
        pending.leads = false;
        let parity = parity(pending.open.number);
        let ends = pending.failed.is_some() || pending.is_closing;
        if step!("wake all at the end", ends, false) {
            // Some of them leave without leading.
            self.finished[parity].notify_all();
        } else if pending.waiting[parity] > 0 {
            step!("wake the next leader", self.finished[parity].notify_one());
        }
        let starts_to_wait = pending.is_unsynced && self.sync_every.is_some();
        if pending.open.due.is_some() || pending.flusher_waits || starts_to_wait {
            step!("wake the flusher", self.due.notify_one());
        }
        pending
    }

    /// Leads whenever records are due for which nobody waits. Syncs now and then what was written
    /// without a sync. Returns when the store is closed or has failed.
    pub(crate) fn flush_when_due(&self) {
        let mut sync_at = None;
        let mut pending = self.pending.lock();
        loop {
            if pending.leads {
                pending.flusher_waits = true;
                self.due.wait(&mut pending, None);
                pending.flusher_waits = false;
                continue;
            }
            let ends = pending.is_closing || pending.failed.is_some();
            let now = Instant::now();
            let is_due = pending.open.due.is_some_and(|due| due <= now);
            if is_due || (ends && pending.open.due.is_some()) {
                pending = self.lead(pending);
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
            if sync_at.is_none()
                && pending.is_unsynced
                && let Some(every) = self.sync_every
            {
                sync_at = now.checked_add(every);
            }
            if sync_at.is_some_and(|at| at <= now) {
                sync_at = None;
                pending = self.sync(pending);
                continue;
            }
            let until = [pending.open.due, sync_at].into_iter().flatten().min();
            self.due.wait(&mut pending, until);
        }
    }

    /// Syncs what was written, as a leader.
    fn sync<'a>(&'a self, mut pending: MutexGuard<'a, Pending>) -> MutexGuard<'a, Pending> {
        if !pending.is_unsynced {
            return pending;
        }
        pending.leads = true;
        drop(pending);
        let mut writer = self.writer.lock();
        let synced = writer.sync().and_then(|()| writer.vouch());
        drop(writer);
        let mut pending = self.pending.lock();
        pending.is_unsynced = false;
        if let Err(error) = synced {
            let open = pending.open.number;
            pending.fail(open, error);
        }
        self.hand_over(pending)
    }

    /// Writes and syncs all there is, and refuses everything from then on.
    pub(crate) fn close(&self) {
        let mut pending = self.pending.lock();
        pending.is_closing = true;
        self.due.notify_one();
        loop {
            let has_records = !pending.open.is_empty();
            if pending.leads || has_records {
                let open = Ticket(pending.open.number);
                pending = self.step(pending, open);
            } else if pending.is_unsynced && pending.failed.is_none() {
                pending = self.sync(pending);
            } else {
                break;
            }
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
