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
//! - [`docs::cookbook`] has twenty-four recipes, of at most 25 lines each.
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
#[cfg(feature = "log")]
mod log;
mod message;
mod observe;
mod pure;
mod subscription;
mod sync;
mod topic;
mod types;

pub use broker::Broker;
pub use broker::builder::BrokerBuilder;
pub use engine::base::clock::ManualClock;
pub use engine::track::ends::Outcome;
pub use message::delivery_batch::{Deliveries, DeliveryBatch};
pub use message::meta::HeaderValue;
pub use message::nack::Nack;
pub use message::outgoing::Message;
#[cfg(feature = "async")]
pub use message::owned::OwnedDelivery;
pub use message::{BatchReceipt, Delivery, MessageId, Receipt};
pub use observe::metrics::Metrics;
pub use pure::decide::key_hash::key_hash;
pub use pure::policy::dedup::Dedup;
pub use pure::policy::retry::Backoff;
pub use pure::policy::strategy::{Batched, Immediate};
pub use subscription::builder::SubscriptionBuilder;
pub use subscription::builder::pattern::PatternSubscriptionBuilder;
pub use subscription::group::ConsumerGroup;
pub use subscription::group::member::Member;
pub use subscription::options::SubscriptionOptions;
pub use subscription::pattern::PatternSubscription;
pub use subscription::pull::lease::Lease;
pub use subscription::pull::{Pull, PullSubscription};
pub use subscription::{Subscription, Unsubscribed};
pub use topic::Topic;
pub use topic::builder::{MAX_PAYLOAD, TopicBuilder};
pub use topic::letters::dead_letters::DeadLetters;
pub use topic::options::TopicOptions;
pub use topic::publishing::message::MessageBuilder;
pub use topic::publishing::publisher::BufferedPublisher;
pub use topic::publishing::tracker::Tracker;
pub use topic::requests::error::RequestError;
pub use types::config::{
    Histograms, Idle, LaneFull, NoSubscribers, OnExhausted, OnExpired, OnFailure, Overflow,
    Unkeyed, Unsubscribe,
};
pub use types::error::PublishError;
pub use types::name::MAX_NAME_LEN;
pub use types::pattern::Pattern;

// Most programs use some of these names. They are in their modules, and here, too.
#[doc(no_inline)]
pub use dead_letters::{DeadLetterOverflow, DeadReason};
#[doc(no_inline)]
pub use error::{DrainError, OpenError, SubscribeError};
#[doc(no_inline)]
pub use event::EventKind;
#[doc(no_inline)]
pub use retry::{Decision, FailedAttempt, RetryPolicy};
#[doc(no_inline)]
pub use strategy::{Backlog, Plan, Strategy};

/// Retry policies of your own. [`Backoff`] is the one that comes with the crate.
pub mod retry {
    pub use crate::pure::policy::chosen::{RetryFn, retry_fn};
    pub use crate::pure::policy::retry::{
        Class, Decision, FailedAttempt, FailureKind, RetryPolicy,
    };
}

/// Strategies of your own. [`Immediate`] and [`Batched`] come with the crate.
pub mod strategy {
    pub use crate::pure::policy::chosen::{StrategyFn, strategy_fn};
    pub use crate::pure::policy::strategy::{Backlog, FlushCause, Plan, Strategy};
}

/// Errors. [`PublishError`] is beside the other names of the tour.
pub mod error {
    pub use crate::observe::metrics::ImbalanceError;
    pub use crate::types::error::recv::{EndedError, RecvError, RecvTimeoutError, TryRecvError};
    pub use crate::types::error::{
        AttachError, BuildError, DrainError, NotDelayedError, ObserveError, OpenError,
        PartitionsError, PublishBatchError, RemoveError, SettingError, StaleError, SubscribeError,
        UnknownPatternError, UnsettledError,
    };
    pub use crate::types::name::{NameError, PatternError};
}

/// Events, which [`Broker::observe`] delivers.
pub mod event {
    pub use crate::broker::Observation;
    pub use crate::observe::event::Hook;
    pub use crate::observe::event::{DropCause, Event, EventKind, SkipCause};
    pub use crate::observe::owned::OwnedEvent;
    pub use crate::pure::decide::lifecycle::Status;
}

