//! A drain by stages: what handlers publish onward is still accepted, and what others
//! publish is not, until nothing is left to do.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::harness::{HANG, Log, assert_balanced, manual, threaded};
use millstream::error::DrainError;
use millstream::event::EventKind;
use millstream::metrics::DrainReport;
use millstream::{
    Backoff, Batched, Broker, Nack, NoSubscribers, Overflow, PublishError, Pull, Topic,
};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker, name: &str) -> Topic<u32> {
    broker.topic(name).open().unwrap()
}

/// A subscription that hands everything on.
fn hand_on(from: &Topic<u32>, to: &Topic<u32>) {
    let to = to.clone();
    let handler = from.subscribe("hand-on", move |delivery| {
        to.publish(*delivery.payload())?;
        Ok(())
    });
    handler.unwrap().detach();
}

/// A subscription that writes down what it gets.
fn log(topic: &Topic<u32>) -> Log<u32> {
    let log = Log::new();
    let inner = log.clone();
    let handler = topic.subscribe("log", move |delivery| {
        inner.push(*delivery.payload());
        Ok(())
    });
    handler.unwrap().detach();
    log
}

fn complete(drained: Result<DrainReport, DrainError>) -> DrainReport {
    let report = drained.expect("nothing is cut off");
    assert!(report.is_complete(), "{report}");
    report
}

fn is_closed<P>(published: Result<impl Sized, PublishError<P>>) -> bool {
    matches!(published, Err(PublishError::Closed(_)))
}

#[test]
fn what_was_accepted_goes_through_all_stages() {
    for workers in [0, 1, 3] {
        let broker = Broker::builder().workers(workers).build().unwrap();
        let stages = ["a", "b", "c", "d"].map(|name| open(&broker, name));
        for pair in stages.windows(2) {
            hand_on(&pair[0], &pair[1]);
        }
        let log = log(&stages[3]);
        stages[0].publish_batch(0..200).unwrap();
        let report = complete(broker.drain_pipeline(HANG));
        assert_eq!((report.published, report.delivered), (800, 800));
        assert_eq!(log.take(), (0..200).collect::<Vec<_>>());
        assert!(is_closed(stages[0].publish(1)));
        assert_balanced(&broker);
    }
}

#[test]
fn a_drain_without_stages_says_what_it_cut_off() {
    let (broker, _clock) = manual();
    let (first, second) = (open(&broker, "first"), open(&broker, "second"));
    hand_on(&first, &second);
    let log = log(&second);
    first.publish_batch(0..200).unwrap();
    let Err(DrainError::Incomplete(report)) = broker.drain(HANG) else {
        panic!("it cancelled all of them");
    };
    assert_eq!((report.cancelled, report.cut_off), (200, 200));
    assert_eq!(log.len(), 0);
    assert_balanced(&broker);
}

