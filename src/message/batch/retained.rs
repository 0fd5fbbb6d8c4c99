//! Batches of messages that were handed on before, for a subscription that came late.

use crate::message::batch::{Accepted, BATCH, Batch, Marks, Messages};
use crate::message::meta::Meta;
use crate::sync::Arc;

/// The place of a payload in a batch that was handed on before.
pub(crate) struct Source<T> {
    batch: Arc<Batch<T>>,
    index: u32,
}

impl<T> Source<T> {
    /// Returns the payload. Out of line, for the sake of batches that hold their own.
    #[cold]
    #[inline(never)]
    pub(super) fn find(&self) -> &T {
        self.batch.payload(self.index as usize)
    }
}

impl<T> Batch<T> {
    /// Makes batches of messages that were handed on before, in their order.
    ///
    /// They share the payloads of those batches, and their own keys, headers and times to live. Nobody
    /// waits for the ends of these deliveries: a tracker counts those of the subscriptions that were
    /// there.
    pub(crate) fn retained(each: impl IntoIterator<Item = (Arc<Self>, u32)>) -> Vec<Self> {
        let mut batches = Vec::new();
        let mut each = each.into_iter().peekable();
        while let Some((first, _)) = each.peek() {
            let ttl = first.ttl;
            let (mut messages, mut meta, mut marks) = (Vec::new(), Vec::new(), Marks::NONE);
            while messages.len() < BATCH
                && let Some((batch, index)) = each.next_if(|(batch, _)| batch.ttl == ttl)
            {
                let stamp = batch.stamp(index as usize);
                if let Some(parts) = batch.meta(index as usize).map(Meta::without_watchers) {
                    marks.add(&parts);
                    meta.push((messages.len() as u32, Box::new(parts)));
                }
                let payload = Source { batch, index };
                messages.push(Accepted { stamp, payload });
            }
            let messages = Messages::Retained(messages);
            batches.push(Self {
                messages,
                meta,
                marks,
                ttl,
            });
        }
        batches
    }

    /// Returns whether its messages were kept for a subscription that came late.
    pub(crate) fn is_retained(&self) -> bool {
        matches!(self.messages, Messages::Retained(_))
    }
}
