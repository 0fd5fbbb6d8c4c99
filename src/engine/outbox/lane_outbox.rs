//! The outbox of a durable subscription: what its deliveries have published, until each of them ends.
//!
//! Steps. A delivery *stages* a message, which takes its ticket. If the attempt fails, the message is
//! dropped. If it succeeds, one call of the log writes the messages and the end of the delivery. They
//! are in one frame, which counts as a whole or not at all. The messages enter their queues from the
//! hook of the frame's group.
//!
//! The feared interleavings. The end of the delivery is written with an earlier frame, and a crash
//! comes between. It can't be, because nobody else notes the end of a delivery that has staged
//! something. And an attempt that is over stages a message that the next attempt would publish. It
//! can't: a handler that is no future has returned by then. A future, and a handler with a timeout,
//! has a call with a number, which ends under the lock under which it stages. A lease stages under the lock under which it ends.
//!
//! A dedup id is claimed when the attempt has succeeded, so that no publisher waits for a handler.
//! Somebody else's claim is waited for, which needs nothing but the log. Meanwhile this thread holds
//! no claim, so two of them don't wait for each other.

use std::collections::BTreeMap;

use crate::engine::outbox::staged::{Clearance, Gone, Staged};
use crate::log::commit::{Due, Hook, Log};
use crate::log::cursor::Cursor;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::step;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, yield_now};
use crate::types::error::store::StoreError;

/// The outbox of a durable subscription.
pub(crate) struct LaneOutbox {
    cursor: Arc<Cursor>,
    /// Whether the thread that acks waits for the frame: nobody else runs the engine.
    waits: bool,
    /// The open entries, by the numbers of their messages. A message is in flight once at a time.
    open: Mutex<BTreeMap<u64, Entry>>,
    /// How many there are, for those who look without the lock.
    count: AtomicUsize,
    next_call: AtomicU64,
}

/// Messages of any topics, in the order in which they were published.
type Messages = Vec<Box<dyn Staged>>;

/// The messages that one attempt has published.
#[derive(Default)]
struct Entry {
    /// The number of the call, if it may outlive its attempt.
    call: Option<u64>,
    messages: Messages,
}

/// The outbox, as one delivery knows it.
#[derive(Clone, Copy)]
pub(crate) struct CallOutbox<'a> {
    pub(crate) lane: &'a LaneOutbox,
    /// The number of the call, if it may outlive its attempt.
    pub(crate) call: Option<u64>,
}

impl LaneOutbox {
    pub(crate) fn new(cursor: Arc<Cursor>, waits: bool) -> Self {
        Self {
            cursor,
            waits,
            open: Mutex::default(),
            count: AtomicUsize::new(0),
            next_call: AtomicU64::new(0),
        }
    }

    /// Returns the log that the frames go to.
    pub(crate) fn log(&self) -> &Arc<Log> {
        self.cursor.log()
    }

