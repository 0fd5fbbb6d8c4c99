//! Publishing many messages at once: a chunk of them fills one slot of the queue
//! and travels as it is, down to the last subscription.

use std::time::Instant;

use super::admit::Refused;
use super::dispatch::BATCH;
use super::topic::TopicCore;
use crate::error::PartialBatch;
use crate::message::{Batch, BatchReceipt, Message, MessageId, Parcel};
use crate::sync::Arc;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Accepts messages chunk by chunk, or hands back those from the first one
    /// that was refused.
    pub(crate) fn publish_batch(
        self: &Arc<Self>,
        mut payloads: impl Iterator<Item = T>,
    ) -> Result<BatchReceipt, PartialBatch<T>> {
        let mut receipt = BatchReceipt::default();
        // One timeout for all chunks together.
        let mut patience = None;
        loop {
            // Nothing is admitted before it is there: the iterator is the
            // caller's code.
            let chunk = payloads.by_ref().take(BATCH).map(Message::unnumbered);
            let mut chunk: Vec<_> = chunk.collect();
            if chunk.is_empty() {
                return Ok(receipt);
            }
            while !chunk.is_empty() {
                if let Err(refused) = self.publish_chunk(&mut chunk, &mut receipt, &mut patience) {
                    let rest = chunk.into_iter().map(|message| message.payload);
                    let rest = rest.chain(payloads).collect();
                    return Err(self.refuse_batch(refused, rest, receipt));
                }
            }
        }
    }

    /// Says that the `rest` of a batch was refused, and counts it.
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

    /// Accepts as many messages of the chunk as there is room for, at least one,
    /// and leaves the others in it.
    pub(crate) fn publish_chunk(
        self: &Arc<Self>,
        chunk: &mut Vec<Message<T>>,
        receipt: &mut BatchReceipt,
        patience: &mut Option<Instant>,
    ) -> Result<(), Refused> {
        let admitted = self.admit(chunk.len().min(BATCH) as u64, patience)?;
        let others = chunk.split_off(admitted.count as usize);
        let mut messages = std::mem::replace(chunk, others);
        let now_ns = self.engine.clock.now_ns();
        for (message, id) in messages.iter_mut().zip(admitted.first_id..) {
            message.id = MessageId::new(id);
            message.accepted_ns = now_ns;
        }
        receipt.accepted += messages.len();
        receipt.evicted += admitted.evicted as usize;
        receipt.dropped += if admitted.dropped { messages.len() } else { 0 };
        receipt.first = receipt.first.or(messages.first().map(|message| message.id));
        receipt.last = messages.last().map(|message| message.id);
        let batch = Batch {
            messages,
            meta: Vec::new(),
        };
        self.admitted(Parcel::Chunk(Arc::new(batch)), &admitted);
        Ok(())
    }
}
