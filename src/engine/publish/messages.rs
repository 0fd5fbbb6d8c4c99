//! Messages with keys, headers and delays, published many at once.
//!
//! Messages that are due now go in chunks, as plain payloads do. A message that is delayed or has a
//! dedup id goes alone, between the chunks, so that ids keep the order of the batch.

use std::iter::Fuse;
#[cfg(all(feature = "log", feature = "async"))]
use std::time::Duration;

#[cfg(all(feature = "log", feature = "async"))]
use crate::engine::journal::encoded::Encoded;
#[cfg(all(feature = "log", feature = "async"))]
use crate::engine::journal::submitted::Submitted;
use crate::engine::publish::ask::{Admitted, Ask, Patience, Refused, Wait};
use crate::engine::publish::chunks::split;
use crate::engine::state::topic::TopicCore;
#[cfg(all(feature = "log", feature = "async"))]
use crate::log::waiters::task::Watch;
use crate::message::batch::{BATCH, DeferredDrops, QueueEntry};
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
use crate::message::{BatchReceipt, Receipt};
use crate::sync::Arc;
use crate::types::error::{PublishBatchError, PublishError};

/// The messages of a batch that have not been accepted yet.
pub(crate) struct Outbox<T, I: Iterator<Item = Message<T>>> {
    /// The messages that go next.
    pub(crate) chunk: Chunk<T>,
    /// The message that goes after them, alone.
    pub(crate) alone: Option<Message<T>>,
    others: Fuse<I>,
    /// The bytes of messages at the front of the chunk, if it goes to the log.
    #[cfg(all(feature = "log", feature = "async"))]
    pub(crate) encoded: Option<Box<Encoded>>,
    /// Messages on their way to the log, if the publisher is a future.
    #[cfg(all(feature = "log", feature = "async"))]
    pub(crate) submitted: Option<Submitted<T>>,
    /// The delay of the message that went from alone into the chunk, or into the log.
    #[cfg(all(feature = "log", feature = "async"))]
    pub(crate) delay: Duration,
    /// The wait for room in the log, or for another's claim of the same dedup id.
    #[cfg(all(feature = "log", feature = "async"))]
    pub(crate) awaited: Option<Watch>,
}

impl<T, I: Iterator<Item = Message<T>>> Outbox<T, I> {
    pub(crate) fn new(messages: I) -> Self {
        Self {
            chunk: Chunk::EMPTY,
            alone: None,
            others: messages.fuse(),
            #[cfg(all(feature = "log", feature = "async"))]
            encoded: None,
            #[cfg(all(feature = "log", feature = "async"))]
            submitted: None,
            #[cfg(all(feature = "log", feature = "async"))]
            delay: Duration::ZERO,
            #[cfg(all(feature = "log", feature = "async"))]
            awaited: None,
        }
    }

    /// Collects the next messages once the last ones have gone. Returns `false` if all have gone.
    pub(crate) fn fill(&mut self) -> bool {
        #[cfg(all(feature = "log", feature = "async"))]
        if self.submitted.is_some() {
            // The last ones are on their way to the log, and may come back.
            return true;
        }
        if self.chunk.is_empty() && self.alone.is_none() {
            while self.chunk.len() < BATCH
                && let Some(message) = self.others.next()
            {
                if message.goes_alone() {
                    self.alone = Some(message);
                    break;
                }
                let (payload, meta) = message.into_parts();
                self.chunk.push(payload, meta);
            }
        }
        !self.chunk.is_empty() || self.alone.is_some()
    }

    /// Takes out a message that was not accepted.
    #[cfg(all(feature = "log", feature = "async"))]
    pub(crate) fn take_one(&mut self) -> Option<Message<T>> {
        let first = self.chunk.len().min(1);
        let taken = self.chunk.take_front(first, split).into_messages().next();
        taken.or_else(|| self.alone.take())
    }

    /// Returns all that were not accepted, in order.
    pub(crate) fn into_inner(self) -> Vec<Message<T>> {
        let chunk = self.chunk.into_messages();
        #[cfg(all(feature = "log", feature = "async"))]
        let chunk = chunk.map(|message| message.after(self.delay));
        let alone = self.alone.map(Message::unweighed);
        chunk.chain(alone).chain(self.others).collect()
    }
}

