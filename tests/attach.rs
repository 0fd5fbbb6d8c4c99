//! A subscription that was detached stays, with its deliveries, and is taken up again
//! by its name.

use std::time::Duration;

use crate::harness::{HANG, HOUR, Log, assert_rests_balanced, manual, threaded};
use millstream::error::{AttachError, RecvTimeoutError};
use millstream::{Delivery, Pull, Unsubscribe, Unsubscribed};

#[test]
fn a_detached_pull_keeps_its_deliveries_until_it_is_attached() {
    let (broker, _clock) = manual();
    let jobs = broker.topic::<u32>("jobs").open().unwrap();
    let worker = jobs.subscription("worker").pull(Pull::default()).unwrap();
    jobs.publish(1).unwrap();
    let lease = worker.recv().unwrap();
    worker.detach();
    jobs.publish(2).unwrap();
    // A lease that is out is still good.
    lease.ack().unwrap();

    let worker = jobs.attach_pull("worker").unwrap();
    let shared = jobs.attach_pull("worker").unwrap();
    worker.recv().unwrap().ack().unwrap();
    drop(worker);
    jobs.publish(3).unwrap();
    shared.recv().unwrap().ack().unwrap();
    jobs.publish(4).unwrap();
    broker.run_until_idle();
    let view = jobs.attach("worker").unwrap();
    drop(shared);
    assert!(!view.has_ended());
    // The last handle of one that was attached unsubscribes again.
    drop(view);
    broker.run_until_idle();
    let gone = jobs.attach_pull("worker").unwrap_err();
    let name = "worker".to_owned();
    assert_eq!(gone, AttachError::Unknown { name });
    let counts = jobs.metrics().deliveries();
    assert_eq!((counts.delivered, counts.cancelled), (3, 1));
    assert_rests_balanced(&broker);
}

#[test]
fn a_detached_group_works_on_and_takes_members_again() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let group = topic.subscription("g").group().unwrap();
    let seen = Log::new();
    let of_member = |seen: &Log<u32>| {
        let seen = seen.clone();
        move |delivery: &Delivery<'_, u32>| {
            seen.push(*delivery.payload());
            Ok(())
        }
    };
    group.join("one", of_member(&seen)).unwrap().leave();
    group.detach();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert!(seen.take().is_empty());
    let group = topic.attach_group("g").unwrap();
    let member = group.join("two", of_member(&seen)).unwrap();
    broker.run_until_idle();
    assert_eq!(seen.take(), [1]);
    drop(group);
    broker.run_until_idle();
    assert!(member.has_left());
    assert_rests_balanced(&broker);
}

#[test]
fn a_group_that_is_taken_up_keeps_the_concurrency_of_its_members() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let group = topic.subscription("g").concurrency(4).group().unwrap();
    group.detach();
    let group = topic.attach_group("g").unwrap();
    let refused = group.member("one").join(|_| Ok(())).err().unwrap();
    assert!(refused.to_string().starts_with("concurrency is 4"));
    let one = group.member("one").join_shared(|_| Ok(())).unwrap();
    topic.publish_batch(0..8).unwrap();
    broker.run_until_idle();
    assert_eq!(one.metrics().taken, 8);
    assert_rests_balanced(&broker);
}

#[test]
fn what_is_not_there_or_of_another_kind_is_refused_by_name() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    topic.subscribe("handler", |_| Ok(())).unwrap().detach();
    let pull = topic.subscription("pull").pull(Pull::default()).unwrap();
    let group = topic.subscription("group").group().unwrap();
    let patterns = broker.subscription::<u32>("pattern").matching("t");
    let _patterns = patterns.subscribe(|_| Ok(())).unwrap();
    let kind = |error: AttachError| match error {
        AttachError::WrongKind { existing, .. } => existing,
        other => panic!("{other:?}"),
    };
    let refused = |name: &str| kind(topic.attach_pull(name).unwrap_err());
    assert_eq!(refused("handler"), "a subscription with a handler");
    assert_eq!(refused("group"), "a consumer group");
    let refused = kind(topic.attach_group("pull").unwrap_err());
    assert_eq!(refused, "a pull subscription");
    for name in ["nobody", "pattern"] {
        let unknown = topic.attach(name).unwrap_err();
        assert!(matches!(unknown, AttachError::Unknown { .. }), "{name}");
    }
    // The kind of handle that fits all still ends it.
    let handler = topic.attach("handler").unwrap();
    let ended = handler.unsubscribe(Unsubscribe::Cancel);
    assert!(matches!(ended, Unsubscribed::Ended(_)));
    assert!(topic.attach("handler").is_err());
    drop((pull, group));
    broker.run_until_idle();
    assert_rests_balanced(&broker);
}

#[test]
fn a_subscription_is_either_taken_up_or_ends_and_never_both() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().unwrap();
    for round in 0..200 {
        let name = format!("worker-{round}");
        let worker = topic.subscription(&name).pull(Pull::default()).unwrap();
        let attached = std::thread::scope(|scope| {
            let dropping = scope.spawn(move || drop(worker));
            let attached = topic.attach_pull(&name);
            dropping.join().unwrap();
            attached
        });
        match attached {
            Ok(worker) => {
                topic.publish(round).unwrap();
                worker.recv_timeout(HANG).unwrap().ack().unwrap();
            }
            Err(AttachError::Unknown { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_rests_balanced(&broker);
}

#[test]
fn a_detached_pull_ends_with_its_broker() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().unwrap();
    let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
    worker.clone().detach();
    topic.publish(1).unwrap();
    assert!(broker.drain(Duration::from_millis(5)).is_err());
    assert_eq!(
        worker.recv_timeout(HOUR).unwrap_err(),
        RecvTimeoutError::Ended
    );
}
