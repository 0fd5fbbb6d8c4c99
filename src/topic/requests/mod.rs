//! Requests: messages whose publisher waits for a reply.

pub(crate) mod error;
#[cfg(feature = "async")]
pub(crate) mod futures;
pub(crate) mod gather;

use std::any::type_name;
use std::time::Duration;

use crate::engine::publish::ask::{Refused, Wait};
use crate::engine::runtime::context;
use crate::engine::state::topic::TopicCore;
use crate::engine::track::ends::Ends;
use crate::engine::track::replies::{AnyReply, Concluded};
use crate::message::outgoing::Message;
use crate::pure::decide::asking::{AskEnd, Asking};
use crate::sync::{Arc, Weak};
use crate::topic::Topic;
use crate::topic::publishing::message::MessageBuilder;
use crate::topic::requests::error::RequestError;
use crate::topic::requests::gather::{Gather, Replies, RepliesEnd};
use crate::types::duration::nanos;
use crate::types::error::PublishError;
#[cfg(feature = "log")]
use crate::types::error::store::StoreError;

impl<T: Send + Sync + 'static> Topic<T> {
    /// Publishes a message, and waits for a reply to it.
    ///
    /// A handler, a member of a group or the holder of a lease replies by
    /// [`Delivery::reply`](crate::Delivery::reply). The first reply counts. Its type is the
    /// requester's choice, and is checked when the reply comes.
    ///
    /// ```
    /// use millstream::Broker;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let squares = broker.topic::<u32>("squares").open()?;
    /// let _worker = squares.subscribe("worker", |number| {
    ///     number.reply(u64::from(*number.payload()).pow(2));
    ///     Ok(())
    /// })?;
    /// let square: u64 = squares.request(12, Duration::from_secs(5))?;
    /// assert_eq!(square, 144);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The request is a message like any other: it goes to each subscription, takes a place in the
    /// topic, and is retried. A retry goes on within the timeout, which counts from this call. The
    /// wait ends at once when nobody is left who could reply. Each delivery was handled without a
    /// reply then, or is a dead letter, dropped, expired or cancelled.
    ///
    /// The reply waits in the request itself. There is no topic for it. A reply that comes after the
    /// end is dropped and counted
    /// ([`late_replies`](crate::metrics::TopicMetrics::late_replies)), and observers are told. A
    /// request whose time was up stays in the topic, and is handled all the same, unless it has a
    /// [time to live](MessageBuilder::ttl).
    ///
    /// Under [`Overflow::Block`](crate::Overflow::Block) it waits for room, too, within the timeout.
    /// On a broker without workers it runs the broker until there is nothing left to do now, and its
    /// time is up then.
    ///
    /// # Errors
    ///
    /// Returns a [`RequestError`]. `NoResponder`, `WouldBlock` (inside a handler of this broker) and
    /// `Refused` hand the payload back.
    pub fn request<R: Send + 'static>(
        &self,
        payload: T,
        timeout: Duration,
    ) -> Result<R, RequestError<T>> {
        self.message(payload).request(timeout)
    }

    /// Publishes a message, and collects replies to it, on the terms of `gather`.
    ///
    /// It is [`request`](Self::request) to several subscriptions, or to a handler that replies
    /// several times. The call returns with what it has as soon as it has enough, or no reply has come
    /// for a while. It also does when the time is up, or nobody is left who could reply.
    ///
    /// ```
    /// use millstream::Broker;
    /// use millstream::request::Gather;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let offers = broker.topic::<u32>("offers").open()?;
    /// let _sellers = [("ann", 3), ("bob", 2)].map(|(name, price)| {
    ///     offers.subscribe(name, move |wanted| {
    ///         wanted.reply(wanted.payload() * price);
    ///         Ok(())
    ///     })
    /// });
    /// let offers = offers.request_many::<u32>(10, Gather::within(Duration::from_secs(5)))?;
    /// assert_eq!(offers.into_iter().min(), Some(20));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`RequestError`] if the message was not accepted, which hands the payload back. A
    /// maximum of zero is `Refused`. After the acceptance, [`Replies::end`] says how it went.
    pub fn request_many<R: Send + 'static>(
        &self,
        payload: T,
        gather: Gather,
    ) -> Result<Replies<R>, RequestError<T>> {
        self.message(payload).request_many(gather)
    }
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Publishes the message, and waits for a reply to it, as [`Topic::request`] does.
    ///
    /// The request takes the place of a [tracker](Self::tracked).
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::request`].
    pub fn request<R: Send + 'static>(self, timeout: Duration) -> Result<R, RequestError<T>> {
        let gather = Gather::within(timeout).max(1);
        let concluded = ask::<T, R>(&self.topic.core, self.message, &gather)?;
        only_reply(concluded)
    }

    /// Publishes the message, and collects replies to it, as [`Topic::request_many`] does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::request_many`].
    pub fn request_many<R: Send + 'static>(
        self,
        gather: Gather,
    ) -> Result<Replies<R>, RequestError<T>> {
        let concluded = ask::<T, R>(&self.topic.core, self.message, &gather)?;
        Ok(all_replies(concluded))
    }
}

