//! Publishing from a future, which waits for room without a thread.

use std::task::{Context, Poll, ready};

use crate::engine::publish::admit::{Admitted, Refused, Wait, refused};
use crate::engine::runtime::context;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::wakers::WaiterId;
use crate::message::Receipt;
use crate::message::batch::{DeferredDrops, QueueEntry};
use crate::message::outgoing::Message;
use crate::observe::event::EventKind;
use crate::pure::words::tickets::Refusal;
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::error::PublishError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Gets tickets for at least one and at most `wanted` messages under `Overflow::Block`, or
    /// has this future woken when there may be room. `is_first` says that the future has not
    /// waited yet.
    pub(crate) fn poll_admit(
        self: &Arc<Self>,
        wanted: u64,
        is_first: bool,
        id: &mut WaiterId,
        cx: &Context<'_>,
    ) -> Poll<Result<Admitted, Refused>> {
        if is_first && self.lacks_subscribers() {
            return Poll::Ready(Err(Refused::NoSubscribers));
        }
        let attempt = || match self.admit_caller(wanted, self.settings.capacity) {
            Err(Refusal::Full) => None,
            admitted => Some(admitted),
        };
        let made_room = || self.make_room_of_expired().then(attempt).flatten();
        let admitted = match attempt().or_else(made_room) {
            Some(admitted) => {
                self.waiters.leave(id, || self.room());
                admitted
            }
            None => {
                if is_first {
                    self.tell(EventKind::Backpressure {
                        depth: self.waiting(),
                        overflow: self.settings.overflow,
                    });
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
        Poll::Ready(admitted.map(Admitted::plainly).map_err(refused))
    }

    /// Accepts one message or hands the payload back. Under `Overflow::Block` it is pending
    /// until there is room; under other policies it is ready at once.
    pub(crate) fn poll_publish(
        self: &Arc<Self>,
        outgoing: &mut Option<Message<T>>,
        is_first: bool,
        id: &mut WaiterId,
        context: &Context<'_>,
    ) -> Poll<Result<Receipt, PublishError<T>>> {
        let take = |outgoing: &mut Option<_>| outgoing.take().expect("polled after it was ready");
        let waits = matches!(self.settings.overflow, Overflow::Block { .. });
        if !waits || outgoing.as_ref().is_some_and(Message::is_stillborn) {
            return Poll::Ready(self.publish_message(take(outgoing), Wait::ByPolicy));
        }
        let admitted = ready!(self.poll_admit(1, is_first, id, context));
        let message = take(outgoing);
        Poll::Ready(match admitted {
            Err(refused) => {
                self.note_refused(refused, 1);
                Err(refused.error(message.into_payload()))
            }
            Ok(admitted) => Ok(self.take_in(message, &admitted)),
        })
    }

    /// Enqueues an admitted message, or puts it onto the timer wheel.
    pub(crate) fn take_in(self: &Arc<Self>, message: Message<T>, admitted: &Admitted) -> Receipt {
        let drops = &mut DeferredDrops::new();
        if message.is_late() {
            let route = self.route_of(message.meta());
            return self.delay(message, admitted, route, drops);
        }
        let (payload, meta) = message.into_parts();
        let message = self.message(admitted.first_id, payload);
        self.admitted(QueueEntry::One(message, meta), admitted, drops, None);
        admitted.receipt()
    }
}