    /// Opens the entry of a call that may outlive its attempt, and returns its number.
    pub(crate) fn begin(&self, seq: u64) -> u64 {
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            call: Some(call),
            messages: Vec::new(),
        };
        let mut open = self.open.lock();
        open.insert(seq, entry);
        self.count.store(open.len(), Ordering::Release);
        call
    }

    /// Adds a message to what the delivery of `seq` has published. Hands it back if the call is over.
    pub(crate) fn stage(
        &self,
        seq: u64,
        call: Option<u64>,
        message: Box<dyn Staged>,
    ) -> Result<(), Box<dyn Staged>> {
        let mut open = self.open.lock();
        let entry = match call {
            None => open.entry(seq).or_default(),
            Some(_) => match open.get_mut(&seq) {
                Some(entry) if entry.call == call => entry,
                _ => return Err(message),
            },
        };
        entry.messages.push(message);
        self.count.store(open.len(), Ordering::Release);
        Ok(())
    }

    /// Returns whether the call goes on.
    pub(crate) fn is_open(&self, seq: u64, call: Option<u64>) -> bool {
        call.is_none()
            || self
                .open
                .lock()
                .get(&seq)
                .is_some_and(|entry| entry.call == call)
    }

    fn take(&self, seq: u64) -> Messages {
        // ORDERING: whoever has staged something has been in the attempt that ends now.
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut open = self.open.lock();
        let entry = open.remove(&seq).unwrap_or_default();
        self.count.store(open.len(), Ordering::Release);
        entry.messages
    }

    /// Drops what an attempt has published that has not succeeded.
    pub(crate) fn roll_back(&self, seq: u64) {
        step!("roll back", {
            for message in self.take(seq) {
                message.drop_unseen(Gone::RolledBack);
            }
        });
    }

    /// Ends deliveries that were handled: notes their ends, with what they have published.
    pub(crate) fn commit(&self, numbers: impl Iterator<Item = u64>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return self.cursor.done(numbers);
        }
        let (mut alone, mut together, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for seq in numbers {
            step!("end together", {}, {
                self.cursor.done(std::iter::once(seq));
                let _ = self.log().write_out();
            });
            let mut staged = self.take(seq);
            match staged.is_empty() {
                true => alone.push(seq),
                false => together.push(seq),
            }
            messages.append(&mut staged);
        }
        if !alone.is_empty() {
            self.cursor.done(alone.into_iter());
        }
        if together.is_empty() {
            return;
        }
        match self.claim(messages) {
            Ok(messages) => self.submit(together, messages),
            Err((error, messages)) => {
                let result = Err(error);
                messages
                    .into_iter()
                    .for_each(|message| message.conclude(&result));
            }
        }
    }

    /// Claims the dedup ids, all of them together. Drops duplicates.
    fn claim(&self, mut messages: Messages) -> Result<Messages, (StoreError, Messages)> {
        loop {
            let mut claimed = 0;
            let mut is_pending = false;
            while claimed < messages.len() && !is_pending {
                let (before, rest) = messages.split_at_mut(claimed);
                let name = rest[0].dedup_id();
                let is_repeated =
                    name.is_some() && before.iter().any(|other| other.dedup_id() == name);
                let clearance = match is_repeated {
                    true => Clearance::Duplicate,
                    false => rest[0].claim(),
                };
                match clearance {
                    Clearance::Granted => claimed += 1,
                    Clearance::Pending => is_pending = true,
                    Clearance::Duplicate => {
                        messages.remove(claimed).drop_unseen(Gone::Duplicate);
                    }
                }
            }
            if !is_pending {
                return Ok(messages);
            }
            messages[..claimed]
                .iter_mut()
                .for_each(|message| message.abandon());
            // Its publisher may have yet to join the open group.
            yield_now();
            let joined = self.log().submit(false, Due::Waits, |_| {}, None);
            let joined = joined.map_err(|(error, _)| error);
            if let Err(error) = joined.and_then(|ticket| self.log().wait(ticket)) {
                return Err((error, messages));
            }
        }
    }

    /// Writes the ends of these deliveries and the messages as one.
    fn submit(&self, done: Vec<u64>, messages: Messages) {
        if messages.is_empty() {
            return self.cursor.done(done.into_iter());
        }
        let syncs = messages.iter().any(|message| message.syncs());
        // Both closures have them, one after the other.
        let messages = Arc::new(Mutex::new(messages));
        let put = |frame: &mut FrameBuffer| {
            step!(
                "end with what was published",
                self.cursor.put_done(done.into_iter(), frame)
            );
            messages
                .lock()
                .iter()
                .for_each(|message| message.put(frame));
        };
        let hook: Hook = {
            let messages = Arc::clone(&messages);
            Box::new(move |result| {
                let messages = std::mem::take(&mut *messages.lock());
                messages
                    .into_iter()
                    .for_each(|message| message.conclude(result));
            })
        };
        match self.log().submit(syncs, Due::Now, put, Some(hook)) {
            Ok(ticket) if self.waits => {
                // The hook has heard of a failure.
                let _ = self.log().wait(ticket);
            }
            Ok(_) => {}
            Err((error, hook)) => {
                let result = Err(error);
                hook.into_iter().for_each(|hook| hook(&result));
            }
        }
    }
}

impl Drop for LaneOutbox {
    fn drop(&mut self) {
        let open = std::mem::take(&mut *self.open.lock());
        for message in open.into_values().flat_map(|entry| entry.messages) {
            message.drop_unseen(Gone::RolledBack);
        }
    }
}
