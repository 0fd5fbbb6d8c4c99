//! Every handle goes to other threads, and every one that threads can share is shared. Labels of
//! reasons, which metrics go by, stay what they are.

use std::fmt::Debug;

use millstream::{
    BatchReceipt, Broker, BrokerBuilder, BrokerDeadLetters, BufferedPublisher, ConsumerGroup,
    DeadLetter, DeadLetterInfo, DeadLetters, DeadReason, DrainReport, DropCause, EventKind,
    FailureKind, FlushCause, Hook, Lease, LeaseBatch, ManualClock, Member, MessageBuilder, Metrics,
    Observation, PatternSubscription, PublishError, PullSubscription, Receipt, RedriveOptions,
    Subscription, Topic,
};

fn goes<V: Send + Debug>() {}
fn is_shared<V: Send + Sync + Debug>() {}

#[test]
fn every_handle_goes_to_other_threads() {
    is_shared::<Broker>();
    is_shared::<BrokerBuilder>();
    is_shared::<ManualClock>();
    is_shared::<Observation>();
    is_shared::<Topic<String>>();
    is_shared::<BufferedPublisher<String>>();
    is_shared::<DeadLetters<String>>();
    is_shared::<DeadLetter<String>>();
    is_shared::<BrokerDeadLetters>();
    is_shared::<DeadLetterInfo>();
    is_shared::<Subscription>();
    is_shared::<ConsumerGroup<String>>();
    is_shared::<Member>();
    is_shared::<PatternSubscription>();
    is_shared::<PullSubscription<String>>();
    is_shared::<Lease<String>>();
    is_shared::<LeaseBatch<String>>();
    is_shared::<RedriveOptions<String>>();
    is_shared::<Receipt>();
    is_shared::<BatchReceipt>();
    is_shared::<Metrics>();
    is_shared::<DrainReport>();
    is_shared::<PublishError<String>>();
    goes::<MessageBuilder<'static, String>>();
}

#[cfg(feature = "async")]
#[test]
fn every_future_goes_to_other_threads() {
    goes::<millstream::Drain>();
    goes::<millstream::Publish<String>>();
    goes::<millstream::Recv<String>>();
    goes::<millstream::RecvBatch<String>>();
    goes::<millstream::LeaseStream<String>>();
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
}
