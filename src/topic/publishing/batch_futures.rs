//! Publishing many messages as a future, for any runtime (feature `async`).

use std::fmt;
use std::future::Future;
use std::iter::Map;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;

use crate::engine::publish::messages::Outbox;
use crate::engine::wait::wakers::WaiterId;
use crate::message::BatchReceipt;
use crate::message::outgoing::Message;
use crate::topic::Topic;
use crate::types::error::PublishBatchError;

/// A publish of many messages that waits for room without blocking its thread, made by
/// [`Topic::publish_batch_async`] and [`Topic::publish_messages_async`].
///
/// `M` is what the caller handed in: payloads, or whole messages.
///
/// Messages are accepted chunk by chunk, while the future is polled. So a future that is dropped
/// before it is ready may have published some of them. Before you drop it,
/// [`receipt`](Self::receipt) says how many, and [`into_inner`](Self::into_inner) hands back the
/// others. In a durable topic, those of one commit may be on their way to the log, and are in neither.
///
/// ```
/// # async fn timeout() {}
/// use std::future::poll_fn;
/// use std::pin::{Pin, pin};
/// use std::task::Poll;
/// # async fn import(orders: millstream::Topic<u64>) {
/// let mut publishing = orders.publish_batch_async(0..1_000);
/// let mut late = pin!(timeout()); // of your runtime
/// // As `select!` of your runtime would:
/// let outcome = poll_fn(|context| match Pin::new(&mut publishing).poll(context) {
///     Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
///     Poll::Pending => late.as_mut().poll(context).map(|()| None),
/// });
/// if outcome.await.is_none() {
///     let accepted = publishing.receipt().accepted();
///     let rest: Vec<u64> = publishing.into_inner();
///     assert_eq!(accepted + rest.len(), 1_000);
/// }
/// # }
/// ```
#[must_use = "a future does nothing until it is polled"]
pub struct PublishBatch<T: Send + Sync + 'static, M = T> {
    topic: Topic<T>,
    /// The messages that have not been accepted; `None` once the future was ready.
    outbox: Option<Outbox<T, Messages<T, M>>>,
    hand_back: fn(Message<T>) -> M,
    receipt: BatchReceipt,
    is_first: bool,
    id: WaiterId,
}

type Messages<T, M> = Map<IntoIter<M>, fn(M) -> Message<T>>;

impl<T: Send + Sync + 'static> Topic<T> {
    /// Publishes many messages in order, and waits for room without blocking the thread.
    ///
    /// It is [`publish_batch`](Self::publish_batch), except for the wait. It waits only under
    /// [`Overflow::Block`](crate::Overflow::Block), and then for as long as it takes, as
    /// [`publish_async`](Self::publish_async) does. The payloads are collected by this call. They
    /// are accepted in chunks of up to 64, while the future is polled. Between two chunks other
    /// publishers that wait have their turn.
    ///
    /// [`PublishBatch`] says what a future has published that is dropped before it is ready.
    ///
    /// # Errors
    ///
    /// Returns a [`PublishBatchError`], which hands back the rest. The reasons are those of
    /// `publish_async`.
    pub fn publish_batch_async(&self, payloads: impl IntoIterator<Item = T>) -> PublishBatch<T> {
        PublishBatch::new(self, payloads, Message::new, Message::into_inner)
    }

    /// Publishes many messages in order, each with what its publisher added to it, and waits for
    /// room without blocking the thread.
    ///
    /// It is [`publish_messages`](Self::publish_messages) with the wait of
    /// [`publish_batch_async`](Self::publish_batch_async).
    ///
    /// # Errors
    ///
    /// Returns a [`PublishBatchError`], which hands back the rest as whole messages. The reasons are
    /// those of `publish_async`.
    pub fn publish_messages_async(
        &self,
        messages: impl IntoIterator<Item = Message<T>>,
    ) -> PublishBatch<T, Message<T>> {
        PublishBatch::new(self, messages, |message| message, |message| message)
    }
}

impl<T: Send + Sync + 'static, M> PublishBatch<T, M> {
    fn new(
        topic: &Topic<T>,
        messages: impl IntoIterator<Item = M>,
        take: fn(M) -> Message<T>,
        hand_back: fn(Message<T>) -> M,
    ) -> Self {
        let messages: Vec<M> = messages.into_iter().collect();
        Self {
            topic: topic.clone(),
            outbox: Some(Outbox::new(messages.into_iter().map(take))),
            hand_back,
            receipt: BatchReceipt::default(),
            is_first: true,
            id: WaiterId::default(),
        }
    }

    /// Returns the receipt for the messages that have been accepted so far.
    pub fn receipt(&self) -> BatchReceipt {
        self.receipt
    }

    /// Gives up, and returns the messages that have not been accepted, in order.
    ///
    /// There are none after the future was ready.
    pub fn into_inner(mut self) -> Vec<M> {
        self.take_rest()
    }

    fn take_rest(&mut self) -> Vec<M> {
        let rest = self.outbox.take().map(Outbox::into_inner);
        let rest = rest.unwrap_or_default().into_iter();
        rest.map(self.hand_back).collect()
    }
}

/// No field is pinned: payloads are only moved.
impl<T: Send + Sync + 'static, M> Unpin for PublishBatch<T, M> {}

impl<T: Send + Sync + 'static, M> Future for PublishBatch<T, M> {
    type Output = Result<BatchReceipt, PublishBatchError<M>>;

    /// Publishes as much as there is room for, and registers the task for when there is more.
    ///
    /// # Panics
    ///
    /// Panics if the future has been ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let core = &this.topic.core;
        loop {
            let outbox = this.outbox.as_mut().expect("polled after it was ready");
            if !outbox.fill() {
                this.outbox = None;
                return Poll::Ready(Ok(this.receipt));
            }
            let is_first = std::mem::replace(&mut this.is_first, false);
            let (receipt, id) = (&mut this.receipt, &mut this.id);
            match ready!(core.poll_publish_next(outbox, receipt, is_first, id, context)) {
                Ok(()) => this.is_first = true,
                Err(refused) => {
                    let receipt = this.receipt;
                    let rest = this.take_rest();
                    return Poll::Ready(Err(this.topic.core.refuse_batch(refused, rest, receipt)));
                }
            }
        }
    }
}

impl<T: Send + Sync + 'static, M> Drop for PublishBatch<T, M> {
    fn drop(&mut self) {
        let core = &self.topic.core;
        core.waiters.leave(&mut self.id, || core.room());
    }
}

impl<T: Send + Sync + 'static, M> fmt::Debug for PublishBatch<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishBatch")
            .field("topic", &self.topic.name())
            .field("receipt", &self.receipt)
            .field("ready", &self.outbox.is_none())
            .finish_non_exhaustive()
    }
}
