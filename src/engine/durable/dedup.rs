//! Messages with dedup ids on their way to the log.
//!
//! A publisher claims the id when it takes its ticket. The hook of its group commits the claim when
//! the group has reached the topic's level, and abandons it if the log refuses the group. Meanwhile
//! the claim is pending. A publisher that finds it so waits for the group that is open now, and asks
//! again.
//!
//! The feared interleavings. The group of the claim is a later one, because its publisher has yet to
//! join it. Then the claim is still pending, and the other waits once more. And a duplicate gets its
//! receipt before the first message has reached its level. It can't, because the claim is pending
//! until then. Nobody waits for ever: whoever has a claim needs nothing but the log.
//!
//! The window goes by the time of day at which this process opened the topic, and by the broker's
//! clock from there on. So an id keeps its age from one process to the next.

#[cfg(feature = "async")]
use std::task::{Context, Poll, ready};

use crate::engine::journal::topic_log::TopicLog;
use crate::engine::publish::ask::Admitted;
use crate::engine::publish::chunks::split;
use crate::engine::state::topic::TopicCore;
use crate::log::commit::Due;
use crate::log::waiters::Ticket;
#[cfg(feature = "async")]
use crate::log::waiters::task::Watch;
use crate::message::batch::DeferredDrops;
use crate::message::chunk::Chunk;
use crate::sync::{Arc, yield_now};
use crate::types::error::store::StoreError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Drops the first message of a chunk, which is a duplicate. Returns the number of the message
    /// that was accepted, and that none was now.
    pub(crate) fn drop_duplicate(
        self: &Arc<Self>,
        chunk: &mut Chunk<T>,
        admitted: &Admitted,
        drops: &mut DeferredDrops<T>,
    ) -> (u64, u64) {
        let duplicate = chunk.take_front(1, split);
        self.take_in_chunk(duplicate, admitted, drops, None);
        (admitted.first_id, 0)
    }
}

impl<T: Send + Sync + 'static> TopicLog<T> {
    /// Waits until a claim that is pending may have ended.
    pub(crate) fn await_claim(&self) -> Result<(), StoreError> {
        // Its publisher may have yet to join the open group.
        yield_now();
        self.log().wait(self.open_group(Due::Waits)?)
    }

    /// Has the task woken when a claim that is pending may have ended.
    #[cfg(feature = "async")]
    pub(crate) fn poll_claim(
        &self,
        awaited: &mut Option<Watch>,
        context: &Context<'_>,
    ) -> Poll<Result<(), StoreError>> {
        let watch = match awaited {
            Some(watch) => watch,
            None => awaited.insert(Watch::new(self.open_group(Due::Awaited)?)),
        };
        let ended = ready!(self.log().poll(watch, context));
        *awaited = None;
        Poll::Ready(ended)
    }

    /// Joins the open group without a record.
    fn open_group(&self, due: Due) -> Result<Ticket, StoreError> {
        let joined = self.log().submit(false, due, |_| {}, None);
        joined.map_err(|(error, _)| error)
    }
}