#[cfg(all(feature = "log", feature = "async"))]
impl<T> Outbox<T, std::iter::Empty<Message<T>>> {
    /// Makes an outbox with one message.
    pub(crate) fn of(message: Option<Message<T>>) -> Self {
        let mut outbox = Self::new(std::iter::empty());
        match message {
            Some(message) if !message.goes_alone() => {
                let (payload, meta) = message.into_parts();
                outbox.chunk.push(payload, meta);
            }
            message => outbox.alone = message,
        }
        outbox
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Accepts messages in order. After a refusal it hands back the refused message and all that
    /// come after it.
    pub(crate) fn publish_messages(
        self: &Arc<Self>,
        messages: impl Iterator<Item = Message<T>>,
    ) -> Result<BatchReceipt, PublishBatchError<Message<T>>> {
        let mut outbox = Outbox::new(messages);
        let (mut receipt, mut drops) = (BatchReceipt::default(), DeferredDrops::new());
        // All chunks together have one timeout.
        let mut patience = Patience::default();
        while outbox.fill() {
            let next = self.publish_next(&mut outbox, &mut receipt, &mut patience, &mut drops);
            if let Err(refused) = next {
                return Err(self.refuse_batch(refused, outbox.into_inner(), receipt));
            }
        }
        Ok(receipt)
    }

    /// Accepts at least one of the messages that go next.
    pub(crate) fn publish_next(
        self: &Arc<Self>,
        outbox: &mut Outbox<T, impl Iterator<Item = Message<T>>>,
        receipt: &mut BatchReceipt,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<(), Refused> {
        if !outbox.chunk.is_empty() {
            return self.publish_chunk(None, &mut outbox.chunk, split, receipt, patience, drops);
        }
        let Some(message) = outbox.alone.take() else {
            return Ok(());
        };
        match self.accept_alone(message, patience, drops) {
            Ok(accepted) => {
                receipt.add(accepted);
                Ok(())
            }
            Err((refused, message)) => {
                outbox.alone = Some(message);
                Err(refused)
            }
        }
    }

    /// Accepts one message, now or later, or hands it back and counts nothing.
    pub(crate) fn accept_alone(
        self: &Arc<Self>,
        mut message: Message<T>,
        patience: &mut Patience,
        drops: &mut DeferredDrops<T>,
    ) -> Result<Receipt, (Refused, Message<T>)> {
        if let Err(refused) = self.check(&message) {
            return Err((refused, message));
        }
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            return self.publish_once_stored(stored, message, patience);
        }
        let route = match message.is_late() {
            true => self.route_of(message.meta()),
            false => None,
        };
        self.weigh_message(&mut message);
        if !message.is_late()
            && let Some(place) = self.take_out_older(message.meta(), patience.is_locked)
        {
            let (payload, meta) = message.into_parts();
            meta.iter().for_each(|meta| meta.begin());
            return Ok(self.put_in_place(place, (payload, meta), drops).receipt());
        }
        match self.admit(Ask::one(message.meta()), patience, drops, route) {
            Ok(admitted) => Ok(self.take_in(message, &admitted, route, drops)),
            Err(refused) => Err((refused, message.unweighed())),
        }
    }

    /// Enqueues an admitted message, or puts it onto the timer wheel.
    pub(crate) fn take_in(
        self: &Arc<Self>,
        message: Message<T>,
        admitted: &Admitted,
        route: Option<u64>,
        drops: &mut DeferredDrops<T>,
    ) -> Receipt {
        if message.is_late() {
            return self.delay(message, admitted, route, drops);
        }
        let (payload, meta) = message.into_parts();
        self.take_in_one(payload, meta, admitted, drops, route);
        admitted.receipt()
    }

    /// Enqueues an admitted message, or drops it if its admission says so.
    #[inline(always)]
    pub(crate) fn take_in_one(
        self: &Arc<Self>,
        payload: T,
        meta: Option<Box<Meta>>,
        admitted: &Admitted,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) {
        meta.iter().for_each(|meta| meta.begin());
        let message = self.message(admitted.first_id, payload);
        self.admitted(QueueEntry::One(message, meta), admitted, drops, route);
    }

    /// Accepts one message, now or later, or hands the payload back.
    pub(crate) fn publish_message(
        self: &Arc<Self>,
        message: Message<T>,
        wait: Wait,
    ) -> Result<Receipt, PublishError<T>> {
        if !message.goes_alone() {
            let (payload, meta) = message.into_parts();
            return self.publish(payload, meta, wait);
        }
        let (patience, drops) = (&mut Patience::of(wait), &mut DeferredDrops::new());
        let accepted = self.accept_alone(message, patience, drops);
        accepted.map_err(|(refused, message)| {
            self.note_refused(&refused, 1);
            refused.error(message.into_inner())
        })
    }
}