#[test]
fn every_kind_of_handler_may_publish_onward() {
    let broker = threaded(2);
    let topic = open(&broker, "t");
    let out = open(&broker, "out");
    let log = log(&out);
    let to = out.clone();
    let batches = topic
        .subscription("batches")
        .subscribe_batches(Batched::of(64), move |batch| {
            for delivery in batch.iter() {
                to.publish(*delivery.payload())?;
            }
            Ok(())
        });
    batches.unwrap().detach();
    let to = out.clone();
    let concurrent = topic
        .subscription("concurrent")
        .concurrency(2)
        .subscribe_shared(move |delivery| {
            to.publish_batch([*delivery.payload()])?;
            Ok(())
        });
    concurrent.unwrap().detach();
    let group = topic.subscription("group").group().unwrap();
    let to = out.clone();
    let member = group.join("member", move |delivery| {
        to.message(*delivery.payload()).key("k").publish()?;
        Ok(())
    });
    member.unwrap().detach();
    group.detach();
    let to = out.clone();
    let retried = topic
        .subscription("retried")
        .retry(Backoff::fixed(MS))
        .subscribe(move |delivery| {
            if delivery.attempt() == 1 {
                return Err(Nack::retry("the first attempt fails"));
            }
            to.publish_after(MS, *delivery.payload())?;
            Ok(())
        });
    retried.unwrap().detach();
    let buffer = Mutex::new(out.buffered(Batched::of(8)).unwrap());
    let buffered = topic.subscribe("buffered", move |delivery| {
        let mut buffer = buffer.lock().expect("nobody panics");
        buffer.publish(*delivery.payload())?;
        buffer.flush()?;
        Ok(())
    });
    buffered.unwrap().detach();
    let kinds = 5 + u64::from(cfg!(feature = "parallel")) + u64::from(cfg!(feature = "async"));
    #[cfg(feature = "parallel")]
    {
        let to = out.clone();
        let handler = topic
            .subscription("parallel")
            .concurrency(2)
            .subscribe_parallel(Batched::of(8), move |delivery| {
                to.publish(*delivery.payload())?;
                Ok(())
            });
        handler.unwrap().detach();
    }
    #[cfg(feature = "async")]
    {
        let to = out.clone();
        let handler = topic
            .subscription("async")
            .concurrency(2)
            .subscribe_async(move |delivery| {
                let to = to.clone();
                async move {
                    to.publish_async(*delivery.payload()).await?;
                    Ok(())
                }
            });
        handler.unwrap().detach();
    }
    topic.publish_batch(0..50).unwrap();
    let report = complete(broker.drain_pipeline(HANG));
    assert_eq!(report.delivered, 2 * 50 * kinds);
    assert_eq!(log.len() as u64, 50 * kinds);
    assert_balanced(&broker);
}

#[test]
fn others_are_refused_from_the_first_moment_on() {
    let (broker, _clock) = manual();
    let (topic, out) = (open(&broker, "t"), open(&broker, "out"));
    let pull = topic.subscription("pull").pull(Pull::default()).unwrap();
    let (held, to) = (broker.clone(), out.clone());
    let answers = Log::new();
    let inner = answers.clone();
    let handler = topic.subscribe("s", move |_| {
        // It begins the drain, so all of this comes after its first moment.
        let begun = held.drain_pipeline(HANG);
        inner.push(matches!(begun, Err(DrainError::InsideHandler(_))));
        inner.push(held.is_closed());
        inner.push(to.publish(1).is_ok());
        let from_outside = to.clone();
        let spawned = thread::spawn(move || is_closed(from_outside.publish(2)));
        inner.push(spawned.join().unwrap());
        inner.push(held.topic::<u32>("new").open().is_err());
        Ok(())
    });
    let (to, seen) = (out.clone(), answers.clone());
    let observed = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::Delivered) {
            seen.push(is_closed(to.publish(3)));
        }
    });
    observed.unwrap().detach();
    topic.publish(0).unwrap();
    let lease = pull.recv().unwrap();
    assert_eq!(answers.take(), [true; 6]);
    assert!(is_closed(out.publish(4)));
    assert!(is_closed(broker.publish("out", 5_u32)));
    lease.ack().unwrap();
    let report = complete(broker.drain_pipeline(HANG));
    assert_eq!(
        report.unrouted + report.delivered,
        out.metrics().published + 2
    );
    assert_balanced(&broker);
    drop(handler);
}

#[test]
fn what_one_stage_publishes_is_held_to_the_topics_capacity_and_policy() {
    for (overflow, full, kept) in [
        (Overflow::Reject, 2, vec![0]),
        (Overflow::DropOldest, 0, vec![2]),
        (Overflow::DropNewest, 0, vec![0]),
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker, "t");
        let out = broker.topic("out").capacity(1).overflow(overflow);
        let out = out.open().unwrap();
        let log = log(&out);
        let rejected = Log::new();
        let inner = rejected.clone();
        let handler = topic.subscribe("s", move |_| {
            for n in 0..3 {
                if let Err(PublishError::Full(n)) = out.publish(n) {
                    inner.push(n);
                }
            }
            Ok(())
        });
        topic.publish(0).unwrap();
        complete(broker.drain_pipeline(HANG));
        assert_eq!((rejected.len(), log.take()), (full, kept));
        assert_balanced(&broker);
        drop(handler);
    }
}

