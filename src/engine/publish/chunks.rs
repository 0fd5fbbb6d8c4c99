//! Publishing many messages at once. A chunk of more than half a batch is a batch of its
//! own: it travels in its publisher's vector down to the last subscription. A smaller chunk
//! joins the open batch.

use std::iter::Fuse;

use crate::engine::publish::ask::{Admitted, Ask, Patience, Refused};
use crate::engine::state::topic::TopicCore;
use crate::message::batch::{BATCH, DeferredDrops, QueueEntry, Stamp};
use crate::message::chunk::Chunk;
use crate::message::{BatchReceipt, Fate, MessageId};
use crate::sync::Arc;
use crate::types::error::PublishBatchError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Accepts messages chunk by chunk. After a refusal it hands back the refused messages and
    /// all that come after them.
    pub(crate) fn publish_batch(
        self: &Arc<Self>,
        payloads: impl Iterator<Item = T>,
    ) -> Result<BatchReceipt, PublishBatchError<T>> {
        let mut receipt = BatchReceipt::default();
        let mut drops = DeferredDrops::new();
        // All chunks together have one timeout.
        let mut patience = Patience::default();
        let (first, mut others) = first_chunk(payloads);
        let mut chunk = Chunk::plain(first);
        while !chunk.is_empty() {
            let (receipt, patience, drops) = (&mut receipt, &mut patience, &mut drops);
            if let Err(refused) =
                self.publish_chunk(None, &mut chunk, split, receipt, patience, drops)
            {
                let mut rest = chunk.payloads;
                rest.extend(others.into_iter().flatten());
                return Err(self.refuse_batch(refused, rest, *receipt));
            }
            if chunk.is_empty()
                && let Some(others) = &mut others
            {
                chunk = Chunk::plain(others.take(BATCH).collect());
            }
        }
        Ok(receipt)
    }

    /// Counts the `rest` of a batch as rejected and returns the error for it.
    pub(crate) fn refuse_batch<M>(
        &self,
        refused: Refused,
        rest: Vec<M>,
        receipt: BatchReceipt,
    ) -> PublishBatchError<M> {
        self.note_refused(&refused, rest.len() as u64);
        PublishBatchError {
            accepted: receipt.accepted + receipt.duplicates,
            error: refused.error(rest),
        }
    }

    /// Accepts as many of these payloads as there is room for: at least one and at most a
    /// batch. The others stay. `take` takes the given number of payloads out of the vector. In
    /// a topic that is split, a payload with a key goes alone.
    pub(crate) fn publish_chunk(
        self: &Arc<Self>,
        route: Option<u64>,
        chunk: &mut Chunk<T>,
        take: impl FnOnce(&mut Vec<T>, usize) -> Vec<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<(), Refused> {
        let wanted = chunk.len().min(BATCH) as u64;
        if (chunk.meta.is_empty() || self.dedup.is_none())
            && let Some((accepted_ns, mut tail)) = self.short_way()
            && let Ok(granted) = self.gate.admit_alone(wanted, self.live.capacity.get())
        {
            let (first, count) = granted;
            let taken = chunk.take_front(count as usize, take);
            let id = MessageId::new(first);
            let stamp = Stamp { id, accepted_ns };
            let own_expires_ns = taken.own_expires_ns(stamp);
            self.plain.write_chunk(&mut tail, taken, stamp);
            self.notify_after(tail, first + count - 1, own_expires_ns);
            note_granted(receipt, granted);
            return Ok(());
        }
        self.publish_chunk_the_long_way(route, chunk, take, receipt, patience, drops)
    }

    /// Accepts payloads where there is no short way. It is a function of its own, so that the short
    /// way needs no room on the stack for it.
    #[inline(never)]
    fn publish_chunk_the_long_way(
        self: &Arc<Self>,
        route: Option<u64>,
        chunk: &mut Chunk<T>,
        take: impl FnOnce(&mut Vec<T>, usize) -> Vec<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<(), Refused> {
        let wanted = chunk.len().min(BATCH) as u64;
        if self.weights.is_some() {
            self.weigh_chunk(chunk);
        }
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            return self.publish_stored(stored, chunk, receipt, patience);
        }
        if let Some(place) = self.take_out_older(chunk.first_meta(), patience.is_locked) {
            let first = chunk.take_front(1, |all, one| all.drain(..one).collect());
            if let Some(first) = first.into_each().next() {
                note_in(receipt, &self.put_in_place(place, first, drops));
            }
            return Ok(());
        }
        let (wanted, route) = self.way_of(chunk, wanted, route);
        let admitted = self.admit(chunk.ask(wanted), patience, drops, route)?;
        let taken = chunk.take_front(admitted.count.max(1) as usize, take);
        self.take_in_chunk(taken, &admitted, drops, route);
        note_in(receipt, &admitted);
        Ok(())
    }

    /// Enqueues an admitted chunk, or drops it if its admission says so.
    #[inline(always)]
    pub(crate) fn take_in_chunk(
        self: &Arc<Self>,
        chunk: Chunk<T>,
        admitted: &Admitted,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) {
        let stamp = Stamp {
            id: MessageId::new(admitted.first_id),
            accepted_ns: self.engine.clock.now_ns(),
        };
        self.admitted(QueueEntry::Chunk(chunk, stamp), admitted, drops, route);
    }

    /// Returns how many payloads of a chunk may go together, no more than `wanted`, and their
    /// route. The key of a payload goes before the `route` of its publisher. A payload with a dedup
    /// id goes alone.
    pub(crate) fn way_of(
        &self,
        chunk: &Chunk<T>,
        wanted: u64,
        route: Option<u64>,
    ) -> (u64, Option<u64>) {
        if chunk.meta.is_empty() {
            return (wanted, route);
        }
        let wanted = match &self.dedup {
            Some(_) => wanted.min(chunk.before(|meta| meta.dedup_id.is_some()).max(1) as u64),
            None => wanted,
        };
        let Some(split) = &self.split else {
            return (wanted, route);
        };
        match chunk.before(|meta| meta.key.is_some()) as u64 {
            0 => (1, split.route(chunk.first_meta(), 1, 0)),
            unkeyed => (wanted.min(unkeyed), route),
        }
    }
}

