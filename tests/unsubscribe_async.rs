//! An unsubscribe as a future: it begins with the call, comes without a thread that
//! waits, and goes on if nobody awaits it.

use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_rests_balanced, bell, block_on, manual, poll, threaded,
};
use millstream::{
    Backoff, Broker, Delivery, Nack, OwnedDelivery, Pull, Topic, Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);

fn counts(ended: Unsubscribed) -> (u64, u64, u64) {
    match ended {
        Unsubscribed::Ended(metrics) => {
            let counts = metrics.counts;
            (counts.delivered, counts.dead_lettered, counts.cancelled)
        }
        other => panic!("{other:?}"),
    }
}

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").retry(Backoff::fixed(MS)).open().unwrap()
}

#[test]
fn each_mode_ends_each_kind_of_subscription() {
    let drain = Unsubscribe::Drain { timeout: HOUR };
    let modes = [
        (Unsubscribe::Cancel, (0, 0, 1)),
        (Unsubscribe::DeadLetter, (0, 1, 0)),
        (drain, (1, 0, 0)),
    ];
    for (mode, expected) in modes {
        let (broker, clock) = manual();
        let topic = open(&broker);
        // The first attempt fails, so that a delivery waits in each lane.
        let handler = |delivery: &Delivery<'_, u32>| match delivery.attempt() {
            1 => Err(Nack::retry("once more")),
            _ => Ok(()),
        };
        let sub = topic.subscribe("s", handler).unwrap();
        let group = topic.subscription("g").group().unwrap();
        let _member = group.join("m", handler).unwrap();
        let pull = topic.subscription("p").pull(Pull::default()).unwrap();
        let patterns = broker.subscription::<u32>("all").matching("t");
        let patterns = patterns.subscribe(handler).unwrap();
        topic.publish(1).unwrap();
        broker.run_until_idle();
        let mut ends = [
            sub.unsubscribe_async(mode),
            group.unsubscribe_async(mode),
            pull.unsubscribe_async(mode),
            patterns.unsubscribe_async(mode),
        ];
        if mode == drain {
            assert!(
                ends.iter_mut()
                    .all(|end| poll(end, Waker::noop()).is_pending())
            );
            pull.recv().unwrap().ack().unwrap();
        }
        advance(&broker, &clock, MS);
        for end in &mut ends {
            let Poll::Ready(ended) = poll(end, Waker::noop()) else {
                panic!("{mode:?} has not ended");
            };
            assert_eq!(counts(ended), expected, "{mode:?}");
        }
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_drain_waits_for_a_retry_and_is_woken_when_it_was_made() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let sub = topic.subscribe("s", |delivery| match delivery.attempt() {
        1 => Err(Nack::retry("once more")),
        _ => Ok(()),
    });
    let sub = sub.unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    let mut end = sub.unsubscribe_async(Unsubscribe::Drain { timeout: HOUR });
    let (bell, waker) = bell();
    assert!(poll(&mut end, &waker).is_pending());
    advance(&broker, &clock, MS);
    assert!(bell.count() > 0);
    let Poll::Ready(ended) = poll(&mut end, Waker::noop()) else {
        panic!("it has not ended");
    };
    assert_eq!(counts(ended), (1, 0, 0));
    assert_rests_balanced(&broker);
}

#[test]
fn a_drain_that_is_out_of_time_cancels_the_rest() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").retry(Backoff::fixed(HOUR)).open();
    let topic = topic.unwrap();
    let sub = topic.subscribe("s", |_| Err(Nack::retry("much later")));
    let sub = sub.unwrap();
    topic.publish(1).unwrap();
    broker.run_until_idle();
    let timeout = MS * 5;
    let mut end = sub.unsubscribe_async(Unsubscribe::Drain { timeout });
    broker.run_until_idle();
    assert!(poll(&mut end, Waker::noop()).is_pending());
    advance(&broker, &clock, timeout + MS);
    let Poll::Ready(ended) = poll(&mut end, Waker::noop()) else {
        panic!("it has not ended");
    };
    assert_eq!(counts(ended), (0, 0, 1));
    assert_rests_balanced(&broker);
}

#[test]
fn an_end_that_nobody_awaits_comes_all_the_same() {
    let broker = threaded(1);
    let topic = open(&broker);
    let dropped = topic.subscribe("dropped", |_| Ok(())).unwrap();
    drop(dropped.unsubscribe_async(Unsubscribe::Drain { timeout: HANG }));
    let polled = topic.subscribe("polled", |_| Ok(())).unwrap();
    topic.publish(1).unwrap();
    let mut end = polled.unsubscribe_async(Unsubscribe::Cancel);
    let _ = poll(&mut end, Waker::noop());
    drop(end);
    let began = Instant::now();
    while !broker
        .metrics()
        .topic("t")
        .unwrap()
        .subscriptions
        .is_empty()
    {
        assert!(began.elapsed() < HANG, "they never ended");
        std::thread::yield_now();
    }
    assert_rests_balanced(&broker);
}

#[test]
fn it_waits_for_a_running_call_and_occupies_no_thread() {
    let broker = threaded(1);
    let topic = open(&broker);
    let (entered, entries) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let sub = topic.subscribe("s", move |_: &Delivery<'_, u32>| {
        entered.send(()).unwrap();
        let _ = released.recv();
        Ok(())
    });
    let sub = sub.unwrap();
    topic.publish(1).unwrap();
    entries.recv_timeout(HANG).unwrap();
    // The one worker is in the handler, and this thread goes on.
    let mut end = sub.unsubscribe_async(Unsubscribe::Cancel);
    assert!(poll(&mut end, Waker::noop()).is_pending());
    drop(release);
    assert_eq!(counts(block_on(end)), (1, 0, 0));
    assert_rests_balanced(&broker);
}

#[test]
fn inside_a_handler_it_has_only_begun() {
    let broker = threaded(1);
    let topic = open(&broker);
    let seen = Log::new();
    let other = topic.subscribe("other", |_| Ok(())).unwrap();
    let (of_handler, other) = (seen.clone(), parking_lot::Mutex::new(Some(other)));
    let handler = move |_: OwnedDelivery<u32>| {
        let (seen, other) = (of_handler.clone(), other.lock().take());
        async move {
            if let Some(other) = other {
                seen.push(other.unsubscribe_async(Unsubscribe::Cancel).await);
            }
            Ok(())
        }
    };
    let _s = topic
        .subscription("s")
        .concurrency(1)
        .subscribe_async(handler)
        .unwrap();
    topic.publish(1).unwrap();
    assert_rests_balanced(&broker);
    assert_eq!(seen.take(), [Unsubscribed::Ending]);
}

#[test]
fn a_drain_that_is_out_of_time_needs_no_free_worker() {
    let broker = threaded(1);
    let topic = open(&broker);
    let waits = topic.subscription("waits").pull(Pull::default()).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    let busy = broker.topic::<u32>("busy").open().unwrap();
    let _busy = busy.subscribe("busy", move |_| {
        begun.send(()).unwrap();
        let _ = released.recv();
        Ok(())
    });
    topic.publish(1).unwrap();
    let lease = waits.recv_timeout(HANG).expect("it is there");
    busy.publish(1).unwrap();
    has_begun
        .recv_timeout(HANG)
        .expect("the only worker is busy");
    // The lease keeps the drain from its end.
    let drain = Unsubscribe::Drain { timeout: 20 * MS };
    let ended = block_on(waits.unsubscribe_async(drain));
    assert_eq!(counts(ended), (0, 0, 1));
    assert!(lease.ack().is_err(), "it ended with the subscription");
    drop(release);
    assert_rests_balanced(&broker);
}
