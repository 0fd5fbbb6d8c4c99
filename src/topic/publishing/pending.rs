//! Receipts that are to come: publishing without waiting for the disk.

use std::fmt;
#[cfg(feature = "async")]
use std::pin::Pin;
#[cfg(feature = "async")]
use std::task::{Context, Poll, ready};

use crate::engine::journal::submitted::Submitted;
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::publish::ask::{Ask, Patience, Refused};
use crate::log::commit::Due;
use crate::message::Receipt;
use crate::message::batch::DeferredDrops;
use crate::message::chunk::Chunk;
use crate::message::outgoing::Message;
use crate::topic::Topic;
use crate::topic::publishing::message::MessageBuilder;
use crate::types::error::PublishError;
use crate::types::error::store::StoreError;

/// A message on its way to the disk, from [`Topic::submit`].
///
/// [`wait`](Self::wait) returns the receipt. With the feature `async`, this is a future of the same.
/// The message is published whether anybody waits or not. Its receipt comes when it has reached the
/// topic's level.
#[must_use = "whether the message was stored is known from its receipt"]
pub struct PendingReceipt<T: Send + Sync + 'static> {
    topic: Topic<T>,
    submitted: Submitted<T>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Publishes a message to a durable topic, and doesn't wait for the disk (feature `log`).
    ///
    /// A thread can have many messages on their way, which share the syncs. It waits for room as
    /// [`publish`](Self::publish) does.
    ///
    /// ```
    /// # use millstream::{Broker, store::{Raw, Store}};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("millstream-submit-{}", std::process::id()));
    /// # let broker = Broker::builder().store(Store::open(&directory)?).build()?;
    /// let notes = broker.topic::<String>("notes").durable(Raw).open()?;
    /// let first = notes.submit("one".to_owned())?;
    /// let second = notes.submit("two".to_owned())?;
    /// println!("{} and {} are safe", first.wait()?, second.wait()?);
    /// # drop((notes, broker));
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish). A topic that is not durable refuses it as
    /// [`PublishError::NotStored`].
    pub fn submit(&self, payload: T) -> Result<PendingReceipt<T>, PublishError<T>> {
        self.submit_message(Message::new(payload))
    }

    fn submit_message(&self, message: Message<T>) -> Result<PendingReceipt<T>, PublishError<T>> {
        let core = &self.core;
        let unsupported = |what| Refused::NotStored(Box::new(StoreError::Unsupported { what }));
        let Some(stored) = core.stored() else {
            let refused = unsupported("messages unless it is opened as durable");
            return Err(refused.error(message.into_inner()));
        };
        if let Err(refused) = core.check(&message) {
            return Err(refused.error(message.into_inner()));
        }
        if message.has_dedup_id() {
            let what = "a dedup id of a message that is submitted";
            return Err(unsupported(what).error(message.into_inner()));
        }
        let not_stored = |error| Refused::NotStored(Box::new(error));
        let delay = message.delay();
        let (payload, meta) = message.into_parts();
        let mut kept = None;
        let one = [(&payload, meta.as_deref())].into_iter();
        let encoded = match stored.encode(&mut kept, one) {
            Ok(encoded) => encoded,
            Err(error) => return Err(not_stored(error).error(payload)),
        };
        let meta = core.weigh(&payload, meta);
        let (patience, drops) = (&mut Patience::default(), &mut DeferredDrops::new());
        let admitted = match core.admit(Ask::one(meta.as_deref()), patience, drops, None) {
            Ok(admitted) => admitted,
            Err(refused) => {
                core.note_refused(&refused, 1);
                return Err(refused.error(payload));
            }
        };
        let mut chunk = Chunk::EMPTY;
        chunk.push(payload, meta);
        let due = Due::Now;
        let submitted = core.submit(stored, chunk, encoded, &admitted, due, delay);
        stored.give_back(kept);
        match submitted {
            Ok(submitted) => Ok(PendingReceipt {
                topic: self.clone(),
                submitted,
            }),
            Err((error, chunk)) => Err(not_stored(error).error(only(chunk))),
        }
    }
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Publishes the message to a durable topic, and doesn't wait for the disk, as
    /// [`Topic::submit`] does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::submit`], and [`PublishError::Invalid`] for a time to live
    /// of zero. A message with a dedup id is refused as [`PublishError::NotStored`], because it may
    /// have to wait for another.
    pub fn submit(self) -> Result<PendingReceipt<T>, PublishError<T>> {
        self.topic.submit_message(self.message)
    }
}

impl<T: Send + Sync + 'static> PendingReceipt<T> {
    /// Waits until the message has reached the topic's level.
    ///
    /// The calling thread may write for others, too.
    ///
    /// # Errors
    ///
    /// Returns [`PublishError::NotStored`] with the payload if the store has failed.
    pub fn wait(self) -> Result<Receipt, PublishError<T>> {
        let result = self.stored().log().wait(self.submitted.ticket);
        self.conclude(result)
    }

    fn stored(&self) -> &TopicLog<T> {
        let stored = self.topic.core.stored();
        stored.expect("only a durable topic has pending receipts")
    }

    fn conclude(&self, result: Result<(), StoreError>) -> Result<Receipt, PublishError<T>> {
        match self.topic.core.conclude(&self.submitted, result) {
            Ok(first) => Ok(self.stored().receipt((first, 1))),
            Err((error, chunk)) => Err(Refused::NotStored(Box::new(error)).error(only(chunk))),
        }
    }
}

/// Takes the only payload out of a chunk.
fn only<T>(chunk: Chunk<T>) -> T {
    let one = chunk.into_each().next();
    one.expect("it had one message").0
}

#[cfg(feature = "async")]
impl<T: Send + Sync + 'static> Future for PendingReceipt<T> {
    type Output = Result<Receipt, PublishError<T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let log = self.stored().log();
        let result = ready!(log.poll(self.submitted.ticket, context));
        Poll::Ready(self.conclude(result))
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for PendingReceipt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReceipt")
            .field("topic", &self.topic.name())
            .finish_non_exhaustive()
    }
}