/// The parts of [`Metrics`], and the report of a drain.
pub mod metrics {
    pub use crate::observe::latency::LatencySummary;
    pub use crate::observe::letters::LetterSubscriptionMetrics;
    pub use crate::observe::metrics::Waiting;
    pub use crate::observe::metrics::{
        DeliveryCounts, MemberMetrics, SubscriptionMetrics, TopicMetrics,
    };
    pub use crate::pure::protect::gate::WaitingFor;
    pub use crate::types::report::DrainReport;
}

/// The leases of a [`PullSubscription`], in batches and as iterators, futures and streams.
pub mod pull {
    pub use crate::subscription::pull::Leases;
    #[cfg(feature = "async")]
    pub use crate::subscription::pull::futures::{LeaseStream, Recv, RecvBatch};
    pub use crate::subscription::pull::lease_batch::{IntoLeases, LeaseBatch};
}

/// Members of consumer groups, and groups by pattern.
pub mod group {
    pub use crate::subscription::group::member::MemberBuilder;
    pub use crate::subscription::group::pattern::{PatternGroup, PatternMemberBuilder};
}

/// Dead letters: those of a topic, and those of all topics of a broker.
pub mod dead_letters {
    pub use crate::broker::dead_letters::{BrokerDeadLetters, DeadLetterInfo};
    pub use crate::topic::letters::dead_letters::{DeadLetter, PastFailure};
    pub use crate::topic::letters::redrive::{Redrive, RedriveOptions};
    pub use crate::topic::letters::subscription::LetterSubscription;
    pub use crate::types::config::DeadLetterOverflow;
    pub use crate::types::reason::{DeadReason, LetterAction};
}

/// The replies to a request, which [`Topic::request_many`] collects, and their fates.
pub mod request {
    pub use crate::engine::track::replies::Replied;
    pub use crate::topic::requests::gather::{Gather, Replies, RepliesEnd};
}

/// Messages that are published again and again, which [`Topic::every`] begins.
pub mod schedule {
    pub use crate::pure::policy::ticks::MissedTicks;
    pub use crate::topic::schedules::{Every, Schedule};
}

/// Futures of calls that wait (feature `async`).
#[cfg(feature = "async")]
pub mod futures {
    pub use crate::subscription::ends::UnsubscribeFuture;
    pub use crate::topic::draining::Drain;
    pub use crate::topic::letters::futures::RedriveFuture;
    pub use crate::topic::publishing::batch_futures::PublishBatch;
    pub use crate::topic::publishing::futures::Publish;
    pub use crate::topic::requests::futures::{Request, RequestMany};
}

/// Protection of a handler's dependencies: settings of the gates that hold deliveries in their lane.
pub mod protect {
    pub use crate::engine::gates::limiter::Limiter;
    pub use crate::pure::protect::breaker::state::{BreakerStatus, OpenCause};
    pub use crate::pure::protect::breaker::{Breaker, CallEnd, EndKind};
    pub use crate::pure::protect::budget::RetryBudget;
    pub use crate::pure::protect::limit::adaptive::Adaptive;
    pub use crate::pure::protect::priority::{Priorities, Priority};
    pub use crate::pure::protect::rate::RateLimit;
}

/// Durable topics: a [`Store`](store::Store) in a directory, and what it reports (feature `log`).
#[cfg(feature = "log")]
pub mod store {
    pub use crate::log::inspect::content::{Content, LogRecord, MessageInfo};
    pub use crate::log::inspect::info::{Damage, SegmentInfo, SubscriptionInfo, TopicInfo};
    pub use crate::log::inspect::records::{Records, read_records};
    pub use crate::log::inspect::report::{AffectedSubscription, LostMessages, Salvage};
    pub use crate::log::inspect::{Health, Inspection, inspect};
    pub use crate::log::recover::{Opened, Progress, TornTail};
    pub use crate::log::store::{Store, StoreBuilder};
    pub use crate::topic::publishing::pending::PendingReceipt;
    pub use crate::topic::stored::{Retention, StoredRecord, StoredRecords};
    #[cfg(feature = "json")]
    pub use crate::types::durable::codec::Json;
    #[cfg(feature = "postcard")]
    pub use crate::types::durable::codec::Postcard;
    pub use crate::types::durable::codec::{Codec, CodecError, Raw};
    pub use crate::types::durable::durability::Durability;
    pub use crate::types::durable::start::Start;
    pub use crate::types::error::store::StoreError;
}

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
