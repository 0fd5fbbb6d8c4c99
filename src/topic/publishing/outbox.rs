//! Publishing with the ack of a delivery.

use crate::engine::outbox::lane_outbox::{CallOutbox, LaneOutbox};
use crate::engine::outbox::staged::Staged;
use crate::engine::publish::ask::Refused;
use crate::message::Delivery;
use crate::message::outgoing::Message;
#[cfg(feature = "async")]
use crate::message::owned::OwnedDelivery;
use crate::subscription::pull::lease::Lease;
use crate::topic::Topic;
use crate::types::error::PublishError;
use crate::types::error::store::StoreError;

impl<T> Delivery<'_, T> {
    /// Publishes a message to a durable topic together with the ack of this delivery (feature
    /// `log`).
    ///
    /// The message and the end of the delivery are one commit. The handler succeeds, and both are in
    /// the log. Or it fails, and neither is. A crash between the two can't be. So each message of
    /// this subscription has its effect in the other topic exactly once. Messages of one handler to
    /// several topics are one commit, too.
    ///
    /// The subscription must be [durable](crate::SubscriptionBuilder::durable), and the topic must be
    /// durable in the same store. The message takes its place in the topic now, and its number with
    /// the commit. If the handler fails, the place is free again. The message then counts as dropped
    /// ([`DropCause::RolledBack`](crate::event::DropCause)).
    ///
    /// Neither this call nor the ack waits for the disk. Nothing is delivered before the message has
    /// reached the level of its topic. On a broker without workers, the thread that runs it waits.
    ///
    /// ```
    /// # use millstream::{Broker, store::{Raw, Store}};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("millstream-outbox-{}", std::process::id()));
    /// # let broker = Broker::builder().workers(0).store(Store::open(&directory)?).build()?;
    /// let orders = broker.topic::<String>("orders").durable(Raw).open()?;
    /// let bills = broker.topic::<String>("bills").durable(Raw).open()?;
    /// let billing = orders.subscription("billing").durable().subscribe({
    ///     let bills = bills.clone();
    ///     move |order| {
    ///         order.publish(&bills, format!("a bill for {}", order.payload()))?;
    ///         Ok(())
    ///     }
    /// })?;
    /// orders.publish("42 apples".to_owned())?;
    /// broker.run_until_idle();
    /// assert_eq!(bills.metrics().published, 1);
    /// # drop((billing, orders, bills, broker));
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`PublishError`], which hands the payload back: `Full` at once, whatever the overflow
    /// policy, `Closed`, `NoSubscribers`, `Invalid`, or `NotStored`. The last one is for a payload that
    /// can't be encoded, and for what an ack can't publish
    /// ([`StoreError::Outbox`](crate::store::StoreError::Outbox)). The delivery of a lease refuses it;
    /// see [`Lease::publish`](crate::Lease::publish).
    pub fn publish<U>(&self, topic: &Topic<U>, payload: U) -> Result<(), PublishError<U>>
    where
        U: Send + Sync + 'static,
    {
        let published = self.stage(topic, Message::new(payload));
        published.map_err(|(refused, message)| refused.error(message.into_inner()))
    }

    /// Publishes a whole message together with the ack, as [`publish`](Self::publish) does (feature
    /// `log`).
    ///
    /// It may have a key, headers, a time to live and a dedup id.
    ///
    /// If a message with its dedup id was accepted before the ack, this one is dropped
    /// ([`DropCause::Duplicate`](crate::event::DropCause)). The delivery ends all the same.
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish), with the whole message. A message with a
    /// delay is refused as `NotStored`.
    pub fn publish_message<U>(
        &self,
        topic: &Topic<U>,
        message: Message<U>,
    ) -> Result<(), PublishError<Message<U>>>
    where
        U: Send + Sync + 'static,
    {
        let published = self.stage(topic, message);
        published.map_err(|(refused, message)| refused.error(message))
    }

    fn stage<U>(&self, topic: &Topic<U>, message: Message<U>) -> Result<(), (Refused, Message<U>)>
    where
        U: Send + Sync + 'static,
    {
        let Some(CallOutbox { lane, call }) = self.address.outbox else {
            return Err((refuse("the subscription is not durable"), message));
        };
        let seq = self.id().get();
        if !lane.is_open(seq, call) {
            return Err((refuse(OVER), message));
        }
        let stage = |message| lane.stage(seq, call, message);
        stage_in(lane, topic, message, stage)
    }
}

