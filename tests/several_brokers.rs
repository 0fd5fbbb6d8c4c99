//! Brokers don't know of each other. Inside a handler of one, another works as it does
//! on any thread: it delivers, it waits, it ends.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::error::{DrainError, RecvTimeoutError};
use millstream::{Broker, Nack, Overflow, PublishError, Pull, Unsubscribe, Unsubscribed};

/// Calls `body` in a handler of a broker of its own, with that broker; answers what it
/// answered.
fn inside<R: Send + 'static>(outer: &Broker, body: impl Fn(&Broker) -> R + Send + 'static) -> R {
    let (answer, answers) = channel();
    let held = outer.clone();
    let topic = outer.topic::<()>("outer").open().unwrap();
    let handler = topic.subscribe("s", move |_| {
        answer
            .send(body(&held))
            .map_err(|_| Nack::discard("nobody waits"))
    });
    let handler = handler.unwrap();
    topic.publish(()).unwrap();
    outer.run_until_idle();
    let answered = answers
        .recv_timeout(HANG)
        .expect("the handler never came back");
    handler.unsubscribe(Unsubscribe::Cancel);
    answered
}

#[test]
fn a_manual_broker_delivers_inside_a_handler_of_another() {
    for workers in [0, 1] {
        let outer = Broker::builder().workers(workers).build().unwrap();
        let delivered = inside(&outer, |_| {
            let (inner, _clock) = manual();
            let topic = inner.topic::<u32>("t").open().unwrap();
            let log = Log::new();
            let seen = log.clone();
            let _s = topic.subscribe("s", move |delivery| {
                seen.push(*delivery.payload());
                Ok(())
            });
            topic.publish_batch([1, 2, 3]).unwrap();
            assert!(inner.run_until_idle() > 0);
            assert!(inner.wait_until_idle(HANG));
            assert!(inner.drain(HANG).unwrap().is_complete());
            assert_balanced(&inner);
            log.take()
        });
        assert_eq!(delivered, [1, 2, 3]);
        assert_balanced(&outer);
    }
}

#[test]
fn a_full_topic_of_another_broker_blocks_until_there_is_room() {
    let outer = threaded(1);
    let accepted = inside(&outer, |_| {
        let inner = threaded(1);
        let topic = inner.topic::<u32>("t").capacity(1);
        let topic = topic.overflow(Overflow::Block { timeout: HANG });
        let topic = topic.open().unwrap();
        let _s = topic
            .subscription("s")
            .capacity(1)
            .subscribe(|_| Ok(()))
            .unwrap();
        let accepted = (0..100).filter(|n| topic.publish(*n).is_ok()).count();
        assert_rests_balanced(&inner);
        accepted
    });
    assert_eq!(accepted, 100);
    assert_rests_balanced(&outer);
}

#[test]
fn another_broker_is_waited_for_and_drained_inside_a_handler() {
    let outer = threaded(1);
    inside(&outer, |_| {
        let inner = threaded(1);
        let topic = inner.topic::<u32>("t").open().unwrap();
        let pull = topic.subscription("pull").pull(Pull::default()).unwrap();
        let s = topic.subscribe("s", |_| Ok(())).unwrap();
        let group = topic.subscription("g").group().unwrap();
        let member = group.join("m", |_| Ok(())).unwrap();
        topic.publish(1).unwrap();
        pull.recv_timeout(HANG).unwrap().ack().unwrap();
        assert_eq!(
            pull.recv_timeout(Duration::from_millis(1)).unwrap_err(),
            RecvTimeoutError::TimedOut
        );
        assert!(inner.wait_until_idle(HANG));
        member.leave();
        let ended = s.unsubscribe(Unsubscribe::Cancel);
        assert!(matches!(ended, Unsubscribed::Ended(_)));
        assert_eq!(inner.drain(HANG).unwrap().delivered, 3);
        assert_balanced(&inner);
    });
    assert_rests_balanced(&outer);
}

#[test]
fn the_outer_broker_is_not_waited_for_though_another_runs_between() {
    let outer = threaded(1);
    inside(&outer, |outer| {
        let full = outer.topic::<u32>("full").capacity(1);
        let full = full
            .overflow(Overflow::Block { timeout: HANG })
            .open()
            .unwrap();
        let _full = full.subscription("s").pull(Pull::default()).unwrap();
        let outer = outer.clone();
        let (inner, _clock) = manual();
        let topic = inner.topic::<()>("t").open().unwrap();
        let log = Log::new();
        let seen = log.clone();
        let _s = topic.subscribe("s", move |_| {
            // The only worker is here, so nothing makes room.
            full.publish(1).unwrap();
            seen.push(matches!(full.publish(2), Err(PublishError::Full(2))));
            seen.push(!outer.wait_until_idle(HANG));
            seen.push(outer.run_until_idle() == 0);
            Ok(())
        });
        topic.publish(()).unwrap();
        inner.run_until_idle();
        assert_eq!(log.take(), [true; 3]);
        assert_balanced(&inner);
    });
    assert_rests_balanced(&outer);
}

#[test]
fn a_drain_is_inside_a_handler_only_of_its_own_broker() {
    let outer = threaded(1);
    let drained = inside(&outer, |outer| {
        let (inner, _clock) = manual();
        assert!(inner.drain(HANG).is_ok());
        outer.drain(HANG)
    });
    assert!(matches!(drained, Err(DrainError::InsideHandler(_))));
}
