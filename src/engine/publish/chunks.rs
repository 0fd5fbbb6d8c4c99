//! Publishing many messages at once. A chunk of more than half a batch is a batch of its
//! own: it travels in its publisher's vector down to the last subscription. A smaller chunk
//! joins the open batch.

use std::iter::Fuse;

use crate::engine::publish::admit::{Admitted, Patience, Refused};
use crate::engine::state::topic::TopicCore;
use crate::message::batch::{BATCH, DeferredDrops, QueueEntry, Stamp};
use crate::message::{BatchReceipt, MessageId};
use crate::sync::Arc;
use crate::types::error::PartialBatch;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Accepts messages chunk by chunk. After a refusal it hands back the refused messages and
    /// all that come after them.
    pub(crate) fn publish_batch(
        self: &Arc<Self>,
        payloads: impl Iterator<Item = T>,
    ) -> Result<BatchReceipt, PartialBatch<T>> {
        let mut receipt = BatchReceipt::default();
        let mut drops = DeferredDrops::new();
        // All chunks together have one timeout.
        let mut patience = Patience::default();
        let (mut chunk, mut others) = first_chunk(payloads);
        while !chunk.is_empty() {
            let (receipt, patience, drops) = (&mut receipt, &mut patience, &mut drops);
            if let Err(refused) =
                self.publish_chunk(None, &mut chunk, split, receipt, patience, drops)
            {
                chunk.extend(others.into_iter().flatten());
                return Err(self.refuse_batch(refused, chunk, *receipt));
            }
            if chunk.is_empty()
                && let Some(others) = &mut others
            {
                chunk = others.take(BATCH).collect();
            }
        }
        Ok(receipt)
    }

    /// Counts the `rest` of a batch as rejected and returns the error for it.
    pub(crate) fn refuse_batch(
        &self,
        refused: Refused,
        rest: Vec<T>,
        receipt: BatchReceipt,
    ) -> PartialBatch<T> {
        self.books.rejected.add(rest.len() as u64);
        PartialBatch {
            accepted: receipt.accepted,
            error: refused.error(rest),
        }
    }

    /// Accepts as many of these payloads as there is room for: at least one and at most a
    /// batch. The others stay. `take` takes the given number of payloads out of the vector.
    pub(crate) fn publish_chunk(
        self: &Arc<Self>,
        route: Option<u64>,
        payloads: &mut Vec<T>,
        take: impl FnOnce(&mut Vec<T>, usize) -> Vec<T>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<(), Refused> {
        let wanted = payloads.len().min(BATCH) as u64;
        if let Some((accepted_ns, mut tail)) = self.short_way()
            && let Ok(granted) = self.gate.admit_alone(wanted, self.live.capacity.get())
        {
            let admitted = Admitted::plainly(granted);
            let chunk = take(payloads, admitted.count as usize);
            let id = MessageId::new(admitted.first_id);
            let stamp = Stamp { id, accepted_ns };
            self.plain.write_chunk(&mut tail, chunk, stamp);
            self.notify_after(tail, admitted.last_id(), None);
            note_in(receipt, &admitted);
            return Ok(());
        }
        let admitted = self.admit(wanted, patience, drops, route, None)?;
        let chunk = take(payloads, admitted.count as usize);
        let stamp = Stamp {
            id: MessageId::new(admitted.first_id),
            accepted_ns: self.engine.clock.now_ns(),
        };
        self.admitted(QueueEntry::Chunk(chunk, stamp), &admitted, drops, route);
        note_in(receipt, &admitted);
        Ok(())
    }
}

fn note_in(receipt: &mut BatchReceipt, admitted: &Admitted) {
    let count = admitted.count as usize;
    receipt.accepted += count;
    receipt.evicted += admitted.evicted as usize;
    receipt.dropped += if admitted.dropped { count } else { 0 };
    let first = MessageId::new(admitted.first_id);
    receipt.first = receipt.first.or(Some(first));
    receipt.last = Some(first.after(admitted.count - 1));
}

/// Takes the first payloads in the vector they are in; the others move.
fn split<T>(payloads: &mut Vec<T>, count: usize) -> Vec<T> {
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