#[cfg(feature = "async")]
impl<T> OwnedDelivery<T> {
    /// Publishes a message together with the ack of this delivery, as
    /// [`Delivery::publish`](crate::Delivery::publish) does (feature `log`).
    ///
    /// # Errors
    ///
    /// The errors are those of [`Delivery::publish`](crate::Delivery::publish). After the attempt has
    /// ended, a clone of the delivery publishes nothing more, and gets `NotStored`.
    pub fn publish<U>(&self, topic: &Topic<U>, payload: U) -> Result<(), PublishError<U>>
    where
        U: Send + Sync + 'static,
    {
        self.delivery().publish(topic, payload)
    }

    /// Publishes a whole message together with the ack of this delivery, as
    /// [`Delivery::publish_message`](crate::Delivery::publish_message) does (feature `log`).
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish), with the whole message.
    pub fn publish_message<U>(
        &self,
        topic: &Topic<U>,
        message: Message<U>,
    ) -> Result<(), PublishError<Message<U>>>
    where
        U: Send + Sync + 'static,
    {
        self.delivery().publish_message(topic, message)
    }
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// Publishes a message together with the ack of this lease, as
    /// [`Delivery::publish`](crate::Delivery::publish) does (feature `log`).
    ///
    /// If the lease ends otherwise, by a nack, a drop or its deadline, nothing is published.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Delivery::publish`](crate::Delivery::publish). A lease that has ended
    /// publishes nothing more, and returns `NotStored`.
    pub fn publish<U>(&self, topic: &Topic<U>, payload: U) -> Result<(), PublishError<U>>
    where
        U: Send + Sync + 'static,
    {
        let published = self.stage_message(topic, Message::new(payload));
        published.map_err(|(refused, message)| refused.error(message.into_inner()))
    }

    /// Publishes a whole message together with the ack of this lease, as
    /// [`Delivery::publish_message`](crate::Delivery::publish_message) does (feature `log`).
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish), with the whole message.
    pub fn publish_message<U>(
        &self,
        topic: &Topic<U>,
        message: Message<U>,
    ) -> Result<(), PublishError<Message<U>>>
    where
        U: Send + Sync + 'static,
    {
        let published = self.stage_message(topic, message);
        published.map_err(|(refused, message)| refused.error(message))
    }

    fn stage_message<U>(
        &self,
        topic: &Topic<U>,
        message: Message<U>,
    ) -> Result<(), (Refused, Message<U>)>
    where
        U: Send + Sync + 'static,
    {
        let Some(lane) = self.outbox() else {
            return Err((refuse("the subscription is not durable"), message));
        };
        if self.is_stale() {
            return Err((refuse(OVER), message));
        }
        stage_in(lane, topic, message, |message| self.stage(message))
    }
}

const OVER: &str = "the attempt is over";

fn refuse(why: &'static str) -> Refused {
    Refused::NotStored(Box::new(StoreError::Outbox { why }))
}

/// Makes a message ready, and stages it.
fn stage_in<U: Send + Sync + 'static>(
    lane: &LaneOutbox,
    topic: &Topic<U>,
    message: Message<U>,
    stage: impl FnOnce(Box<dyn Staged>) -> Result<(), Box<dyn Staged>>,
) -> Result<(), (Refused, Message<U>)> {
    let Some(prepared) = topic.core.prepare(lane.log(), message)? else {
        return Ok(());
    };
    let job = prepared.job();
    if stage(Box::new(prepared)).is_ok() {
        return Ok(());
    }
    // The attempt has ended meanwhile.
    let message = topic.core.take_back_staged(&job).into_messages().next();
    Err((refuse(OVER), message.expect("it was not staged")))
}
