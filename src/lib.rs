//! Publish-subscribe inside one process: typed topics, bounded queues, retries, dead letters,
//! backpressure and an honest drain.
//!
//! # The tour
//!
//! A [`Broker`] owns worker threads. It opens a [`Topic`] by name and payload type. A publish
//! through the handle takes one short lock and looks nothing up.
//!
//! A [`Subscription`] is a name and a closure. Each has a bounded queue of its own, its *lane*. So
//! a slow or failing subscription fills only its own lane. A [`PatternSubscription`] has a lane in
//! every topic that matches `orders.*`, say, present and future.
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
//! | when… | then… |
//! |---|---|
//! | a topic is full | its [`Overflow`] policy decides; the payload comes back by default |
//! | a lane is full | the subscription's [`LaneFull`] policy decides; by default the topic waits, without occupying a worker |
//! | nobody subscribes | the topic's [`NoSubscribers`] policy decides |
//! | a handler fails or panics, or a [`Lease`] is nacked, dropped or late | the [`RetryPolicy`] decides; by default there are three attempts, 250 ms times the attempt apart, then the [`DeadLetters`] |
//! | later deliveries wait behind a failed one | the subscription's [`OnFailure`] decides; by default they go on |
//! | a handler can't do it now | it returns [`Nack::snooze`] or [`Nack::requeue`], which count no attempt: after a while, or at the end of the line |
//! | a message grows old | its time to live ([`TopicBuilder::ttl`], [`MessageBuilder::ttl`]) ends it by itself, or sends it to the dead letters ([`OnExpired`]) |
//! | a subscription ends | its [`Unsubscribe`] mode decides |
//! | the broker ends | [`Broker::drain`] finishes the work, and [`Broker::drain_pipeline`] does if handlers publish onward; dropping the broker cancels it |
//!
//! Every outcome is counted ([`Broker::metrics`]) and, if anyone listens, reported as an event
//! ([`Broker::observe`]). The counts obey laws of conservation that [`Metrics::balance`] checks.
//!
//! # Threads, and none
//!
//! With [`workers(0)`](BrokerBuilder::workers) and a [`ManualClock`], the whole engine runs on the
//! caller's thread, in [`Broker::run_until_idle`]. The run is deterministic; a
//! [`seed`](BrokerBuilder::seed) repeats the jitter. Tests of handlers run this way, and a game
//! loop can.
//!
//! # Chapters
//!
//! The module [`millstream::docs`](docs) has a chapter for each question:
//!
//! - [`docs::guarantees`] has each promise, with the tests that hold it.
//! - [`docs::limits`] has each limit, with what to do about it.
//! - [`docs::cookbook`] has twenty-two recipes, of at most 25 lines each.
//! - [`docs::delivery`] has concurrency, groups, pull, patterns and partitions.
//! - [`docs::failures`], [`docs::overload`] and [`docs::shutdown`] are how-to guides.
//! - [`docs::speed`] and [`docs::memory`] have the figures.
//! - [`docs::features`] lists all features.
//! - [`docs::verification`] says how the crate is tested, and how to test with it.
//!
//! # Limits
//!
//! Delivery is at least once, not exactly once. Nothing survives the process. A handler that never
//! returns can't be stopped. [`docs::limits`] has all limits, with the same weight as the
//! guarantees.

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
pub use broker::dead_letters::{BrokerDeadLetters, DeadLetterInfo};
pub use broker::{Broker, Observation};
pub use engine::base::clock::ManualClock;
pub use engine::track::tracker::Outcome;
pub use message::delivery_batch::{Deliveries, DeliveryBatch};
pub use message::meta::HeaderValue;
pub use message::nack::Nack;
pub use message::outgoing::Message;
#[cfg(feature = "async")]
pub use message::owned::OwnedDelivery;
pub use message::{BatchReceipt, Delivery, MessageId, Receipt};
pub use observe::event::{DropCause, Event, EventKind, Hook};
pub use observe::latency::LatencySummary;
pub use observe::metrics::{
    DeliveryCounts, ImbalanceError, MemberMetrics, Metrics, SubscriptionMetrics, TopicMetrics,
};
pub use observe::owned::OwnedEvent;
pub use pure::decide::key_hash::key_hash;
pub use pure::decide::lifecycle::Status;
pub use pure::policy::chosen::{RetryFn, StrategyFn, retry_fn, strategy_fn};
pub use pure::policy::retry::{Backoff, Class, Decision, FailedAttempt, FailureKind, RetryPolicy};
pub use pure::policy::strategy::{Backlog, Batched, FlushCause, Immediate, Plan, Strategy};
pub use subscription::builder::SubscriptionBuilder;
pub use subscription::builder::pattern::PatternSubscriptionBuilder;
#[cfg(feature = "async")]
pub use subscription::ends::UnsubscribeFuture;
pub use subscription::group::ConsumerGroup;
pub use subscription::group::member::{Member, MemberBuilder};
pub use subscription::group::pattern::{PatternGroup, PatternMemberBuilder};
pub use subscription::options::SubscriptionOptions;
pub use subscription::pattern::PatternSubscription;
#[cfg(feature = "async")]
pub use subscription::pull::futures::{LeaseStream, Recv, RecvBatch};
pub use subscription::pull::lease::Lease;
pub use subscription::pull::lease_batch::{IntoLeases, LeaseBatch};
pub use subscription::pull::{Leases, Pull, PullSubscription};
pub use subscription::{Subscription, Unsubscribed};
pub use topic::Topic;
pub use topic::builder::{MAX_PAYLOAD, TopicBuilder};
#[cfg(feature = "async")]
pub use topic::draining::Drain;
pub use topic::letters::dead_letters::{DeadLetter, DeadLetters, PastFailure};
pub use topic::letters::redrive::{Redrive, RedriveOptions};
pub use topic::options::TopicOptions;
#[cfg(feature = "async")]
pub use topic::publishing::batch_futures::PublishBatch;
#[cfg(feature = "async")]
pub use topic::publishing::futures::Publish;
pub use topic::publishing::message::MessageBuilder;
pub use topic::publishing::publisher::BufferedPublisher;
pub use topic::publishing::tracked::Tracked;
pub use types::config::{
    DeadLetterOverflow, Histograms, Idle, LaneFull, NoSubscribers, OnExhausted, OnExpired,
    OnFailure, Overflow, Unkeyed, Unsubscribe,
};
pub use types::error::recv::{EndedError, RecvError, RecvTimeoutError, TryRecvError};
pub use types::error::{
    AttachError, BuildError, DrainError, NotDelayedError, ObserveError, OpenError, PartitionsError,
    PublishBatchError, PublishError, RemoveError, SettingError, StaleError, SubscribeError,
    UnknownPatternError, UnsettledError,
};
pub use types::name::{MAX_NAME_LEN, NameError, PatternError};
pub use types::pattern::Pattern;
pub use types::reason::DeadReason;
pub use types::report::DrainReport;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The items that the models in `loom-tests/` use. The module exists in no other build.
#[cfg(millstream_loom)]
#[doc(hidden)]
pub mod internals {
    /// Lets the calling thread tell observers, until the broker stops.
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
