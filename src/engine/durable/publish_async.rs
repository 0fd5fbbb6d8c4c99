//! Publishing through the log from a future, which waits for room and for the disk without a
//! thread.

use std::task::{Context, Poll, ready};

use crate::engine::durable::publish::Submitted;
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::publish::admit::{Admitted, Patience, Refused, Wait};
use crate::engine::publish::chunks::split;
use crate::engine::publish::messages::Outbox;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::wakers::WaiterId;
use crate::log::commit::Due;
use crate::message::batch::{BATCH, DeferredDrops};
use crate::message::outgoing::Message;
use crate::message::{BatchReceipt, MessageId, Receipt};
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::error::PublishError;
use crate::types::error::store::StoreError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Publishes one message, or hands the payload back. It is pending until the message has reached
    /// the topic's level, and under `Overflow::Block` until there is room.
    pub(crate) fn poll_publish_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        outbox: &mut Outbox<T, impl Iterator<Item = Message<T>>>,
        is_first: bool,
        id: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<Result<Receipt, PublishError<T>>> {
        outbox.fill();
        let mut receipt = BatchReceipt::default();
        let next = self.poll_stored(stored, outbox, &mut receipt, is_first, id, context);
        Poll::Ready(match (ready!(next), receipt.first) {
            (Ok(()), Some(id)) => Ok(stored.receipt(id)),
            (Ok(()), None) => unreachable!("the outbox had a message"),
            (Err(refused), _) => {
                self.note_refused(&refused, 1);
                let message = outbox.take_one().expect("a refused message is still there");
                Err(refused.error(message.into_inner()))
            }
        })
    }

    /// Publishes the messages that go next. It is pending until they have reached the topic's level,
    /// and under `Overflow::Block` until there is room.
    pub(crate) fn poll_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        outbox: &mut Outbox<T, impl Iterator<Item = Message<T>>>,
        receipt: &mut BatchReceipt,
        is_first: bool,
        id: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Refused>> {
        let not_stored = |error| Refused::NotStored(Box::new(error));
        let submitted = match outbox.submitted.take() {
            Some(submitted) => submitted,
            None => {
                if let Some(message) = &outbox.alone {
                    return Poll::Ready(Err(match message.is_stillborn() {
                        true => Refused::ZeroTtl,
                        false => not_stored(StoreError::Unsupported { what: "a delay" }),
                    }));
                }
                let encoded = match stored.encode(outbox.chunk.each()) {
                    Ok(encoded) => encoded,
                    Err(error) => return Poll::Ready(Err(not_stored(error))),
                };
                let wanted = outbox.chunk.len().min(BATCH) as u64;
                let admitted = ready!(self.poll_admit_stored(wanted, is_first, id, context));
                let admitted = match admitted {
                    Ok(admitted) => admitted,
                    Err(refused) => return Poll::Ready(Err(refused)),
                };
                let count = admitted.count as usize;
                let taken = outbox.chunk.take_front(count, split);
                let submitted = self.submit(stored, taken, &encoded, &admitted, Due::Now);
                stored.give_back(encoded);
                match submitted {
                    Ok(submitted) => submitted,
                    Err((error, taken)) => {
                        outbox.chunk.put_front(taken);
                        return Poll::Ready(Err(not_stored(error)));
                    }
                }
            }
        };
        let Poll::Ready(result) = stored.log().poll(submitted.ticket, context) else {
            outbox.submitted = Some(submitted);
            return Poll::Pending;
        };
        Poll::Ready(match self.conclude(&submitted, result) {
            Ok(first) => {
                stored.note_in(receipt, MessageId::new(first), submitted.count());
                Ok(())
            }
            Err((error, taken)) => {
                outbox.chunk.put_front(taken);
                Err(not_stored(error))
            }
        })
    }

    /// Gets tickets. It is pending under `Overflow::Block` only.
    fn poll_admit_stored(
        self: &Arc<Self>,
        wanted: u64,
        is_first: bool,
        id: &mut WaiterId,
        context: &Context<'_>,
    ) -> Poll<Result<Admitted, Refused>> {
        if !is_first || matches!(self.live.overflow.get(), Overflow::Block { .. }) {
            return self.poll_admit(wanted, is_first, id, context);
        }
        let patience = &mut Patience::of(Wait::Never);
        Poll::Ready(self.admit(wanted, patience, &mut DeferredDrops::new(), None, None))
    }
}

impl<T> Submitted<T> {
    /// Returns the number of messages.
    fn count(&self) -> u64 {
        self.job.count
    }
}
