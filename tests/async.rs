//! Futures: `publish_async`, `recv_async` and the stream of leases wait without blocking
//! a thread. A future that is dropped has taken nothing, and takes nobody's wake-up along.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, assert_balanced, assert_rests_balanced, bell, block_on, cracked_bell, manual, poll,
    threaded,
};
use futures_core::Stream;
use millstream::error::DrainError;
use millstream::error::{EndedError, TryRecvError};
use millstream::{Broker, Nack, Overflow, PublishError, Pull, PullSubscription, Topic};
use millstream::{Message, NoSubscribers, Unsubscribe};

const BLOCK: Overflow = Overflow::Block {
    timeout: Duration::from_millis(1),
};

fn pulled(broker: &Broker, credits: usize) -> (Topic<u32>, PullSubscription<u32>) {
    let topic = broker.topic("t").open().expect("opens");
    let pull = Pull::default().credits(credits);
    let worker = topic.subscription("s").pull(pull).expect("subscribes");
    (topic, worker)
}

#[test]
fn a_future_that_waits_is_woken_by_a_message_and_by_a_credit() {
    let (broker, _clock) = manual();
    let (topic, worker) = pulled(&broker, 1);
    let (rung, waker) = bell();
    let mut next = worker.recv_async();
    assert!(poll(&mut next, &waker).is_pending());
    topic.publish_batch([1, 2]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(rung.count(), 1);
    let Poll::Ready(Ok(first)) = poll(&mut next, &waker) else {
        panic!("it is there");
    };
    let mut next = worker.recv_async();
    assert!(poll(&mut next, &waker).is_pending(), "no credit");
    first.ack().expect("in time");
    assert_eq!(rung.count(), 2);
    let Poll::Ready(Ok(second)) = poll(&mut next, &waker) else {
        panic!("it is there");
    };
    assert_eq!(*second.payload(), 2);
    second.ack().expect("in time");
    assert_balanced(&broker);
}

#[test]
fn a_future_that_is_dropped_loses_neither_a_delivery_nor_a_wake_up() {
    let (broker, _clock) = manual();
    let (topic, worker) = pulled(&broker, 8);
    let (gone, waker) = bell();
    let (rung, other_waker) = bell();
    let mut dropped = worker.recv_async();
    let mut other = worker.recv_async();
    assert!(poll(&mut dropped, &waker).is_pending());
    assert!(poll(&mut other, &other_waker).is_pending());
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(gone.count(), 1);
    assert_eq!(rung.count(), 0, "it came second");
    drop(dropped);
    assert_eq!(rung.count(), 1, "it is passed on");
    let Poll::Ready(Ok(lease)) = poll(&mut other, &other_waker) else {
        panic!("it is there");
    };
    lease.ack().expect("in time");
    // One that is dropped while it waits is not woken any more, nor kept.
    let mut waits = worker.recv_async();
    assert!(poll(&mut waits, &waker).is_pending());
    assert!(poll(&mut waits, &waker).is_pending());
    drop(waits);
    drop(waker);
    assert_eq!(Arc::strong_count(&gone), 1, "its waker is gone");
    assert_eq!(worker.metrics().leased, 0);
    assert_balanced(&broker);
}

#[test]
fn a_message_that_waits_for_room_keeps_its_key_its_headers_and_its_delay() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .capacity(1)
        .overflow(Overflow::Reject);
    let topic = topic.open().expect("opens");
    let refused = topic.message(7).ttl(Duration::ZERO).publish_async();
    let Poll::Ready(Err(PublishError::Invalid { payload: 7, .. })) =
        poll(&mut { refused }, Waker::noop())
    else {
        panic!("a time to live of nothing makes no sense");
    };
    let mut late = topic.message(8).key("k").after(Duration::from_secs(1));
    late = late.header("h", "v");
    let Poll::Ready(Ok(_)) = poll(&mut late.publish_async(), Waker::noop()) else {
        panic!("there is room");
    };
    let Poll::Ready(Err(PublishError::Full(9))) =
        poll(&mut topic.message(9).publish_async(), Waker::noop())
    else {
        panic!("the delayed one has the place");
    };
    let pull = topic.subscription("s").pull(Pull::default());
    let worker = pull.expect("subscribes");
    broker.run_until_idle();
    assert!(matches!(worker.try_recv(), Err(TryRecvError::Empty)));
    clock.advance(Duration::from_secs(1));
    broker.run_until_idle();
    assert_balanced(&broker);
    drop(worker);
    drop((topic, broker));

    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").capacity(1).overflow(BLOCK);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    topic.publish(1).expect("there is room");
    let mut waits = topic.message(2).key("k").header("h", "v").publish_async();
    assert!(poll(&mut waits, Waker::noop()).is_pending());
    let worker = topic.subscription("s").pull(Pull::default());
    let worker = worker.expect("subscribes");
    block_on(&mut waits).expect("there is room now");
    let first = worker.recv_timeout(HANG).expect("it comes");
    first.ack().expect("in time");
    let second = worker.recv_timeout(HANG).expect("it comes");
    let told = (*second.payload(), second.key(), second.header("h"));
    assert_eq!(told, (2, Some("k"), Some("v")));
    second.ack().expect("in time");
    assert_rests_balanced(&broker);
}

