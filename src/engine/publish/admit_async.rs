//! Publishing from a future, which waits for room without a thread.

use std::task::{Context, Poll, ready};

use crate::engine::publish::admit::{Admitted, Refused, Wait, refused};
use crate::engine::runtime::context;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::wakers::WaiterId;
use crate::message::Receipt;
use crate::message::batch::{DeferredDrops, QueueEntry};
use crate::observe::event::EventKind;
use crate::pure::words::tickets::Refusal;
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::error::PublishError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Gets one ticket under `Overflow::Block`, or has this future woken when there may be
    /// room. `is_first` says that the future has not waited yet.
    pub(crate) fn poll_admit(
        self: &Arc<Self>,
        is_first: bool,
        id: &mut WaiterId,
        cx: &Context<'_>,
    ) -> Poll<Result<Admitted, Refused>> {
        if is_first && self.lacks_subscribers() {
            return Poll::Ready(Err(Refused::NoSubscribers));
        }
        let attempt = || match self.admit_caller(1, self.settings.capacity) {
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
        payload: &mut Option<T>,
        is_first: bool,
        id: &mut WaiterId,
        context: &Context<'_>,
    ) -> Poll<Result<Receipt, PublishError<T>>> {
        let take = |payload: &mut Option<T>| payload.take().expect("polled after it was ready");
        if !matches!(self.settings.overflow, Overflow::Block { .. }) {
            return Poll::Ready(self.publish(take(payload), None, Wait::ByPolicy));
        }
        let admitted = ready!(self.poll_admit(is_first, id, context));
        let payload = take(payload);
        Poll::Ready(match admitted {
            Err(refused) => {
                self.books.rejected.add(1);
                Err(refused.error(payload))
            }
            Ok(admitted) => {
                let message = self.message(admitted.first_id, payload);
                let entry = QueueEntry::One(message, None);
                self.admitted(entry, &admitted, &mut DeferredDrops::new(), None);
                Ok(admitted.receipt())
            }
        })
    }
}