#[test]
fn a_topic_that_rejects_without_subscribers_says_so_to_a_stage() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "t");
    let out = broker.topic::<u32>("out");
    let out = out.no_subscribers(NoSubscribers::Reject).open().unwrap();
    let answers = Log::new();
    let inner = answers.clone();
    let handler = topic.subscribe("s", move |_| {
        inner.push(matches!(
            out.publish(1),
            Err(PublishError::NoSubscribers(1))
        ));
        Ok(())
    });
    topic.publish(0).unwrap();
    complete(broker.drain_pipeline(HANG));
    assert_eq!(answers.take(), [true]);
    drop(handler);
}

#[test]
fn a_stage_may_publish_from_a_broker_of_its_own() {
    let (broker, _clock) = manual();
    let (topic, out) = (open(&broker, "t"), open(&broker, "out"));
    let log = log(&out);
    let handler = topic.subscribe("s", move |delivery| {
        let (inner, _clock) = manual();
        let inner_topic = open(&inner, "t");
        hand_on(&inner_topic, &out);
        inner_topic.publish(*delivery.payload()).unwrap();
        complete(inner.drain(HANG));
        Ok(())
    });
    topic.publish(7).unwrap();
    complete(broker.drain_pipeline(HANG));
    assert_eq!(log.take(), [7]);
    drop(handler);
}

#[test]
fn handlers_that_publish_in_a_circle_are_ended_by_the_deadline() {
    for workers in [0, 2] {
        let broker = Broker::builder().workers(workers).build().unwrap();
        let (there, back) = (open(&broker, "there"), open(&broker, "back"));
        hand_on(&there, &back);
        hand_on(&back, &there);
        there.publish_batch(0..10).unwrap();
        let report = match broker.drain_pipeline(20 * MS) {
            Err(DrainError::Incomplete(report)) => report,
            other => panic!("it goes on for ever, by {workers} workers: {other:?}"),
        };
        assert!(report.delivered > 10, "{report}");
        assert!(report.cut_off > 0, "{report}");
        assert_eq!(report.remaining, 0);
        assert_balanced(&broker);
    }
}

#[test]
fn a_drain_that_comes_second_leaves_the_first_its_stages() {
    let (broker, _clock) = manual();
    let (topic, out) = (open(&broker, "t"), open(&broker, "out"));
    let log = log(&out);
    let held = broker.clone();
    let handler = topic.subscribe("s", move |delivery| {
        // From inside of a handler it can only begin, which the first has done.
        assert!(held.drain(HANG).is_err());
        out.publish(*delivery.payload())?;
        Ok(())
    });
    topic.publish(7).unwrap();
    let report = complete(broker.drain_pipeline(HANG));
    assert_eq!(broker.drain(HANG), Ok(report));
    assert_eq!(log.take(), [7]);
    drop(handler);
}

#[test]
fn after_one_that_only_began_a_drain_without_stages_refuses_handlers_too() {
    let (broker, clock) = manual();
    let (topic, out) = (open(&broker, "t"), open(&broker, "out"));
    hand_on(&topic, &out);
    let held = broker.clone();
    let begin = out.subscribe("begin", move |_| {
        assert!(held.drain_pipeline(HANG).is_err());
        Ok(())
    });
    out.publish(1).unwrap();
    topic.publish_after(MS, 2).unwrap();
    broker.run_until_idle();
    assert!(is_closed(topic.publish(3)));
    clock.advance(MS);
    let Err(DrainError::Incomplete(report)) = broker.drain(HANG) else {
        panic!("the stage was refused");
    };
    assert_eq!(
        (report.delivered, report.cancelled, report.cut_off),
        (1, 1, 1)
    );
    assert_balanced(&broker);
    drop(begin);
}
