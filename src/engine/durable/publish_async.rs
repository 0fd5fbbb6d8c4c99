//! Publishing through the log from a future, which waits for room and for the disk without a
//! thread.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::engine::journal::topic_log::TopicLog;
use crate::engine::publish::ask::{Admitted, Ask, Patience, Refused, Wait};
use crate::engine::publish::chunks::split;
use crate::engine::publish::messages::Outbox;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::wakers::WaiterId;
use crate::log::commit::Due;
use crate::message::Receipt;
use crate::message::batch::DeferredDrops;
use crate::message::outgoing::Message;
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::error::PublishError;

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
        let next = self.poll_stored(stored, outbox, is_first, id, context);
        Poll::Ready(match ready!(next) {
            Ok(granted) => Ok(stored.receipt(granted)),
            Err(refused) => {
                self.note_refused(&refused, 1);
                let message = outbox.take_one().expect("a refused message is still there");
                Err(refused.error(message.into_inner()))
            }
        })
    }

    /// Publishes the messages that go next. Returns the number of the first, and how many they are:
    /// none if it is a duplicate of that one. It is pending until they have reached the topic's
    /// level, and under `Overflow::Block` until there is room.
    pub(crate) fn poll_stored(
        self: &Arc<Self>,
        stored: &TopicLog<T>,
        outbox: &mut Outbox<T, impl Iterator<Item = Message<T>>>,
        is_first: bool,
        id: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<Result<(u64, u64), Refused>> {
        let not_stored = |error| Refused::NotStored(Box::new(error));
        let submitted = match outbox.submitted.take() {
            Some(submitted) => submitted,
            None => {
                if let Err(refused) = self.put_in_chunk(outbox) {
                    return Poll::Ready(Err(refused));
                }
                self.weigh_chunk(&mut outbox.chunk);
                let chunk = &mut outbox.chunk;
                let encoded = match stored.encode(&mut outbox.encoded, chunk.each()) {
                    Ok(encoded) => encoded,
                    Err(error) => return Poll::Ready(Err(not_stored(error))),
                };
                let (wanted, _) = self.way_of(chunk, encoded.len() as u64, None);
                let admitted = loop {
                    let ask = chunk.ask(wanted);
                    match ready!(self.poll_admit_stored(ask, is_first, id, context)) {
                        Ok(admitted) => break admitted,
                        Err(Refused::Claimed) => {
                            if let Err(error) = ready!(stored.poll_claim(context)) {
                                return Poll::Ready(Err(not_stored(error)));
                            }
                        }
                        Err(refused) => return Poll::Ready(Err(refused)),
                    }
                };
                if admitted.is_duplicate() {
                    let drops = &mut DeferredDrops::new();
                    encoded.skip(1);
                    outbox.delay = Duration::ZERO;
                    let first = self.drop_duplicate(chunk, &admitted, drops);
                    return Poll::Ready(Ok(first));
                }
                let count = admitted.count as usize;
                let taken = chunk.take_front(count, split);
                let (due, delay) = (Due::Now, outbox.delay);
                let submitted = self.submit(stored, taken, encoded, &admitted, due, delay);
                encoded.skip(count);
                if encoded.len() == 0 {
                    stored.give_back(outbox.encoded.take());
                }
                match submitted {
                    Ok(submitted) => submitted,
                    Err((error, taken)) => {
                        chunk.put_front(taken);
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
                outbox.delay = Duration::ZERO;
                Ok((first, submitted.job.count))
            }
            Err((error, taken)) => {
                outbox.chunk.put_front(taken);
                Err(not_stored(error))
            }
        })
    }

    /// Puts a message that goes alone into the chunk, if it goes next. Refuses what the topic can't
    /// accept.
    fn put_in_chunk(
        &self,
        outbox: &mut Outbox<T, impl Iterator<Item = Message<T>>>,
    ) -> Result<(), Refused> {
        if !outbox.chunk.is_empty() {
            return Ok(());
        }
        if let Some(message) = &outbox.alone {
            self.check(message)?;
        }
        if let Some(message) = outbox.alone.take() {
            outbox.delay = message.delay();
            let (payload, meta) = message.into_parts();
            outbox.chunk.push(payload, meta);
        }
        Ok(())
    }

    /// Gets tickets. It is pending under `Overflow::Block` only.
    fn poll_admit_stored(
        self: &Arc<Self>,
        ask: Ask<'_>,
        is_first: bool,
        id: &mut WaiterId,
        context: &Context<'_>,
    ) -> Poll<Result<Admitted, Refused>> {
        if !is_first || matches!(self.live.overflow.get(), Overflow::Block { .. }) {
            return self.poll_admit(ask, is_first, id, context);
        }
        let patience = &mut Patience::of(Wait::Never);
        Poll::Ready(self.admit(ask, patience, &mut DeferredDrops::new(), None))
    }
}
