//! Publishing from a future, which waits for room without a thread.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::engine::publish::admit::{Admitted, Refused, Wait, refused};
use crate::engine::runtime::context;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::wakers::WaiterId;
use crate::message::Receipt;
use crate::message::batch::{DeferredDrops, Meta, QueueEntry};
use crate::observe::event::EventKind;
use crate::pure::words::tickets::Refusal;
use crate::sync::Arc;
use crate::types::config::Overflow;
use crate::types::error::PublishError;

/// A message that a future is to publish.
pub(crate) struct Outgoing<T> {
    pub(crate) payload: T,
    pub(crate) meta: Option<Meta>,
    pub(crate) delay: Duration,
}

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
        let attempt = || match self.admit_caller(1, self.live.capacity.get()) {
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
                        overflow: self.live.overflow.get(),
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
        outgoing: &mut Option<Outgoing<T>>,
        is_first: bool,
        id: &mut WaiterId,
        context: &Context<'_>,
    ) -> Poll<Result<Receipt, PublishError<T>>> {
        let take = |outgoing: &mut Option<_>| outgoing.take().expect("polled after it was ready");
        // A future that waits goes on waiting if the policy changes.
        if is_first && !matches!(self.live.overflow.get(), Overflow::Block { .. }) {
            let Outgoing {
                payload,
                meta,
                delay,
            } = take(outgoing);
            return Poll::Ready(self.publish_after(delay, payload, meta, Wait::ByPolicy));
        }
        let admitted = ready!(self.poll_admit(is_first, id, context));
        let Outgoing {
            payload,
            meta,
            delay,
        } = take(outgoing);
        Poll::Ready(match admitted {
            Err(refused) => {
                self.books.rejected.add(1);
                Err(refused.error(payload))
            }
            Ok(admitted) if delay.is_zero() => {
                let message = self.message(admitted.first_id, payload);
                let entry = QueueEntry::One(message, meta);
                self.admitted(entry, &admitted, &mut DeferredDrops::new(), None);
                Ok(admitted.receipt())
            }
            Ok(admitted) => {
                let (route, drops) = (self.route_of(meta.as_ref()), &mut DeferredDrops::new());
                Ok(self.delay(delay, payload, meta, &admitted, route, drops))
            }
        })
    }
}
