//! Settings that change while traffic runs, and calls that join a topic with settings.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{assert_balanced, manual};
use millstream::{
    Backoff, Batched, Broker, Class, Decision, FailedAttempt, Immediate, OpenError, RetryPolicy,
    Strategy, TopicBuilder, retry_fn,
};

const MS: Duration = Duration::from_millis(1);

type Topic<'b> = TopicBuilder<'b, u8>;

/// The setting for which a call that joins topic `t` is refused, if it is.
fn clash<'b>(broker: &'b Broker, set: impl FnOnce(Topic<'b>) -> Topic<'b>) -> Option<&'static str> {
    match set(broker.topic::<u8>("t")).open() {
        Ok(_) => None,
        Err(OpenError::Clash { setting, .. }) => Some(setting),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn joining_with_an_equal_strategy_or_retry_policy_is_no_clash() {
    let (broker, _clock) = manual();
    let patient = Backoff::exponential(MS).cap(MS * 9).full_jitter(3);
    let sorted = patient.clone().classify(|_| Class::Retry);
    let topic = broker.topic::<u8>("t").open().unwrap();
    assert_eq!(clash(&broker, |topic| topic.strategy(Immediate)), None);
    assert_eq!(
        clash(&broker, |topic| topic.retry(Backoff::default())),
        None
    );

    // The topic's settings of now count, not those that it was opened with.
    topic.set_strategy(Batched::of(7).linger(MS)).unwrap();
    topic.set_retry(sorted.clone()).unwrap();
    let batched = |size| {
        let strategy = Batched::of(size).linger(MS);
        clash(&broker, |topic| topic.strategy(strategy))
    };
    assert_eq!([batched(7), batched(8)], [None, Some("strategy")]);
    let immediate = clash(&broker, |topic| topic.strategy(Immediate));
    assert_eq!(immediate, Some("strategy"));
    assert_eq!(clash(&broker, |topic| topic.retry(sorted.clone())), None);
    let unsorted = clash(&broker, |topic| topic.retry(patient));
    assert_eq!(unsorted, Some("retry policy"));
    assert_balanced(&broker);
}

#[test]
fn every_setting_of_a_backoff_counts() {
    let of = || Backoff::fixed(MS);
    let all = [
        of(),
        Backoff::linear(MS),
        Backoff::fixed(MS * 2),
        of().cap(MS),
        of().jitter(),
        of().max_attempts(9),
        of().max_elapsed(MS),
        of().classify(|_| Class::Retry),
        of().classify(|_| Class::Retry),
    ];
    for (at, one) in all.iter().enumerate() {
        for (other_at, other) in all.iter().enumerate() {
            assert_eq!(one == other, at == other_at, "{one:?} and {other:?}");
        }
        assert_eq!(*one, one.clone());
    }
}

#[test]
fn an_arc_agrees_with_its_clones_and_with_nothing_else() {
    let (broker, _clock) = manual();
    let strategy: Arc<dyn Strategy> = Arc::new(Immediate);
    let retry: Arc<dyn RetryPolicy> = Arc::new(retry_fn(|_| Decision::Exhausted));
    let opening = broker.topic::<u8>("t").strategy(strategy.clone());
    let _t = opening.retry(retry.clone()).open().unwrap();
    assert_eq!(clash(&broker, |topic| topic.strategy(strategy)), None);
    assert_eq!(clash(&broker, |topic| topic.retry(retry)), None);
    let other: Arc<dyn Strategy> = Arc::new(Immediate);
    let other = clash(&broker, |topic| topic.strategy(other));
    assert_eq!(other, Some("strategy"));
    assert_balanced(&broker);
}

#[test]
fn policies_that_cannot_be_compared_clash() {
    /// A policy that can't be compared with itself without a panic.
    struct Touchy;
    impl RetryPolicy for Touchy {
        fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
            Decision::Exhausted
        }
        fn same_as(&self, _: &Self) -> bool {
            panic!("not with that one")
        }
    }
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    let decide = |_: &FailedAttempt<'_>| Decision::Exhausted;
    topic.set_retry(retry_fn(decide)).unwrap();
    let closures = clash(&broker, |topic| topic.retry(retry_fn(decide)));
    assert_eq!(closures, Some("retry policy"));
    topic.set_retry(Touchy).unwrap();
    let touchy = clash(&broker, |topic| topic.retry(Touchy));
    assert_eq!(touchy, Some("retry policy"));
    assert_balanced(&broker);
}