impl<T> Chunk<T> {
    /// Asks for so many of these messages, which go together.
    #[inline(always)]
    pub(crate) fn ask(&self, wanted: u64) -> Ask<'_> {
        match self.first_meta() {
            Some(meta) if meta.dedup_id.is_some() => Ask::one(Some(meta)),
            _ => Ask {
                together: &self.meta,
                ..Ask::any(wanted)
            },
        }
    }
}

pub(crate) fn note_in(receipt: &mut BatchReceipt, admitted: &Admitted) {
    receipt.evicted += admitted.evicted as usize;
    if admitted.is_duplicate() {
        receipt.duplicates += 1;
        return;
    }
    let count = admitted.count as usize;
    match admitted.fate {
        Fate::Queued => {}
        Fate::Dropped => receipt.dropped += count,
        Fate::Lettered => receipt.lettered += count,
    }
    note_granted(receipt, (admitted.first_id, admitted.count));
}

/// Notes so many messages, from this id on.
#[inline(always)]
fn note_granted(receipt: &mut BatchReceipt, (first, count): (u64, u64)) {
    receipt.accepted += count as usize;
    let first = MessageId::new(first);
    receipt.first = receipt.first.or(Some(first));
    receipt.last = Some(first.after(count - 1));
}

/// Takes the first payloads in the vector they are in; the others move.
pub(crate) fn split<T>(payloads: &mut Vec<T>, count: usize) -> Vec<T> {
    let others = payloads.split_off(count);
    std::mem::replace(payloads, others)
}

/// Returns the first chunk, and the rest of the iterator if it may have more. Nothing is
/// admitted before the chunk is collected, because the iterator is the caller's code. A
/// vector no larger than a chunk is taken as it is. Its spare capacity is freed if it
/// exceeds a batch, because the vector lives as long as the last of its messages.
fn first_chunk<T, I: Iterator<Item = T>>(payloads: I) -> (Vec<T>, Option<Fuse<I>>) {
    match payloads.size_hint() {
        (_, Some(most)) if most <= BATCH => {
            let mut chunk: Vec<_> = payloads.collect();
            if chunk.capacity() > BATCH {
                chunk.shrink_to_fit();
            }
            (chunk, None)
        }
        _ => {
            let mut payloads = payloads.fuse();
            (payloads.by_ref().take(BATCH).collect(), Some(payloads))
        }
    }
}
