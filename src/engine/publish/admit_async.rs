//! Publishing from a future, which waits for room without a thread.

use std::cell::Cell;
use std::task::{Context, Poll, ready};

use crate::engine::publish::ask::{Admitted, Ask, Patience, Refused, Wait};
use crate::engine::publish::chunks::{note_in, split};
use crate::engine::publish::messages::Outbox;
use crate::engine::runtime::context;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::wakers::WaiterId;
use crate::message::batch::{BATCH, DeferredDrops};
use crate::message::outgoing::Message;
use crate::message::{BatchReceipt, Receipt};
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::error::PublishError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Gets tickets for at least one and at most as many messages as are wanted, under
    /// `Overflow::Block`. Or it has this future woken when there may be room. `is_first` says that the
    /// future has not waited yet.
    pub(crate) fn poll_admit(
        self: &Arc<Self>,
        ask: Ask<'_>,
        is_first: bool,
        id: &mut WaiterId,
        cx: &Context<'_>,
    ) -> Poll<Result<Admitted, Refused>> {
        if is_first && self.lacks_subscribers() {
            return Poll::Ready(Err(Refused::NoSubscribers));
        }
        let last = Cell::new(None);
        let attempt = || match self.admit_caller(ask, self.live.capacity.get()) {
            Err(refusal) if refusal.may_wait() => {
                if let Refused::RateLimited(retry_after) = refusal {
                    self.waits_for_rate(retry_after, None);
                }
                last.set(Some(refusal));
                None
            }
            admitted => Some(admitted),
        };
        let made_room = || self.make_room_of_expired().then(attempt).flatten();
        let admitted = match attempt().or_else(made_room) {
            Some(admitted) => {
                self.waiters.leave(id, || self.room());
                admitted
            }
            None => {
                if is_first && let Some(refusal) = last.take() {
                    self.tell_refused(&refusal);
                }
                // The queued messages must be on their way before this future waits for their
                // room.
                self.schedule();
                let room = || self.room();
                ready!(self.waiters.poll_for(id, cx, attempt, room))
            }
        };
        if admitted.is_err() {
            context::note_refusal(&self.engine);
        }
        Poll::Ready(admitted.map(Admitted::plainly))
    }

    /// Accepts one message or hands the payload back. Under `Overflow::Block` it is pending
    /// until there is room; under other policies it is ready at once. A patient publisher waits
    /// under `Overflow::Reject`, too.
    pub(crate) fn poll_publish(
        self: &Arc<Self>,
        outgoing: &mut Option<Message<T>>,
        is_patient: bool,
        is_first: bool,
        id: &mut WaiterId,
        context: &Context<'_>,
    ) -> Poll<Result<Receipt, PublishError<T>>> {
        let take = |outgoing: &mut Option<_>| outgoing.take().expect("polled after it was ready");
        // A future that waits goes on waiting if the policy changes.
        let waits = !is_first
            || match self.live.overflow.get() {
                Overflow::Block { .. } => true,
                Overflow::Reject => is_patient,
                Overflow::DropOldest
                | Overflow::DropNewest
                | Overflow::DeadLetter
                | Overflow::Conflate => false,
            };
        let makes_no_sense = |message| self.check(message).is_err();
        if !waits || outgoing.as_ref().is_some_and(makes_no_sense) {
            return Poll::Ready(self.publish_message(take(outgoing), Wait::ByPolicy));
        }
        outgoing
            .iter_mut()
            .for_each(|message| self.weigh_message(message));
        let ask = Ask::one(outgoing.as_ref().and_then(Message::meta));
        let admitted = ready!(self.poll_admit(ask, is_first, id, context));
        let message = take(outgoing);
        Poll::Ready(match admitted {
            Err(refused) => {
                self.note_refused(&refused, 1);
                Err(refused.error(message.into_inner()))
            }
            Ok(admitted) => Ok(self.take_in_now(message, &admitted)),
        })
    }

    /// Accepts at least one of the messages that go next. Under `Overflow::Block` it is pending
    /// until there is room; under other policies it is ready at once.
    pub(crate) fn poll_publish_next(
        self: &Arc<Self>,
        outbox: &mut Outbox<T, impl Iterator<Item = Message<T>>>,
        receipt: &mut BatchReceipt,
        is_first: bool,
        id: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Refused>> {
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            let granted = ready!(self.poll_stored(stored, outbox, is_first, id, context));
            return Poll::Ready(granted.map(|granted| stored.note_in(receipt, granted)));
        }
        let mut drops = DeferredDrops::new();
        let waits = !is_first || matches!(self.live.overflow.get(), Overflow::Block { .. });
        let makes_no_sense = |message| self.check(message).is_err();
        if !waits || outbox.alone.as_ref().is_some_and(makes_no_sense) {
            let patience = &mut Patience::default();
            return Poll::Ready(self.publish_next(outbox, receipt, patience, &mut drops));
        }
        let wanted = outbox.chunk.len().min(BATCH) as u64;
        self.weigh_chunk(&mut outbox.chunk);
        let (wanted, route) = self.way_of(&outbox.chunk, wanted, None);
        outbox
            .alone
            .iter_mut()
            .for_each(|message| self.weigh_message(message));
        let ask = match wanted {
            0 => Ask::one(outbox.alone.as_ref().and_then(Message::meta)),
            _ => outbox.chunk.ask(wanted),
        };
        let admitted = match ready!(self.poll_admit(ask, is_first, id, context)) {
            Ok(admitted) => admitted,
            Err(refused) => return Poll::Ready(Err(refused)),
        };
        if wanted > 0 {
            let taken = outbox.chunk.take_front(admitted.count as usize, split);
            self.take_in_chunk(taken, &admitted, &mut drops, route);
            note_in(receipt, &admitted);
        } else if let Some(message) = outbox.alone.take() {
            receipt.add(self.take_in_now(message, &admitted));
        }
        Poll::Ready(Ok(()))
    }

    fn take_in_now(self: &Arc<Self>, message: Message<T>, admitted: &Admitted) -> Receipt {
        let route = match message.is_late() {
            true => self.route_of(message.meta()),
            false => None,
        };
        self.take_in(message, admitted, route, &mut DeferredDrops::new())
    }
}
