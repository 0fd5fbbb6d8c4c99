//! Every handle goes to other threads, and every one that threads can share is shared. Labels of
//! reasons, which metrics go by, stay what they are.

use std::error::Error;
use std::fmt::Debug;

use crate::harness::{Log, assert_balanced, manual};
use millstream::dead_letters::*;
use millstream::error::*;
use millstream::event::*;
use millstream::metrics::*;
use millstream::pull::*;
use millstream::retry::*;
use millstream::strategy::*;
use millstream::*;

fn goes<V: Send + Debug>() {}
fn is_shared<V: Send + Sync + Debug>() {}

#[test]
fn every_handle_goes_to_other_threads() {
    is_shared::<Broker>();
    is_shared::<BrokerBuilder>();
    is_shared::<ManualClock>();
    is_shared::<Observation>();
    is_shared::<Topic<String>>();
    goes::<TopicBuilder<'static, String>>();
    goes::<MessageBuilder<'static, String>>();
    is_shared::<BufferedPublisher<String>>();
    is_shared::<DeadLetters<String>>();
    is_shared::<DeadLetter<String>>();
    is_shared::<PastFailure<'static>>();
    is_shared::<Redrive>();
    is_shared::<BrokerDeadLetters>();
    is_shared::<DeadLetterInfo>();
    is_shared::<Subscription>();
    goes::<SubscriptionBuilder<'static, String>>();
    is_shared::<ConsumerGroup<String>>();
    is_shared::<Member>();
    is_shared::<PatternSubscription>();
    goes::<PatternSubscriptionBuilder<'static, String>>();
    is_shared::<Pattern>();
    is_shared::<PullSubscription<String>>();
    is_shared::<Leases<'static, String>>();
    is_shared::<Lease<String>>();
    is_shared::<LeaseBatch<String>>();
    is_shared::<RedriveOptions<String>>();
    is_shared::<IntoLeases<String>>();
}

#[test]
fn every_value_goes_to_other_threads() {
    is_shared::<Delivery<'static, String>>();
    is_shared::<DeliveryBatch<'static, String>>();
    is_shared::<Deliveries<'static, String>>();
    is_shared::<MessageId>();
    is_shared::<Receipt>();
    is_shared::<BatchReceipt>();
    is_shared::<Nack>();
    is_shared::<Event<'static>>();
    is_shared::<OwnedEvent>();
    is_shared::<Metrics>();
    is_shared::<LatencySummary>();
    is_shared::<DrainReport>();
    is_shared::<Backoff>();
    is_shared::<Batched>();
    is_shared::<Pull>();
}

#[test]
fn every_error_is_one_that_a_box_takes() {
    fn is_error<E: Error + Send + Sync + 'static>() {}
    is_error::<BuildError>();
    is_error::<OpenError>();
    is_error::<SubscribeError>();
    is_error::<PublishError<String>>();
    is_error::<PublishBatchError<String>>();
    is_error::<PartitionsError>();
    is_error::<RemoveError>();
    is_error::<ObserveError>();
    is_error::<DrainError>();
    is_error::<EndedError>();
    is_error::<RecvError>();
    is_error::<RecvTimeoutError>();
    is_error::<TryRecvError>();
    is_error::<StaleError>();
    is_error::<SettingError>();
    is_error::<NameError>();
    is_error::<PatternError>();
    is_error::<UnknownPatternError>();
    is_error::<ImbalanceError>();
}

/// A type that holds handles needs no bounds that only its methods need.
#[test]
fn handles_can_be_held_without_bounds() {
    #[derive(Clone)]
    struct Service<T> {
        topic: Topic<T>,
        letters: DeadLetters<T>,
        pull: PullSubscription<T>,
    }
    impl<T: Send + Sync + 'static> Service<T> {
        fn ends(&self) -> bool {
            self.letters.is_empty() && self.pull.has_ended()
        }
    }
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let pull = topic.subscription("s").pull(Pull::default());
    let service = Service {
        letters: topic.dead_letters(),
        pull: pull.expect("subscribes"),
        topic,
    };
    assert_eq!(service.clone().topic.name(), "t");
    assert!(!service.ends());
}

#[test]
fn a_batch_goes_into_a_loop_and_says_how_much_is_left_of_it() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let seen = Log::new();
    let log = seen.clone();
    let batched = topic.subscription("s");
    let batched = batched.subscribe_batches(Batched::of(3), move |batch| {
        for delivery in &*batch {
            log.push((*delivery.payload(), batch.iter().len()));
        }
        let mut rest = batch.iter();
        rest.nth(1);
        log.push((0, rest.len()));
        Ok(())
    });
    let _batched = batched.expect("subscribes");
    topic.publish_batch([1, 2, 3]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(seen.take(), [(1, 3), (2, 3), (3, 3), (0, 1)]);
    assert_balanced(&broker);
}

#[test]
fn a_refusal_can_be_compared_if_its_payload_can() {
    let refused = PublishError::Full(7);
    assert_eq!(refused.clone(), refused);
    assert_ne!(refused, PublishError::Full(8));
    assert_ne!(refused, PublishError::Closed(7));
}

#[cfg(feature = "async")]
#[test]
fn every_future_goes_to_other_threads() {
    goes::<millstream::futures::Drain>();
    goes::<millstream::futures::Publish<String>>();
    goes::<millstream::pull::Recv<String>>();
    goes::<millstream::pull::RecvBatch<String>>();
    goes::<millstream::pull::LeaseStream<String>>();
    is_shared::<millstream::OwnedDelivery<String>>();
}

#[test]
fn labels_stay_what_they_are() {
    use DeadReason::{Exhausted, KeyParked, LaneFull, PolicyPanicked, Rejected, Unsubscribed};
    let reasons = [
        Exhausted,
        Rejected,
        PolicyPanicked,
        Unsubscribed,
        LaneFull,
        KeyParked,
    ];
    assert_eq!(
        reasons.map(DeadReason::as_str).join(" "),
        "exhausted rejected policy_panicked unsubscribed lane_full key_parked"
    );
    let causes = [
        DropCause::Overflow,
        DropCause::LaneFull,
        DropCause::Shutdown,
    ];
    assert_eq!(
        causes.map(DropCause::as_str).join(" "),
        "overflow lane_full shutdown"
    );
    let kinds = [
        FailureKind::Error,
        FailureKind::Timeout,
        FailureKind::Abandoned,
    ];
    assert_eq!(
        kinds.map(FailureKind::as_str).join(" "),
        "error timeout abandoned"
    );
    assert_eq!(FlushCause::Requested.to_string(), "requested");
    assert_eq!(format!("{:>13}", Hook::RetryPolicy), " retry_policy");
    assert_eq!(EventKind::Delivered, EventKind::Delivered);
    assert_eq!(
        EventKind::SubscriptionAdded.to_string(),
        "subscription_added"
    );
    assert_eq!(Status::RetryScheduled.as_str(), "RETRY_SCHEDULED");
    assert_eq!(OnFailure::BlockKey.as_str(), "block_key");
    let timeout = std::time::Duration::ZERO;
    assert_eq!(Overflow::Block { timeout }.to_string(), "block");
}