#[test]
fn a_batch_that_is_awaited_takes_what_is_there_and_waits_for_the_first() {
    let (broker, _clock) = manual();
    let (topic, worker) = pulled(&broker, 8);
    let (rung, waker) = bell();
    let mut next = worker.recv_batch_async(5);
    assert!(poll(&mut next, &waker).is_pending());
    topic.publish_batch(1..=7).expect("there is room");
    broker.run_until_idle();
    assert_eq!(rung.count(), 1);
    let Poll::Ready(Ok(five)) = poll(&mut next, &waker) else {
        panic!("they are there");
    };
    let payloads: Vec<_> = five.iter().map(|lease| *lease.payload()).collect();
    assert_eq!(payloads, [1, 2, 3, 4, 5]);
    let Poll::Ready(Ok(two)) = poll(&mut worker.recv_batch_async(5), &waker) else {
        panic!("two are left");
    };
    assert_eq!(two.len(), 2);
    two.ack_all().expect("in time");
    five.ack_all().expect("in time");
    let Poll::Ready(Ok(none)) = poll(&mut worker.recv_batch_async(0), &waker) else {
        panic!("none was asked for");
    };
    assert_eq!(none.len(), 0);
    // One that is dropped after its call passes it on.
    let (woken, other_waker) = bell();
    let mut dropped = worker.recv_batch_async(5);
    let mut other = worker.recv_batch_async(5);
    assert!(poll(&mut dropped, &waker).is_pending());
    assert!(poll(&mut other, &other_waker).is_pending());
    topic.publish(8).expect("there is room");
    broker.run_until_idle();
    drop(dropped);
    assert_eq!(woken.count(), 1, "it is passed on");
    let Poll::Ready(Ok(last)) = poll(&mut other, &other_waker) else {
        panic!("it is there");
    };
    last.ack_all().expect("in time");
    worker.unsubscribe(Unsubscribe::Cancel);
    let ended = poll(&mut worker.recv_batch_async(5), &waker);
    assert!(matches!(ended, Poll::Ready(Err(EndedError))));
    assert_balanced(&broker);
}

#[test]
fn a_message_wakes_one_of_a_thousand_futures_and_each_has_its_turn() {
    const FUTURES: usize = 1_000;
    let (broker, _clock) = manual();
    let (topic, worker) = pulled(&broker, 64);
    let (rung, waker) = bell();
    let mut futures: Vec<_> = (0..FUTURES).map(|_| worker.recv_async()).collect();
    let still = futures
        .iter_mut()
        .filter_map(|f| poll(f, &waker).is_pending().then_some(()));
    assert_eq!(still.count(), FUTURES);
    for number in 0..10 {
        topic.publish(number).expect("there is room");
        broker.run_until_idle();
        let woken = rung.count();
        assert_eq!(woken, number as usize + 1, "one for each message");
        // Who comes later does not push in front of the one that was called before.
        let at = number as usize;
        let Poll::Ready(Ok(lease)) = poll(&mut futures[at], &waker) else {
            panic!("it is its turn");
        };
        assert_eq!(*lease.payload(), number);
        lease.ack().expect("in time");
    }
    let before = rung.count();
    topic.publish_batch(10..30).expect("there is room");
    broker.run_until_idle();
    assert_eq!(rung.count() - before, 20, "one for each message");
    let _ = worker.unsubscribe(Unsubscribe::Cancel);
    let all = rung.count() - before;
    assert_eq!(all, FUTURES - 10, "the end is for all");
    assert_balanced(&broker);
}

