//! Batches of messages that were handed on before, for a subscription that came late.

use crate::message::batch::{BATCH, Batch, Marks, Messages, Stamp};
use crate::message::meta::Meta;
use crate::sync::Arc;

use std::mem::ManuallyDrop;

/// Messages that are in other batches.
pub(super) struct Sources<T>(Vec<Source<T>>);

/// The place of a payload in a batch that was handed on before, and the stamp of its message.
struct Source<T> {
    batch: Arc<Batch<T>>,
    index: u32,
    stamp: Stamp,
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
                messages.push(Source {
                    batch,
                    index,
                    stamp,
                });
            }
            batches.push(Self {
                messages: Messages::Each(Vec::new()),
                retained: ManuallyDrop::new(Some(Box::new(Sources(messages)))),
                meta: ManuallyDrop::new(meta),
                marks,
                ttl,
            });
        }
        batches
    }

    /// Returns whether its messages were kept for a subscription that came late.
    pub(crate) fn is_retained(&self) -> bool {
        self.retained.is_some()
    }

    fn sources(&self) -> &[Source<T>] {
        self.retained.as_ref().map_or(&[], |sources| &sources.0)
    }

    #[cold]
    pub(super) fn retained_len(&self) -> usize {
        self.sources().len()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn retained_payload(&self, index: usize) -> &T {
        let source = &self.sources()[index];
        source.batch.payload(source.index as usize)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn retained_stamp(&self, index: usize) -> Stamp {
        self.sources()[index].stamp
    }
}