fn ask<T: Send + Sync + 'static, R: 'static>(
    topic: &Arc<TopicCore<T>>,
    message: Message<T>,
    gather: &Gather,
) -> Result<Concluded, RequestError<T>> {
    let engine = &topic.engine;
    if context::is_inside(engine) {
        return Err(RequestError::WouldBlock(message.into_inner()));
    }
    let message = admissible(topic, message, gather)?;
    let ends = slot::<T, R>(topic, gather);
    topic.publish_message(message.track(&ends), Wait::UpTo(gather.timeout))?;
    if !engine.is_manual() {
        return Ok(ends.wait_for_replies(&engine.clock));
    }
    engine.run_until_idle();
    Ok(ends.conclude(engine.clock.timer_ns()))
}

/// Makes the room for replies of type `R`. Its time counts from now.
fn slot<T: Send + Sync + 'static, R: 'static>(
    topic: &Arc<TopicCore<T>>,
    gather: &Gather,
) -> Arc<Ends> {
    let now_ns = topic.engine.clock.timer_ns();
    let deadline_ns = now_ns.saturating_add(nanos(gather.timeout));
    let asking = Asking::new(gather.max, gather.stall.map(nanos), deadline_ns);
    let topic: Weak<TopicCore<T>> = Arc::downgrade(topic);
    Ends::asking::<R>(asking, topic)
}

/// Returns the message, unless a request of this topic can't be answered.
fn admissible<T: Send + Sync + 'static>(
    topic: &TopicCore<T>,
    message: Message<T>,
    gather: &Gather,
) -> Result<Message<T>, RequestError<T>> {
    if let Err(invalid) = gather.check() {
        return Err(RequestError::Refused(PublishError::Invalid {
            payload: message.into_inner(),
            invalid: Box::new(invalid),
        }));
    }
    #[cfg(feature = "log")]
    if topic.is_stored() {
        let error = Box::new(StoreError::Unsupported { what: "a request" });
        let refused = Refused::NotStored(error);
        return Err(refused.error(message.into_inner()).into());
    }
    if !topic.has_subscribers() && !topic.is_closed_to_caller() {
        topic.note_refused(&Refused::NoSubscribers, 1);
        return Err(RequestError::NoResponder(message.into_inner()));
    }
    Ok(message)
}

fn only_reply<T, R: 'static>(mut concluded: Concluded) -> Result<R, RequestError<T>> {
    match concluded.end {
        AskEnd::Complete => Ok(typed(concluded.replies.pop().expect("it was taken"))),
        AskEnd::WrongType => Err(RequestError::wrong_type::<R>(concluded.found)),
        AskEnd::Ended => Err(RequestError::Unanswered(concluded.outcome)),
        AskEnd::Stalled | AskEnd::TimedOut => Err(RequestError::TimedOut),
    }
}

fn all_replies<R: 'static>(concluded: Concluded) -> Replies<R> {
    let end = match concluded.end {
        AskEnd::Complete => RepliesEnd::Complete,
        AskEnd::WrongType => RepliesEnd::WrongType {
            expected: type_name::<R>(),
            found: concluded.found.unwrap_or("another type"),
        },
        AskEnd::Ended => RepliesEnd::Ended(concluded.outcome),
        AskEnd::Stalled => RepliesEnd::Stalled,
        AskEnd::TimedOut => RepliesEnd::TimedOut,
    };
    let replies = concluded.replies.into_iter().map(typed).collect();
    Replies { replies, end }
}

fn typed<R: 'static>(reply: AnyReply) -> R {
    *reply
        .downcast()
        .expect("only replies of this type are taken")
}
