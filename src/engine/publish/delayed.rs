//! Messages that were accepted and are due later. Each holds its ticket and waits on the
//! timer wheel.

use crate::engine::base::contain::discard;
use crate::engine::parts::delayed::Delayed;
use crate::engine::publish::ask::Admitted;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::fire::Tag;
use crate::message::batch::{DeferredDrops, QueueEntry};
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
use crate::message::{Fate, MessageId, Receipt};
use crate::observe::event::DropCause;
use crate::pure::decide::lifecycle::Status;
use crate::pure::wheel::TimerKey;
use crate::sync::Arc;
use crate::types::duration::nanos;
use crate::types::error::NotDelayedError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Returns what names the partition of a message that is due later.
    pub(crate) fn route_of(&self, meta: Option<&Meta>) -> Option<u64> {
        let split = self.split.as_ref()?;
        split.route(meta, 1, 1)
    }

    /// Puts an admitted message onto the timer wheel, or drops it if its admission says so. The
    /// message holds its ticket meanwhile, so it can be neither rejected nor dropped when it is
    /// due.
    pub(crate) fn delay(
        self: &Arc<Self>,
        message: Message<T>,
        admitted: &Admitted,
        route: Option<u64>,
        drops: &mut DeferredDrops<T>,
    ) -> Receipt {
        let delay = message.delay(|| self.engine.clock.time_of_day());
        let (payload, meta) = message.into_parts();
        if admitted.fate != Fate::Queued || admitted.is_duplicate() {
            self.take_in_one(payload, meta, admitted, drops, route);
            return admitted.receipt();
        }
        meta.iter().for_each(|meta| meta.begin());
        let mut message = self.message(admitted.first_id, payload);
        let delay_ns = nanos(delay);
        if self.bus().observed() {
            let stamp = message.stamp;
            self.tell_enqueued(std::iter::once(stamp.id), stamp.accepted_ns);
        }
        // The latency is counted from the time at which the message is due.
        let accepted_ns = &mut message.stamp.accepted_ns;
        *accepted_ns = accepted_ns.saturating_add(delay_ns);
        let entry = Box::new(Delayed {
            message,
            meta,
            timer: TimerKey::NONE,
            route,
        });
        self.park(entry, delay_ns);
        admitted.receipt()
    }

    /// Puts a message onto the timer wheel.
    pub(crate) fn park(self: &Arc<Self>, entry: Box<Delayed<T>>, delay_ns: u64) {
        self.books.delayed.add(1);
        // The lock is held while the timer is set, so that the deadline can't come before the
        // entry knows its timer key.
        let mut delayed = self.delayed().lock();
        delayed.add(entry, |tag| {
            let target = Arc::clone(self) as _;
            self.engine.set_timer(delay_ns, Tag::Parked(tag), target)
        });
        drop(delayed);
        // The message may have taken the last ticket of a topic whose strategy waits. After a
        // stop the dispatcher must drop it.
        self.schedule();
    }

    /// Puts a delayed message that is due into the queue.
    pub(crate) fn publish_due(self: &Arc<Self>, due: Delayed<T>) {
        let Delayed {
            message,
            meta,
            route,
            ..
        } = due;
        let last_id = message.stamp.id.get();
        self.books.delayed.sub(1);
        self.enqueue(QueueEntry::One(message, meta), last_id, route);
        // The dispatcher may wait for a higher number than this old ticket has, so the push
        // alone need not notify it.
        self.schedule();
    }

    /// Takes a delayed message back, and counts it as dropped.
    ///
    /// The feared interleaving: its timer has fired, and the message is taken back before the
    /// timer's tag has been looked up. The next delayed message would get the tag, and enter the
    /// queue early. It can't happen, because a message is taken back only if its timer is.
    pub(crate) fn cancel_delayed(&self, id: MessageId) -> Result<Message<T>, NotDelayedError> {
        let cancel = |timer| self.engine.timer.cancel_parked(timer);
        let cancelled = self.delayed().lock().take_back(id, cancel);
        let Delayed { message, meta, .. } = *cancelled.ok_or(NotDelayedError)?;
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored()
            && !stored.end_delay(id.get())
        {
            // It stays in the log, and is published when that is open again.
            self.books.delayed.sub(1);
            self.drop_delayed_one(id, meta.as_deref(), DropCause::NotStored);
            return Err(NotDelayedError);
        }
        self.books.delayed.sub(1);
        self.forget_dedup_id(id, meta.as_deref());
        self.drop_delayed_one(id, meta.as_deref(), DropCause::Cancelled);
        Ok(Message::from_parts((message.payload, meta)))
    }

    /// Drops and counts the delayed messages, after the broker has stopped. The messages of a
    /// durable topic stay in the log.
    pub(crate) fn drop_delayed(&self) {
        let cause = match self.is_stored() {
            true => DropCause::Kept,
            false => DropCause::Shutdown,
        };
        let delayed = self.delayed().lock().take_all();
        for entry in delayed {
            self.engine.timer.cancel_parked(entry.timer);
            self.books.delayed.sub(1);
            self.drop_entry(entry, cause);
        }
        #[cfg(feature = "log")]
        if self.is_stored() {
            let due = std::mem::take(&mut self.delayed().lock().due);
            due.into_iter()
                .for_each(|entry| self.drop_entry(entry, cause));
        }
    }

    fn drop_entry(&self, entry: Box<Delayed<T>>, cause: DropCause) {
        if cause == DropCause::Kept {
            self.books.kept.add(1);
        }
        self.drop_delayed_one(entry.message.stamp.id, entry.meta.as_deref(), cause);
        discard(entry);
    }

    /// Ends a message that was delayed and goes nowhere.
    pub(crate) fn drop_delayed_one(&self, id: MessageId, meta: Option<&Meta>, cause: DropCause) {
        self.unload_delayed(meta);
        self.drop_messages(std::iter::once(id), cause);
        end_tracked(meta);
    }
}

/// Tells whoever waits for the end of a message that it was dropped.
fn end_tracked(meta: Option<&Meta>) {
    if let Some(tracker) = meta.and_then(Meta::tracker) {
        tracker.end(Status::Dropped);
    }
}
