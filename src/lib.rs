//! Publish-subscribe inside one process: typed topics, bounded queues, retries,
//! dead letters, backpressure and an honest drain.
//!
//! # The tour
//!
//! A [`Broker`] owns worker threads. A [`Topic`] is opened by name and payload
//! type and resolved once; publishing through it takes one short lock and looks nothing
//! up. A [`Subscription`] is a name and a closure; each has a bounded lane of its
//! own, so a slow or failing one fills its own lane. A [`PatternSubscription`] has one
//! in every topic that matches `orders.*`, say, present and future.
//!
//! ```
//! use millstream::{Backoff, Broker, Nack, PublishError};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::new()?;
//! let orders = broker
//!     .topic::<u64>("orders")
//!     .capacity(65_536)
//!     .retry(Backoff::exponential(Duration::from_millis(10)).max_attempts(5))
//!     .open()?;
//!
//! let _billing = orders.subscribe("billing", |delivery| {
//!     let total = u32::try_from(*delivery.payload())?; // an error is a nack: retried
//!     if total == 0 {
//!         return Err(Nack::dead_letter("an order without a total"));
//!     }
//!     Ok(())
//! })?;
//!
//! match orders.publish(42) {
//!     Ok(receipt) => println!("accepted as {receipt}"),
//!     Err(PublishError::Full(total)) => println!("no room for {total}"),
//!     Err(other) => return Err(other.into()),
//! }
//! println!("{}", broker.drain(Duration::from_secs(5))?);
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when…
//!
//! | …a topic is full | its [`Overflow`] policy; the payload comes back by default |
//! |---|---|
//! | …a lane is full | the subscription's [`LaneFull`] policy; by default the topic waits, without occupying a worker |
//! | …nobody subscribes | the topic's [`NoSubscribers`] policy |
//! | …a handler fails or panics, or a [`Lease`] is nacked, dropped or late | the [`RetryPolicy`]; by default three attempts, 250 ms times the attempt apart, then the [`DeadLetters`] |
//! | …those behind a failed delivery want to go on | the subscription's [`OnFailure`]; by default they do |
//! | …a handler can't do it now | [`Nack::retry_after`], or [`Nack::requeue`]: uncounted, at the end of the line |
//! | …a message grows old | its time to live ([`TopicBuilder::ttl`], [`MessageBuilder::ttl`]): it ends by itself, or goes to the dead letters ([`OnExpired`]) |
//! | …a subscription ends | its [`Unsubscribe`] mode |
//! | …the broker ends | [`Broker::drain`]; [`Broker::drain_pipeline`] if handlers publish onward; or dropping it, which is the immediate version |
//!
//! Whatever happens is counted ([`Broker::metrics`]) and, if anyone listens, told
//! ([`Broker::observe`]). The counts obey laws of conservation that
//! [`Metrics::balance`] checks.
//!
//! # Threads, and none
//!
//! With [`workers(0)`](BrokerBuilder::workers) and a [`ManualClock`] the whole engine
//! runs on the caller's thread, deterministically (jitter by a
//! [`seed`](BrokerBuilder::seed)): see
//! [`Broker::run_until_idle`]. That is how to test handlers, and how a game loop
//! might run it.
//!
//! # Limits
//!
//! Delivery is at least once, not exactly once. Nothing survives the process. A handler that
//! never returns can't be stopped. A retry or a dead letter keeps its batch of up to 64
//! messages alive. Under `panic = "abort"` panics are not contained. A payload by value has
//! at most [`MAX_PAYLOAD`] bytes. The README has them all, beside the guarantees.

mod batch;
mod broker;
mod broker_builder;
mod clock;
mod config;
mod dead_letters;
mod delivery_batch;
mod engine;
mod error;
mod event;
#[cfg(feature = "async")]
mod futures;
mod group;
mod latency;
mod lease;
mod lease_batch;
mod message;
mod metrics;
mod nack;
mod name;
#[cfg(feature = "async")]
mod owned_delivery;
mod pattern_subscription;
mod publisher;
mod pull;
mod pure;
mod shutdown;
mod subscription;
mod subscription_builder;
mod sync;
mod topic;
mod topic_builder;

pub use broker::{Broker, Observation};
pub use broker_builder::BrokerBuilder;
pub use clock::ManualClock;
pub use config::{
    DeadLetterOverflow, Histograms, Idle, LaneFull, NoSubscribers, OnExhausted, OnExpired,
    OnFailure, Overflow, Unkeyed, Unsubscribe,
};
pub use dead_letters::{DeadLetter, DeadLetters, DeadReason, PastFailure, Redrive};
pub use delivery_batch::DeliveryBatch;
pub use error::{
    BuildError, DrainError, InvalidSetting, ObserveError, OpenError, PartialBatch, PartitionsError,
    PublishError, RecvError, RemoveError, Stale, SubscribeError, UnknownPattern,
};
pub use event::{DropCause, Event, EventKind, Hook};
#[cfg(feature = "async")]
pub use futures::{LeaseStream, Publish, Recv};
pub use group::{ConsumerGroup, Member};
pub use latency::LatencySummary;
pub use lease::Lease;
pub use lease_batch::{IntoLeases, LeaseBatch};
pub use message::{BatchReceipt, Delivery, MessageId, Receipt};
pub use metrics::{
    DeliveryCounts, Imbalance, MemberMetrics, Metrics, SubscriptionMetrics, TopicMetrics,
};
pub use nack::Nack;
pub use name::{InvalidName, MAX_NAME_LEN};
#[cfg(feature = "async")]
pub use owned_delivery::OwnedDelivery;
pub use pattern_subscription::{PatternSubscription, PatternSubscriptionBuilder};
pub use publisher::BufferedPublisher;
pub use pull::{Leases, Pull, PullSubscription};
pub use pure::key_hash::key_hash;
pub use pure::lifecycle::Status;
pub use pure::pattern::{InvalidPattern, Pattern};
pub use pure::retry::{Backoff, Class, Decision, FailedAttempt, FailureKind, RetryPolicy};
pub use pure::strategy::{Backlog, Batched, FlushCause, Immediate, Plan, Strategy};
pub use shutdown::DrainReport;
pub use subscription::{Subscription, Unsubscribed};
pub use subscription_builder::SubscriptionBuilder;
pub use topic::{MessageBuilder, Topic};
pub use topic_builder::{MAX_PAYLOAD, TopicBuilder};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// What the models in `loom-tests/` reach. It does not exist in any other build.
#[cfg(millstream_loom)]
#[doc(hidden)]
pub mod internals {
    /// Has the calling thread tell observers, until the broker stops.
    pub fn listen(broker: &crate::Broker) {
        broker.owner.engine.bus.listen();
    }

    /// Waits until observers have been told everything.
    pub fn flush_observers(broker: &crate::Broker) {
        broker.owner.engine.bus.flush(None);
    }

    pub use crate::engine::baton::Baton;
    pub use crate::engine::books::{LaneBooks, TopicBooks};
    pub use crate::engine::cell::Cell;
    pub use crate::engine::gate::Gate;
    pub use crate::engine::loans::Loans;
    pub use crate::engine::sleep::Sleep;
    pub use crate::engine::waiters::Waiters;
    pub use crate::pure::lifecycle::Step;
    pub use crate::pure::room::{Phase, Released, Reserved, Room};
    pub use crate::pure::schedule::Then;
    pub use crate::pure::tickets::Refusal;
    pub use crate::sync::model::{Queue, Unbounded, read_modify_writes_only, restart_time};
}
