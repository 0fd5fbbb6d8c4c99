//! Publishing as a future, for any runtime (feature `async`).

#[cfg(feature = "log")]
use crate::engine::publish::messages::Outbox;
use crate::engine::wait::wakers::WaiterId;
use crate::message::Receipt;
use crate::message::outgoing::Message;
use crate::topic::Topic;
use crate::topic::publishing::message::MessageBuilder;
use crate::types::error::PublishError;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A publish that waits for room without blocking its thread, made by [`Topic::publish_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct Publish<T: Send + Sync + 'static> {
    topic: Topic<T>,
    outgoing: Option<Message<T>>,
    is_patient: bool,
    is_first: bool,
    id: WaiterId,
    /// The message of a durable topic.
    #[cfg(feature = "log")]
    outbox: Option<Outbox<T, std::iter::Empty<Message<T>>>>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Publishes a message, and waits for room without blocking the thread.
    ///
    /// It waits only under [`Overflow::Block`](crate::Overflow::Block), and then for as long as it
    /// takes. The policy's timeout is for threads; a future's timeout is up to its runtime. Under
    /// other policies it returns at once. Inside a handler it waits as well, so don't block on it
    /// there.
    ///
    /// If the future is dropped before it is ready, nothing was accepted, and the payload is
    /// dropped with it. In a durable topic it may be on its way to the log by then.
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish), except `TimedOut`.
    pub fn publish_async(&self, payload: T) -> Publish<T> {
        Publish::new(self, Message::new(payload))
    }
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Publishes the message, and waits for room without blocking the thread, as
    /// [`Topic::publish_async`] does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::publish_async`], and [`PublishError::Invalid`] for a time to
    /// live of zero.
    pub fn publish_async(self) -> Publish<T> {
        Publish::new(self.topic, self.message)
    }
}

impl<T: Send + Sync + 'static> Publish<T> {
    pub(crate) fn new(topic: &Topic<T>, outgoing: Message<T>) -> Self {
        Self {
            topic: topic.clone(),
            outgoing: Some(outgoing),
            is_patient: false,
            is_first: true,
            id: WaiterId::default(),
            #[cfg(feature = "log")]
            outbox: None,
        }
    }

    /// Takes back the message, if it was not accepted. The future must not be polled again.
    pub(crate) fn take_back(&mut self) -> Option<Message<T>> {
        self.outgoing.take()
    }

    /// Makes a publish that waits for room in a topic that would reject the message, too.
    pub(crate) fn patient(topic: &Topic<T>, outgoing: Message<T>) -> Self {
        let mut publish = Self::new(topic, outgoing);
        publish.is_patient = true;
        publish
    }
}

/// No field is pinned: the payload is only moved.
impl<T: Send + Sync + 'static> Unpin for Publish<T> {}

impl<T: Send + Sync + 'static> Future for Publish<T> {
    type Output = Result<Receipt, PublishError<T>>;

    /// Tries to publish, or registers the task for when there is room.
    ///
    /// # Panics
    ///
    /// Panics if the future has been ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let is_first = std::mem::replace(&mut this.is_first, false);
        let core = &this.topic.core;
        #[cfg(feature = "log")]
        if let Some(stored) = core.stored() {
            let outgoing = this.outgoing.take();
            let outbox = this.outbox.get_or_insert_with(|| Outbox::of(outgoing));
            let is_first = is_first && !this.is_patient;
            return core.poll_publish_stored(stored, outbox, is_first, &mut this.id, context);
        }
        core.poll_publish(
            &mut this.outgoing,
            this.is_patient,
            is_first,
            &mut this.id,
            context,
        )
    }
}

impl<T: Send + Sync + 'static> Drop for Publish<T> {
    fn drop(&mut self) {
        let core = &self.topic.core;
        core.waiters.leave(&mut self.id, || core.room());
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Publish<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("topic", &self.topic.name())
            .field("ready", &self.outgoing.is_none())
            .finish_non_exhaustive()
    }
}