#[test]
fn a_place_wakes_one_of_many_publishers_and_a_close_all() {
    const FUTURES: usize = 100;
    let broker = threaded(1);
    let topic = broker.topic("t").capacity(1).overflow(BLOCK);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic: Topic<u32> = topic.expect("opens");
    topic.publish(0).expect("there is room");
    let (rung, waker) = bell();
    let mut futures: Vec<_> = (0..FUTURES)
        .map(|n| topic.publish_async(n as u32))
        .collect();
    let still = futures
        .iter_mut()
        .filter_map(|f| poll(f, &waker).is_pending().then_some(()));
    assert_eq!(still.count(), FUTURES);
    let _s = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    assert!(broker.wait_until_idle(HANG));
    // The subscribe calls one, too, if it finds the place that the worker has just made.
    let first = rung.count();
    assert!((1..=2).contains(&first), "{first} for the first place");
    for (at, future) in futures.iter_mut().enumerate().take(10) {
        assert!(broker.wait_until_idle(HANG));
        let woken = rung.count();
        assert_eq!(woken, first + at, "one for each place");
        let accepted = poll(future, &waker);
        assert!(matches!(accepted, Poll::Ready(Ok(_))), "it is its turn");
    }
    // It is passed on by one that was called and is dropped.
    assert!(broker.wait_until_idle(HANG));
    assert_eq!(rung.count(), first + 10);
    drop(futures.remove(10));
    assert_eq!(rung.count(), first + 11);
    let _ = broker.drain(Duration::ZERO);
    assert_eq!(rung.count(), FUTURES, "a close is for all");
    drop(futures);
    assert_balanced(&broker);
}

#[test]
fn a_waker_that_panics_stops_nobody() {
    let (broker, _clock) = manual();
    let (topic, worker) = pulled(&broker, 8);
    let (_bad, bad_waker) = cracked_bell();
    let (rung, waker) = bell();
    let mut bad = worker.recv_async();
    let mut good = worker.recv_async();
    assert!(poll(&mut bad, &bad_waker).is_pending());
    assert!(poll(&mut good, &waker).is_pending());
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(rung.count(), 1);
    assert!(poll(&mut good, &waker).is_ready());
}

#[test]
fn a_future_ends_with_its_subscription_and_a_stream_after_it() {
    let (broker, _clock) = manual();
    let (_topic, worker) = pulled(&broker, 8);
    let (rung, waker) = bell();
    let (mut next, mut stream) = (worker.recv_async(), worker.stream());
    assert!(poll(&mut next, &waker).is_pending());
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut stream).poll_next(&mut context).is_pending());
    drop(worker.unsubscribe(Unsubscribe::Cancel));
    assert_eq!(rung.count(), 2);
    let answer = poll(&mut next, &waker).map(|answer| answer.err());
    assert_eq!(answer, Poll::Ready(Some(EndedError)));
    let ended = Pin::new(&mut stream).poll_next(&mut context);
    assert!(matches!(ended, Poll::Ready(None)));
    assert_balanced(&broker);
}

fn full(broker: &Broker) -> Topic<u32> {
    let topic = broker.topic("full").capacity(1).overflow(BLOCK);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic = topic.expect("opens");
    topic.publish(0).expect("there is room for one");
    topic
}

#[test]
fn a_publish_waits_for_room_and_dropped_before_it_accepts_nothing() {
    let broker = threaded(1);
    let topic = full(&broker);
    let (rung, waker) = bell();
    let mut waits = topic.publish_async(1);
    let mut dropped = topic.publish_async(2);
    assert!(poll(&mut waits, &waker).is_pending());
    assert!(poll(&mut dropped, &waker).is_pending());
    drop(dropped);
    let _sink = topic.subscribe("sink", |_| Ok(())).expect("subscribes");
    assert!(broker.wait_until_idle(HANG));
    assert_eq!(rung.count(), 1);
    let Poll::Ready(Ok(receipt)) = poll(&mut waits, &waker) else {
        panic!("there is room");
    };
    assert_eq!(receipt.id().get(), 2);
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(metrics.deliveries().delivered, 2);
}

#[test]
fn a_publish_that_waits_is_refused_when_the_broker_closes() {
    let broker = threaded(1);
    let topic = full(&broker);
    let (rung, waker) = bell();
    let mut waits = topic.publish_async(1);
    assert!(poll(&mut waits, &waker).is_pending());
    let _ = broker.drain(Duration::ZERO);
    assert!(rung.count() > 0);
    let Poll::Ready(Err(PublishError::Closed(1))) = poll(&mut waits, &waker) else {
        panic!("it is closed, and the payload comes back");
    };
    assert_balanced(&broker);
}

