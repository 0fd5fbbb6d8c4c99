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

mod broker;
#[cfg(doc)]
pub mod docs;
mod engine;
mod message;
mod observe;
mod pure;
mod subscription;
mod sync;
mod topic;
mod types;

pub use broker::builder::BrokerBuilder;
pub use broker::{Broker, Observation};
pub use engine::base::clock::ManualClock;
pub use message::delivery_batch::DeliveryBatch;
pub use message::nack::Nack;
#[cfg(feature = "async")]
pub use message::owned::OwnedDelivery;
pub use message::{BatchReceipt, Delivery, MessageId, Receipt};
pub use observe::event::{DropCause, Event, EventKind, Hook};
pub use observe::latency::LatencySummary;
pub use observe::metrics::{
    DeliveryCounts, Imbalance, MemberMetrics, Metrics, SubscriptionMetrics, TopicMetrics,
};
pub use pure::decide::key_hash::key_hash;
pub use pure::decide::lifecycle::Status;
pub use pure::decide::retry::{Backoff, Class, Decision, FailedAttempt, FailureKind, RetryPolicy};
pub use pure::decide::strategy::{Backlog, Batched, FlushCause, Immediate, Plan, Strategy};
pub use subscription::builder::SubscriptionBuilder;
#[cfg(feature = "async")]
pub use subscription::futures::{LeaseStream, Recv};
pub use subscription::group::{ConsumerGroup, Member};
pub use subscription::lease::Lease;
pub use subscription::lease_batch::{IntoLeases, LeaseBatch};
pub use subscription::pattern::{PatternSubscription, PatternSubscriptionBuilder};
pub use subscription::pull::{Leases, Pull, PullSubscription};
pub use subscription::{Subscription, Unsubscribed};
pub use topic::builder::{MAX_PAYLOAD, TopicBuilder};
pub use topic::dead_letters::{DeadLetter, DeadLetters, PastFailure, Redrive};
#[cfg(feature = "async")]
pub use topic::futures::Publish;
pub use topic::publisher::BufferedPublisher;
pub use topic::{MessageBuilder, Topic};
pub use types::config::{
    DeadLetterOverflow, Histograms, Idle, LaneFull, NoSubscribers, OnExhausted, OnExpired,
    OnFailure, Overflow, Unkeyed, Unsubscribe,
};
pub use types::error::{
    BuildError, DrainError, InvalidSetting, ObserveError, OpenError, PartialBatch, PartitionsError,
    PublishError, RecvError, RemoveError, Stale, SubscribeError, UnknownPattern,
};
pub use types::name::{InvalidName, InvalidPattern, MAX_NAME_LEN};
pub use types::pattern::Pattern;
pub use types::reason::DeadReason;
pub use types::report::DrainReport;

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

    pub use crate::engine::base::cell::Cell;
    pub use crate::engine::base::counters::{LaneBooks, TopicBooks};
    pub use crate::engine::base::gate::Gate;
    pub use crate::engine::base::loans::Loans;
    pub use crate::engine::base::sleep::Sleep;
    pub use crate::engine::base::task_state::TaskState;
    pub use crate::engine::wait::waiters::Waiters;
    pub use crate::pure::decide::lifecycle::Step;
    pub use crate::pure::words::room::{Phase, Released, Reserved, Room};
    pub use crate::pure::words::schedule::Then;
    pub use crate::pure::words::tickets::Refusal;
    pub use crate::sync::model::{Queue, Unbounded, read_modify_writes_only, restart_time};
}
