//! Handlers that are async functions: many calls under way on few workers, keys in order,
//! failures and panics settled as everybody's, and nothing left behind at the end.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::SubscribeError;
use millstream::{
    Backoff, Broker, Nack, OnExhausted, OnFailure, OwnedDelivery, Topic, Unsubscribe, Unsubscribed,
};
use parking_lot::Mutex;

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(3);
    broker.topic("t").retry(retry).open().expect("opens")
}

/// A door that calls wait at.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Door {
    async fn pass(&self) {
        poll_fn(|context| {
            let mut door = self.0.lock();
            if door.0 {
                return Poll::Ready(());
            }
            if door.1.iter().all(|other| !other.will_wake(context.waker())) {
                door.1.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn open(&self) {
        let mut door = self.0.lock();
        door.0 = true;
        let wakers = std::mem::take(&mut door.1);
        drop(door);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn waiting(&self) -> usize {
        self.0.lock().1.len()
    }
}

#[test]
fn calls_that_wait_occupy_no_worker() {
    let broker = threaded(1);
    let topic = open(&broker);
    let door = Door::default();
    let wait = door.clone();
    let calls = topic
        .subscription("calls")
        .concurrency(50)
        .subscribe_async(move |_| {
            let door = wait.clone();
            async move {
                door.pass().await;
                Ok(())
            }
        });
    let calls = calls.expect("subscribes");
    let done: Log<u32> = Log::new();
    let log = done.clone();
    let _beside = topic.subscribe("beside", move |d| {
        log.push(*d.payload());
        Ok(())
    });
    for number in 0..60 {
        topic.publish(number).expect("there is room");
    }
    let began = std::time::Instant::now();
    while (door.waiting() < 50 || done.len() < 60) && began.elapsed() < HANG {
        std::thread::yield_now();
    }
    assert_eq!((door.waiting(), done.len()), (50, 60));
    let metrics = calls.metrics();
    assert_eq!((metrics.counts.in_flight, metrics.queued), (50, 10));
    assert_eq!(metrics.members[0].busy, 50);
    door.open();
    assert_rests_balanced(&broker);
    assert_eq!(calls.metrics().counts.delivered, 60);
}

#[test]
fn a_call_that_waits_keeps_no_other_from_beginning() {
    let (broker, _clock) = manual();
    let (topic, alive) = (open(&broker), Arc::default());
    let calls = stuck(&topic, &alive);
    for number in 1..=6 {
        topic.publish(number).expect("there is room");
        broker.run_until_idle();
        assert_eq!(calls.metrics().counts.in_flight, u64::from(number.min(4)));
    }
    drop(calls);
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn calls_of_one_key_follow_each_other() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let door = Door::default();
    let (wait, done) = (door.clone(), Log::new());
    let log = done.clone();
    let _calls = topic
        .subscription("calls")
        .concurrency(8)
        .subscribe_async(move |d| {
            let (door, log) = (wait.clone(), log.clone());
            async move {
                if *d.payload() == 0 {
                    door.pass().await;
                }
                log.push(*d.payload());
                Ok(())
            }
        });
    for number in 0..6 {
        let message = topic
            .message(number)
            .key(if number % 2 == 0 { "even" } else { "odd" });
        message.publish().expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(done.take(), [1, 3, 5]);
    door.open();
    broker.run_until_idle();
    assert_eq!(done.take(), [0, 2, 4]);
    assert_balanced(&broker);
}

#[test]
fn failures_and_panics_are_retried_and_buried_as_any() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let done: Log<(u32, u32)> = Log::new();
    let log = done.clone();
    let subscription = topic.subscription("calls").on_failure(OnFailure::BlockKey);
    let subscription = subscription.on_exhausted(OnExhausted::ParkKey);
    let _calls = subscription
        .concurrency(2)
        .subscribe_async(move |d: OwnedDelivery<u32>| {
            let log = log.clone();
            assert!(*d.payload() != 1 || d.attempt() > 1, "before any await");
            async move {
                log.push((*d.payload(), d.attempt()));
                match *d.payload() {
                    0 if d.attempt() == 1 => Err(Nack::retry("not yet")),
                    2 => panic!("every time"),
                    _ => Ok(()),
                }
            }
        });
    for (number, key) in [(0, "a"), (1, "b"), (2, "c"), (3, "c"), (4, "a")] {
        topic
            .message(number)
            .key(key)
            .publish()
            .expect("there is room");
    }
    for _ in 0..4 {
        broker.run_until_idle();
        advance(&broker, &clock, MS);
    }
    let mut done = done.take();
    done.sort_unstable();
    assert_eq!(
        done,
        [(0, 1), (0, 2), (1, 2), (2, 1), (2, 2), (2, 3), (4, 1)]
    );
    let letters = topic.dead_letters().list();
    let dead: Vec<_> = letters.iter().map(|letter| *letter.payload()).collect();
    assert_eq!(dead, [2, 3], "what is parked follows");
    assert_balanced(&broker);
}

/// Counts those that are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn stuck(topic: &Topic<u32>, alive: &Arc<AtomicUsize>) -> millstream::Subscription {
    let (alive, captured) = (Arc::clone(alive), Alive::new(alive));
    let calls = topic
        .subscription("calls")
        .concurrency(4)
        .subscribe_async(move |_| {
            let call = Alive::new(&alive);
            let _captured = &captured;
            async move {
                let _call = call;
                std::future::pending().await
            }
        });
    calls.expect("subscribes")
}

#[test]
fn a_cancelled_subscription_drops_its_calls() {
    for mode in [Unsubscribe::Cancel, Unsubscribe::Drain { timeout: MS }] {
        let broker = threaded(2);
        let (topic, alive) = (open(&broker), Arc::default());
        let calls = stuck(&topic, &alive);
        for number in 0..6 {
            topic.publish(number).expect("there is room");
        }
        let began = std::time::Instant::now();
        // All calls that fit run, and the rest has come from the topic's queue.
        while (alive.load(Ordering::SeqCst) < 5 || calls.metrics().counts.open() < 6)
            && began.elapsed() < HANG
        {
            std::thread::yield_now();
        }
        let Unsubscribed::Ended(last) = calls.unsubscribe(mode) else {
            panic!("not inside a handler");
        };
        assert_eq!((last.counts.cancelled, last.counts.open()), (6, 0));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_call_that_is_cut_off_follows_the_queued_into_the_dead_letters() {
    let (broker, _clock) = manual();
    let (topic, alive) = (open(&broker), Arc::default());
    let calls = stuck(&topic, &alive);
    for number in 0..6 {
        topic.publish(number).expect("there is room");
    }
    broker.run_until_idle();
    let _ = calls.unsubscribe(Unsubscribe::DeadLetter);
    let letters = topic.dead_letters().list();
    let attempts: Vec<_> = letters.iter().map(|letter| letter.attempts()).collect();
    assert_eq!(attempts, [1, 1, 1, 1, 0, 0]);
    assert_balanced(&broker);
}

#[test]
fn a_call_may_change_the_concurrency_while_somebody_else_does() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let cell: Arc<std::sync::OnceLock<millstream::Subscription>> = Arc::default();
    let own = Arc::clone(&cell);
    let calls = topic
        .subscription("calls")
        .concurrency(3)
        .subscribe_async(move |_| {
            let (own, mut polls) = (Arc::clone(&own), 0);
            poll_fn(move |_| {
                polls += 1;
                if polls == 1 {
                    return Poll::Pending;
                }
                let calls = own.get().expect("it is set before the second poll");
                calls.set_concurrency(3).expect("in range");
                Poll::Ready(Ok(()))
            })
        });
    assert!(cell.set(calls.expect("subscribes")).is_ok());
    for number in 0..3 {
        topic.publish(number).expect("there is room");
    }
    broker.run_until_idle();
    let calls = cell.get().expect("it is set");
    calls.set_concurrency(1).expect("in range"); // polls those that are too many
    broker.run_until_idle();
    assert!(calls.metrics().counts.delivered >= 2);
    assert_balanced(&broker);
}

#[test]
fn the_end_of_the_broker_drops_calls_that_wait_for_ever() {
    for drained in [false, true] {
        let broker = threaded(1);
        let (topic, alive) = (open(&broker), Arc::default());
        let calls = stuck(&topic, &alive);
        topic.publish(1).expect("there is room");
        let began = std::time::Instant::now();
        while alive.load(Ordering::SeqCst) < 2 && began.elapsed() < HANG {
            std::thread::yield_now();
        }
        if drained {
            let incomplete = broker.drain(MS).expect_err("incomplete");
            let report = incomplete.report();
            // A worker on its way out of the call may outlast the drain's patience.
            assert_eq!(report.cancelled + report.remaining, 1, "{report}");
        }
        drop(broker);
        while !calls.has_ended() || alive.load(Ordering::SeqCst) > 0 {
            assert!(began.elapsed() < HANG, "the call is still there");
            std::thread::yield_now();
        }
        assert_eq!(calls.metrics().counts.cancelled, 1);
    }
}

#[test]
fn a_manual_broker_runs_them_too() {
    let (broker, _clock) = manual();
    let (topic, alive) = (open(&broker), Arc::default());
    let calls = stuck(&topic, &alive);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    calls.set_concurrency(1).expect("in range");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(calls.metrics().counts.in_flight, 1);
    drop(calls);
    broker.run_until_idle();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_balanced(&broker);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let ok = |_| async { Ok(()) };
    let none = topic.subscription("s").concurrency(0).subscribe_async(ok);
    assert!(matches!(none, Err(SubscribeError::Invalid(_))));
    let whole = topic
        .subscription("s")
        .on_failure(OnFailure::BlockSubscription);
    assert!(matches!(
        whole.concurrency(2).subscribe_async(ok),
        Err(SubscribeError::Invalid(_))
    ));
}

/// A future of the user's own, and not of an async block, that panics where it is told to.
struct Odd {
    polled: bool,
    dropped: bool,
}

impl Future for Odd {
    type Output = Result<(), Nack>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.polled {
            true => resume_unwind(Box::new("in poll")),
            false => Poll::Ready(Err(Nack::retry("not in poll"))),
        }
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        if self.dropped {
            resume_unwind(Box::new("in drop"));
        }
    }
}

#[test]
fn a_future_that_panics_when_polled_and_again_when_dropped_costs_one_attempt() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let calls = |delivery: OwnedDelivery<u32>| Odd {
        polled: delivery.payload() & 1 > 0,
        dropped: delivery.payload() & 2 > 0,
    };
    let odd = topic
        .subscription("odd")
        .concurrency(2)
        .subscribe_async(calls);
    let odd = odd.expect("subscribes");
    topic.publish_batch(0..4).expect("there is room");
    for _ in 0..3 {
        advance(&broker, &clock, MS);
    }
    let letters = topic.dead_letters().list();
    let mut errors: Vec<_> = letters
        .iter()
        .map(|it| it.error().expect("it failed"))
        .collect();
    errors.sort_unstable();
    assert_eq!(errors, ["in poll", "in poll", "not in poll", "not in poll"]);
    assert!(letters.iter().all(|letter| letter.attempts() == 3));
    let ended = odd.unsubscribe(Unsubscribe::Cancel);
    assert!(matches!(ended, Unsubscribed::Ended(_)));
    assert_balanced(&broker);
}

#[test]
fn a_handler_that_panics_before_it_makes_its_future_fails_like_any() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let calls = |_: OwnedDelivery<u32>| -> Odd { resume_unwind(Box::new("no future")) };
    let none = topic
        .subscription("none")
        .concurrency(1)
        .subscribe_async(calls);
    let _none = none.expect("subscribes");
    topic.publish(1).expect("there is room");
    for _ in 0..3 {
        advance(&broker, &clock, MS);
    }
    let letters = topic.dead_letters().list();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].error(), Some("no future"));
    assert_eq!(letters[0].attempts(), 3);
    assert_balanced(&broker);
}

#[test]
fn a_call_that_is_cancelled_may_panic_when_it_is_dropped() {
    struct Waits;
    impl Future for Waits {
        type Output = Result<(), Nack>;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Pending
        }
    }
    impl Drop for Waits {
        fn drop(&mut self) {
            resume_unwind(Box::new("in drop"));
        }
    }
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let waits = topic
        .subscription("waits")
        .concurrency(1)
        .subscribe_async(|_| Waits);
    let waits = waits.expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    let Unsubscribed::Ended(last) = waits.unsubscribe(Unsubscribe::Cancel) else {
        panic!("not inside a handler");
    };
    assert_eq!(last.counts.cancelled, 1);
    assert_balanced(&broker);
}
