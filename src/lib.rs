//! An embeddable, in-process publish-subscribe engine.

mod broker;
mod clock;
mod config;
mod dead_letters;
mod delivery_batch;
mod engine;
mod error;
mod event;
mod latency;
mod message;
mod metrics;
mod nack;
mod name;
mod pure;
mod shutdown;
mod subscription;
mod sync;
mod topic;

pub use broker::{Broker, BrokerBuilder, Observation};
pub use clock::ManualClock;
pub use config::{DeadLetterOverflow, LaneFull, NoSubscribers, Overflow, Unsubscribe};
pub use dead_letters::{DeadLetter, DeadLetters, DeadReason, PastFailure, Redrive};
pub use delivery_batch::DeliveryBatch;
pub use error::{
    BuildError, DrainError, InvalidSetting, ObserveError, OpenError, PartialBatch, PublishError,
    RemoveError, SubscribeError,
};
pub use event::{DropCause, Event, EventKind, Hook};
pub use latency::LatencySummary;
pub use message::{BatchReceipt, Delivery, MessageId, Receipt};
pub use metrics::{DeliveryCounts, Imbalance, Metrics, SubscriptionMetrics, TopicMetrics};
pub use nack::Nack;
pub use name::{InvalidName, MAX_NAME_LEN};
pub use pure::lifecycle::Status;
pub use pure::retry::{Backoff, Class, Decision, FailedAttempt, FailureKind, RetryPolicy};
pub use pure::strategy::{Backlog, Batched, FlushCause, Immediate, Plan, Strategy};
pub use shutdown::DrainReport;
pub use subscription::{Subscription, SubscriptionBuilder, Unsubscribed};
pub use topic::{MessageBuilder, Topic, TopicBuilder};

/// What the models in `loom-tests/` reach. It does not exist in any other build.
#[cfg(millstream_loom)]
#[doc(hidden)]
pub mod internals {
    pub use crate::engine::baton::Baton;
    pub use crate::engine::books::LaneBooks;
    pub use crate::engine::cell::Cell;
    pub use crate::engine::gate::Gate;
    pub use crate::engine::sleep::Sleep;
    pub use crate::engine::waiters::Waiters;
    pub use crate::pure::lifecycle::Step;
    pub use crate::pure::room::{Phase, Released, Reserved, Room};
    pub use crate::pure::schedule::Then;
    pub use crate::pure::tickets::Refusal;
    pub use crate::sync::model::{Queue, Unbounded};
}