#[test]
fn other_policies_answer_at_once() {
    let broker = threaded(1);
    let topic = broker.topic("t").capacity(1);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    let topic: Topic<u32> = topic.expect("opens");
    let (_rung, waker) = bell();
    assert!(matches!(
        poll(&mut topic.publish_async(1), &waker),
        Poll::Ready(Ok(_))
    ));
    let full = poll(&mut topic.publish_async(2), &waker);
    assert!(matches!(full, Poll::Ready(Err(PublishError::Full(2)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_runtime_everything_arrives_once() {
    const MESSAGES: u32 = 5_000;
    let broker = threaded(1);
    let topic = broker.topic("t").capacity(8).overflow(BLOCK).open();
    let topic: Topic<u32> = topic.expect("opens");
    let pull = Pull::default().credits(4);
    let builder = topic.subscription("s").capacity(8);
    let worker = builder.pull(pull).expect("subscribes");
    let receivers: Vec<_> = (0..3)
        .map(|_| {
            let stream = worker.stream();
            tokio::spawn(async move {
                let mut stream = pin!(stream);
                let mut acked = 0;
                while let Some(lease) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
                    let again = lease.attempt() == 1 && *lease.payload() % 1_000 == 0;
                    let after = Duration::from_millis(1);
                    match again {
                        true => lease.nack(Nack::retry_after(after, "once more")),
                        false => lease.ack(),
                    }
                    .expect("in time");
                    acked += u32::from(!again);
                }
                acked
            })
        })
        .collect();
    for number in 0..MESSAGES {
        // Futures that give up and begin anew lose nothing.
        let tried = topic.publish_async(number);
        if tokio::time::timeout(Duration::ZERO, tried).await.is_err() {
            topic.publish_async(number).await.expect("room comes");
        }
    }
    let ended = tokio::task::spawn_blocking(move || (broker.drain(HANG), broker));
    let (report, broker) = ended.await.expect("it ends");
    let report = report.expect("all is done");
    let mut acked = 0;
    for receiver in receivers {
        acked += receiver.await.expect("it ends");
    }
    assert_eq!(acked, MESSAGES);
    assert_eq!(report.delivered, u64::from(MESSAGES));
    assert_balanced(&broker);
}

#[test]
fn a_drain_that_is_awaited_reports_as_one_that_blocks() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _subscription = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish_batch(0..100).expect("there is room");
    let report = block_on(broker.drain_async(HANG)).expect("complete");
    assert_eq!((report.published, report.delivered), (100, 100));
    let again = block_on(broker.drain_pipeline_async(HANG)).expect("the same");
    assert_eq!(again, report);
    assert!(matches!(topic.publish(1), Err(PublishError::Closed(1))));
    assert_balanced(&broker);
}

#[test]
fn a_drain_by_a_future_blocks_neither_its_poll_nor_its_drop() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let held = topic.subscribe("s", move |_| {
        let gate = gate.lock().expect("nobody panics here");
        gate.recv_timeout(HANG).expect("the test goes on");
        Ok(())
    });
    let _held = held.expect("subscribes");
    topic.publish(1).expect("there is room");
    let (woken, waker) = cracked_bell();
    let mut drain = broker.drain_async(HANG);
    assert!(poll(&mut drain, &waker).is_pending(), "a handler runs");
    assert!(poll(&mut drain, &waker).is_pending(), "a handler runs");
    go.send(()).expect("the handler waits");
    // A waker that panics costs nobody the outcome.
    let report = block_on(&mut drain).expect("complete");
    assert_eq!(report.delivered, 1);
    assert!(woken.count() <= 1);

    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _subscription = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish(1).expect("there is room");
    let mut dropped = broker.drain_async(HANG);
    let _ = poll(&mut dropped, Waker::noop());
    drop(dropped);
    let report = broker.drain(HANG).expect("it went on, or goes on");
    assert_eq!(report.delivered, 1);
}

#[test]
fn a_drain_by_a_future_inside_a_handler_says_so_and_a_manual_broker_drains_in_the_poll() {
    let broker = threaded(1);
    let topic = broker.topic::<()>("t").open().expect("opens");
    let (said, says) = std::sync::mpsc::channel();
    let own = broker.clone();
    let _subscription = topic.subscribe("s", move |_| {
        let mut drain = own.drain_async(HANG);
        let answer = poll(&mut drain, Waker::noop());
        said.send(answer).expect("the test listens");
        Ok(())
    });
    topic.publish(()).expect("there is room");
    let Poll::Ready(Err(DrainError::InsideHandler(_))) = says.recv_timeout(HANG).expect("it says")
    else {
        panic!("a handler can't wait for its own end");
    };
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _subscription = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish(1).expect("there is room");
    let mut drain = broker.drain_async(HANG);
    let Poll::Ready(Ok(report)) = poll(&mut drain, Waker::noop()) else {
        panic!("nobody else would run it");
    };
    assert_eq!(report.delivered, 1);
}

/// A topic of three places that nobody takes from yet.
fn three_places(broker: &Broker) -> Topic<u32> {
    let topic = broker.topic("three").capacity(3).overflow(BLOCK);
    let topic = topic.no_subscribers(NoSubscribers::Retain).open();
    topic.expect("opens")
}

#[test]
fn a_batch_waits_for_room_chunk_by_chunk_and_keeps_its_order() {
    let broker = threaded(1);
    let topic = three_places(&broker);
    let message = |number: u32| match number % 4 {
        0 => Message::new(number).key("k"),
        1 => Message::new(number).header("h", number.to_string()),
        2 => Message::new(number).after(Duration::from_micros(1)),
        _ => Message::new(number),
    };
    let mut first = topic.publish_batch_async(0..200);
    assert!(poll(&mut first, Waker::noop()).is_pending());
    assert_eq!(first.receipt().accepted(), 3);
    let mut second = topic.publish_messages_async((200..400).map(message));
    assert!(poll(&mut second, Waker::noop()).is_pending());
    assert_eq!(second.receipt().accepted(), 0);
    let came = Log::new();
    let log = came.clone();
    let subscribed = topic.subscribe("s", move |delivery| {
        let text = |text: &str| text.to_owned();
        let (key, header) = (delivery.key().map(text), delivery.header("h").map(text));
        log.push((*delivery.payload(), key, header));
        Ok(())
    });
    subscribed.expect("subscribes").detach();
    assert_eq!(block_on(&mut first).expect("there is room").accepted(), 200);
    assert_eq!(
        block_on(&mut second).expect("there is room").accepted(),
        200
    );
    assert!(second.into_inner().is_empty());
    assert_rests_balanced(&broker);
    let came = came.take();
    let of = |at_once: bool, numbers: std::ops::Range<u32>| {
        let numbers = numbers.filter(move |number| at_once || number % 4 != 2);
        numbers.collect::<Vec<_>>()
    };
    let firsts = came.iter().map(|(number, ..)| *number).filter(|n| *n < 200);
    assert_eq!(firsts.collect::<Vec<_>>(), of(true, 0..200));
    let seconds = came.iter().map(|(number, ..)| *number);
    let in_line = seconds.clone().filter(|n| *n >= 200 && n % 4 != 2);
    assert_eq!(in_line.collect::<Vec<_>>(), of(false, 200..400));
    assert_eq!(seconds.filter(|n| *n >= 200 && n % 4 == 2).count(), 50);
    for (number, key, header) in came.iter().filter(|(number, ..)| *number >= 200) {
        assert_eq!(key.is_some(), number % 4 == 0);
        assert_eq!(*header, (number % 4 == 1).then(|| number.to_string()));
    }
}

#[test]
fn a_batch_that_is_given_up_says_what_was_accepted_and_hands_back_the_rest() {
    let broker = threaded(1);
    let topic = broker.topic("t").capacity(2).overflow(BLOCK).open();
    let topic: Topic<u32> = topic.expect("opens");
    let pull = topic.subscription("s").capacity(1);
    let worker = pull.pull(Pull::default().credits(1)).expect("subscribes");
    topic.publish(0).expect("there is room");
    let lease = worker.recv_timeout(HANG).expect("it comes");
    let (rung, waker) = bell();
    let mut given_up = topic.publish_batch_async(1..5);
    let mut other = topic.publish_async(9);
    assert!(poll(&mut given_up, &waker).is_pending());
    assert!(poll(&mut other, &waker).is_pending());
    assert_eq!(given_up.receipt().accepted(), 2);
    assert_eq!(given_up.receipt().last().map(|id| id.get()), Some(3));
    lease.ack().expect("in time");
    let began = Instant::now();
    while rung.count() == 0 && began.elapsed() < HANG {
        std::thread::yield_now();
    }
    assert_eq!(rung.count(), 1, "one for one place");
    assert_eq!(given_up.into_inner(), [3, 4]);
    assert_eq!(rung.count(), 2, "the place is passed on");
    assert!(matches!(poll(&mut other, &waker), Poll::Ready(Ok(_))));
    for number in [1, 2, 9] {
        let lease = worker.recv_timeout(HANG).expect("it comes");
        assert_eq!(*lease.payload(), number);
        lease.ack().expect("in time");
    }
    assert_eq!(topic.metrics().rejected, 0);
    assert_rests_balanced(&broker);
}

#[test]
fn a_batch_that_is_refused_hands_back_whole_messages_under_every_policy() {
    let broker = threaded(1);
    let topic = three_places(&broker);
    let message = |number: u32| Message::new(number).key(number.to_string());
    let mut closed = topic.publish_messages_async((0..5).map(message));
    assert!(poll(&mut closed, Waker::noop()).is_pending());
    broker.drain(Duration::ZERO).expect_err("nobody takes them");
    let Poll::Ready(Err(partial)) = poll(&mut closed, Waker::noop()) else {
        panic!("the topic is closed");
    };
    assert!(matches!(partial.error, PublishError::Closed(_)));
    assert_eq!(partial.accepted, 3);
    assert_eq!(partial.into_inner(), [3, 4].map(message));
    assert_balanced(&broker);

    for overflow in [Overflow::Reject, Overflow::DropNewest, BLOCK] {
        let broker = threaded(1);
        let topic = broker.topic("t").capacity(3).overflow(overflow);
        let topic = topic.no_subscribers(NoSubscribers::Retain).open();
        let topic: Topic<u32> = topic.expect("opens");
        let zero = message(2).ttl(Duration::ZERO);
        let batch = [message(0), message(1), zero, message(3)];
        let mut publishing = topic.publish_messages_async(batch.clone());
        let Poll::Ready(Err(partial)) = poll(&mut publishing, Waker::noop()) else {
            panic!("the third makes no sense");
        };
        assert!(matches!(partial.error, PublishError::Invalid { .. }));
        assert_eq!(partial.into_inner(), batch[2..]);
        let mut publishing = topic.publish_batch_async(0..4);
        match (overflow, poll(&mut publishing, Waker::noop())) {
            (Overflow::Reject, Poll::Ready(Err(partial))) => {
                assert_eq!((partial.accepted, partial.into_inner()), (1, vec![1, 2, 3]));
            }
            (Overflow::DropNewest, Poll::Ready(Ok(receipt))) => {
                assert_eq!((receipt.accepted(), receipt.dropped()), (4, 3));
            }
            (_, polled) => assert!(polled.is_pending()),
        }
        assert_balanced(&broker);
    }
}

#[test]
fn the_end_of_tracked_messages_wakes_their_future_once() {
    let (broker, _clock) = manual();
    let (topic, worker) = pulled(&broker, 8);
    let (rung, waker) = bell();
    let send = |payload| {
        let tracker = topic.tracker();
        let message = topic.message(payload).tracked(&tracker);
        message.publish().expect("there is room");
        tracker
    };
    let (mut tracked, dropped) = (send(1), send(2));
    assert!(poll(&mut tracked, Waker::noop()).is_pending());
    assert!(poll(&mut tracked, &waker).is_pending());
    let mut dropped = dropped;
    assert!(poll(&mut dropped, &waker).is_pending());
    drop(dropped);
    broker.run_until_idle();
    let leases = worker
        .recv_batch(8, Duration::ZERO)
        .expect("they are there");
    assert_eq!(rung.count(), 0);
    leases.ack_all().expect("in time");
    assert_eq!(rung.count(), 1);
    let Poll::Ready(outcome) = poll(&mut tracked, &waker) else {
        panic!("it has ended");
    };
    assert!(outcome.is_delivered());
    // A waker that panics hurts nobody.
    let (_bad, bad_waker) = cracked_bell();
    let mut tracked = send(3);
    assert!(poll(&mut tracked, &bad_waker).is_pending());
    broker.run_until_idle();
    let lease = worker.try_recv().expect("it is there");
    lease.ack().expect("in time");
    assert!(poll(&mut tracked, &waker).is_ready());
    // A tracker goes on, if more messages get it.
    let message = topic.message(4).tracked(&tracked);
    message.publish().expect("there is room");
    assert!(poll(&mut tracked, &waker).is_pending());
    broker.run_until_idle();
    let lease = worker.try_recv().expect("it is there");
    lease.ack().expect("in time");
    assert_eq!(rung.count(), 2);
    let Poll::Ready(outcome) = poll(&mut tracked, &waker) else {
        panic!("it has ended");
    };
    assert_eq!(outcome.delivered, 2);
    assert_balanced(&broker);
}
